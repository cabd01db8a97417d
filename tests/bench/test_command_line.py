"""`python -m splash_attention` where extras are not installed, and what it says where something is missing."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import splash_attention
from splash_attention import _library, cli

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = """
import runpy, sys
for package in {blocked}:
    sys.modules[package] = None
sys.argv = ["splash_attention", *{arguments}]
runpy.run_module("splash_attention", run_name="__main__", alter_sys=True)
"""
EXTRA = ["typer", "rich", "matplotlib"]
INSTALL = 'pip install "splash-attention[{}]"'


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
        named = row if row["op"] != "attention" else {**row, "op": row["pattern"]}
        assert {value for value in named.values() if isinstance(value, str)} <= words
    assert {splash_attention.__version__, _library.build_info()["commit"], torch.__version__} <= words


KERNEL = {
    "tile": {"consumers": 2, "columns": 128},
    "registers": {"consumer": 224, "producer": 56},
    "schedule": {"pingpong": True, "early": False},
}
ROW = {"op": "attention", "pass": "forward", "arch": "sm90", "dtype": "bfloat16", "pattern": "any", "span": "any"}


def test_info_tells_the_tuning_of_gpu_kernels(monkeypatch, capsys):
    """Rows that share their numbers share a paragraph; a build without such kernels says so."""
    rows = [
        {**ROW, "normalizer": "softmax", "head_dim": 64, "kernels": {"forward": KERNEL}},
        {**ROW, "normalizer": "softmax", "head_dim": 128, "kernels": {"forward": KERNEL}},
        {**ROW, "normalizer": "entmax15", "head_dim": 128, "kernels": {"forward": {"tile": {"consumers": 1}}}},
        {**ROW, "arch": "cpu", "normalizer": "softmax", "head_dim": 0},
    ]
    monkeypatch.setattr(_library, "instances", lambda: rows)
    monkeypatch.setenv("COLUMNS", "120")
    assert cli.main(["info", "--tuning"]) == 0
    first, second = capsys.readouterr().out.split("  tile consumers 1\n")
    assert "sm90 forward" in first
    assert "tile consumers 2, columns 128; registers consumer 224, producer 56; schedule pingpong\n" in first
    assert "head dim 64: any x softmax, bfloat16" in first and "head dim 128: any x softmax, bfloat16" in first
    assert "head dim 128: any x entmax15, bfloat16" in second
    monkeypatch.setattr(_library, "instances", lambda: rows[-1:])
    assert cli.main(["info", "--tuning"]) == 0
    assert "CPU code alone" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], []])
def test_help_without_the_extra(arguments):
    done = run(*arguments)
    assert done.returncode == 0
    for text in ("info", "demo", "bench", INSTALL.format("demo")):
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
    assert f"`{arguments[0]}` needs the extra `{arguments[0]}`" in done.stderr
    assert blocked[0] in done.stderr and INSTALL.format(arguments[0]) in done.stderr


@pytest.mark.parametrize("command", ["demo", "bench"])
def test_doors_say_where_the_bench_would_be(command):
    done = run(command, blocked=["splash_bench"])
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1
    assert f"`{command}` needs the package splash_bench, which wheels and benchmarks/ of a checkout hold" in done.stderr


@pytest.mark.parametrize("arguments", [["window"], ["info", "--all"]])
def test_what_makes_no_sense(arguments):
    done = run(*arguments)
    assert done.returncode == 2 and arguments[-1] in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("command", ["window", "run 128k", "memory window", "table", "train", "host", "128k"])
def test_bench_without_a_gpu(command):
    pytest.importorskip("typer", reason="the command line needs the extra `demo`")
    done = run("bench", *command.split(), "--device", "cuda", blocked=[], columns=300)
    assert done.returncode == 2
    assert "sees no CUDA device" in done.stderr
