"""The benchmark commands: every one of them runs, its rows are right, and the command of a row repeats it."""

import csv
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the command line needs the extra `demo`")
pytest.importorskip("matplotlib", reason="the command line needs the extra `demo`")

import torch
import typer
from typer.testing import CliRunner

from splash_bench import catalogue, check, host, limits, memory, problems, report, sweeps, tables
from splash_bench import rows as row_functions
from splash_bench.case import Case
from splash_bench.choices import NORMALIZERS, Choice
from splash_bench.cli import app
from splash_bench.families import FAMILIES
from splash_bench.longnet import LongNet
from splash_bench.packed import Packed
from splash_bench.peers import PEERS, flex, flex_masks
from splash_bench.peers.dense import TorchDense
from splash_bench.peers.splash import Splash
from splash_bench.problems import Problem
from splash_bench.sizes import Sizes

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
SMALL = ("--heads", 2, "--head-dim", 16, "--device", "cpu")
SHORT = (*SMALL, "--seq-len", 150, "--rounds", 1)
NUMBERS = {
    "window": {"window": 20},
    "streaming": {"sink": 3, "window": 9},
    "block-diagonal": {"block": 24},
    "dilated": {"window": 5, "dilation": (3, 7)},
    "strided": {"local": 5, "stride": 11},
    "fixed": {"stride": 17, "summary": 2},
    "longformer": {"window": 6, "global_tokens": 4, "dilation": 3},
    "bigbird": {"block": 10, "random": 2, "per_head": True},
    "block-mask": {"block": 32, "density": 0.4},
    "top-k-blocks": {"block": 16, "top": 3},
    "element-mask": {"documents": 5},
    "index-causal": {"stretch": 2},
    "longnet": {"segment": (16, 60, 150), "rate": (1, 2, 4)},
    "packed": {"sequences": 5},
    "lazy": {"window": 30},
}
COLUMNS = {"problem", "pass", "peer", "command", "machine", "torch", "commit", "date"}

pytestmark = pytest.mark.usefixtures("one_thread")


def invoke(*arguments):
    return CliRunner(env={"COLUMNS": "250"}).invoke(app, ["bench", *map(str, arguments)])


def options(family):
    return [word for name, value in NUMBERS.get(family, {}).items() for word in problems.option_words(name, value)]


def problem(family, normalizer=None, **sizes):
    kind = FAMILIES[family]
    choice = normalizer or Choice(kind.normalizer, 1.5 if kind.normalizer == "entmax" else 1, 8)
    sizes = {"heads": 2, "kv_heads": 2, "seq_len": 150, "head_dim": 16} | sizes
    return Problem(kind, kind.defaults() | NUMBERS.get(family, {}), Sizes(**sizes), choice)


def run(tmp_path, *arguments):
    """The rows that a command writes; it must succeed."""
    path = tmp_path / "rows.csv"
    result = invoke(*arguments, "--out", path)
    assert result.exit_code == 0, result.output
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and rows[0].keys() >= COLUMNS
    for row in rows:
        assert row["command"].startswith(f"{report.PROGRAM} ")
        for column in ("ms", "splash_speedup", "gflops", "gb_s", "ratio", "speedup", "max_batch", "peak_mib"):
            assert not row.get(column) or float(row[column]) > 0, (column, row)
    return rows


def repeated(tmp_path, row):
    """The row of the same problem, pass and peer that its own command writes."""
    words = shlex.split(row["command"])[len(report.PROGRAM.split()) :]
    same = ("problem", "pass", "peer")
    (again,) = [r for r in run(tmp_path, *words) if all(r[key] == row[key] for key in same)]
    return again


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family, tmp_path):
    k = ("--k", 8) if family == "top-k" else ()
    rows = run(tmp_path, family, *SHORT, *options(family), *k)
    assert [(row["pass"], row["peer"]) for row in rows] == [
        (direction, peer) for direction in ("fwd", "bwd") for peer in ("splash", "sdpa")
    ]
    for row in rows:
        assert (row["computes"] == "same") == bool(row["relative_error"])
        if row["peer"] == "splash":
            assert row["computes"] == "same" and float(row["relative_error"]) < 1e-5
        ours = next(r for r in rows if (r["pass"], r["peer"]) == (row["pass"], "splash"))
        assert float(row["splash_speedup"]) == pytest.approx(float(row["ms"]) / float(ours["ms"]), rel=0.01)
        operations = {"fwd": 4, "bwd": 10}[row["pass"]] * 16 * float(row["kept_share"]) * 2 * 150**2
        assert float(row["gflops"]) == pytest.approx(operations / float(row["ms"]) / 1e6, rel=0.01)
    again = repeated(tmp_path, rows[3])
    for column in ("kept_share", "computes", "command"):
        assert again[column] == rows[3][column]


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalizers_and_dense_peer(normalizer, tmp_path):
    alpha = ("--alpha", 1.5) if normalizer in ("entmax", "top-k") else ()
    arguments = ("--normalizer", normalizer, *alpha, "--k", 8, "--peer", "splash", "--peer", "torch-dense")
    rows = run(tmp_path, "window", *SHORT, "--window", 30, *arguments)
    assert len(rows) == 4
    assert all(row["computes"] == "same" and float(row["relative_error"]) < 1e-5 for row in rows)
    assert repeated(tmp_path, rows[2])["relative_error"] == rows[2]["relative_error"]


def test_peers_on_the_cpu(tmp_path):
    names = ("splash", "splash-dense", "sdpa-flash", "torch-dense", "torch-sparse")
    chosen = [word for name in names for word in ("--peer", name)]
    rows = run(tmp_path, "dense", *SHORT, "--kv-heads", 1, *chosen, "--plot", tmp_path / "bars.png")
    assert [row["peer"] for row in rows] == 2 * list(names)
    assert all(row["computes"] == "same" and float(row["relative_error"]) < 1e-5 for row in rows)
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_other_inputs_and_dtypes(tmp_path):
    rows = run(tmp_path, "entmax", *SHORT, "--inputs", "local", "--dtype", "bfloat16", "--peer", "splash", "--seed", 3)
    assert 1 < float(rows[0]["nonzeros_a_row"]) < 40 and "--inputs local" in rows[0]["command"]
    assert repeated(tmp_path, rows[0])["nonzeros_a_row"] == rows[0]["nonzeros_a_row"]


def test_absent_peers_are_named(monkeypatch):
    monkeypatch.setattr(flex.Flex, "package", "no_such_package")
    result = invoke("window", *SHORT, "--peer", "all", "--direction", "fwd")
    assert result.exit_code == 0, result.output
    for name, reason in (
        ("flex", "not installed"),
        ("sdpa-cudnn", "a CUDA back end"),
        *[(name, "not installed") for name in ("adasplash", "fa4") if PEERS[name].missing()],
    ):
        assert f"{name}: not run: {reason}" in result.output
    assert "not installed" in invoke("list").output


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)  # minutes on a slow machine
    for words in (("window", "--window", 20), ("block-mask", "--block", 64), ("bigbird", "--block", 32)):
        rows = run(tmp_path, *words, *SHORT, "--seq-len", 256, "--peer", "splash", "--peer", "flex")
        assert [(row["pass"], row["peer"]) for row in rows] == [("fwd", "splash"), ("fwd", "flex"), ("bwd", "splash")]
        assert all(row["computes"] == "same" and float(row["relative_error"]) < 1e-5 for row in rows)


def test_causal_sdpa_beside_a_pattern_that_is_not(tmp_path):
    words = ("bigbird", *options("bigbird"), *SHORT, "--peer", "splash", "--peer", "sdpa", "--peer", "sdpa-causal")
    computes = {row["peer"]: row["computes"] for row in run(tmp_path, *words)}
    assert computes == {"splash": "same", "sdpa": "dense softmax", "sdpa-causal": "causal softmax"}


def test_a_failing_peer_stops_no_other(monkeypatch):
    def fail(self, case):
        raise RuntimeError("broken")

    monkeypatch.setattr(TorchDense, "prepare", fail)
    result = invoke("window", *SHORT, "--peer", "splash", "--peer", "torch-dense")
    assert result.exit_code == 0 and "torch-dense: failed: RuntimeError: broken" in result.output


def wrong_by(change):
    """A prepare() whose call adds `change(case)` to the right answer."""
    right = Splash.prepare

    def prepare(self, case):
        call = right(Splash(), case)
        return lambda q, k, v: call(q, k, v) + change(q, k, v)

    return prepare


def test_a_wrong_peer_is_left_out(monkeypatch):
    monkeypatch.setattr(TorchDense, "prepare", wrong_by(lambda q, k, v: 1e-3))
    result = invoke("window", *SHORT, "--peer", "splash", "--peer", "torch-dense")
    assert result.exit_code == 0 and "torch-dense: wrong" in result.output


def test_a_wrong_splash_fails(monkeypatch):
    monkeypatch.setattr(Splash, "prepare", wrong_by(lambda q, k, v: 1e-3))
    result = invoke("window", *SHORT)
    assert result.exit_code == 1 and "wrong fwd" in result.output


@pytest.mark.parametrize("leaf", range(3), ids=["dq", "dk", "dv"])
def test_the_check_sees_each_gradient(leaf):
    case = Case(problem("window"), CPU)
    exact = check.exact(case)

    def prepare(q, k, v):
        # Adds nothing to the output, and something to one gradient.
        extra = 1e-3 * (q, k, v)[leaf].sum()
        return Splash().prepare(case)(q, k, v) + (extra - extra.detach())

    assert check.compare(case, exact, prepare, ["fwd"])["fwd"] < 1e-5
    with pytest.raises(check.WrongResult, match="wrong bwd"):
        check.compare(case, exact, prepare, ["bwd"])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sample_of_rows_is_exact(family):
    case = Case(problem(family, seq_len=330, kv_heads=1), CPU)
    whole, sample = check.exact(case), check.exact(case, budget=1)
    assert len(whole.rows) == 330 and 64 < len(sample.rows) < 200
    torch.testing.assert_close(sample.out, whole.out[:, :, sample.rows])
    torch.testing.assert_close(sample.gradients[0], whole.gradients[0][:, :, sample.rows])
    errors = check.compare(case, sample, Splash().prepare(case), ["fwd", "bwd"])
    assert max(errors.values()) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_pairs(family):
    case = Case(problem(family), CPU)
    length, heads = case.sizes.seq_len, case.sizes.heads
    if isinstance(case.pattern, LongNet):
        positions = torch.arange(length)
        expected = sum(int(kept.sum()) for kept in case.pattern._branches(positions[:, None], positions, heads))
        assert case.kept_pairs() == expected
        return
    expected = int(case.pattern.to_dense(length, length, heads).expand(1, heads, -1, -1).sum())
    assert case.kept_pairs() == sum(case._over_heads(kept) for kept in case.masks(7)) == expected
    if not isinstance(case.pattern, Packed):
        assert case._count_by_attention() == expected


@pytest.mark.parametrize("family", [name for name, kind in FAMILIES.items() if kind.normalizer == "softmax"])
def test_mask_functions_of_flex(family):
    case = Case(problem(family), CPU)
    if isinstance(case.pattern, LongNet):
        assert flex.Flex().refuses(case) == "LongNet is no mask"
        return
    function, reason = flex_masks.mask_function(case.pattern, case)
    if family == "element-mask":
        assert function is None and "ElementMask" in reason
        return
    length, heads = case.sizes.seq_len, case.sizes.heads
    b, h, i, j = torch.meshgrid(*(torch.arange(n) for n in (1, heads, length, length)), indexing="ij")
    expected = case.pattern.to_dense(length, length, heads).expand(1, heads, length, length)
    assert torch.equal(function(b, h, i, j), expected)


@pytest.mark.parametrize("verb", ["sweep", "break-even"])
def test_doubling_lengths(verb, tmp_path):
    rows = run(tmp_path, verb, "streaming", *SMALL, "--rounds", 1, "--from", 16, "--to", 70, "--window", 8)
    assert list(dict.fromkeys(row["seq_len"] for row in rows)) == ["16", "32", "64"]
    assert len(rows) == 12
    assert repeated(tmp_path, rows[-1])["kept_share"] == rows[-1]["kept_share"]
    result = invoke(verb, *SMALL, "--from", 16, "--to", 32, "--rounds", 1, "--plot", tmp_path / "lines.png")
    assert result.exit_code == 0 and "window=256" in result.output  # without a family: window
    assert ("splash is faster than sdpa" in result.output) == (verb == "break-even")
    assert (tmp_path / "lines.png").read_bytes().startswith(b"\x89PNG")


def test_break_even():
    speedups = {16: 0.5, 32: 1.2, 64: 0.9, 128: 1.5, 256: 4}
    rows = [
        {"seq_len": length, "pass": "fwd", "peer": "sdpa", "splash_speedup": f"{value}"}
        for length, value in speedups.items()
    ]
    assert sweeps.break_even(rows) == {("fwd", "sdpa"): 128}
    assert sweeps.break_even(rows[:3]) == {("fwd", "sdpa"): None}


def test_memory(tmp_path):
    peers = ("splash", "torch-dense", "fa4")
    arguments = ("--seq-len", 1500, "--direction", "bwd", *[word for peer in peers for word in ("--peer", peer)])
    rows = run(tmp_path, "memory", "window", *SMALL, "--window", 64, *arguments)
    assert [row["peer"] for row in rows] == list(peers)
    assert {row["pass"] for row in rows} == {"fwd+bwd"}
    assert float(rows[1]["peak_mib"]) - float(rows[0]["peak_mib"]) > 20  # several times 2 x 1500 x 1500 floats
    assert float(rows[1]["splash_share"]) > 2
    assert rows[2]["note"].startswith("not run: ") and not rows[2]["peak_mib"]
    words = shlex.split(rows[0]["command"])
    assert words[4:6] == ["memory", "window"] and "--peer" in words


def test_max_batch(tmp_path, monkeypatch):
    def peak(problem, peer, direction, device):
        each = {"splash": 10, "torch-dense": 70}[peer]
        # Not quite linear, as allocators are.
        return memory.Peak(200 + each * problem.sizes.batch + problem.sizes.batch % 3)

    monkeypatch.setattr(limits.memory, "peak", peak)
    arguments = ("--seq-len", 64, "--memory-limit", 0.5, "--peer", "splash", "--peer", "torch-dense")
    rows = run(tmp_path, "max-batch", "window", *SMALL, *arguments, "--direction", "fwd")
    assert [(row["peer"], row["max_batch"]) for row in rows] == [("splash", "31"), ("torch-dense", "4")]
    assert "--batch" not in rows[0]["command"]
    assert repeated(tmp_path, rows[1])["max_batch"] == "4"


def test_max_batch_of_nothing(monkeypatch):
    monkeypatch.setattr(limits.memory, "peak", lambda *arguments: memory.Peak(error="out of memory"))
    result = invoke("max-batch", "--memory-limit", 1, "--peer", "splash", "--direction", "fwd")
    assert result.exit_code == 0 and "out of memory" in result.output


def test_long_table(tmp_path):
    peers = ("--peer", "splash", "--peer", "sdpa")
    rows = run(tmp_path, "128k", "--seq-len", 300, "--heads", 2, "--head-dim", 16, "--device", "cpu", *peers)
    assert [(row["pass"], row["peer"]) for row in rows[:4]] == [
        (direction, peer) for direction in ("fwd", "bwd") for peer in ("splash", "sdpa")
    ]
    assert len(rows) == 4 + 3 * 2
    for row in rows:
        dense = min(float(r["ms"]) for r in rows[:4] if r["pass"] == row["pass"])
        assert float(row["speedup"]) == pytest.approx(dense / float(row["ms"]), rel=0.01)
    assert {row["problem"].split(" B1")[0] for row in rows} == {
        "dense causal",
        "window 1024",
        "bigbird",
        "dilated 512x8",
    }
    assert all(float(row["sparsity"].rstrip("%")) >= 0 for row in rows)
    assert repeated(tmp_path, rows[-1])["sparsity"] == rows[-1]["sparsity"]


def test_cpu_ratios(tmp_path, monkeypatch):
    def small(comparison):
        problem = comparison.problem
        sizes = replace(problem.sizes, heads=2, kv_heads=2, seq_len=200, head_dim=16)
        return replace(comparison, problem=replace(problem, sizes=sizes))

    short = [small(comparison) for comparison in (*tables.COMPARISONS, tables.MEMORY)]
    decodes = [c.wanted for c in short if c.problem.sizes.queries == 1]
    assert len(decodes) > 10
    monkeypatch.setattr(tables, "COMPARISONS", tuple(short[:-1]))
    monkeypatch.setattr(tables, "MEMORY", short[-1])
    rows = run(tmp_path, "cpu-ratios", "--rounds", 1)
    wanted = [(row["pass"], float(row["wanted"])) for row in rows]
    assert wanted == [
        *((d, w) for w in (0.5, 6, 12, 12, 8, 4) for d in ("fwd", "bwd")),
        *(("fwd", w) for w in (0.25, *decodes)),
        ("fwd+bwd", 1),
    ]
    last = rows[-1]
    assert float(last["ratio"]) == pytest.approx(2048 / float(last["splash"]), rel=0.01)
    for row in rows[:-1]:
        assert float(row["ratio"]) == pytest.approx(float(row["peer_value"]) / float(row["splash"]), rel=0.01)
    assert repeated(tmp_path, rows[4])["wanted"] == rows[4]["wanted"]


def test_rows(tmp_path):
    for alpha in (1.5, 1.3):
        rows = run(tmp_path, "rows", "--rows", 40, "--columns", 70, "--alpha", alpha, "--device", "cpu", "--rounds", 1)
        peers = {row["peer"] for row in rows}
        assert peers >= {"splash", "torch-softmax"}
        for row in rows:
            assert bool(row["relative_error"]) == (row["peer"] != "torch-softmax")
        assert repeated(tmp_path, rows[1])["peer"] == rows[1]["peer"]


def test_named_rows(tmp_path, monkeypatch):
    """Along any dimension, in half precision, where a package that rounds inside is allowed more than splash."""
    problems = (
        row_functions.Problem("cube dim 1", (3, 40, 5), dim=1),
        row_functions.Problem("bf16", (30, 4096), dtype="bfloat16"),
        row_functions.Problem("on a GPU", (3, 4), devices=("cuda",)),
    )
    monkeypatch.setattr(row_functions, "PROBLEMS", problems)
    rows = run(tmp_path, "rows", "--only", "*", "--device", "cpu", "--rounds", 1, "--seed", 1)
    assert list(dict.fromkeys(row["problem"] for row in rows)) == ["cube dim 1", "bf16"]
    for row in rows:
        bound = 1e-5 if row["dtype"] == "float32" else 5e-3 if row["peer"] == "splash" else 5e-2
        assert (row["peer"] == "torch-softmax") == (not row["relative_error"])
        assert not row["relative_error"] or float(row["relative_error"]) < bound
        assert float(row["nonzeros_a_row"]) < 40 or row["peer"] == "torch-softmax" or row["dtype"] == "bfloat16"
    again = repeated(tmp_path, rows[0])
    assert again["nonzeros_a_row"] == rows[0]["nonzeros_a_row"] and again["command"] == rows[0]["command"]


def test_a_wrong_row_function(monkeypatch):
    right = row_functions.function
    short = ("rows", "--rows", 20, "--columns", 30, "--device", "cpu", "--rounds", 1)

    def wrong(peer):
        monkeypatch.setattr(
            row_functions,
            "function",
            lambda name, *of: lambda x: right("splash", *of)(x) * (1.1 if name == peer else 1),
        )
        return invoke(*short, "--peer", "splash", "--peer", "entmax")

    result = wrong("entmax")
    assert result.exit_code == 0 and "entmax: wrong: relative errors" in result.output
    result = wrong("splash")
    assert result.exit_code == 1 and "splash: wrong: relative errors" in result.output


def test_named_problems(tmp_path, monkeypatch):
    small = catalogue.named("small window", "window", Sizes(heads=2, kv_heads=2, seq_len=90, head_dim=16), window=7)
    monkeypatch.setitem(catalogue.PROBLEMS, small.name, small)
    rows = run(tmp_path, "run", "small*", "--device", "cpu", "--rounds", 1)
    assert {row["problem"] for row in rows} == {"small window"}
    assert repeated(tmp_path, rows[1])["kept_share"] == rows[1]["kept_share"]
    listed = invoke("list").output
    assert all(name in listed for name in (*catalogue.PROBLEMS, *FAMILIES, *PEERS))


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "results").glob("*.csv")), ids=lambda path: path.name)
def test_commands_of_committed_results(path):
    with path.open(newline="") as file:
        commands = {row["command"] for row in csv.DictReader(file)}
    bench = typer.main.get_command(app).commands["bench"]
    comparisons = [comparison.name for comparison in (*tables.COMPARISONS, tables.MEMORY)]
    for text in commands:
        words = shlex.split(text)
        assert " ".join(words[:4]) == report.PROGRAM
        if words[4] == "run":
            assert [found.name for found in catalogue.find([words[5]])] == [words[5]]
        elif words[4] == "scaling":
            assert words[5] in catalogue.LINEAR
        elif words[4] == "deterministic":
            assert [found.name for found in catalogue.find([words[5]])] == [words[5]]
        elif words[4] == "rows":
            assert words[5] == "--only" and [found.name for found in row_functions.find([words[6]], "cuda")] == [
                words[6]
            ]
        elif words[4] == "metadata":
            assert words[5] == "--seq-len"
        elif words[4] == "train":
            assert words[5] == "--pattern"
        else:
            assert words[4:6] in (["cpu-ratios", "--only"], ["host", "--only"])
            assert words[6] in (comparisons if words[4] == "cpu-ratios" else host.PATTERNS)
        with bench.commands[words[4]].make_context(words[4], words[5:]):  # raises where an option is wrong
            pass


ERRORS = [
    ("rows --only nothing --device cpu", "only: expected a name or shell pattern of 4096x4096, 4096x4096 dim 0 on cpu"),
    ("rows --only 4096x4096 --device cpu --alpha 2", "only: named problems have rows, columns, alpha and dtype"),
    (
        "rows --device cpu --peer nobody",
        "peer: expected one of all, splash, torch-softmax, entmax, adasplash, got 'nobody'",
    ),
    ("window --seq-len 0", "seq-len"),
    ("window --window 0", "window"),
    ("window --heads 3 --kv-heads 2", "heads: expected a multiple of the 2 key/value heads, got 3"),
    ("window --heads 0", "heads"),
    ("window --head-dim 300", "head-dim"),
    ("window --batch -1", "batch"),
    ("window --rounds 0", "rounds"),
    ("window --alpha 2.5", "alpha"),
    ("window --alpha 1.001 --seq-len 64", "alpha: expected 1 (softmax) or a number from 1.01 to 2"),
    ("window --normalizer softmax-sink --alpha 1.5", "alpha: softmax-sink has none"),
    ("window --normalizer sigmoid", "sigmoid"),
    ("window --dtype int8", "int8"),
    ("window --device tpu", "tpu"),
    ("window --direction sideways", "sideways"),
    ("window --peer nobody", "peer: expected one of all, splash"),
    ("window --inputs zeros", "zeros"),
    ("dense --no-causal --normalizer elastic --seq-len 64", "Elastic needs"),
    (
        "dilated --dilation 1 --dilation 2 --dilation 3 --seq-len 64",
        "dilation: expected one, or one for each of 8 heads, got 3",
    ),
    ("dilated --dilation 0", "dilation"),
    ("bigbird --window 2 --seq-len 64", "window: expected an odd number"),
    ("fixed --stride 4 --summary 5 --seq-len 64", "summary"),
    ("block-mask --block 24 --seq-len 64", "block: expected a multiple of 16"),
    ("block-mask --density 1.5", "density"),
    ("longnet --segment 4 --rate 1 --rate 2 --seq-len 64", "rate: expected one for each of the 1 segments, got 2"),
    ("longnet --seq-len 64 --alpha 1.5", "normalizer: LongNet mixes softmax branches"),
    ("top-k --k 0", "k"),
    ("sweep --from 64 --to 32", "to: expected at least --from 64, got 32"),
    ("max-batch --memory-limit 0", "memory-limit"),
    ("run nothing", "no problem is called 'nothing'"),
    ("run", "Missing argument 'names'"),
    ("cpu-ratios --only nothing", "only: no comparison has 'nothing' in its name"),
    ("rows --columns 0", "columns"),
    ("windows", "windows"),
]


@pytest.mark.parametrize("words, text", ERRORS, ids=[words for words, _ in ERRORS])
def test_senseless_numbers(words, text):
    result = invoke(*words.split())
    output = " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.output).split())
    assert result.exit_code == 2, result.output
    assert text in output
