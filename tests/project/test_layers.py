"""The dependency rule: which layer may include or import which, and what compiles with a host compiler alone."""

import ast
import graphlib
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from splash_attention import _library

ROOT = Path(__file__).resolve().parents[2]
HEADERS = ROOT / "include" / "splash"
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)

# Each layer, and the layers of include/splash that its headers may include.
BELOW = {
    "core": {"core"},
    "patterns": {"core", "patterns"},
    "normalizers": {"core", "normalizers"},
    "cpu": {"core", "patterns", "normalizers", "cpu"},
    "tuning": {"core", "patterns", "normalizers", "tuning"},
    "collective": {"core", "patterns", "normalizers", "tuning", "collective"},
    "kernel": {"core", "patterns", "normalizers", "tuning", "collective", "kernel"},
    "device": {"core", "patterns", "normalizers", "tuning", "collective", "kernel", "device"},
}
HOST_LAYERS = {"core", "patterns", "normalizers", "cpu", "tuning"}
PACKAGES = {"splash_attention": ROOT / "python", "splash_bench": ROOT / "benchmarks"}
DOOR = "splash_attention.cli"
FOREIGN = re.compile(r"^(cuda|cute|cutlass|torch|ATen|c10|pybind11|Python\.h)")


def sources():
    """C++ and CUDA files of the repository that a build compiles or installs."""
    for folder in ("include", "kernels", "python/bindings"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in {".hpp", ".cpp", ".cu", ".in"} and path.is_file():
                yield path


def includes(path):
    return [name for _, name in INCLUDE.findall(path.read_text())]


def layer_of(path):
    return path.relative_to(HEADERS).parts[0]


@pytest.mark.parametrize("path", sorted(HEADERS.rglob("*.hpp")), ids=lambda path: str(path.relative_to(HEADERS)))
def test_header_includes_only_layers_below(path):
    layer = layer_of(path)
    for name in includes(path):
        if name.startswith("splash/"):
            assert name.split("/")[1] in BELOW[layer], f"{layer} includes {name}"
            assert (ROOT / "include" / name).is_file(), f"{name} does not exist"
        elif layer in HOST_LAYERS:
            assert not FOREIGN.match(name), f"{layer} includes {name}"
        else:
            assert not re.match(r"torch|ATen|c10|pybind11", name), f"{layer} includes {name}"


ARCHITECTURE = re.compile(r"/(sm\d+)/")


@pytest.mark.parametrize("path", sorted(HEADERS.rglob("*.hpp")), ids=lambda path: str(path.relative_to(HEADERS)))
def test_header_of_no_architecture_includes_none(path):
    """Folders named after an architecture hold what only it can run; one never includes another."""
    own = set(ARCHITECTURE.findall(path.as_posix()))
    for name in includes(path):
        if name.startswith("splash/"):
            assert set(ARCHITECTURE.findall(name)) <= own, f"{path.name} includes {name}"


@pytest.mark.parametrize("forward", [True, False], ids=["forward", "backward"])
def test_one_pass_does_not_include_the_other(forward):
    own, other = ("forward", "backward") if forward else ("backward", "forward")
    paths = [path for path in HEADERS.rglob("*.hpp") if own in path.parts]
    assert paths
    for path in paths:
        assert not [name for name in includes(path) if f"/{other}/" in name], path


def headers_included(path):
    """The repository's headers that a file includes, whichever way it names them."""
    for name in includes(path):
        for folder in (ROOT / "include", ROOT, path.parent):
            if (folder / name).is_file():
                yield (folder / name).resolve()
                break


def assert_no_circle(graph):
    assert sum(map(len, graph.values())) > len(graph) / 2
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(map(str, reversed(error.args[1]))))


def test_includes_have_no_circle():
    """Include guards hide one: what a header sees would depend on who included it."""
    assert_no_circle({path: set(headers_included(path)) for path in sources()})


def test_every_folder_has_a_rule():
    assert {path.name for path in HEADERS.iterdir() if path.is_dir()} <= set(BELOW)


def test_torch_and_pybind_headers_stay_in_their_places():
    for path in sources():
        place = path.relative_to(ROOT).as_posix()
        for name in includes(path):
            if re.match(r"torch|ATen|c10", name):
                assert place == "kernels/torch/stable.hpp", f"{place} includes {name}"
            if name.startswith("pybind11"):
                assert place.startswith("python/bindings/"), f"{place} includes {name}"


def test_texts_need_no_locale():
    """kernels/text.hpp says why: no iostreams, and of the standard library's texts none that asks for a locale."""
    headers = {"ios", "iosfwd", "iostream", "istream", "ostream", "sstream", "fstream", "strstream", "syncstream"}
    headers |= {"iomanip", "locale", "format", "print", "regex"}
    for path in sources():
        place = path.relative_to(ROOT).as_posix()
        assert not headers & set(includes(path)), place
        assert not re.search(r"\bstd::(to_string|sto[a-z]+|strto[a-z]+)\b", path.read_text()), place


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm on PATH")
@pytest.mark.parametrize("name", [_library.KERNELS, _library.OPERATORS])
def test_compiled_library_keeps_the_standard_library_to_itself(name):
    """No streams, the ones of Torch's own headers included; and a copy of the C++ runtime that a compiler linked
    statically is not exported, since half of it would be replaced by Torch's."""
    listed = subprocess.run(["nm", "-DC", _library.find(name)], capture_output=True, text=True, check=True).stdout
    assert not re.findall(r".*(?:basic_\w*stream|std::\w*stream\b|std::locale).*", listed)
    assert not re.findall(r".* [TDBVW] (?:__cxa_|__gxx_|_Unwind_|operator (?:new|delete)).*", listed)


def test_files_are_short():
    too_long = {str(path): lines for path in sources() if (lines := len(path.read_text().splitlines())) > 600}
    assert not too_long


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on PATH")
def test_host_headers_compile_alone(tmp_path):
    """Every header of the host layers, first and alone in a translation unit of its own, with nothing but g++."""
    failed = {}
    for path in sorted(HEADERS.rglob("*.hpp")):
        if layer_of(path) not in HOST_LAYERS:
            continue
        unit = tmp_path / "unit.cpp"
        unit.write_text(f'#include "splash/{path.relative_to(HEADERS)}"\n')
        command = [
            "g++",
            "-std=c++20",
            "-fsyntax-only",
            "-Wall",
            "-Wextra",
            "-Werror",
            f"-I{ROOT / 'include'}",
            str(unit),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            failed[str(path.relative_to(HEADERS))] = done.stderr[:400]
    assert not failed


def modules(package):
    """{name: path} of a Python package."""
    folder = PACKAGES[package]
    found = {}
    for path in sorted((folder / package).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name, path, known):
    """The modules of `known` that a module imports, at its top, within functions, or for types."""
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            asked = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            # `from package import name` means the module of that name where there is one.
            asked = [inner if (inner := f"{source}.{alias.name}") in known else source for alias in node.names]
        else:
            continue
        found |= {module for module in asked if module in known}
    return found - {name}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_have_no_circle(package):
    known = modules(package)
    assert_no_circle({name: imports(name, path, known) for name, path in known.items()})


def test_the_library_knows_its_bench_by_a_door_alone():
    known = modules("splash_bench")
    asking = {name for name, path in modules("splash_attention").items() if imports(name, path, known)}
    assert asking == {DOOR}
