"""Patterns under another default device, past the last key, and at places where nothing is."""

import copy

import pytest
import torch

import splash_attention as sa
from splash_attention.reference import reference_attention

HEADS, N = 4, 150
GENERATOR = torch.Generator().manual_seed(5)
BLOCKS = torch.rand(2, HEADS, 5, 5, generator=GENERATOR) < 0.5
ELEMENTS = torch.rand(2, 1, N, N, generator=GENERATOR) < 0.6
INDEX = torch.randint(0, N, (1, HEADS, N), generator=GENERATOR)
ROWS = ELEMENTS[0, 0].sum(-1)
CSR = torch.cat([torch.zeros(1, dtype=torch.long), ROWS.cumsum(0)]), ELEMENTS[0, 0].nonzero()[:, 1]
BLOCK_CSR = torch.tensor([0, 2, 3, 3, 4, 6]), torch.tensor([0, 4, 1, 3, 0, 2])
pytestmark = pytest.mark.usefixtures("one_thread")


def chosen():
    q = torch.randn(2, HEADS, N, 8, generator=torch.Generator().manual_seed(1), device="cpu")
    return sa.top_k_blocks(q, q[:, ::2], 32, 2)


MAKERS = {
    "full": sa.Full,
    "causal": sa.Causal,
    "window": lambda: sa.SlidingWindow(30, 7),
    "streaming": lambda: sa.Streaming(5, 40),
    "diagonal": lambda: sa.BlockDiagonal(50),
    "dilated": lambda: sa.Dilated(20, 3),
    "dilated heads": lambda: sa.Dilated(9, (1, 2, 4, 8), causal=False),
    "strided": lambda: sa.Strided(20, 9),
    "fixed": lambda: sa.Fixed(24, 5),
    "longformer": lambda: sa.Longformer(20, 3),
    "longformer causal": lambda: sa.Longformer(20, 3, dilation=2, causal=True),
    "longformer tokens": lambda: sa.Longformer(10, (0, 90, 131, 2**29 - 1)),
    "bigbird": lambda: sa.BigBird(16),
    "bigbird heads causal": lambda: sa.BigBird(16, per_head=True, causal=True),
    "bigbird length": lambda: sa.BigBird(16, per_head=True, length=700),
    "blocks": lambda: sa.BlockMask(BLOCKS, 32),
    "block for all": lambda: sa.BlockMask(BLOCKS[:1, :1, :1], (32, 32)),
    "block csr": lambda: sa.BlockMask.from_csr(*BLOCK_CSR, (5, 5), 32),
    "chosen": chosen,
    "elements": lambda: sa.ElementMask(ELEMENTS),
    "mask of keys": lambda: sa.ElementMask(ELEMENTS[:, :, :1]),
    "mask of rows": lambda: sa.ElementMask(ELEMENTS[..., :1]),
    "element csr": lambda: sa.ElementMask.from_csr(*CSR, N, N),
    "indices": lambda: sa.IndexCausal(INDEX, INDEX.flip(1)),
    "times": lambda: sa.IndexCausal(INDEX + 2**50, INDEX[:, :1].flip(2) + 2**50),
    "bigbird & window": lambda: sa.BigBird(16) & sa.SlidingWindow(60, 20),
    "longformer & blocks": lambda: sa.Longformer(10, (3, 70)) & sa.BlockMask(BLOCKS, 32),
    "window & blocks": lambda: sa.SlidingWindow.causal(90) & sa.BlockMask(BLOCKS, 32),
    "window & csr": lambda: sa.SlidingWindow(20, 5) & sa.ElementMask.from_csr(*CSR, N, N),
    "window & elements": lambda: sa.SlidingWindow(20, 5) & sa.ElementMask(ELEMENTS) & sa.Causal(),
    "streaming & bigbird & dilated": lambda: sa.Streaming(40, 90) & sa.BigBird(16) & sa.Dilated(70, 2),
}


@pytest.fixture(params=["context", "default"])
def meta(request):
    """A function that calls another one under the meta device as the default."""

    def call(function):
        if request.param == "context":
            with torch.device("meta"):
                return function()
        torch.set_default_device("meta")
        try:
            return function()
        finally:
            torch.set_default_device(None)  # any device, the CPU too, would stay a mode that torch.compile trips over

    return call


@pytest.mark.parametrize("name", MAKERS)
def test_another_default_device(name, meta):
    """What looks at numbers does so on the CPU, and a mask is where factories of Torch put theirs."""
    pattern = MAKERS[name]()
    again = meta(MAKERS[name])
    for place in ({}, {"q_start": 30, "k_start": 20}):
        want = pattern.density(N, N, **place, heads=HEADS)
        assert meta(lambda p=place: pattern.density(N, N, **p, heads=HEADS)) == want
        assert meta(lambda p=place: again.density(N, N, **p, heads=HEADS)) == want
        dense = pattern.to_dense(N, N, heads=HEADS, **place)
        assert torch.equal(meta(lambda p=place: pattern.to_dense(N, N, heads=HEADS, device="cpu", **p)), dense)
        on_meta = meta(lambda p=place: pattern.to_dense(N, N, heads=HEADS, **p))
        assert on_meta.is_meta and on_meta.shape == dense.shape and on_meta.dtype is torch.bool
    assert meta(lambda: repr(pattern)) == repr(pattern)
    assert meta(pattern.is_causal) == pattern.is_causal() and meta(pattern.band) == pattern.band()


@pytest.mark.parametrize("name", MAKERS)
def test_attention_under_another_default_device(name, meta):
    """The inputs' device is where everything happens; the reference reads values, and does so on the CPU."""
    q = torch.randn(2, HEADS, N, 16)
    k, lengths = q[:, ::2].contiguous(), torch.tensor([N, 70])
    pattern = MAKERS[name]()

    def call(pattern):
        leaves = [t.clone().requires_grad_() for t in (q, k, k)]
        out = sa.attention(*leaves, pattern)
        prepared = sa.prepare(copy.copy(pattern), *leaves[:2])
        padded = sa.attention(*leaves, pattern, lengths=lengths)
        exact = reference_attention(*leaves, pattern)[0]
        return out, sa.attention(*leaves, prepared), padded, exact, *torch.autograd.grad((out + padded).sum(), leaves)

    for got, want in zip(meta(lambda: call(pattern)), call(pattern), strict=True):
        assert got.device.type == "cpu" and torch.equal(got, want)


PLACES = [(N + 30, 0), (30, 0), (0, 0), (-200, 0), (N - 1, 90), (-90, -100), (0, 170), (2**28, 2**28 - 40), (40, 2**28)]


@pytest.mark.parametrize("q_start, k_start", PLACES)
@pytest.mark.parametrize("name", MAKERS)
def test_density_is_that_of_the_mask_at_any_place(name, q_start, k_start):
    """Also where queries stand past the last key, or keys past the last query."""
    pattern = MAKERS[name]()
    dense = pattern.to_dense(N, N, heads=HEADS, q_start=q_start, k_start=k_start)
    assert pattern.density(N, N, q_start, k_start, heads=HEADS) == pytest.approx(dense.double().mean().item(), abs=1e-9)


@pytest.mark.parametrize("left", [None, 0, 5, 40])
@pytest.mark.parametrize("right", [None, 0, 5, 40])
@pytest.mark.parametrize("q_start", [-100, -3, 0, 30, 63, 64, 70, 100, 500])
def test_windows_over_blocks_past_the_last_key(left, right, q_start):
    blocks = torch.rand(4, 4, generator=torch.Generator().manual_seed(1)) < 0.6
    for other in (
        sa.BlockMask(blocks, 16),
        sa.BlockMask(blocks[:, :1], (16, 64)),
        sa.Full(),
        sa.Longformer(3, (1, 60)),
    ):
        pattern = sa.SlidingWindow(left, right) & other
        dense = pattern.to_dense(64, 64, q_start=q_start)
        assert pattern.density(64, 64, q_start=q_start) == pytest.approx(dense.double().mean().item(), abs=1e-9)


@pytest.mark.parametrize("name", ["bigbird", "longformer tokens", "window", "strided", "dilated heads", "fixed"])
@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_no_rows_or_columns(name, sizes):
    pattern = MAKERS[name]()
    dense = pattern.to_dense(*sizes, heads=HEADS, q_start=9)
    assert dense.shape[-2:] == sizes
    assert pattern.density(*sizes, q_start=9, heads=HEADS) == (dense.double().mean().item() if dense.numel() else 0.0)
