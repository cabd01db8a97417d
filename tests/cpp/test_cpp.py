"""The C++ headers with the host compiler: patterns by brute force, counted hooks, and an outside project."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from host_compiler import COMPILER, CPP, INCLUDE, build_and_run, needs_compiler, run

from splash_attention import _library

ROOT = Path(__file__).resolve().parents[2]
needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="no cmake on PATH")


@needs_compiler
@pytest.mark.parametrize(
    "name",
    [
        "test_patterns",
        "test_formulas",
        "test_tensor_patterns",
        "test_tile_mask",
        "test_hints",
        "test_schedule",
        "test_policies",
        "test_normalizers",
        "test_one_sweep",
        "test_strategy",
    ],
)
def test_headers_of_the_repository(name, tmp_path, capsys):
    output = build_and_run(CPP / f"{name}.cpp", tmp_path, f"-I{ROOT / 'include'}", "-pthread")
    with capsys.disabled():
        print(f"\n{output.strip()}")
    assert " 0 failed" in output


@needs_compiler
@pytest.mark.parametrize(
    "name, sources",
    [
        ("tuning", []),
        ("parts", ["parts", "registry"]),
        ("explain", ["explain", "registry"]),
        ("plan", ["dispatch", "plan", "plan_text", "parts", "checks", "explain", "registry"]),
    ],
)
def test_sources_of_the_library_with_a_small_table(name, sources, tmp_path, capsys):
    """The calls that a call on a GPU is made of, the plan that they come from, and the texts of NoKernelError."""
    sources = [ROOT / "kernels" / f"{source}.cpp" for source in sources]
    output = build_and_run(
        CPP / f"test_{name}.cpp", tmp_path, *sources, f"-I{ROOT}", f"-I{ROOT / 'include'}", "-pthread"
    )
    with capsys.disabled():
        print(f"\n{output.strip()}")
    assert " 0 failed" in output


WRONG_HOOK = """
#include "pattern_checks.hpp"
#include "splash/patterns/streaming.hpp"

struct Wrong : splash::patterns::Streaming {
  int HOOK(const splash::Frame& frame, int first, int end, int from) const {
    const int next = Streaming::HOOK(frame, first, end, from);
    return next == from && from % 7 == 3 ? from + 2 : next;
  }
};

int main() {
  const splash::Frame frame = splash::make_frame(splash::Positions{}, 0, 0, 90, 90);
  brute_force::check_pattern("wrong", Wrong{{3, 20}}, frame, brute_force::Exact::no);
  return brute_force::summary("wrong");
}
"""


@needs_compiler
@pytest.mark.parametrize("hook, lines", [("next_column", "rows"), ("next_row", "columns")])
def test_a_wrong_walk_is_reported_as_that(hook, lines, tmp_path):
    source, program = tmp_path / "wrong.cpp", tmp_path / "wrong"
    source.write_text(WRONG_HOOK.replace("HOOK", hook))
    run(COMPILER, "-std=c++20", "-O1", source, f"-I{CPP}", f"-I{ROOT / 'include'}", "-o", program)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    first = done.stdout.splitlines()[0]
    assert re.fullmatch(rf"FAILED: wrong: {hook}\(\d+\) of {lines} \[\d+,\d+\) is \d+ and skips kept scores", first), (
        first
    )


@needs_compiler
@pytest.mark.parametrize("name", ["host", "headers_alone"])
def test_installed_headers_alone(name, tmp_path):
    build_and_run(CPP / "outside" / f"{name}.cpp", tmp_path, f"-I{INCLUDE}")


@needs_compiler
def test_installed_library_alone(tmp_path):
    folder = _library.find("libsplash.so").parent
    output = build_and_run(
        CPP / "outside" / "library.cpp", tmp_path, f"-I{INCLUDE}", f"-L{folder}", f"-Wl,-rpath,{folder}", "-lsplash"
    )
    assert "arch is sm80" in output


@needs_compiler
@needs_cmake
def test_find_package(tmp_path):
    run(
        "cmake",
        "-S",
        CPP / "outside",
        "-B",
        tmp_path,
        f"-DCMAKE_PREFIX_PATH={INCLUDE.parent}",
        f"-DPython_EXECUTABLE={sys.executable}",
    )
    run("cmake", "--build", tmp_path)
    assert "100% tests passed" in run("ctest", "--test-dir", tmp_path)
