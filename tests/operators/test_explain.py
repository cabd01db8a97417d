"""explain(): the plan of a call, for tensors that are there and for those that are not yet."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

import splash_attention
from splash_attention import _library, explain

SHAPE = 2, 8, 1024, 128
HAS_SM90 = any(row["arch"] == "sm90" for row in _library.instances())


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
    forward, backward = passes(of_shapes("causal", arch="sm90"))
    if HAS_SM90:
        assert "forward on sm90, pattern sliding_window" in forward[0]
        assert backward[0].endswith("one fused sweep")
        assert len(passes(of_shapes(splash_attention.Fixed(128, 16), arch="sm90"))[0]) == 2
    else:
        assert "no compiled instance for forward on sm90" in forward[0]
        assert "arch is sm90, compiled is cpu" in backward[0]
    for lines in passes(of_shapes("causal", arch="sm80")):
        assert lines[0].startswith("  no compiled instance for ")


def test_tensors_that_a_gpu_cannot_load():
    memory = torch.empty(2**20 + 1, dtype=torch.float16)
    q = memory[1:].view(1, 8, 1024, 128)
    for lines in passes(explain(q, q, q, arch="sm90")):
        if HAS_SM90:
            assert lines == ["  q cannot be loaded on CUDA: its address is not a multiple of 16 bytes; pass q.clone()"]
        else:
            assert lines[0].startswith("  no compiled instance for ")
    rows = memory[:1024].view(1, 8, 1, 128).expand(1, 8, 1024, 128)  # which the operator copies
    assert "cannot be loaded" not in explain(rows, rows, rows, arch="sm90")


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
