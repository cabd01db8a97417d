"""explain(): the plan of a call, for tensors that are there and for those that are not yet."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

import splash_attention
from splash_attention import BigBird, BlockMask, Fixed, Longformer, _library, explain

SHAPE = 2, 8, 1024, 128
ENDS = torch.tensor([0, 700, 700, 1000])
PACKED = {"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS, "max_seqlen_q": 700, "max_seqlen_k": 700}


def serving(direction, *patterns, dtype="bfloat16", dim=128):
    """The row of this build that runs softmax of a pattern on sm90, whatever is in its table; None where there is none.
    patterns: names of rows, the first choice first."""
    found = [
        (patterns.index(row["pattern"]), row["normalizer"] != "softmax", row["head_dim"], row)
        for row in _library.instances()
        if (row["op"], row["arch"], row["pass"], row["dtype"]) == ("attention", "sm90", direction, dtype)
        and row["pattern"] in patterns
        and row["normalizer"] in ("softmax", "softmax_sink")
        and row["head_dim"] >= dim
        and row["span"] == "any"
    ]
    return min(found, key=lambda choice: choice[:3])[-1] if found else None


def of_shapes(*args, **options):
    return explain(SHAPE, SHAPE, SHAPE, *args, **options)


def passes(text):
    """What is said of the forward and of the backward."""
    forward, backward = text.split("\nbackward on ")
    assert forward.startswith("forward on ")
    return forward.splitlines()[1:], backward.splitlines()[1:]


def test_the_cpu_runs_one_instance_a_pass():
    for lines in passes(of_shapes(splash_attention.Fixed(128, 16), 1.5, dtype=torch.float32)):
        (line,) = lines
        assert line.startswith("  fixed(128, 16): ")
        assert "on cpu, pattern any, normalizer entmax15, float32" in line


@pytest.mark.parametrize("device", ["cpu", "meta", "fake"])
@pytest.mark.parametrize(
    "pattern",
    [
        splash_attention.Causal(),
        splash_attention.SlidingWindow(16, 0) & splash_attention.Strided(4, 8),
        splash_attention.BigBird(64, window=3),
        splash_attention.BlockMask(torch.ones(16, 16, dtype=torch.bool), 64),
        splash_attention.ElementMask(torch.ones(1024, 1024, dtype=torch.bool)),
    ],
    ids=lambda pattern: type(pattern).__name__,
)
def test_every_kind_of_tensor_has_the_plan_of_its_shape(device, pattern):
    wanted = of_shapes(pattern, dtype=torch.float16)
    if device == "fake":
        with FakeTensorMode():
            q = torch.empty(SHAPE, dtype=torch.float16, device="cuda")
            if isinstance(pattern, splash_attention.Causal):
                assert explain(q, q, q, pattern) == wanted
    else:
        q = torch.empty(SHAPE, dtype=torch.float16, device=device)
    assert explain(q, q, q, pattern) == wanted


def test_positions_lengths_and_parameters_are_part_of_the_call():
    q = torch.empty(2, 8, 64, 32)
    sinks = torch.zeros(8, requires_grad=True)
    for lengths in ({"lengths": torch.tensor([3, 64])}, {"kv_lengths": torch.tensor([3, 64])}, {"q_start": 7}):
        text = explain(q, q, q, "causal", splash_attention.Softmax(sinks), **lengths)
        assert text.count("normalizer softmax_sink, float32") == 2
        assert explain((2, 8, 64, 32), (2, 8, 64, 32), (2, 8, 64, 32), "causal", dtype=torch.float32, **lengths)
    with pytest.raises(ValueError, match="lengths: expected shape"):
        explain(q, q, q, lengths=torch.tensor([3]))


def test_nothing_is_read_or_computed():
    q = torch.full((1, 1, 2**20, 64), 0.0).expand(1, 64, -1, -1)  # a call would take minutes
    assert "float32" in explain(q, q, q)


def test_a_gpu_that_is_not_there():
    lines = dict(zip(("forward", "backward"), passes(of_shapes("causal", arch="sm90")), strict=True))
    for direction, (line,) in lines.items():
        row = serving(direction, "sliding_window", "any")
        if row is None:
            assert line.startswith(f"  no compiled instance for {direction} on sm90, pattern sliding_window")
        else:
            assert f"{direction} on sm90, pattern {row['pattern']}, " in line and f"head_dim {row['head_dim']}" in line
    row = serving("backward", "sliding_window")
    if row is not None and row["head_dim"] == 128:
        assert lines["backward"][0].endswith("one fused sweep")
    if all(row["arch"] != "sm90" for row in _library.instances()):
        assert "arch is sm90, compiled is cpu" in lines["backward"][0]
    for lines in passes(of_shapes("causal", arch="sm123")):
        assert lines[0].startswith("  no compiled instance for ")


def test_a_pattern_of_several_steps():
    """Diagonal blocks and the stairs below them, where there are rows that can."""
    for direction, lines in zip(("forward", "backward"), passes(of_shapes(Fixed(128, 16), arch="sm90")), strict=True):
        if serving(direction, "block_diagonal") and serving(direction, "staircase"):
            assert len(lines) == 2 and all(f"{direction} on sm90" in line for line in lines)
        elif serving(direction, "any") is None:
            assert lines[0].startswith(f"  no compiled instance for {direction} on sm90")


def test_tensors_that_a_gpu_cannot_load():
    memory = torch.empty(2**20 + 1, dtype=torch.float16)
    q = memory[1:].view(1, 8, 1024, 128)
    for direction, lines in zip(("forward", "backward"), passes(explain(q, q, q, arch="sm90")), strict=True):
        if serving(direction, "sliding_window", "any", dtype="float16"):
            assert lines == ["  q cannot be loaded on CUDA: its address is not a multiple of 16 bytes; pass q.clone()"]
        else:
            assert lines[0].startswith("  no compiled instance for ")
    rows = memory[:1024].view(1, 8, 1, 128).expand(1, 8, 1024, 128)  # which the operator copies
    assert "cannot be loaded" not in explain(rows, rows, rows, arch="sm90")
    tokens = memory[:1024].view(1, 8, 128).expand(1000, 8, 128)
    assert "cannot be loaded" not in explain(tokens, tokens, tokens, arch="sm90", **PACKED)


@pytest.mark.parametrize("device", ["shape", "cpu", "meta"])
@pytest.mark.parametrize(
    "pattern", ["causal", BigBird(64, window=3), Longformer(64, [0, 9])], ids=["causal", "bird", "tokens"]
)
def test_packed_sequences(device, pattern):
    """One instance a pass on the CPU, as for a batch; a GPU's table answers as it does for one."""
    q = (1000, 8, 128) if device == "shape" else torch.empty(1000, 8, 128, dtype=torch.bfloat16, device=device)
    k = (1000, 4, 128) if device == "shape" else torch.empty(1000, 4, 128, dtype=torch.bfloat16, device=device)
    for direction, lines in zip(("forward", "backward"), passes(explain(q, k, k, pattern, **PACKED)), strict=True):
        (line,) = lines
        assert f"{direction} on cpu, pattern any, normalizer softmax, bfloat16" in line
    for direction, lines in zip(
        ("forward", "backward"), passes(explain(q, k, k, pattern, arch="sm90", **PACKED)), strict=True
    ):
        if serving(direction, "sliding_window", "any") is None:
            assert lines[0].startswith(f"  no compiled instance for {direction} on sm90")
        elif pattern == "causal":
            assert f"{direction} on sm90" in lines[0]


def test_short_packed_sequences_take_no_fused_sweep():
    row = serving("backward", "sliding_window")
    tokens = 4000, 8, 128
    for length, fuses in ((2000, row is not None and row["head_dim"] == 128), (10, False)):
        ends = torch.arange(0, 4001, length)
        text = explain(
            tokens, tokens, tokens, "causal", arch="sm90",
            cu_seqlens_q=ends, cu_seqlens_k=ends, max_seqlen_q=2000, max_seqlen_k=2000,
        )  # fmt: skip
        assert text.endswith("one fused sweep") == fuses


def test_wrong_packed_arguments():
    tokens = 1000, 8, 128
    with pytest.raises(ValueError, match="max_seqlen_q, max_seqlen_k: packed sequences are told by cu_seqlens_q, "):
        explain(tokens, tokens, tokens, cu_seqlens_q=ENDS, cu_seqlens_k=ENDS)
    with pytest.raises(ValueError, match="q_start: packed sequences have positions of their own, got 0"):
        explain(tokens, tokens, tokens, q_start=0, **PACKED)
    with pytest.raises(ValueError, match=r"cu_seqlens_k: expected cu_seqlens_q's shape \(4,\), got \(2,\)"):
        explain(tokens, tokens, tokens, **PACKED | {"cu_seqlens_k": torch.tensor([0, 700])})
    with pytest.raises(ValueError, match="max_seqlen_k: expected 0 to"):
        explain(tokens, tokens, tokens, **PACKED | {"max_seqlen_k": -1})
    with pytest.raises(TypeError, match="cu_seqlens_q: expected a tensor, got list"):
        explain(tokens, tokens, tokens, **PACKED | {"cu_seqlens_q": [0, 700]})
    with pytest.raises(ValueError, match="3 dimensions"):
        of_shapes(**PACKED)
    with pytest.raises(ValueError, match="BlockMask: counts rows and columns"):
        explain(tokens, tokens, tokens, BlockMask(torch.ones(16, 16, dtype=torch.bool), 64), **PACKED)


def test_wrong_arguments_are_those_of_attention():
    with pytest.raises(ValueError, match="v: expected k's shape"):
        explain(SHAPE, SHAPE, (2, 8, 1023, 128))
    with pytest.raises(ValueError, match=r'arch: expected "cpu" or a compute capability such as "sm90", got \'gpu\''):
        of_shapes(arch="gpu")
    with pytest.raises(TypeError, match="k: expected a tensor or a shape"):
        explain(SHAPE, None, SHAPE)
    with pytest.raises(TypeError, match="q: expected a tensor or a shape"):
        explain((2, 8, -1, 128), SHAPE, SHAPE)
    with pytest.raises(ValueError, match="scale: expected"):
        of_shapes(scale=float("nan"))
    with pytest.raises(ValueError, match="Causal"):
        of_shapes("full", splash_attention.Elastic(torch.zeros(8), torch.zeros(8, 4)))
