"""What each pass owes: tiles and bytes of a problem, targets, and the tables that say what is met."""

import csv
import sys

import pytest

pytest.importorskip("typer", reason="the command line needs the extra `demo`")
pytest.importorskip("matplotlib", reason="the command line needs the extra `demo`")

import draw_results
import results_table
import torch
from test_bench import CPU, NUMBERS, invoke, problem, repeated, run

from splash_bench import catalogue, deterministic, host, measure, metadata, report, scaling, targets, tiles
from splash_bench.case import Case
from splash_bench.measure import Machine
from splash_bench.peers.splash import Splash
from splash_bench.sizes import Sizes
from splash_bench.targets import MEASURED
from splash_bench.tiles import TILE, Work

pytestmark = pytest.mark.usefixtures("one_thread")
OWING = targets.owing(["fwd", "bwd"])
NATURAL = ("dense", "window", "streaming", "block-diagonal", "longformer", "bigbird", "block-mask", "top-k-blocks")


def kept_tiles(mask):
    """Tiles of a dense mask with anything in them."""
    height, width = mask.shape[-2:]
    return sum(
        int(mask[..., i : i + TILE, j : j + TILE].flatten(-2).any(-1).sum())
        for i in range(0, height, TILE)
        for j in range(0, width, TILE)
    )


@pytest.mark.parametrize("queries", [None, 77])
@pytest.mark.parametrize("family", [*NATURAL, "element-mask", "index-causal", "lazy", "top-k"])
def test_tiles_of_the_natural_layout(family, queries):
    case = Case(problem(family, seq_len=330, heads=4, kv_heads=2, batch=2, queries=queries), CPU)
    mask = case.pattern.to_dense(case.sizes.rows, 330, 4).expand(2, 4, case.sizes.rows, 330)
    assert tiles.count(case) == kept_tiles(mask)


@pytest.mark.parametrize("block", [16, 48, 64, 96, 128, 192])
def test_tiles_of_blocks(block):
    family = problem("block-mask", seq_len=500)
    case = Case(problem("block-mask", seq_len=500), CPU)
    case.pattern = family.family.build(case, block=block, density=0.3)
    mask = case.pattern.to_dense(500, 500, 2).expand(1, 2, 500, 500)
    assert tiles.count(case) == kept_tiles(mask)


def test_tiles_of_residues_segments_and_sequences():
    """In their own layouts, with positions moved so that those of one residue, segment or sequence are neighbours."""
    length = 430
    positions = torch.arange(length)

    def moved(case, heads, order_of):
        mask = case.pattern.to_dense(length, length, heads).expand(1, heads, length, length)[0]
        total = 0
        for head in range(heads):
            for part in order_of(head):
                total += kept_tiles(mask[head][part][:, part])
        return total

    def residues(step):
        return [positions[residue::step] for residue in range(step)]

    case = Case(problem("dilated", seq_len=length), CPU)  # dilations 3 and 7
    assert tiles.count(case) == moved(case, 2, lambda head: residues((3, 7)[head]))
    case = Case(problem("packed", seq_len=length), CPU)
    parts = positions.split(case.pattern.lengths)
    assert len(parts) == 5 and tiles.count(case) == moved(case, 2, lambda head: parts)
    case = Case(problem("longnet", seq_len=length), CPU)
    expected = 0
    for segment, rate in case.pattern.segments:
        for head in range(2):
            for begin in range(0, length, segment):
                tokens = len(positions[begin : begin + segment][head % rate :: rate])
                expected += kept_tiles(torch.ones(tokens, tokens).tril().bool())
    assert tiles.count(case) == expected


def test_tiles_of_strided_and_fixed():
    length = 430
    positions = torch.arange(length)
    distance = positions[:, None] - positions
    case = Case(problem("strided", seq_len=length), CPU)  # local 5, stride 11
    window = (distance >= 0) & (distance < 5)
    residues = [positions[residue::11] for residue in range(11)]
    far = (distance >= 5) & (distance % 11 == 0)
    expected = kept_tiles(window) + sum(kept_tiles(far[part][:, part]) for part in residues)
    assert tiles.count(case) == 2 * expected
    case = Case(problem("fixed", seq_len=length), CPU)  # stride 17, summary 2
    own = (distance >= 0) & (positions[:, None] // 17 == positions // 17)
    summary = (positions // 17 < positions[:, None] // 17)[:, positions % 17 >= 15]
    assert tiles.count(case) == 2 * (kept_tiles(own) + kept_tiles(summary))


def test_few_queries_of_a_group_share_tiles():
    sizes = {"seq_len": 640, "heads": 32, "kv_heads": 8, "batch": 3}
    forward, backward = tiles.work(Case(problem("dense", queries=1, **sizes), CPU)).values()
    assert forward.tiles == backward.tiles == 3 * 8 * 10
    assert forward.bytes == 4 * 16 * 3 * (2 * 32 + 2 * 8 * 640)
    # q, the output, dO and dQ; k, v, dK and dV.
    assert backward.bytes == 4 * 16 * 3 * (4 * 32 + 4 * 8 * 640)
    assert (forward.flops, backward.flops) == tuple(n * 16 * TILE * TILE * forward.tiles for n in (4, 10))
    assert tiles.count(Case(problem("dense", queries=33, **sizes), CPU)) == 3 * 8 * 3 * 10


def test_targets_name_problems():
    for (name, direction), target in targets.targets().items():
        assert name in catalogue.PROBLEMS and direction in ("fwd", "bwd")
        assert (target.must is None) == (target.aim is None) and target.unit in ("ms", "tflops")
        if target.must is not None:
            better = target.aim > target.must if target.unit == "tflops" else target.aim < target.must
            assert better, name
    forwards, backwards = set(targets.owing(["fwd"])), set(targets.owing(["bwd"]))
    assert forwards - backwards == {name for name in forwards if name.startswith("decode")}
    assert backwards - forwards == {"D128 causal B1 H16 N16384"}
    assert targets.owing(["fwd", "bwd"])[3:5] == ["D128 causal B8 H16 N2048", "D64 full B1 H32 N16384"]


def test_passes_that_a_problem_owes():
    both = ["fwd", "bwd"]
    assert targets.owed("bigbird b64 w3 g2 r3 N32768", both) == both
    assert targets.owed("decode 32/8 D128 B8 N32768", both) == ["fwd"]
    assert targets.owed("D128 causal B1 H16 N16384", both) == ["bwd"]
    assert targets.owed("decode 32/8 D128 B8 N32768", ["bwd"]) == ["bwd"]
    assert targets.owed("D32 full B2 H32 N8192", both) == both


def test_what_is_met():
    by_bytes, by_tiles = Work(4_270_000_000, 0, 64), Work(0, 600 * 10**9 // (4 * 64 * TILE * TILE), 64)
    backward_tiles = Work(0, 480 * 10**9 // (10 * 64 * TILE * TILE), 64, 10)
    slow = Machine(MEASURED.product / 2, MEASURED.copy / 4)
    name = "window256-causal N32768"  # must 0.235 ms, aim 0.180 ms
    for machine, work, longer in ((MEASURED, by_bytes, 1), (slow, by_bytes, 4), (slow, by_tiles, 2)):
        for ms, met in ((0.18, "aim"), (0.2, "must"), (0.25, "no")):
            found = targets.columns(name, "fwd", work, ms * longer / 1e3, 1, machine)
            assert float(found["floor_ms"]) == pytest.approx(longer, rel=1e-3)
            assert found["met"] == met and float(found["must"]) == pytest.approx(0.235 * longer)
            assert float(found["of_must"]) == pytest.approx(0.235 / ms, abs=1e-3)
    name = "D128 full B2 H16 N8192"  # must 690 TFLOP/s, aim 720
    for machine, slower in ((MEASURED, 1), (slow, 2)):
        for rate, met in ((730, "aim"), (700, "must"), (600, "no")):
            found = targets.columns(name, "fwd", by_tiles, 1, rate / slower, machine)
            assert (found["met"], found["unit"]) == (met, "tflops") and float(found["must"]) == 690 / slower
    name = "fixed128 summary16 N32768"  # 1.5 times its floor
    for ms, met in ((1.4, "must"), (1.6, "no")):
        found = targets.columns(name, "bwd", backward_tiles, ms / 1e3, 1, MEASURED)
        assert (found["must"], found["aim"], found["met"]) == ("1.5", "", met)
        found = targets.columns(name, "fwd", by_bytes, ms / 1e3, 1, MEASURED)
        assert (found["must"], found["aim"], found["met"]) == ("1.5", "", met)
    assert targets.columns("no such name", "fwd", by_bytes, 1.4e-3, 1, MEASURED)["met"] == "must"


@pytest.fixture
def small(monkeypatch):
    """The problems of the table, small, under their names, and a machine for their targets."""
    shrink = {"batch": 1, "heads": 4, "seq_len": 130, "head_dim": 16, "dtype": "float32"}
    for name in (
        *targets.owing(["fwd", "bwd"]),
        *(f"{label} N{n}" for label in catalogue.LINEAR for n in scaling.LENGTHS),
    ):
        full = catalogue.PROBLEMS[name]
        sizes = Sizes(**shrink, kv_heads=4 * full.sizes.kv_heads // full.sizes.heads, queries=full.sizes.queries)
        numbers = NUMBERS.get(full.family.name, {})
        if full.family.name == "dilated":
            numbers = {"window": 5, "dilation": full.numbers["dilation"][:4]}
        tiny = catalogue.named(name, full.family.name, sizes, **full.numbers | numbers)
        monkeypatch.setitem(catalogue.PROBLEMS, name, tiny)
    monkeypatch.setattr(measure, "ceilings", lambda device: Machine(394, 2))


def test_the_table(small, tmp_path):
    rows = run(tmp_path, "table", "--device", "cpu", "--rounds", 1)
    ours = {(row["problem"], row["pass"]): row for row in rows if row["peer"] == "splash"}
    assert list(ours) == list(targets.targets())
    for key, row in ours.items():
        assert float(row["floor_ms"]) > 0 and not row.get("note"), row
        assert float(row["must"]) > 0 and row["of_must"] and row["met"] in ("aim", "must", "no")
        assert bool(row["aim"]) == (targets.targets()[key].aim is not None)
        assert row["machine_matmul_tflops"] == "394" and row["machine_copy_tbs"] == "2.00"
        assert float(row["relative_error"]) < 1e-5
    peers = [row for row in rows if row["peer"] != "splash"]
    assert {(row["peer"], row["computes"], row["must"]) for row in peers} == {("sdpa", "same", "")}
    assert {row["pass"] for row in peers} == {"fwd", "bwd"}
    forward, backward = rows[0], ours["D128 causal B1 H16 N16384", "bwd"]
    for row in (forward, backward):
        assert repeated(tmp_path, row)["must"] == row["must"]


def test_some_of_the_table_without_a_check(small, tmp_path):
    options = ("--device", "cpu", "--rounds", 1, "--no-check", "--peer", "splash")
    result = invoke("table", "window*", "decode*B8*", *options)
    assert result.exit_code == 0, result.output
    assert "fwd: 5 with targets" in result.output and "bwd: 4 with targets" in result.output
    assert "bigbird" not in result.output
    result = invoke("table", "window256*", "decode*B8*", *options, "--direction", "bwd")
    assert "bwd: 2 with targets" in result.output and "fwd:" not in result.output
    owing = targets.owing(["fwd"])
    assert [found.name for found in catalogue.find(["window*", "D32 f*"], owing)] == [
        *(name for name in owing if name.startswith("window")),
        "D32 full B2 H32 N8192",
    ]


def test_the_table_without_targets(small, tmp_path, monkeypatch):
    """A wheel has none: times and peers alone, of every named problem that is not a varied one."""
    monkeypatch.setitem(sys.modules, "splash_bench.targets", None)
    monkeypatch.setattr(catalogue, "TABLE", tuple(catalogue.PROBLEMS[name] for name in OWING[:3]))
    rows = run(tmp_path, "table", "--device", "cpu", "--rounds", 1)
    passes = [(name, direction) for name in OWING[:3] for direction in ("fwd", "bwd")]
    assert [(row["problem"], row["pass"]) for row in rows if row["peer"] == "splash"] == passes
    assert {row["peer"] for row in rows} == {"splash", "sdpa"}
    assert not {"must", "aim", "met", "floor_ms"} & rows[0].keys()
    result = invoke("table", "decode*B8*", "--device", "cpu", "--rounds", 1, "--no-check", "--peer", "splash")
    assert result.exit_code == 0 and "must" not in result.output and "targets" not in result.output
    rows = run(tmp_path, "deterministic", "--device", "cpu", "--rounds", 1)
    assert [row["problem"] for row in rows] == OWING[:3]


def test_the_table_goes_on_where_a_problem_fails(small, tmp_path, monkeypatch):
    right, path = Splash.prepare, tmp_path / "rows.csv"

    def prepare(self, case):
        family = case.problem.family.name
        if family == "bigbird":
            raise RuntimeError("broken")
        call = right(self, case)
        if family == "block-diagonal":
            return lambda q, k, v: call(q, k, v + (v - v.detach()) / 10)
        return (lambda q, k, v: call(q, k, v) * 1.1) if family == "streaming" else call

    def fails(pattern, length):
        raise RuntimeError("no memory")

    monkeypatch.setattr(Splash, "prepare", prepare)
    monkeypatch.setattr(tiles, "_fixed", fails)
    labels = (
        "bigbird b64 w3 g2 r3",
        "sink16+window64",
        "fixed128 summary16",
        "dilated8 window512x8-causal",
        "blockdiag16-causal",
    )
    names = [f"{label} N32768" for label in labels]
    result = invoke("table", *names, "--device", "cpu", "--rounds", 1, "--out", path)
    assert result.exit_code == 1, result.output
    rows = list(csv.DictReader(path.open(newline="")))
    assert [row["pass"] for row in rows] == 5 * ["fwd", "bwd"]
    assert all(row["machine"] and row["command"] for row in rows)
    notes = [row["note"] for row in rows]
    assert notes[:2] == 2 * ["failed: RuntimeError: broken"] and notes[4:6] == 2 * ["failed: RuntimeError: no memory"]
    for note, row in zip(notes[2:4], rows[2:4], strict=True):
        assert note.startswith("wrong fwd") and not row["ms"]
    assert notes[6:8] == ["", ""] and rows[6]["met"] and rows[7]["met"]
    # A wrong backward takes nothing from a right forward.
    assert notes[8] == "" and rows[8]["met"]
    assert notes[9].startswith("wrong bwd") and "dv" in notes[9] and not rows[9]["ms"]


def test_problems_of_the_table_are_those_of_the_issue():
    """Spot checks of shapes that the names only hint at."""
    sizes = {name: catalogue.PROBLEMS[name].sizes for name in targets.owing(["fwd", "bwd"])}
    decode = sizes["decode 32/8 D128 B8 N32768"]
    assert (decode.batch, decode.heads, decode.kv_heads, decode.rows, decode.seq_len) == (8, 32, 8, 1, 32768)
    assert {size.dtype for size in sizes.values()} == {"bfloat16"}
    strided = catalogue.PROBLEMS["strided64 local256 N32768"]
    assert strided.numbers == {"local": 256, "stride": 64} and strided.sizes == sizes["window256-causal N32768"]
    long = sizes["D128 causal B1 H16 N16384"]
    assert (long.batch, long.heads, long.rows, long.head_dim) == (1, 16, 16384, 128)
    bird = catalogue.PROBLEMS["bigbird b64 w3 g2 r3 N32768"].numbers
    assert (bird["first"], bird["last"], bird["random"], bird["causal"]) == (2, 0, 3, False)


def test_scaling(small, tmp_path):
    rows = run(tmp_path, "scaling", "window256*", "bigbird*", "--device", "cpu", "--rounds", 1)
    assert [row["problem"] for row in rows] == ["window256-causal", "bigbird b64 w3 g2 r3"]
    for row in rows:
        ratio = float(row["long_ms"]) / float(row["short_ms"]) / 4
        assert float(row["ratio"]) == pytest.approx(ratio, rel=0.01, abs=1e-3)  # which has three places
        assert row["met"] == ("yes" if float(row["ratio"]) <= 1.05 else "no")
    assert repeated(tmp_path, rows[1])["wanted"] == "1.05"
    result = invoke("scaling", "fixed*")
    assert result.exit_code == 2 and "no linear pattern" in result.output


def test_deterministic(small, tmp_path):
    rows = run(tmp_path, "deterministic", "--device", "cpu", "--rounds", 1)
    assert [row["problem"] for row in rows] == targets.owing(["bwd"])
    for row in rows:
        assert not row.get("note"), row
        ratio = float(row["deterministic_ms"]) / float(row["ms"])
        assert float(row["ratio"]) == pytest.approx(ratio, rel=0.01, abs=1e-3)  # which has three places
        assert row["met"] == ("yes" if float(row["ratio"]) <= float(row["wanted"]) else "no")
    limits = {row["problem"]: row["wanted"] for row in rows}
    assert limits["bigbird b64 w3 g2 r3 N32768"] == limits["D64 causal B1 H32 N16384"] == "1.4"
    assert limits["D64 full B1 H32 N16384"] == limits["window+-512 N32768"] == "1.2"
    assert deterministic.WANTED == {True: 1.4, False: 1.2}
    assert repeated(tmp_path, rows[1])["wanted"] == rows[1]["wanted"]


def test_host(tmp_path):
    rows = run(tmp_path, "host", "--device", "cpu", "--rounds", 1)
    assert [row["problem"].split(" B1")[0] for row in rows[::2]] == list(host.PATTERNS)
    for row in rows:
        assert not row.get("note") and float(row["wanted"]) == host.WANTED[row["pass"]]
        assert float(row["ratio"]) == pytest.approx(float(row["splash_us"]) / float(row["sdpa_us"]), rel=0.01)
        assert row["met"] == ("yes" if float(row["ratio"]) <= float(row["wanted"]) else "no")
    assert repeated(tmp_path, rows[3])["wanted"] == "2.5"
    result = invoke("host", "--only", "nothing")
    assert result.exit_code == 2 and "only: expected a name" in result.output


def test_metadata(tmp_path):
    rows = run(tmp_path, "metadata", "--seq-len", 700, "--device", "cpu", "--rounds", 1)
    names = list(metadata.problems(700, CPU))
    assert [row["problem"] for row in rows] == [f"{name} N700" for name in names for _ in range(2)]
    assert all(float(row["ms"]) > 0 for row in rows)
    assert repeated(tmp_path, rows[1])["pass"] == "fwd+bwd"


def owed_row(name, direction, peer, ms, **owed):
    columns = {"problem": name, "pass": direction, "peer": peer, "computes": "same", "ms": ms, "tflops": 600 / ms}
    blank = dict.fromkeys(("floor_ms", "must", "aim", "unit", "met", "commit", "torch", "date"), "")
    origin = {"machine": "NVIDIA H200", "machine_matmul_tflops": "788", "machine_copy_tbs": "4.27", "command": "x"}
    return {key: str(value) for key, value in (blank | origin | columns | owed).items()}


def test_results_of_both_passes(tmp_path):
    rows = [
        owed_row("a", "fwd", "splash", 2, must=2.5, aim=1.5, unit="ms", met="must", floor_ms=1),
        owed_row("a", "fwd", "flex", 4),
        owed_row("a", "fwd", "sdpa-flash", 5),
        owed_row("a", "bwd", "splash", 6, must=200, aim=300, unit="tflops", met="no", floor_ms=3),
        owed_row("a", "bwd", "flex", 3),
        owed_row("b", "bwd", "splash", 8, must=9, unit="ms", met="must", floor_ms=6),
    ]
    forward, backward = draw_results.draw(rows).axes
    assert [line.name for line in draw_results.lines(rows, "bwd")] == ["a"]  # b has no peer to compare with
    speeds = [[bar.get_x() + bar.get_width() for bar in axis.patches] for axis in (forward, backward)]
    assert speeds == [[4 / 2], [3 / 6]]
    assert [label.get_text() for label in forward.get_yticklabels()] == ["a"]
    assert "backward speed" in backward.get_xlabel() and "forward speed" in forward.get_xlabel()
    (alone,) = draw_results.draw(rows[:2]).axes
    assert [bar.get_x() + bar.get_width() for bar in alone.patches] == [4 / 2]

    path = tmp_path / "h200.csv"
    report.write(path, rows)
    text = results_table.section(path)
    assert "| a | fwd | 2.000 ms, 300 | 4.000 ms, 150 | 5.000 ms, 120 | 2.00 |" in text
    assert "| a | bwd | 6.000 ms, 100 | 3.000 ms, 200 |  | 0.50 |" in text
    assert "| b | bwd | 8.000 ms, 75 |  |  |  |" in text
    assert "must" not in text and "aim" not in text
    report.write(
        path, [{"problem": "c", "pass": "fwd", "wanted": "1.5", "met": "no", "command": "x", **origin_of(rows)}]
    )
    assert "wanted" not in results_table.section(path) and "| c | fwd |" in results_table.section(path)


def origin_of(rows):
    return {name: rows[0][name] for name in ("machine", "torch", "commit", "date")}
