"""Contracts that the compiler enforces: a hook that a mainloop does not call is an error for the type that has it."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("g++") or shutil.which("c++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on PATH")

MAINLOOPS = {
    ("forward", "cpu"): "forward_calls_all_hooks<N, splash::cpu::kForwardHooks>",
    ("backward", "cpu"): "backward_calls_all_hooks<N, splash::cpu::kBackwardHooks>",
    ("forward", "sm90"): "forward_calls_all_hooks<N, splash::collective::kForwardHooksSm90>",
    ("backward", "sm90"): "backward_calls_all_hooks<N, splash::collective::kBackwardHooksSm90>",
}
INCLUDES = """
#include <string_view>
#include "splash/collective/sm90/hooks.hpp"
#include "splash/cpu/hooks.hpp"
#include "splash/normalizers/elastic.hpp"
#include "splash/normalizers/entmax.hpp"
#include "splash/normalizers/softmax_sink.hpp"
#include "splash/normalizers/top_k.hpp"
#include "splash/patterns/sliding_window.hpp"
#include "splash/tuning/sm90/forward.hpp"

using namespace splash::normalizers;
using splash::Frame, splash::NormalizerSpec, splash::patterns::SlidingWindow;
"""


def errors(cases):
    """The sentences of the static assertions that fail in each case, "" where none does.

    cases: name -> (declarations, a constexpr call). One program for all of them: each is a namespace, and stands on
    a line of a file of its own name, by which the compiler says where an assertion comes from.
    """
    program, found = INCLUDES, dict.fromkeys(cases, "")
    for number, (declarations, assertion) in enumerate(cases.values()):
        program += (
            f'namespace case{number} {{\n{declarations}\n#line 1 "case-{number}-"\nstatic_assert({assertion}());\n}}\n'
        )
    done = subprocess.run(
        [COMPILER, "-std=c++20", "-fsyntax-only", f"-I{ROOT / 'include'}", "-x", "c++", "-"],
        input=program,
        capture_output=True,
        text=True,
        check=False,
    )
    names, at = list(cases), None
    for line in done.stderr.splitlines():
        if place := re.match(r"case-(\d+)-:", line):
            at = names[int(place[1])]
        if " error: " in line:
            assert "static assertion failed" in line or "non-constant condition" in line, done.stderr
            found[at] += line + "\n"
    assert (done.returncode == 0) == (not any(found.values())), done.stderr
    return found


NORMALIZERS = {
    "softmax": "Softmax<float>",
    "softmax_sink": "SoftmaxSink<float>",
    "entmax15": "Entmax<float, SquareExponent>",
    "entmax": "Entmax<float, GeneralExponent>",
    "elastic": "Elastic<float>",
    "top_k_softmax": "TopK<Softmax<float>>",
    "top_k_entmax15": "TopK<Entmax<float, SquareExponent>>",
}
SM90 = {
    "forward": {"softmax", "softmax_sink", "entmax15", "entmax", "top_k_softmax", "top_k_entmax15"},
    "backward": {"softmax", "softmax_sink"},
}


def test_which_normalizers_a_mainloop_serves():
    cases = {
        (name, *mainloop): (f"using N = {kind};", check)
        for name, kind in NORMALIZERS.items()
        for mainloop, check in MAINLOOPS.items()
    }
    refused = {case for case, found in errors(cases).items() if found}
    served = {(name, direction, "sm90") for direction, names in SM90.items() for name in names}
    assert refused == {case for case in cases if case[2] == "sm90"} - served


BIAS = """static constexpr bool kBias = true;
          const float* bias() const { return nullptr; } int bias_count() const { return 0; }"""
# A softmax with one hook that the Hopper mainloops do not call, and what is said of it.
UNSERVED = {
    "head in the forward": (
        "N of_head(int) const { return *this; }",
        ("forward", "sm90"),
        "the weights of the normalizer depend on the head",
    ),
    "head in the backward": (
        "N of_head(int) const { return *this; }",
        ("backward", "sm90"),
        "the weights of the normalizer depend on the head",
    ),
    "place in the forward": (
        """template <class V, int R> struct Rows : Softmax<float>::Rows<V, R> { void place(const N&, int, V) {} };""",
        ("forward", "sm90"),
        "wants the position of a row",
    ),
    "place in the backward": (
        """template <class V, int R> struct Gradient : Softmax<float>::Gradient<V, R> {
             void place(const N&, int, V) {} };""",
        ("backward", "sm90"),
        "wants the position of a row",
    ),
    "bias in the forward": (
        BIAS,
        ("forward", "sm90"),
        "has a bias",
    ),
    "bias in the backward": (
        BIAS,
        ("backward", "sm90"),
        "has a bias",
    ),
    "columns in the backward": ("static constexpr bool kColumn = true;", ("backward", "sm90"), "reads the columns"),
    "two parameters": (
        "static constexpr int kRowGradients = 2; float row_gradient(float, float) const { return 0; }",
        ("backward", "sm90"),
        "more parameters with gradients by row",
    ),
    "a parameter without its sum": (
        "static constexpr int kRowGradients = 1;",
        ("backward", "sm90"),
        "no row_gradient",
    ),
    "sweeps": ("static constexpr bool kScoreSweeps = true;", ("backward", "sm90"), "sweeps of their own"),
}

# A hook that is there, but is not what mainloops call.
MISSPELLED = {
    "of_head": ("N of_head(int, int) const { return *this; }", "of_head must be"),
    "of_head without const": ("N of_head(int) { return *this; }", "of_head must be"),
    "bias": ("const float* bias() const { return nullptr; }", "says so by kBias"),
    "kBias": ("static constexpr bool kBias = true;", "must have bias()"),
    "place": (
        "template <class V, int R> struct Rows : Softmax<float>::Rows<V, R> { void place(int, V) {} };",
        "Rows::place must be",
    ),
    "Gradient::place": (
        "template <class V, int R> struct Gradient : Softmax<float>::Gradient<V, R> { void place(int, V) {} };",
        "Gradient::place must be",
    ),
    "extra_mass": ("float extra_mass(float) const { return 0; }", "extra_mass must be"),
    "row_stats": ("RowStats<float> row_stats(float) const { return {}; }", "row_stats must be"),
    "weight_of": ("float weight_of(float) const { return 0; }", "must have weight_of"),
    "row_gradient": (
        """template <class V, int R> struct Gradient : Softmax<float>::Gradient<V, R> {
             V row_gradient(const N&, int, int) const { return V(0); } };""",
        "says by kRowGradients",
    ),
}


def derived(members):
    base = "static N from(const NormalizerSpec&, double) { return {}; }"
    return f"struct N : Softmax<float> {{ {base} {members} }};"


def check_sentences(cases, sentences):
    found = errors(cases)
    for name, sentence in sentences.items():
        assert sentence in found[name], f"{name}: {found[name]}"


def test_a_hook_that_is_not_called_is_named():
    cases = {name: (derived(members), MAINLOOPS[mainloop]) for name, (members, mainloop, _) in UNSERVED.items()}
    check_sentences(cases, {name: sentence for name, (*_, sentence) in UNSERVED.items()})


@pytest.mark.parametrize("mainloop", MAINLOOPS, ids="-".join)
def test_a_misspelled_hook_is_named(mainloop):
    cases = {name: (derived(members), MAINLOOPS[mainloop]) for name, (members, _) in MISSPELLED.items()}
    check_sentences(cases, {name: sentence for name, (_, sentence) in MISSPELLED.items()})


PATTERN_HOOKS = {
    "kept_bits": "unsigned kept_bits(const Frame&, int, int) const { return 0; }",
    "tile_bits": "int tile_bits(const Frame&, int, int, int) const { return 0; }",
    "row_tile_bits": "int row_tile_bits(const Frame&, int, int, int) const { return 0; }",
    "keeps_self": "int keeps_self(const Frame&) const { return 1; }",
    "closes": "bool closes(int, int) const { return true; }",
}


def test_a_misspelled_hook_of_a_pattern_is_named():
    check = "splash::patterns::hooks_are_spelled_right"
    cases = {hook: (f"struct P : SlidingWindow {{ {text} }};", f"{check}<P>") for hook, text in PATTERN_HOOKS.items()}
    check_sentences(cases, {hook: f"{hook} must be" for hook in cases})
    assert not errors({"right": ("", f"{check}<SlidingWindow>")})["right"]


MISFITS = {
    "tile.columns = 40": "wgmma steps 16 deep",
    "tile.consumers = 4": "one to three consumer warp groups",
    "pipeline.first_stages = 0": "a stage at least",
    "pipeline.row_buffers = 3": "one or two tiles of rows",
    "warps.teams = 2": "two teams of one group",
    "registers.consumer = 220": "multiples of 8",
    "registers.consumer = 240": "more registers than the launch gave",
    "registers.producer = 0": "for both roles or for none",
    "warps.producers = 2": "whole warp groups",
    "schedule = {.early = true}": "only a turn can end early",
}


def test_tuning_that_cannot_be_is_refused():
    """With the reason; what stands in the tables is not."""
    good = "constexpr auto good = splash::tuning::forward_sm90(128, splash::tuning::Spans::any, {.simple = true});\n"
    cases = {
        change: (
            good + f"constexpr auto changed = [] {{ auto kernel = good; kernel.{change}; return kernel; }}();\n"
            "constexpr bool refused() { return std::string_view(splash::tuning::misfit(changed))"
            f'.find("{sentence}") != std::string_view::npos; }}',
            "!splash::tuning::misfit(good) && refused",
        )
        for change, sentence in MISFITS.items()
    }
    assert not any(errors(cases).values())
