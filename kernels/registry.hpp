// The compiled instances of kernels/instances.json: find one by its key, or say why there is none.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "splash/core/longnet.hpp"
#include "splash/core/report.hpp"
#include "splash/core/rows.hpp"
#include "splash/patterns/concept.hpp"
#include "splash/tuning/spans.hpp"

#if defined(__GNUC__)
#define SPLASH_API __attribute__((visibility("default")))
#else
#define SPLASH_API
#endif

namespace splash::kernels {

enum class Op : int { attention, entmax_rows, longnet_mix };
enum class Pass : int { forward, backward };

/// What an instance runs on: the CPU, or a compute capability as 10 * major + minor.
enum class Arch : int {
  cpu = 0,
  cuda = 1,  ///< of a row: every GPU of gpu_archs(). Of a device: a GPU that this build cannot tell more of
  sm90 = 90,
};

using tuning::Spans;

/// One row of the table. In a compiled row, head_dim serves itself and what is smaller, head_dim 0 every head
/// dimension, and Spans::any all spans. Only attention has a pattern, a normalizer, a head_dim and a span.
struct Key {
  Pass pass = Pass::forward;
  Arch arch = Arch::cpu;
  std::string pattern;     ///< a name of the pattern list, or "any"
  std::string normalizer;  ///< a name of the normalizer list
  DType dtype = DType::float32;
  int head_dim = 0;
  Spans span = Spans::any;
  Op op = Op::attention;

  bool operator==(const Key&) const = default;
};

template <class Arguments>
using Run = Status (*)(const Arguments&, const Execution&);
using Forward = Run<ForwardArguments>;
using Backward = Run<BackwardArguments>;

/// Why an instance cannot run a call in a layout; accumulate: it would go on from an earlier call's output. Asked
/// before anything is launched.
using Fits = Fault (*)(std::span<const Operand> operands, const Layout& layout, bool accumulate);

/// Which of its kernels a backward takes, in words. learns: the normalizer has parameters that want gradients.
using TellStrategy = const char* (*)(const AttentionInputs& in, const PatternSpec& pattern, const Layout& layout,
                                     const BackwardJoin& join, bool deterministic, bool learns);

/// One row of the table: what it is, and the function that runs it.
struct Instance {
  Key key;
  std::variant<Forward, Backward, Run<EntmaxRowsForward>, Run<EntmaxRowsBackward>, Run<LongNetMixture>> function = {};
  Fits fits = nullptr;                ///< nullptr: it runs every call, but for merged ones
  TellStrategy strategy = nullptr;    ///< nullptr: it is one kernel
  std::string (*tuning)() = nullptr;  ///< the numbers of its kernels as JSON; nullptr: there are none

  /// arguments: of the key's operator and pass.
  template <class Arguments>
  Status run(const Arguments& arguments, const Execution& execution) const {
    return (*std::get_if<Run<Arguments>>(&function))(arguments, execution);
  }
};

/// A pattern of the list; its place there is PatternTerm::kind.
struct PatternInfo {
  std::string_view name;
  patterns::TypeId type = {};
  int ints = 0;
  int tensors = 0;
  bool internal = false;  ///< other patterns are made of it; nobody asks for it by its name
  bool list = false;      ///< its numbers are followed by the length of a list, and by the list
  /// Set where the pattern is a band of diagonals: writes its two sides, -1 for an unlimited one.
  void (*band)(const PatternTerm& term, int64_t (&sides)[2]) = nullptr;
  bool lists = false;  ///< kBlockLists: it holds lists of blocks, which only a device reads
  /// Set where it matters which spans of keys an instance is made for: those of a term.
  Spans (*spans)(const PatternTerm& term) = nullptr;
  /// Set where a term may contradict the inputs: why it does, or nullptr.
  const char* (*misfit)(const PatternTerm& term, const AttentionInputs& in) = nullptr;
  /// Set where some rows keep nearly all keys: writes how many of them are the first and how many the last ones.
  void (*global_rows)(const PatternTerm& term, const AttentionInputs& in, int64_t (&rows)[2]) = nullptr;
  /// The same of keys that nearly all rows keep.
  void (*global_columns)(const PatternTerm& term, const AttentionInputs& in, int64_t (&columns)[2]) = nullptr;
  /// Set where a term may be a union of disjoint patterns: writes these, restricted to a band, and returns how many.
  int (*parts)(const PatternTerm& term, const AttentionInputs& in, const int64_t (&band)[2],
               patterns::Part (&parts)[patterns::kMaxParts]) = nullptr;
  /// Set where every query head has a pattern of its own that the host knows: that of one of them.
  patterns::Part (*of_head)(const PatternTerm& term, int64_t head) = nullptr;
  /// Set where a term may be a band of diagonals of every dilation-th row and column: whether it is, and which.
  bool (*residues)(const PatternTerm& term, int64_t& dilation, int64_t (&sides)[2]) = nullptr;
};

/// A normalizer of the list. `serves` differs from `name` where the row is a faster instance of another normalizer,
/// for the calls whose first numbers equal `at`. Without its parameters, a row computes what it `extends`.
struct NormalizerInfo {
  std::string_view name;
  std::string_view serves;
  std::string_view extends;
  int floats = 0;
  int num_at = 0;
  double at[4] = {};
  double above[4] = {};  ///< numbers must be greater than these
  double up_to[4] = {};  ///< and no greater than these; 0 here and in `above` means any number
  int saved = 0;         ///< numbers a row beside the statistic that the forward keeps for the backward
  int saved_on_gpu = 0;  ///< the same where a GPU runs it
  int parameters = 0;    ///< learned tensors: (Hq,) each
  bool bias = false;     ///< the last of them is a bias by distance, (Hq, any)
  bool lists = false;    ///< a GPU lists the keys of weight of each row in the forward, and the backward reads that
  bool merges = false;   ///< results for parts of the keys merge by the statistic

  int saved_on(Arch arch) const { return arch == Arch::cpu ? saved : saved_on_gpu; }
};

SPLASH_API std::span<const Instance> instances();
SPLASH_API std::span<const Arch> gpu_archs();  ///< compute capabilities that this build has code for
SPLASH_API std::span<const PatternInfo> patterns();
SPLASH_API std::span<const NormalizerInfo> normalizers();

/// The instance that serves the key, or nullptr; of several, that of the smallest head dimension, and the one made for
/// the span.
SPLASH_API const Instance* find(const Key& key);

/// Why find(key) has no answer: names the nearest compiled instance and the fields that differ.
SPLASH_API std::string explain(const Key& key);

SPLASH_API std::string to_string(const Key& key);
SPLASH_API const char* name_of(Op op);
SPLASH_API const char* name_of(Pass pass);
SPLASH_API std::string name_of(Arch arch);  ///< "cpu", "sm90"
SPLASH_API const char* name_of(DType dtype);
SPLASH_API const char* name_of(Spans span);
SPLASH_API bool parse_arch(std::string_view text, Arch& arch);  ///< the inverse of name_of; false for another text
SPLASH_API bool parse_pass(std::string_view text, Pass& pass);

/// Place in the pattern list, or -1 where the name is unknown.
SPLASH_API int pattern_kind(std::string_view name);
SPLASH_API int pattern_kind(patterns::TypeId type);

/// Compute capability of a CUDA device.
SPLASH_API Arch current_arch(int device);

/// The instruction set that CPU instances run with on this machine, such as "x86-64-v3". The environment variable
/// SPLASH_CPU_ISA, read once, can lower it.
SPLASH_API const char* cpu_isa();

}  // namespace splash::kernels

extern "C" {
/// A call of attention as data. Tensors are read by their shapes, strides and addresses alone, and of what positions
/// point to only whether it is there. q, k and v, with cu_queries packed ones, ints, tensors, floats and parameters as
/// the operators take them.
struct splash_call {
  const char* pass;
  const char* arch;
  splash::TensorView q, k, v;
  const char* pattern;
  const int64_t* ints;
  int64_t num_ints;
  const splash::TensorView* tensors;
  int64_t num_tensors;
  const char* normalizer;
  const double* floats;
  int64_t num_floats;
  const splash::TensorView* parameters;
  int64_t num_parameters;
  splash::Positions positions;
  double scale;
  bool deterministic;
  bool learns;  ///< parameters of the normalizer want gradients
};

/// What the call would launch, a line a step, or why nothing; valid until the thread's next text.
SPLASH_API const char* splash_plan(const splash_call* call);

/// JSON texts that stay valid for the life of the library.
SPLASH_API const char* splash_build_info();
SPLASH_API const char* splash_instances_json();
SPLASH_API const char* splash_constants_json();
/// The text of explain(), or "" where an instance exists or a name is unknown; valid until the thread's next text.
SPLASH_API const char* splash_explain(const char* pass, const char* arch, const char* pattern, const char* normalizer,
                                      const char* dtype, int head_dim, const char* span);
}
