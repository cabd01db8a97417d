"""Values inside device tensors that make no sense: clamped as documented, and never an access out of bounds."""

import pytest
import torch
from cases import HALVES, PATTERNS, on_devices
from forward_cases import drawn
from guards import between_guards
from operators import FORWARD, FORWARD_NAMES, forward_arguments
from packed_cases import packed
from packed_problem import through_the_operator
from raw_problems import Draw

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")

FAR = 2**31 - 1


def on(device, arguments):
    def moved(value):
        if isinstance(value, torch.Tensor):
            return value.to(device)
        return [moved(one) for one in value] if isinstance(value, list) else value

    return {name: moved(value) for name, value in arguments.items()}


def guarded(device, arguments):
    q = arguments["q"]
    sizes = q.numel() * q.element_size(), q.numel() // q.shape[3] * 4
    return between_guards(device, sizes, lambda: FORWARD(**arguments)[:2])


SENSELESS = [
    drawn("values", name, PATTERNS[name], **{field: (5, 1, 1, 5)}, queries=queries, keys=150)
    for name in ("causal", "window37", "dilated10x3", "bigbird", "blocks64")
    for field, queries in (("lengths", 150), ("kv_lengths", 1), ("kv_lengths", 40))
]


@pytest.mark.parametrize("case, device", on_devices(SENSELESS))
def test_lengths_are_clamped(case, device):
    """Negative lengths count as 0, and lengths beyond the tensors as what the tensors hold."""
    field, keys = ("lengths", case.shape.queries) if case.lengths else ("kv_lengths", case.shape.keys)
    arguments = on(device, forward_arguments(case, device))
    given = torch.tensor([-5, FAR, -FAR - 1, keys + 1], dtype=torch.int32, device=device)
    got = guarded(device, {**arguments, field: given})
    want = FORWARD(**{**arguments, field: given.clamp(0, keys)})
    for a, b in zip(got, want, strict=False):
        assert torch.equal(a, b)


ENDS = {
    "negative": (0, -5, -70, -FAR - 1),
    "falling": (300, 200, 100, 0),
    "beyond": (0, 1000, 100_000, FAR),
    "overlapping": (0, 250, 20, 240),
    "far": (FAR, -FAR - 1, FAR, 0),
    "inside": (50, 100, 150, 200),
}


@pytest.mark.parametrize("q_ends", ENDS)
@pytest.mark.parametrize("k_ends", ENDS)
@pytest.mark.parametrize("name", ["causal", "dilated10x3", "bigbird", "longformer"])
def test_any_ends_of_sequences(device, name, q_ends, k_ends):
    """What the outputs are is not said, but nothing beside them is written, and the next problem is right."""
    problem = packed("self", name, (3, 3), dim=64)
    case = problem.case
    q, k, v, _ = case.inputs(device)
    pattern, normalizer = case.full_pattern(device), case.normalizer_of(case.parameters(device))
    ends = [torch.tensor([*ENDS[e], 0, 0, 0], dtype=torch.int32, device=device) for e in (q_ends, k_ends)]
    call = through_the_operator(problem, q, k, v, pattern, normalizer, ends)
    out, _ = between_guards(device, (q.numel() * q.element_size(), q.numel() // case.shape.dim * 4), call)
    assert out.isfinite().all()
    if q_ends in ("falling", "negative"):
        assert not out.any()


def plausible(seed):
    """The senseless arguments of a seed, where a kernel may take them: softmax in 16 bits and a multiple of 8 as D."""
    draw = Draw(seed)
    problem = draw.problem()
    dtype, dim = draw.one_of(HALVES), draw.one_of((8, 32, 40, 64, 96, 128, 192, 256))
    for name in "qkv":
        if problem[name].dim() == 4:
            problem[name] = torch.randn(*problem[name].shape[:3], dim).to(dtype)
    if problem["normalizer"] not in ("softmax", "softmax_sink"):
        problem |= {"normalizer": "softmax", "normalizer_floats": [], "normalizer_parameters": []}
    problem["normalizer_parameters"] = [p.float() for p in problem["normalizer_parameters"]]
    return {name: problem[name] for name in FORWARD_NAMES}


@pytest.mark.parametrize("block", range(8))
def test_the_forward_survives_anything(device, block):
    """Any arguments end in a result or in an error of ours: block lists, ranges and offsets of any values too."""
    ran = 0
    step = 5 if device == "cpu" else 1
    for seed in range(10_000 + 200 * block, 10_000 + 200 * (block + 1), step):
        try:
            FORWARD(**on(device, plausible(seed)))
        except RuntimeError as error:
            assert str(error).startswith("splash."), (seed, error)
        else:
            ran += 1
        if device == "cuda":
            torch.cuda.synchronize()
    assert ran * step > 80
    q = torch.randn(1, 2, 130, 64, generator=torch.Generator().manual_seed(0)).to(device, torch.bfloat16)
    weights = (q.float() @ q.float().transpose(2, 3) / 8).softmax(-1)
    torch.testing.assert_close(sa.attention(q, q, q).float(), weights @ q.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("sink", [-torch.inf, -1e30, -100.0, 0.0, 8.0, 100.0, 1e4, 1e30, torch.inf])
def test_sinks_of_any_size(device, sink):
    """A sink far below changes nothing and one far above takes all weight, in one part or split over the keys."""
    for dim, queries, keys in ((64, 150, 150), (128, 1, 2500), (256, 40, 90)):
        case = drawn(
            "sinks", "causal", PATTERNS["causal"], dim=dim, queries=queries, keys=keys, heads=(4, 1), layout="bhnd"
        )
        q, k, v, _ = case.inputs(device)
        sinks = torch.tensor([sink, 0.0, sink, 3.0], device=device)
        out, statistic = sa.attention(q, k, v, "causal", sa.Softmax(sinks), return_statistic=True)
        plain, want = sa.attention(q, k, v, "causal", return_statistic=True)
        torch.testing.assert_close(statistic, want, rtol=1e-6, atol=1e-5)
        share = torch.sigmoid(want.double() - sinks.double()[:, None])[..., None]
        torch.testing.assert_close(out.double(), plain.double() * share, rtol=2e-2, atol=1e-3)
