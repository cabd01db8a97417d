"""`python -m splash_attention` where the extra `demo` is not installed, and what it says where something is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import splash_attention
from splash_attention import _library

ROOT = Path(__file__).resolve().parent.parent
WITHOUT = """
import runpy, sys
for package in {blocked}:
    sys.modules[package] = None
sys.argv = ["splash_attention", *{arguments}]
runpy.run_module("splash_attention", run_name="__main__", alter_sys=True)
"""
EXTRA = ["typer", "rich", "matplotlib"]
INSTALL = 'pip install "splash-attention[demo]"'


def run(*arguments, blocked=EXTRA, columns=80):
    """The command line in a process that cannot import `blocked`."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(blocked=blocked, arguments=list(arguments))],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": str(columns)},
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_info_needs_torch_alone(columns):
    done = run("info", columns=columns)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= columns
    words = set(re.split(r"[\s,:;]+", done.stdout))
    for row in _library.instances():
        assert {row["arch"], row["pass"], row["pattern"], row["normalizer"], row["dtype"]} <= words
    assert {splash_attention.__version__, _library.build_info()["commit"], torch.__version__} <= words


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_without_the_extra(arguments):
    done = run(*arguments)
    assert done.returncode == 0
    for text in ("info", "demo", "bench", INSTALL):
        assert text in done.stdout


@pytest.mark.parametrize(
    "arguments, blocked",
    [
        (["demo"], EXTRA),
        (["bench"], EXTRA),
        (["bench", "window", "--seq-len", "64"], EXTRA),
        (["demo", "--steps", "1"], ["rich"]),
        (["demo", "--steps", "1"], ["matplotlib"]),
    ],
)
def test_commands_say_which_extra_is_missing(arguments, blocked):
    if blocked != EXTRA:
        pytest.importorskip("typer", reason="the other packages of the extra are to be there")
    done = run(*arguments, blocked=blocked)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert f"`{arguments[0]}` needs the extra `demo`" in done.stderr
    assert blocked[0] in done.stderr and INSTALL in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("command", ["window", "run 128k", "memory window", "table", "train", "host", "128k"])
def test_bench_without_a_gpu(command):
    pytest.importorskip("typer", reason="the command line needs the extra `demo`")
    done = run("bench", *command.split(), "--device", "cuda", blocked=[], columns=300)
    assert done.returncode == 2
    assert "sees no CUDA device" in done.stderr
