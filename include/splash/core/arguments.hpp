// Plain data that crosses library boundaries: no code, so one definition serves every instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace splash {

enum class DType : int { float16, bfloat16, float32, float64, int32, int64, boolean };

/// A strided tensor of up to four dimensions. Strides count elements; they may be 0 (expanded dimensions).
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::float32;
  int rank = 0;
  int64_t shape[4] = {1, 1, 1, 1};
  int64_t stride[4] = {0, 0, 0, 0};
};

inline constexpr int kMaxTerms = 4;        ///< conjoined patterns of one call
inline constexpr int kMaxTermInts = 8;     ///< numbers of one pattern
inline constexpr int kMaxTermTensors = 4;  ///< tensors of one pattern
inline constexpr int kMaxParameters = 2;   ///< learned parameters of a normalizer

/// One pattern as data: its place in the pattern list of kernels/instances.json, its numbers and its tensors.
struct PatternTerm {
  int kind = 0;
  int num_ints = 0;
  int num_tensors = 0;
  int64_t ints[kMaxTermInts] = {};
  TensorView tensors[kMaxTermTensors] = {};
  const int64_t* list = nullptr;  ///< more numbers, in host memory, where the pattern takes as many as there are
  int64_t list_size = 0;
};

/// The conjunction of `count` terms; no term at all keeps every score.
struct PatternSpec {
  int count = 0;
  PatternTerm terms[kMaxTerms] = {};
};

/// A normalizer as data: its numbers and its learned parameters, in the order of kernels/instances.json. Parameters are
/// contiguous, of the statistic's dtype, and have the query heads as their first dimension.
struct NormalizerSpec {
  int num_floats = 0;
  double floats[4] = {};
  int num_parameters = 0;
  TensorView parameters[kMaxParameters];
};

/// Where rows and columns stand in the whole sequence, and how many of them a batch entry really has.
struct Positions {
  int64_t q_start = 0;               ///< position of row 0
  int64_t k_start = 0;               ///< position of column 0
  const int32_t* lengths = nullptr;  ///< (B,) right-padded batches: rows and columns at positions >= length are padding
  const int32_t* kv_lengths = nullptr;  ///< (B,) padded cache: columns from here on are masked and positions end here

  /// Packed sequences: the tensors are (1, H, T, D), and sequence b is their rows [cu_queries[b], cu_queries[b + 1])
  /// and columns [cu_keys[b], cu_keys[b + 1]): a problem of its own, whose last query stands at its last key.
  const int32_t* cu_queries = nullptr;  ///< (sequences + 1,)
  const int32_t* cu_keys = nullptr;     ///< (sequences + 1,)
  int64_t sequences = 0;
  int64_t max_queries = 0, max_keys = 0;  ///< of the longest sequence
};

/// What both passes read. q (B, Hq, Nq, D), k and v (B, Hkv, Nk, D), unit stride along D; B is 1 where sequences are
/// packed.
struct AttentionInputs {
  TensorView q, k, v;
  PatternSpec pattern;
  NormalizerSpec normalizer;
  Positions positions;
  double scale = 1.0;  ///< scores are scale * q.k
};

/// `count` query heads: first, first + step, ... Where count is 0, all of them.
struct HeadRange {
  int64_t first = 0, step = 1, count = 0;
};

/// Columns of a problem that lie in runs of rows of k and v: column c is row first + c / length * step + c % length, of
/// `count` columns in all. Where length is 0, columns are rows.
struct KeyRuns {
  int64_t length = 0, step = 0, first = 0, count = 0;

  /// Whether a box of `keys` columns is whole runs, or part of one; columns that lie in no runs are.
  bool fill_tiles(int64_t keys) const { return length == 0 || keys % length == 0 || length % keys == 0; }
};

/// Which rows and columns of the tensors a call is about, and where they lie. Like all that follows, a plan sets it
/// (kernels/plan.hpp), CUDA kernels read it, and what stands here is right for a call that is the whole problem.
struct Layout {
  /// Greater than 1: rows and columns whose positions differ by a multiple of it are a problem of their own, and the
  /// pattern counts their positions in such steps.
  int64_t residues = 1;
  HeadRange heads;
  KeyRuns key_runs;
};

/// What helps a launch, and changes no result.
struct Hints {
  /// Rows at the start and at the end that see (nearly) all keys: a launch splits them.
  int64_t first_global_rows = 0, last_global_rows = 0;
  int64_t first_global_columns = 0, last_global_columns = 0;  ///< the same of keys that (nearly) all queries see
  bool uneven = true;                                         ///< rows may differ much in how many keys they keep
  bool keeps_all = false;                                     ///< rows keep all keys
};

/// How a forward goes on from the calls before it.
struct ForwardJoin {
  /// out and statistic hold the results for other keys of the same rows, which these are merged with; for normalizers
  /// that merge.
  bool accumulate = false;
  bool beside = false;  ///< the call before it on the stream is about other heads: both may run at a time
};

/// How a backward goes on from the calls before it.
struct BackwardJoin {
  /// The gradients of these queries, and of their normalizer's parameters, hold what other keys give, and this call
  /// adds to them; the same of keys and other queries.
  bool adds_queries = false, adds_keys = false;
  /// Calls that share the forward's results share what they make of those, too: 8 bytes a query and head in device
  /// memory, which the first one writes. nullptr: each makes its own.
  void* row_stats = nullptr;
  bool first = true;  ///< no call before it belongs to the same gradients
};

/// A body over [begin, end) run by whatever thread pool the caller has.
struct Parallel {
  using Body = void (*)(void* context, int64_t begin, int64_t end);
  void (*run)(int64_t count, Body body, void* context) = nullptr;  ///< nullptr: on the calling thread
  int threads = 1;
};

/// Where and how an instance runs.
struct Execution {
  void* stream = nullptr;      ///< cudaStream_t on CUDA
  Parallel parallel;           ///< on the CPU
  bool deterministic = false;  ///< gradients repeat bit for bit, at the cost of time on CUDA

  /// Device memory, 256-byte aligned, for what the call launches on the stream; nullptr where there is none left. A
  /// call that consists of several asks for each of them. Without an allocator it comes from the stream's memory pool.
  void* (*allocate)(void* context, int64_t bytes) = nullptr;
  void* allocate_context = nullptr;
};

struct ForwardArguments {
  AttentionInputs in;
  TensorView out;        ///< (B, Hq, Nq, D), dtype of q
  TensorView statistic;  ///< (B, Hq, Nq) contiguous float32 (float64 for float64)
  TensorView saved;      ///< (S, B, Hq, Nq) contiguous, dtype of statistic; S = the normalizer's kSaved, or kListPlanes
                         ///< (core/row_lists.hpp) where a GPU lists the keys of weight of each row
  Layout layout;
  Hints hints;
  ForwardJoin join;
};

struct BackwardArguments {
  AttentionInputs in;
  TensorView out, statistic, saved;  ///< as the forward wrote them
  TensorView grad_out;               ///< (B, Hq, Nq, D), any strides with a unit last one
  TensorView grad_statistic;         ///< (B, Hq, Nq) contiguous; data == nullptr where there is none
  TensorView grad_q, grad_k, grad_v;
  TensorView grad_parameters[kMaxParameters];  ///< contiguous, like in.normalizer.parameters
  Layout layout;
  Hints hints;
  BackwardJoin join;
};

/// A tensor of a call under the name that its caller knows.
struct Operand {
  const char* name;
  const TensorView* view;
};

/// Result of a host call. `reason` is a static or thread-local string that stays valid until the next call.
enum class StatusCode : int { ok, invalid_value, invalid_type, no_kernel, cuda_error };
struct Status {
  StatusCode code = StatusCode::ok;
  const char* reason = "";
  constexpr bool ok() const { return code == StatusCode::ok; }
};

}  // namespace splash
