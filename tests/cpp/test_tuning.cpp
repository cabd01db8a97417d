// Every kernel that the tuning functions can name is one that can be, and is told with all of its numbers.
#include <string>

#include "check.hpp"
#include "kernels/tuning_text.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/softmax.hpp"
#include "splash/patterns/block_mask.hpp"
#include "splash/patterns/sliding_window.hpp"

namespace {

using namespace splash;
using patterns::BlockMask;
using patterns::SlidingWindow;
using Softmax = normalizers::Softmax<float>;
using tuning::Gradients, tuning::Spans;

void check_kernel(const char* what, int head_dim, Spans spans, const tuning::KernelSm90& kernel) {
  const char* reason = tuning::misfit(kernel);
  check::that(!reason, "%s, D %d, span %s: %s", what, head_dim, tuning::kSpanNames[int(spans)], reason ? reason : "");
}

void check_all() {
  for (int head_dim = 32; head_dim <= 256; head_dim += 32) {
    for (const Spans spans : {Spans::any, Spans::narrow, Spans::lists64, Spans::lists128})
      for (int traits = 0; traits < 4; ++traits)
        check_kernel("forward", head_dim, spans,
                     tuning::forward_sm90(head_dim, spans, {.simple = (traits & 1) != 0, .sweeps = (traits & 2) != 0}));
    for (const bool few : {false, true})
      for (const Gradients pass : {Gradients::queries, Gradients::keys_values, Gradients::all, Gradients::closed})
        if (int(pass) < int(Gradients::all) || tuning::fuses(head_dim))
          check_kernel("backward", head_dim, Spans::any, tuning::backward_sm90(head_dim, pass, few));
    for (const Gradients pass : {Gradients::queries, Gradients::keys_values})
      check_kernel("backward of blocks", head_dim, Spans::lists64, tuning::backward_blocks_sm90(head_dim, pass));
  }
}

/// A row of the table that asks for others does not compile.
static_assert(tuning::has_spans<SlidingWindow>(Spans::any) && tuning::has_spans<SlidingWindow>(Spans::narrow));
static_assert(!tuning::has_spans<SlidingWindow>(Spans::lists64) && !tuning::has_spans<SlidingWindow>(Spans::lists128));
static_assert(tuning::has_spans<BlockMask>(Spans::lists64) && tuning::has_spans<BlockMask>(Spans::lists128));
static_assert(tuning::has_spans<BlockMask>(Spans::any) && !tuning::has_spans<BlockMask>(Spans::narrow));

void expect(const char* what, const std::string& text, std::initializer_list<const char*> parts, bool present = true) {
  for (const char* part : parts)
    check::that((text.find(part) != std::string::npos) == present, "%s: %s is %s in %s", what, part,
                present ? "missing" : "there", text.c_str());
}

void check_texts() {
  using kernels::backward_tuning_sm90, kernels::forward_tuning_sm90;
  expect("forward", forward_tuning_sm90<SlidingWindow, Softmax, 128, Spans::any>(),
         {"{\"forward\": {\"tile\": {\"consumers\": 2, \"columns\": 128}", "\"first_stages\": 2", "\"row_buffers\": 2",
          "\"mask_slots\": 2", "\"producers\": 4, \"teams\": 1, \"blocks_per_sm\": 1",
          "\"consumer\": 224, \"producer\": 56", "\"pingpong\": true", "\"overlap\": true", "\"early\": false"});
  expect("window", backward_tuning_sm90<SlidingWindow, 128, Spans::any>(),
         {"\"dq\": ", "\"dk_dv\": ", "\"fused\": ", "\"closed\": "});
  expect("wide lists", backward_tuning_sm90<BlockMask, 128, Spans::lists128>(),
         {"\"dq\": ", "\"dk_dv\": ", "\"fused\": "});
  expect("wide lists", backward_tuning_sm90<BlockMask, 128, Spans::lists128>(), {"\"closed\": "}, false);
  expect("D 256", backward_tuning_sm90<SlidingWindow, 256, Spans::any>(), {"\"by_output\": true"});
  expect("D 256", backward_tuning_sm90<SlidingWindow, 256, Spans::any>(), {"\"fused\": ", "\"closed\": "}, false);
}

}  // namespace

int main() {
  check_all();
  check_texts();
  return check::summary("tuning");
}
