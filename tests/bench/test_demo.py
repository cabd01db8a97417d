"""The command line and the demo."""

import subprocess
import sys

import pytest

pytest.importorskip("typer", reason="the command line needs the extra `demo`")
pytest.importorskip("matplotlib", reason="the demo needs the extra `demo`")

import torch
from rich.console import Console
from typer.testing import CliRunner

import splash_attention as sa
from splash_attention import _library, cli
from splash_bench.case import Case
from splash_bench.choices import NORMALIZERS
from splash_bench.cli import app
from splash_bench.demo import cuda, main, maps, survey, survey_table, variants
from splash_bench.longnet import LongNet
from splash_bench.packed import Packed
from splash_bench.peers import PEERS


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(argument) for argument in arguments])


def test_short_demo(tmp_path, one_thread):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {n} of a text that repeats itself\n" for n in range(100)))
    result = invoke("demo", "--steps", 3, "--text", text, "--length", 130, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "The losses agree" in result.output and "All answers agree" in result.output
    for variant in variants.VARIANTS:
        assert variant.name in result.output
    for name in (*survey.PATTERNS[1:], *(choice.label for choice in survey.NORMALIZERS)):
        assert name in result.output
    for name in ("losses.png", "attention_maps.png", "patterns.png", "speedup.png"):
        assert (tmp_path / "out" / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / "out" / name) in result.output


def test_demo_fails_where_losses_deviate(tmp_path, monkeypatch, one_thread):
    monkeypatch.setattr(survey, "problems", lambda sizes, seed: survey.windows(sizes, seed)[:1])
    wrong = variants.Variant("wrong window", sa.SlidingWindow.causal(2), sa.Softmax())
    monkeypatch.setattr(variants.Variant, "reference", lambda self, q, k, v: wrong.splash(q, k, v))
    result = invoke("demo", "--steps", 2, "--length", 64, "--output", tmp_path)
    assert result.exit_code == 1, result.output
    assert "deviate" in result.output


def test_survey_covers_everything(one_thread):
    sizes = survey.sizes_for(torch.device("cpu"), 130)
    chosen = survey.problems(sizes, seed=0)
    kinds = set()
    for problem in chosen:
        pattern = Case(problem, torch.device("cpu")).pattern
        kinds |= {type(term) for term in getattr(pattern, "terms", (pattern,))}
    every = {kind for kind in vars(sa.patterns).values() if isinstance(kind, type) and issubclass(kind, sa.Pattern)}
    assert kinds == (every - {sa.Pattern, sa.And, sa.patterns.Prepared}) | {LongNet, Packed}
    assert {problem.normalizer.name for problem in chosen} == set(NORMALIZERS)


def test_survey_sees_a_wrong_answer(monkeypatch, one_thread):
    right = PEERS["splash"].prepare
    monkeypatch.setattr(
        PEERS["splash"], "prepare", lambda case: lambda q, k, v: right(case)(q, k, v) * 1.001, raising=True
    )
    sizes = survey.sizes_for(torch.device("cpu"), 64)
    entries = list(survey.run(survey.windows(sizes, seed=0)[-1:], torch.device("cpu"), lambda problem: None))
    console = Console(record=True, width=200)
    assert not survey_table.show(entries, [], torch.device("cpu"), console)
    assert "deviates" in console.export_text()


def test_survey_names_what_has_no_kernel(monkeypatch, one_thread):
    def refuse(case):
        raise sa.NoKernelError("nearest is another")

    monkeypatch.setattr(PEERS["splash"], "prepare", refuse)
    sizes = survey.sizes_for(torch.device("cpu"), 64)
    entries = list(survey.run(survey.windows(sizes, seed=0)[-1:], torch.device("cpu"), lambda problem: None))
    console = Console(record=True, width=200)
    assert survey_table.show(entries, [], torch.device("cpu"), console)
    assert "no kernel: nearest is another" in console.export_text()


def test_demo_names_a_missing_or_short_text(tmp_path):
    missing = invoke("demo", "--text", tmp_path / "missing.txt")
    assert missing.exit_code == 2 and "missing.txt" in missing.output
    short = tmp_path / "short.txt"
    short.write_text("short")
    result = invoke("demo", "--text", short)
    words = result.output.replace("│", " ").split()  # the error box breaks lines
    assert result.exit_code == 2 and f"expected at least {2 * main.LENGTH}" in " ".join(words)


@pytest.mark.parametrize("variant", variants.VARIANTS, ids=lambda variant: variant.name)
def test_weights_read_through_the_call(variant):
    generator = torch.Generator().manual_seed(0)
    q, k = (3 * torch.randn(1, 2, 90, 32, generator=generator) for _ in range(2))
    weights = maps.read_weights(variant.splash, q, k)
    kept = variant.pattern.to_dense(90, 90)
    assert weights.shape == (1, 2, 90, 90)
    assert torch.all(weights.masked_select(~kept) == 0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 90))
    zeros = maps.Weights(weights, kept[0, 0]).zero_share()
    assert zeros > 0.3 if isinstance(variant.normalizer, sa.Entmax) else zeros == 0


def test_forward_check(device):
    generator = torch.Generator().manual_seed(0)
    calls = {v.name: [torch.randn(2, 2, 130, 64, generator=generator) for _ in "qkv"] for v in variants.VARIANTS}
    checks = cuda.check_forward(calls, torch.device(device))
    assert len(checks) == len(variants.VARIANTS) * len(cuda.DTYPES)
    assert all(check.passed for check in checks), checks


def test_missing_backward_says_why(device):
    reason = cuda.missing_backward(torch.device(device))
    compiled = device == "cpu" or any(
        (row["arch"], row["pass"]) == ("sm90", "backward") for row in _library.instances()
    )
    assert reason is None if compiled else "backward" in reason


def test_info(capsys):
    assert cli.main(["info"]) == 0
    output = capsys.readouterr().out
    instances = _library.instances()
    assert f"Compiled instances: {len(instances)}" in output
    for value in (
        torch.__version__,
        _library.build_info()["cpu_isa"],
        *{row.get("normalizer", row["op"]) for row in instances},
    ):
        assert value in output


def test_module_runs():
    command = [sys.executable, "-m", "splash_attention", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "info" in result.stdout and "demo" in result.stdout
