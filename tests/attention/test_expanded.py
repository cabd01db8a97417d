"""Inputs and gradients that are expanded (stride 0) give the bits of their copies, and outputs that do not overlap."""

import itertools

import oracle
import pytest
import torch
from layouts import expanded

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")

DIMENSIONS = {"batch": 0, "heads": 1, "rows": 2}
NAMES = ("q", "k", "v", "grad")
CALLS = {
    "causal": (sa.Causal(), (2, 4, 2, 150, 150, 64)),
    "window": (sa.SlidingWindow(30, 10), (2, 4, 4, 70, 200, 128)),
    "few queries": (sa.Full(), (2, 8, 2, 3, 700, 64)),
    "dilated": (sa.Dilated(10, 3), (2, 4, 1, 150, 150, 64)),
    "wide": (sa.Causal(), (2, 2, 1, 140, 140, 256)),
    "long": (sa.Causal(), (1, 2, 1, 1200, 1200, 64)),
}


def assert_apart(tensor):
    """No two elements share memory, and the last dimension has neighbours."""
    assert torch._debug_has_internal_overlap(tensor) == 0 and tensor.stride(-1) == 1


def dtype_of(device):
    return torch.float32 if device == "cpu" else torch.bfloat16


@pytest.mark.parametrize("normalizer", [sa.Softmax(), sa.Entmax(1.5)], ids=["softmax", "entmax"])
@pytest.mark.parametrize(
    "dims", [*itertools.product(DIMENSIONS), ("batch", "heads"), ("heads", "rows"), tuple(DIMENSIONS)]
)
@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES], ids="".join)
@pytest.mark.parametrize("call", CALLS)
def test_expanded_tensors(device, call, names, dims, normalizer):
    pattern, (batch, heads, kv_heads, queries, keys, dim) = CALLS[call]
    generator = torch.Generator().manual_seed(0)
    shapes = {"q": (heads, queries), "k": (kv_heads, keys), "v": (kv_heads, keys), "grad": (heads, queries)}
    views = {
        name: torch.randn(batch, *shape, dim, generator=generator).to(device, dtype_of(device))
        for name, shape in shapes.items()
    }
    for name, of in itertools.product(names, dims):
        views[name] = expanded(DIMENSIONS[of])(views[name])
    for name, of in itertools.product(names, dims):
        assert views[name].shape[DIMENSIONS[of]] == 1 or views[name].stride(DIMENSIONS[of]) == 0

    def run(tensors):
        def splash(q, k, v):
            return sa.attention(q, k, v, pattern, normalizer, return_statistic=True, deterministic=True)

        q, k, v, grad = tensors
        return oracle.with_gradients(splash, q, k, v, grad)

    got = run([views[name] for name in NAMES])
    for name, want in run([views[name].contiguous() for name in NAMES]).items():
        assert torch.equal(got[name], want), name
        assert_apart(got[name])


@pytest.mark.parametrize("dim", [0, 1], ids=["tokens", "heads"])
@pytest.mark.parametrize("names", [*((name,) for name in NAMES), NAMES], ids="".join)
def test_expanded_packed_tensors(device, names, dim):
    generator = torch.Generator().manual_seed(0)
    views = {name: torch.randn(150, 4, 64, generator=generator).to(device, dtype_of(device)) for name in NAMES}
    for name in names:
        views[name] = expanded(dim)(views[name])
    ends = torch.tensor([0, 70, 71, 140], device=device, dtype=torch.int32)

    def run(tensors):
        def splash(q, k, v):
            return sa.attention_varlen(q, k, v, ends, ends, 70, 70, "causal", return_statistic=True, deterministic=True)

        return oracle.with_gradients(splash, *tensors)

    got = run([views[name] for name in NAMES])
    for name, want in run([views[name].contiguous() for name in NAMES]).items():
        assert torch.equal(got[name], want), name
        assert_apart(got[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["base", "stride"])
def test_unaligned_tensors(device, kind, name):
    """Bases and strides that are no multiple of 16 bytes: a right answer, or a ValueError that names the cure."""
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(1, 2, 100, 64, generator=generator).to(device, dtype_of(device)) for name in NAMES}
    good = tensors[name]
    if kind == "base":
        bad = torch.empty(good.numel() + 1, device=device, dtype=good.dtype)[1:].view(good.shape)
    else:
        bad = torch.empty(1, 2, 100, 67, device=device, dtype=good.dtype)[..., :64]
    bad.copy_(good)

    def run(tensors):
        def splash(q, k, v):
            return sa.attention(q, k, v, "causal", return_statistic=True, deterministic=True)

        return oracle.with_gradients(splash, *tensors.values())

    want = run(tensors)
    try:
        got = run({**tensors, name: bad})
    except ValueError as error:
        assert device == "cuda" and name != "grad"
        cure = f"{name}.contiguous()" if kind == "stride" else f"{name}.clone()"
        assert cure in str(error) and "16 bytes" in str(error)
        got = run({**tensors, name: bad.clone() if kind == "base" else bad.contiguous()})
    for quantity in want:
        assert torch.equal(got[quantity], want[quantity]), quantity
