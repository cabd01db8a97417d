"""`bench train`: equal attention trains equal models, and what else is written down about it."""

import csv
import itertools
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs the extra `demo`")
pytest.importorskip("matplotlib", reason="the command line needs the extra `demo`")

import draw_training
import torch
from test_bench import invoke, repeated, run

from splash_bench import corpus, report, train
from splash_bench.peers.dense import TorchDense

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = ("--device", "cpu", "--layers", 2, "--width", 32, "--heads", 2, "--batch", 2, "--seq-len", 70)


@pytest.fixture(autouse=True)
def short_library(monkeypatch):
    data = b"".join((Path(sysconfig.get_path("stdlib")) / name).read_bytes() for name in ("os.py", "typing.py"))
    text = corpus.Corpus("two files", torch.frombuffer(bytearray(data), dtype=torch.uint8))
    monkeypatch.setattr(corpus, "library", lambda at_least: text)


def steps_of(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {
        peer: [float(row["loss"]) for row in rows if row["peer"] == peer]
        for peer in dict.fromkeys(row["peer"] for row in rows)
    }


@pytest.mark.parametrize("pattern, peer", [("causal", "sdpa"), ("streaming", "torch-dense")])
def test_equal_attention_gives_equal_losses(pattern, peer, tmp_path):
    curves, picture = tmp_path / "curves.csv", tmp_path / "losses.png"
    files = ("--curves", curves, "--plot", picture)
    rows = run(tmp_path, "train", "--pattern", pattern, "--sink", 3, "--window", 9, "--steps", 3, *TINY, *files)
    assert [row["peer"] for row in rows] == ["splash", peer]
    losses = steps_of(curves)
    assert losses["splash"] == pytest.approx(losses[peer], abs=1e-4) and len(losses["splash"]) == 3
    assert losses["splash"][0] == pytest.approx(5.55, abs=0.1)  # log(256)
    for row in rows:
        assert float(row["relative_error"]) < 1e-5 and float(row["apart"]) < 1e-4
        assert float(row["last_loss"]) == pytest.approx(sum(losses[row["peer"]]) / 3, abs=1e-3)
        assert float(row["tokens_s"]) == pytest.approx(140 / float(row["step_ms"]) * 1e3, rel=0.01)
        assert int(row["parameters"]) == 2 * 256 * 32 + 70 * 32 + 2 * (12 * 32 * 32 + 2 * 32) + 32
    assert picture.stat().st_size > 1000
    again = repeated(tmp_path, rows[1])
    assert float(again["last_loss"]) == pytest.approx(float(rows[1]["last_loss"]), abs=1e-3)


def test_it_learns(tmp_path):
    curves = tmp_path / "curves.csv"
    options = ("--steps", 60, "--no-check", "--peer", "splash", "--curves", curves)
    (row,) = run(tmp_path, "train", *TINY, *options)
    (losses,) = steps_of(curves).values()
    assert losses[-1] < losses[0] - 0.5 and float(row["held_out_loss"]) < losses[0] - 0.5
    assert row["relative_error"] == ""


def test_other_attention_is_seen(tmp_path, monkeypatch):
    right = TorchDense.prepare
    monkeypatch.setattr(TorchDense, "prepare", lambda self, case: lambda q, k, v: right(self, case)(q, k, v) * 1.5)
    options = ("--peer", "splash", "--peer", "torch-dense", "--steps", 8, *TINY)
    result = invoke("train", *options)
    assert result.exit_code == 1 and "wrong fwd" in result.output
    rows = run(tmp_path, "train", *options, "--no-check")
    assert float(rows[0]["apart"]) == 0 < 1e-3 < float(rows[1]["apart"])
    result = invoke("train", "--pattern", "streaming", "--window", 5, "--peer", "sdpa", "--steps", 1, *TINY)
    assert result.exit_code == 1 and "sdpa: not run: computes dense softmax" in result.output


def test_senseless_sizes():
    result = invoke("train", "--device", "cpu", "--width", 32, "--heads", 3)
    assert result.exit_code == 2 and "width: expected a multiple of the 3 heads, got 32" in result.output


def test_rates():
    rates = [train._rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[4] == rates[5] == max(rates) == 1
    assert all(a > b for a, b in itertools.pairwise(rates[5:])) and rates[-1] == pytest.approx(0.1, abs=0.01)
    assert train._rate(0, 1) == 1


def test_means_of_losses():
    curve = train.Curve(
        "splash", losses=[float(n) for n in range(train.SMOOTH + 2)], seconds=[9.0] * 5 + [1, 2, 3, 1, 3]
    )
    middle = (train.SMOOTH - 1) / 2
    assert curve.means() == [middle, middle + 1, middle + 2]
    assert curve.step_seconds == 2
    assert train.Curve("splash", seconds=[9.0, 1.0]).step_seconds == 1


def test_the_library(monkeypatch):
    monkeypatch.undo()
    text = corpus.library(at_least=10**6)
    assert len(text.data) > 10**6 and "packages" not in text.name.split("python")[-1]
    first, second = text.split(0.9)
    assert len(first.data) == round(0.9 * len(text.data)) and len(first.data) + len(second.data) == len(text.data)
    assert torch.equal(first.batches(2, 3, 50, 1), first.batches(2, 3, 50, 1))
    with pytest.raises(ValueError, match="expected at least 1000000000000"):
        corpus.library(at_least=10**12)


def test_curves_are_drawn_from_a_file(tmp_path):
    setup = train.setup("causal", 0, 1, 2, 16, 1, 2, 32, 3, 0, "float32")
    found = [train.Curve(peer, losses=[3.0, 2.0, 1.5], seconds=[1.0] * 3) for peer in ("splash", "sdpa")]
    rows = train.steps(setup, found)
    assert draw_training.losses([{key: str(value) for key, value in row.items()} for row in rows]) == {
        "splash": [3.0, 2.0, 1.5],
        "sdpa": [3.0, 2.0, 1.5],
    }
    report.write(tmp_path / "curves.csv", rows)
    draw_training.main(str(tmp_path / "curves.csv"), str(tmp_path / "losses.png"))
    assert (tmp_path / "losses.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="of one problem"):
        draw_training.losses([*rows, {"problem": "another", "peer": "splash", "loss": "1"}])
