"""The softmax backward of every pattern, dtype, head dimension and size, with poison, against the float64 reference."""

import itertools

import pytest
import torch
from backward_problem import assert_same_bits, check_backward, gradients
from cases import PATTERNS, fixed, on_devices, random_blocks
from drawn_cases import dense
from forward_cases import FORWARD, SPLIT, drawn
from guards import between_guards
from operators import BACKWARD, backward_arguments

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case, device", on_devices(FORWARD, cpu_every=19, cpu_scores=2**19, backward=True))
def test_backward(case, device, record_error):
    check_backward(case, device, record_error)


DRAWN = [dense(seed) for seed in range(260)]


@pytest.mark.parametrize("case, device", on_devices(DRAWN, cpu_every=13, backward=True))
def test_drawn(case, device, record_error):
    check_backward(case, device, record_error)


def answer(case, tensors, pattern, grad_statistic=None, parameters=(), **own):
    """Gradients of a call with the case's options. tensors: q, k, v and dO."""
    options = {"return_statistic": True, "deterministic": True, **case.options(tensors[0].device), **own}

    def splash(q, k, v, *parameters):
        return sa.attention(q, k, v, pattern, case.normalizer_of(parameters), **options)

    return gradients(splash, tensors, grad_statistic, parameters)


NAMES = ("full", "causal", "window37", "streaming", "dilated10x3", "blocks64", "bigbird", "longformer", "strided")
APART = [
    drawn("apart", name, PATTERNS[name], heads=heads, batch=2, queries=queries, keys=keys)
    for name, (heads, queries, keys) in itertools.product(
        NAMES, (((4, 4), 130, 130), ((6, 2), 67, 201), ((8, 2), 1, 333), ((4, 2), 5, 2100))
    )
]


@pytest.mark.parametrize("case, device", on_devices(APART, cpu_every=5, backward=True))
def test_heads_do_not_see_each_other(case, device):
    """Where every second key/value head is NaN, with its queries and dO, the others' gradients stay as they are."""
    tensors, kv_heads = case.inputs(device), case.shape.kv_heads
    pattern, parameters = case.full_pattern(device), case.parameters(device)
    bad = (torch.arange(2 * kv_heads, device=device) % 2 == 1).view(2, kv_heads)
    bad = torch.stack([bad[0], ~bad[1]])  # a bad head follows on the last good one of the first batch entry
    by_query = bad.repeat_interleave(case.shape.heads // kv_heads, 1)
    dirty = [t.clone() for t in tensors]
    for tensor, where in zip(dirty, (by_query, bad, bad, by_query), strict=True):
        tensor[where] = torch.nan
    want, got = (answer(case, qkv, pattern, None, parameters) for qkv in (tensors, dirty))
    for name, where in (("dq", by_query), ("dk", bad), ("dv", bad)):
        assert torch.equal(got[name][~where], want[name][~where]), name


# Patterns of which a key tile gathers many query tiles or few, of which rows are split, and of every table row.
MORE = ("elements", "fixed", "indices", "blocks128", "diagonal16")
REPEATED = [
    *(
        drawn("repeated", name, PATTERNS[name], dim=dim, heads=(8, 2), batch=2, queries=700, keys=700)
        for name, dim in itertools.product((*NAMES, *MORE), (64, 128))
    ),
    *(drawn("repeated", name, SPLIT[name], dim=128, heads=(8, 1), queries=5, keys=4096) for name in SPLIT),
]


@pytest.mark.parametrize("case, device", on_devices(REPEATED, cpu_every=11, backward=True))
def test_deterministic_gradients_repeat_bit_for_bit(case, device):
    """Twenty runs, while other work moves blocks of threads between multiprocessors."""
    tensors, pattern, parameters = case.inputs(device), case.full_pattern(device), case.parameters(device)
    grad_statistic = torch.randn(tensors[0].shape[:3], generator=torch.Generator().manual_seed(3)).to(device)
    want = answer(case, tensors, pattern, grad_statistic, parameters)
    noise = torch.ones(1000, 1000, device=device)
    for _ in range(19 if device == "cuda" else 2):
        if device == "cuda":
            with torch.cuda.stream(torch.cuda.Stream()):
                noise @ noise
        assert_same_bits(answer(case, tensors, pattern, grad_statistic, parameters), want, "run again")


# Rows of many scores, whose dq is added up in no fixed order where nobody asks for one.
LONG = {
    "full": PATTERNS["full"],
    "causal": PATTERNS["causal"],
    "window1900": fixed(lambda: sa.SlidingWindow(1900, 0)),
    "around1000": fixed(lambda: sa.SlidingWindow(1000, 950)),
    "window800": fixed(lambda: sa.SlidingWindow.causal(800)),
    "diagonal2000": fixed(lambda: sa.BlockDiagonal(2000)),
    "streaming4+1800": fixed(lambda: sa.Streaming(4, 1800)),
}
FUSED = [
    *(
        drawn("fused", name, LONG[name], dim=dim, heads=heads, batch=2, queries=size, keys=size, alpha=1)
        for (name, dim), (heads, size) in zip(
            itertools.product(LONG, (32, 56, 64, 128)),
            itertools.cycle((((2, 1), 3971), ((2, 2), 3585), ((4, 1), 4100), ((3, 3), 3712), ((6, 2), 3649))),
        )
    ),
    *(
        drawn("fused", name, LONG[name], 1, dim=dim, heads=(2, 1), queries=2500, keys=4500, alpha=1, q_start=q_start)
        for name, dim, q_start in itertools.product(("full", "causal", "around1000"), (64, 128), (1000, 3000))
    ),
    *(
        drawn("fused", name, LONG[name], dim=dim, heads=(2, 1), queries=4000, lengths=(3900, 2050, 130), alpha=1)
        for name, dim in itertools.product(("full", "causal"), (64, 128))
    ),
]


# Blocks that fill the rows of a piece of work, whose dq is added up like that of long rows, however few they are.
WIDE = {
    "blocks128": random_blocks(128, 0.4),
    "blocks128-few": random_blocks(128, 0.05, seed=3),
    "blocks128-shared": random_blocks(128, 0.3, heads=1, batch=1, seed=4),
    "blocks256": random_blocks(256, 0.4, seed=5),
    "blocks64x128": random_blocks((64, 128), 0.3, seed=6),
    "blocks16x256": random_blocks((16, 256), 0.2, seed=7),
    "bigbird128": fixed(lambda: sa.BigBird(128, window=3, first=1, last=1, random=1)),
    "bigbird256-causal": fixed(lambda: sa.BigBird(256, window=1, first=1, random=1, causal=True)),
}
WIDE_LISTS = [
    drawn("wide", name, WIDE[name], dim=dim, heads=heads, batch=2, queries=queries, keys=keys, alpha=1, **rest)
    for (name, dim), (heads, queries, keys, rest) in zip(
        itertools.product(WIDE, (56, 64, 96, 128)),
        itertools.cycle(
            (
                ((4, 2), 1500, 1500, {}),
                ((2, 2), 1024, 1024, {}),
                ((3, 1), 1111, 1111, {"lengths": (1111, 640)}),
                ((2, 1), 2049, 2049, {}),
                ((6, 2), 700, 1300, {}),
            )
        ),
    )
]


@pytest.mark.parametrize("case, device", on_devices([*FUSED, *WIDE_LISTS], cpu_scores=0, backward=True))
def test_long_rows(case, device, record_error):
    check_backward(case, device, record_error)


# Problems whose keys one piece of work holds: dQ leaves with dK and dV.
DIAGONAL = {
    "diagonal16": fixed(lambda: sa.BlockDiagonal(16)),
    "diagonal1": fixed(lambda: sa.BlockDiagonal(1, causal=True)),
    "diagonal64-causal": fixed(lambda: sa.BlockDiagonal(64, causal=True)),
    "diagonal128": fixed(lambda: sa.BlockDiagonal(128)),
    "diagonal128-causal": fixed(lambda: sa.BlockDiagonal(128, causal=True)),
}
SHORT = {
    "full": fixed(lambda: sa.Full()),
    "causal": fixed(lambda: sa.Causal()),
    "window20": fixed(lambda: sa.SlidingWindow.causal(20)),
    "around9": fixed(lambda: sa.SlidingWindow(9, 9)),
    "diagonal50": fixed(lambda: sa.BlockDiagonal(50)),
}
CLOSED = [
    *(
        drawn("closed", name, DIAGONAL[name], dim=dim, heads=heads, batch=2, queries=size, keys=size, alpha=1, **start)
        for (name, dim), (heads, size, start) in zip(
            itertools.product(DIAGONAL, (32, 56, 64, 120, 128)),
            itertools.cycle(
                (
                    ((2, 1), 971, {}),
                    ((2, 2), 640, {"q_start": 256, "k_start": 256}),
                    ((4, 1), 257, {"q_start": 37, "k_start": 37}),
                    ((6, 2), 5001, {}),
                )
            ),
        )
    ),
    *(
        drawn("closed", name, SHORT[name], dim=dim, heads=heads, batch=3, queries=size, keys=size, alpha=1, **start)
        for (name, dim), (heads, size, start) in zip(
            itertools.product(SHORT, (32, 64, 128) * 2),
            itertools.cycle(
                (
                    ((2, 2), 128, {}),
                    ((6, 2), 100, {"q_start": 70, "k_start": 70}),
                    ((4, 1), 64, {}),
                    ((300, 100), 65, {}),
                    ((2, 1), 1, {}),
                )
            ),
        )
    ),
]


@pytest.mark.parametrize("case, device", on_devices(CLOSED, cpu_every=7, cpu_scores=2**19, backward=True))
def test_problems_of_few_keys(case, device, record_error):
    check_backward(case, device, record_error)


SOME = [
    drawn("some", name, PATTERNS[name], 0, heads=heads, batch=2, queries=queries, keys=keys, dim=dim, layout="bhnd")
    for (name, dim), (heads, queries, keys) in itertools.product(
        itertools.product(("full", "causal", "streaming", "dilated10x3", "blocks64", "bigbird"), (64, 128)),
        (((4, 2), 130, 200), ((4, 1), 300, 70)),
    )
]


@pytest.mark.parametrize("case, device", on_devices(SOME, cpu_every=4, backward=True))
def test_nothing_is_written_beside_the_gradients(case, device):
    arguments = backward_arguments(case, device)
    wanted = [arguments["q"], arguments["k"], arguments["v"], *arguments["normalizer_parameters"]]

    def call():
        *of_inputs, of_parameters = BACKWARD(**arguments)
        return [*of_inputs, *of_parameters]

    got = between_guards(device, [t.numel() * t.element_size() for t in wanted], call)
    for one, tensor in zip(got, wanted, strict=True):
        assert one.shape == tensor.shape and one.dtype == tensor.dtype and one.isfinite().all()


@pytest.mark.parametrize("case, device", on_devices(SOME, cpu_every=4, backward=True))
def test_each_gradient_alone(case, device):
    """Of the output, or of the statistic, into any one input: as among all of them."""
    *qkv, grad = case.inputs(device)
    pattern, parameters, options = case.full_pattern(device), case.parameters(device), case.options(device)
    grad_statistic = torch.randn(grad.shape[:3], generator=torch.Generator().manual_seed(4)).to(device)
    grads = {"out": (grad, torch.zeros_like(grad_statistic)), "statistic": (torch.zeros_like(grad), grad_statistic)}
    for alone, both in enumerate(grads.values()):
        want = gradients(
            lambda q, k, v, *p: sa.attention(
                q, k, v, pattern, case.normalizer_of(p), return_statistic=True, deterministic=True, **options
            ),
            (*qkv, both[0]),
            both[1],
            parameters,
        )
        for n, name in enumerate(want):
            inputs = [t.detach().requires_grad_(m == n) for m, t in enumerate((*qkv, *parameters))]
            normalizer = case.normalizer_of(inputs[3:])
            outputs = sa.attention(
                *inputs[:3], pattern, normalizer, return_statistic=True, deterministic=True, **options
            )
            (got,) = torch.autograd.grad(outputs[alone], inputs[n], both[alone], allow_unused=True)
            torch.testing.assert_close(got, want[name], rtol=0, atol=0)


@pytest.mark.parametrize("case, device", on_devices(SOME, cpu_every=4, backward=True))
def test_any_strides_of_the_outputs_gradient(case, device):
    """As autograd hands it over: expanded, transposed, a slice, or with a last stride other than 1."""
    *qkv, grad = case.inputs(device)
    pattern, parameters = case.full_pattern(device), case.parameters(device)
    one = torch.ones((), dtype=grad.dtype, device=device)
    for strided in (
        one.expand(grad.shape),
        grad[:, :, :1].expand(grad.shape),
        grad.transpose(1, 2).contiguous().transpose(1, 2),
        grad.mT.contiguous().mT,
        torch.nn.functional.pad(grad, (1, 2))[..., 1:-2],
    ):
        want = answer(case, (*qkv, strided.contiguous()), pattern, None, parameters)
        assert_same_bits(answer(case, (*qkv, strided), pattern, None, parameters), want, str(strided.stride()))


def test_float16_gradients_that_nearly_overflow(device):
    """A dO of 1e3 and scores of order 10: everything stays finite that the reference has finite."""
    generator = torch.Generator().manual_seed(6)
    q, k, v, grad = (torch.randn(1, 2, 200, 64, generator=generator).to(device, torch.float16) for _ in range(4))
    case = drawn("large", "causal", PATTERNS["causal"], dim=64, queries=200, keys=200, alpha=1, dtype=torch.float16)
    got = answer(case, (3 * q, 3 * k, v, 1e3 * grad), sa.Causal())
    assert all(tensor.isfinite().all() for tensor in got.values())


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", SOME, ids=lambda case: case.id)
def test_cuda_graph(case, deterministic):
    """A captured forward and backward computes with the numbers that its inputs have when it is replayed."""
    tensors, parameters = case.inputs("cuda"), case.parameters("cuda")
    prepared = sa.prepare(case.full_pattern("cuda"), *tensors[:2])
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        answer(case, tensors, prepared, None, parameters, deterministic=deterministic)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = answer(case, tensors, prepared, None, parameters, deterministic=deterministic)
    for seed in (1, 2):
        for target, source in zip(tensors, case.inputs("cuda", seed), strict=True):
            target.copy_(source)
        graph.replay()
        want = answer(case, tensors, prepared, None, parameters, deterministic=deterministic)
        for name, one in want.items():
            torch.testing.assert_close(got[name], one, rtol=2e-2, atol=2e-2, msg=name)
            assert not deterministic or torch.equal(got[name], one), name
