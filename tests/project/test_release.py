"""What goes out: one version, and a package that no version of Python is built into."""

import ast
import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import splash_attention
from splash_attention import _constants, _library

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").is_file())
PACKAGE = Path(splash_attention.__file__).parent
PROJECT = (ROOT / "pyproject.toml").read_text()


def test_version_is_one():
    version = splash_attention.__version__
    assert _library.build_info()["version"] == version
    assert f'__version__ = "{version}"' in (ROOT / "python/splash_attention/_version.py").read_text()
    assert 'dynamic = ["version"]' in PROJECT and 'input = "python/splash_attention/_version.py"' in PROJECT
    assert re.search(r"^## \[?" + re.escape(version), (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_nothing_imports_the_binding():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or "").startswith("splash_attention")):
                assert "_C" not in [*(node.module or "").split("."), *(alias.name for alias in node.names)], path


WITHOUT = """
import sys
sys.modules["splash_attention._C"] = None  # whoever imports it fails
sys.path.insert(0, sys.argv[1])
import torch
import splash_attention as sa
from splash_attention import _library, info
q, k, v = (torch.randn(1, 2, 70, 8, requires_grad=True) for _ in range(3))
out = sa.attention(q, k, v, sa.SlidingWindow.causal(9), 1.5)
out.sum().backward()
assert q.grad.isfinite().all() and sa.entmax15(q).shape == q.shape
assert _library.explain("forward", "cpu", "any", "softmax", "float32", 64) == ""
assert "int32" in _library.explain("forward", "cpu", "any", "softmax", "int32", 64)
info.show()
"""


def test_all_works_without_the_binding():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(PACKAGE.parent)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Compiled instances" in done.stdout


def test_the_wheel_is_for_every_python():
    assert 'wheel.py-api = "py3"' in PROJECT and 'cmake.define.SPLASH_PYTHON = "OFF"' in PROJECT


def test_the_binding_says_what_the_c_functions_say():
    try:
        binding = importlib.import_module("splash_attention._C")
    except ModuleNotFoundError:
        pytest.skip("_C is not part of this build")
    assert binding.build_info() == _library.build_info() and binding.instances() == _library.instances()
    for dtype in ("float32", "int32"):
        key = ("forward", "cpu", "any", "softmax", dtype, 64)
        assert binding.explain(*key) == _library.explain(*key)


def test_constants_are_those_of_the_table():
    listed = json.loads((ROOT / "kernels/instances.json").read_text())["normalizers"]
    assert set(_constants.SAVED) == {row["name"] for row in listed if row.get("serves", row["name"]) == row["name"]}
    dims = [row["head_dim"] for row in _library.instances() if row["arch"] != "cpu"]
    assert max(dims, default=0) == _constants.MAX_CUDA_HEAD_DIM
    assert _constants.POSITIONS == 2**29 and _constants.UNLIMITED == 2**30, "the texts of errors say these"
