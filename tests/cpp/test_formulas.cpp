// Brute force of the patterns whose index formula has numbers only: keep() against SPEC, the rest against keep().
#include <initializer_list>
#include <vector>

#include "pattern_cases.hpp"
#include "pattern_checks.hpp"
#include "splash/patterns/block_diagonal.hpp"
#include "splash/patterns/dilated.hpp"
#include "splash/patterns/fixed.hpp"
#include "splash/patterns/longformer.hpp"
#include "splash/patterns/staircase.hpp"
#include "splash/patterns/streaming.hpp"
#include "splash/patterns/strided.hpp"

namespace {

using namespace brute_force;

/// Remainder and quotient that round towards minus infinity, in the plainest way.
int64_t mod(int64_t a, int64_t b) { return (a % b + b) % b; }
int64_t div(int64_t a, int64_t b) { return (a - mod(a, b)) / b; }

PatternTerm term_of(std::initializer_list<int64_t> ints) {
  PatternTerm term;
  for (const int64_t n : ints) term.ints[term.num_ints++] = n;
  return term;
}

template <class P, class Formula>
void check_term(const char* name, const PatternTerm& term, const Frame& frame, Exact exact, const Formula& formula) {
  const P pattern = P::from(term);
  check_formula(name, pattern, frame, formula);
  check_pattern(name, pattern, frame, exact);
}

void check_streaming(const Frame& frame) {
  const int64_t numbers[][2] = {
      {0, 1}, {4, 1}, {16, 64}, {130, 20}, {3, 300}, {int64_t(1) << 40, 1}, {0, int64_t(1) << 40}};
  for (const auto& [sink, window] : numbers)
    check_term<Streaming>("Streaming", term_of({sink, window}), frame, Exact::yes,
                          [&](int64_t i, int64_t j) { return j <= i && (j < sink || i - j < window); });
}

void check_block_diagonal(const Frame& frame) {
  for (const int64_t block : {1, 3, 16, 64, 70, kUnlimited})
    for (const bool causal : {false, true})
      check_term<BlockDiagonal>(
          "BlockDiagonal", term_of({block, causal}), frame, Exact::yes,
          [&](int64_t i, int64_t j) { return div(i, block) == div(j, block) && (!causal || j <= i); });
}

bool dilated(int64_t i, int64_t j, int64_t window, int64_t dilation, bool causal) {
  const int64_t distance = i - j;
  if (distance % dilation != 0) return false;
  if (causal) return distance >= 0 && distance / dilation < window;
  return (distance < 0 ? -distance : distance) / dilation <= window;
}

void check_dilated(const Frame& frame) {
  static int32_t by_head[] = {-7, 90, 5, 1};
  for (const int64_t window : {1, 7, 64, 300, kUnlimited})
    for (const bool causal : {false, true}) {
      for (const int64_t dilation : {1, 3, 8, 70, kUnlimited})
        check_term<Dilated>("Dilated", term_of({window, dilation, causal}), frame, Exact::yes,
                            [&](int64_t i, int64_t j) { return dilated(i, j, window, dilation, causal); });
      PatternTerm term = term_of({window, causal});
      term.num_tensors = 1;
      term.tensors[0] = {by_head, DType::int32, 1, {4}, {1}};
      for (int head = 0; head < 4; ++head) {
        Frame of_head = frame;
        of_head.head = head;
        const int64_t dilation = head == 0 ? 1 : by_head[head];  // untrusted numbers are clamped
        check_term<DilatedHeads>("Dilated by heads", term, of_head, Exact::yes,
                                 [&](int64_t i, int64_t j) { return dilated(i, j, window, dilation, causal); });
      }
    }
}

void check_strided(const Frame& frame) {
  for (const int64_t local : {0, 1, 16, 100, kUnlimited})
    for (const int64_t stride : {1, 3, 16, 64, 90, kUnlimited})
      check_term<Strided>("Strided", term_of({local, stride}), frame, Exact::yes,
                          [&](int64_t i, int64_t j) { return j <= i && (i - j < local || (i - j) % stride == 0); });
}

void check_fixed(const Frame& frame) {
  const int64_t numbers[][2] = {{1, 0},  {1, 1},   {8, 1},   {8, 3},    {16, 16},        {64, 0},
                                {64, 8}, {70, 69}, {100, 5}, {130, 66}, {kUnlimited, 3}, {kUnlimited, kUnlimited}};
  for (const auto& [stride, summary] : numbers)
    check_term<Fixed>("Fixed", term_of({stride, summary}), frame, Exact::yes, [&](int64_t i, int64_t j) {
      return j <= i && (div(j, stride) == div(i, stride) || mod(j, stride) >= stride - summary);
    });
}

void check_staircase(const Frame& frame) {
  const int64_t numbers[][3] = {{1, 1, 0},     {8, 3, -4},   {16, 16, 1},           {64, 1, 2},
                                {70, 100, -1}, {128, 16, 0}, {3, kUnlimited, -100}, {kUnlimited, 5, 0}};
  for (const auto& [stride, step, start] : numbers)
    check_term<Staircase>("Staircase", term_of({stride, step, start}), frame, Exact::yes,
                          [&](int64_t i, int64_t j) { return j - frame.k_start < (div(i, stride) - start) * step; });
}

bool in_window(int64_t distance, int64_t window, int64_t dilation) {
  return distance % dilation == 0 && (distance < 0 ? -distance : distance) / dilation <= window;
}

/// What is said of whole tiles where some, but not all, of their rows or columns are global may be less than exact.
void check_longformer(const Frame& frame) {
  const int64_t windows[][2] = {{0, 1}, {9, 1}, {64, 1}, {300, 1}, {5, 3}, {20, 8}, {2, 70}, {kUnlimited, 2}};
  std::vector<uint32_t> words(10);
  const std::vector<int> positions = {0, 31, 32, 33, 63, 65, 128, 130, 200, 205, 257, 300, 319};
  for (const int p : positions) words[p / 32] |= 1u << (p % 32);
  for (int p = 140; p < 190; ++p) words[p / 32] |= 1u << (p % 32);
  for (const auto& [window, dilation] : windows)
    for (const bool causal : {false, true}) {
      for (const int64_t prefix : {0, 1, 16, 100, 4000}) {
        const auto global = [&](int64_t p) { return p >= 0 && p < prefix; };
        check_term<Longformer>(
            "Longformer", term_of({window, prefix, dilation, causal}), frame, Exact::empty, [&](int64_t i, int64_t j) {
              return (!causal || j <= i) && (in_window(i - j, window, dilation) || global(i) || global(j));
            });
      }
      PatternTerm term = term_of({window, dilation, causal});
      term.num_tensors = 1;
      term.tensors[0] = {words.data(), DType::int32, 1, {int64_t(words.size())}, {1}};
      const auto global = [&](int64_t p) {
        if (p >= 140 && p < 190) return true;
        for (const int position : positions)
          if (p == position) return true;
        return false;
      };
      check_term<LongformerTokens>("Longformer by tokens", term, frame, Exact::empty, [&](int64_t i, int64_t j) {
        return (!causal || j <= i) && (in_window(i - j, window, dilation) || global(i) || global(j));
      });
    }
}

/// FastDivide against the language's division: ends of its range, and around multiples of the divisor.
void check_division() {
  std::mt19937 random(1);
  std::vector<int> divisors;
  for (int d = 1; d <= 3000; ++d) divisors.push_back(d);
  for (int s = 0; s <= 30; ++s)
    for (const int64_t d : {(int64_t(1) << s) - 1, int64_t(1) << s, (int64_t(1) << s) + 1})
      if (d >= 1 && d <= kUnlimited) divisors.push_back(int(d));
  for (int n = 0; n < 3000; ++n) divisors.push_back(1 + int(random() % kUnlimited >> random() % 30));
  for (const int divisor : divisors) {
    const FastDivide by = divisor;
    const auto check_value = [&](int64_t value) {
      if (value < 0 || value > INT32_MAX) return;
      check::that(by.quotient(int(value)) == value / divisor, "%lld / %d", (long long)value, divisor);
      if (value > kUnlimited) return;  // more than positions and distances ever are
      for (const int64_t x : {value, -value, ~value})
        check::that(floor_div(int(x), by) == div(x, divisor) && floor_mod(int(x), by) == mod(x, divisor),
                    "floor of %lld / %d", (long long)x, divisor);
    };
    for (int64_t value : {0, 1, kUnlimited - 1, kUnlimited, INT32_MAX - 1, INT32_MAX}) check_value(value);
    for (int n = 0; n < 200; ++n) {
      const int64_t multiple = int64_t(random() >> (1 + random() % 31)) / divisor * divisor;
      for (int near = -1; near <= 1; ++near) check_value(multiple + near);
    }
    for (int near = -1; near <= 1; ++near) check_value(INT32_MAX / divisor * int64_t(divisor) + near);
  }
}

}  // namespace

int main() {
  check_division();
  for (const cases::FrameCase& one : cases::frames()) {
    check_streaming(one.frame);
    check_block_diagonal(one.frame);
    check_dilated(one.frame);
    check_strided(one.frame);
    check_fixed(one.frame);
    check_staircase(one.frame);
    check_longformer(one.frame);
  }
  return summary("test_formulas");
}
