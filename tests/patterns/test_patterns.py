"""The pattern dataclasses: masks, densities, texts, conjunctions, and how they are packed for the operators."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

import splash_attention as sa
from splash_attention.patterns import Extent, as_pattern
from splash_attention.patterns.bits import pack_bits, pack_both

CPU = torch.device("cpu")


def picture(mask):
    return ["".join(".x"[int(kept)] for kept in row) for row in mask.reshape(mask.shape[-2:])]


def unpack(words, length):
    bits = words[..., None] >> torch.arange(32, dtype=torch.int32) & 1
    return bits.bool().flatten(-2)[..., :length]


SMALL = [
    (sa.Full(), 2, 3, {}, ["xxx", "xxx"]),
    (sa.Causal(), 3, 3, {}, ["x..", "xx.", "xxx"]),
    (sa.Causal(), 2, 4, {}, ["xxx.", "xxxx"]),
    (sa.Causal(), 4, 2, {}, ["..", "..", "x.", "xx"]),
    (sa.Causal(), 2, 4, {"q_start": 0}, ["x...", "xx.."]),
    (sa.Causal(), 2, 4, {"q_start": 6, "k_start": 5}, ["xx..", "xxx."]),
    (sa.Causal(), 2, 3, {"k_start": 9}, ["xx.", "xxx"]),
    (sa.SlidingWindow(1, 0), 4, 4, {}, ["x...", "xx..", ".xx.", "..xx"]),
    (sa.SlidingWindow(0, 1), 3, 4, {}, [".xx.", "..xx", "...x"]),
    (sa.SlidingWindow(1, None), 4, 4, {}, ["xxxx", "xxxx", ".xxx", "..xx"]),
    (sa.SlidingWindow(None, 1), 3, 4, {}, ["xxx.", "xxxx", "xxxx"]),
    (sa.SlidingWindow(None, None), 2, 2, {}, ["xx", "xx"]),
    (sa.SlidingWindow.causal(2), 4, 4, {}, ["x...", "xx..", ".xx.", "..xx"]),
    (sa.SlidingWindow.causal(1), 2, 2, {}, ["x.", ".x"]),
    (sa.SlidingWindow.symmetric(1), 4, 4, {}, ["xx..", "xxx.", ".xxx", "..xx"]),
    (sa.SlidingWindow.symmetric(0), 2, 3, {}, [".x.", "..x"]),
    (sa.SlidingWindow.symmetric(1), 2, 3, {"q_start": 40}, ["...", "..."]),
    (sa.SlidingWindow(2, 1) & sa.Causal(), 4, 4, {}, ["x...", "xx..", "xxx.", ".xxx"]),
    (sa.Full(), 0, 3, {}, []),
    (sa.Causal(), 2, 0, {}, ["", ""]),
]


@pytest.mark.parametrize("pattern,Nq,Nk,positions,expected", SMALL)
def test_small_masks(pattern, Nq, Nk, positions, expected):
    mask = pattern.to_dense(Nq, Nk, **positions)
    assert mask.shape == (1, 1, Nq, Nk) and mask.dtype == torch.bool
    assert picture(mask) == expected


def test_block_mask_counts_rows_and_columns_of_the_tensors():
    mask = torch.tensor([[True, False], [False, True]])
    pattern = sa.BlockMask(mask, (16, 32))
    dense = pattern.to_dense(20, 40, q_start=1000, k_start=-7)[0, 0]
    for row in range(20):
        for column in range(40):
            assert dense[row, column] == mask[row // 16, column // 32]


@pytest.mark.parametrize(
    "shape", [(3, 2), (1, 3, 2), (4, 3, 2), (2, 4, 3, 2), (2, 1, 3, 2), (2, 4, 1, 2), (1, 1, 3, 1)]
)
def test_block_mask_broadcasts(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    dense = sa.BlockMask(mask, (16, 32)).to_dense(48, 64, heads=4, batch=2)
    blocks = torch.broadcast_to(mask, (2, 4, 3, 2))
    expected = blocks.repeat_interleave(16, 2).repeat_interleave(32, 3)
    assert torch.equal(torch.broadcast_to(dense, (2, 4, 48, 64)), expected)


MASK_MODS = [
    (sa.Causal(), lambda i, j: j <= i),
    (sa.SlidingWindow.causal(11), lambda i, j: (j <= i) & (i - j < 11)),
    (sa.SlidingWindow(3, 8), lambda i, j: (i - j <= 3) & (j - i <= 8)),
]


@pytest.mark.parametrize("pattern,keeps", MASK_MODS)
@pytest.mark.parametrize("q_start,k_start", [(13, 0), (0, 0), (-5, 3)])
def test_masks_are_those_of_flex_attention(pattern, keeps, q_start, k_start):
    expected = create_mask(lambda b, h, row, column: keeps(row + q_start, column + k_start), 1, 1, 37, 50, device="cpu")
    assert torch.equal(pattern.to_dense(37, 50, q_start=q_start, k_start=k_start), expected)


def blocks(seed=0, shape=(2, 3, 5, 4), block=16):
    return sa.BlockMask(torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5, block)


@pytest.mark.parametrize(
    "pattern",
    [
        sa.Full(),
        sa.Causal(),
        sa.SlidingWindow.causal(9),
        sa.SlidingWindow(None, 4),
        sa.SlidingWindow(4, None),
        sa.SlidingWindow(5, 100) & sa.Causal(),
        blocks(),
        blocks() & sa.Causal(),
        sa.Causal() & blocks() & blocks(seed=1, shape=(5, 4)),
    ],
)
@pytest.mark.parametrize("positions", [{}, {"q_start": -20}, {"q_start": 30, "k_start": 50}])
def test_density_is_the_share_of_the_mask(pattern, positions):
    expected = pattern.to_dense(77, 60, **positions).double().mean().item()
    assert pattern.density(77, 60, **positions) == pytest.approx(expected, abs=1e-12)


def test_density_of_long_sequences_needs_no_mask():
    assert (sa.SlidingWindow.causal(1024) & sa.Causal()).density(2**22, 2**22) == pytest.approx(1024 / 2**22, rel=1e-3)
    assert sa.Causal().density(0, 5) == sa.Causal().density(5, 0) == 0.0


def test_density_goes_through_large_masks_in_parts(monkeypatch):
    pattern = blocks() & sa.Causal()
    whole = pattern.density(77, 60)
    monkeypatch.setattr("splash_attention.patterns.base._CHUNK", 100)
    assert pattern.density(77, 60) == pytest.approx(whole, abs=1e-12)


def test_texts():
    mask = torch.ones(2, 3, 4, 5, dtype=torch.bool)
    assert repr(sa.Full()) == "Full()"
    assert repr(sa.SlidingWindow.causal(8)) == "SlidingWindow(left=7, right=0)"
    assert repr(sa.BlockMask(mask, 64)) == "BlockMask(mask=<bool (2, 3, 4, 5)>, block=(64, 64))"
    assert repr(sa.BlockMask(mask, [64, 128]) & sa.Causal()).endswith("block=(64, 128)) & Causal()")
    q = torch.zeros(1, 1, 6, 8)
    assert repr(sa.prepare("causal", q, q)) == "prepare(Causal(), (B, Hq, Nq, Nk)=(1, 1, 6, 6), device=cpu)"


def test_comparison():
    assert sa.SlidingWindow.causal(8) == sa.SlidingWindow(7, 0) and hash(sa.Causal()) == hash(sa.Causal())
    assert sa.SlidingWindow(1, 2) != sa.SlidingWindow(1, 3) and sa.Full() != sa.Causal()
    a, b = blocks(), blocks()
    assert a == a and a != b and len({a, b, copy.copy(a)}) == 3
    assert a & sa.Causal() == a & sa.Causal() and a & sa.Causal() != b & sa.Causal()


def test_conjunctions_are_flat_and_short():
    three = sa.Causal() & (sa.Full() & sa.SlidingWindow(1, 1))
    assert three.terms == (sa.Causal(), sa.Full(), sa.SlidingWindow(1, 1))
    with pytest.raises(ValueError, match="1 to 4 terms, got 5"):
        three & sa.Full() & sa.Full()
    with pytest.raises(TypeError):
        sa.Causal() & "full"


@settings(deadline=None)
@given(
    st.tuples(st.none() | st.integers(0, 40), st.none() | st.integers(0, 40)),
    st.tuples(st.none() | st.integers(0, 40), st.none() | st.integers(0, 40)),
    st.integers(0, 30),
    st.integers(0, 30),
    st.integers(-50, 50),
    st.integers(-50, 50),
)
def test_conjunctions_keep_what_both_keep(a, b, Nq, Nk, q_start, k_start):
    a, b = sa.SlidingWindow(*a), sa.SlidingWindow(*b)
    sizes = {"Nq": Nq, "Nk": Nk, "q_start": q_start, "k_start": k_start}
    both = (a & b).to_dense(**sizes)
    assert torch.equal(both, a.to_dense(**sizes) & b.to_dense(**sizes))
    assert (a & b).density(**sizes) == pytest.approx(both.double().mean().item() if both.numel() else 0, abs=1e-12)


@given(st.integers(0, 3), st.integers(0, 5), st.integers(0, 130), st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_packed_bits_come_back(batch, lines, length, seed):
    mask = torch.rand(batch, lines, length, generator=torch.Generator().manual_seed(seed)) < 0.5
    words = pack_bits(mask)
    assert words.dtype == torch.int32 and words.shape == (batch, lines, -(-length // 32)) and words.is_contiguous()
    assert torch.equal(unpack(words, length), mask)
    assert not unpack(words, words.shape[-1] * 32)[..., length:].any()


@given(st.integers(0, 2), st.integers(0, 70), st.integers(0, 140), st.integers(0, 9), st.booleans())
@settings(max_examples=60, deadline=None)
def test_words_of_a_mask_and_of_its_transpose(batch, rows, columns, offset, expanded):
    count = batch * rows * columns
    mask = (torch.arange(offset + count) * 2654435761 % 2**32 < 2**31)[offset:].view(batch, rows, columns)
    if expanded:
        mask = mask[:, None].expand(-1, 3, -1, -1)
    by_row, by_column = pack_both(mask)
    assert by_row.is_contiguous() and by_column.is_contiguous()
    assert torch.equal(by_row, pack_bits(mask)) and torch.equal(by_column, pack_bits(mask.mT))
    assert torch.equal(unpack(by_row, columns), mask) and torch.equal(unpack(by_column, rows), mask.mT)


def test_packed_words():
    mask = torch.zeros(1, 40, dtype=torch.bool)
    mask[0, [0, 31, 33]] = True
    assert pack_bits(mask).tolist() == [[1 - 2**31, 2]]


def test_encoding():
    window = sa.SlidingWindow(None, 2**40)
    assert tuple(sa.Causal().encode(Extent(2, 4, 70, 90, CPU))) == ("causal", [], [])
    assert tuple(window.encode(Extent(2, 4, 70, 90, CPU))) == ("sliding_window", [-1, 2**30], [])
    mask = torch.rand(1, 4, 1, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    name, ints, (by_row, by_column) = (window & sa.BlockMask(mask, (16, 32))).encode(Extent(2, 4, 70, 90, CPU))
    assert (name, ints) == ("sliding_window&block_mask", [-1, 2**30, 16, 32])
    assert by_row.shape == (1, 4, 5, 1) and by_column.shape == (1, 4, 3, 1)
    whole = mask.expand(1, 4, 5, 3)
    assert torch.equal(unpack(by_row, 3), whole) and torch.equal(unpack(by_column, 5), whole.transpose(2, 3))


def test_encoding_without_a_backward_keeps_every_row():
    _, _, (by_row, by_column) = blocks().encode(Extent(2, 3, 80, 64, CPU, backward=False))
    assert torch.equal(by_row, blocks().encode(Extent(2, 3, 80, 64, CPU)).tensors[0])
    assert by_column.shape == (1, 1, 4, 1) and (by_column == -1).all()


def test_masks_of_other_shapes_are_refused():
    for Nq, Nk in ((64, 64), (80, 65), (81, 64)):
        with pytest.raises(ValueError, match="does not broadcast"):
            blocks().to_dense(Nq, Nk)
        with pytest.raises(ValueError, match="does not broadcast"):
            blocks().encode(Extent(2, 3, Nq, Nk, CPU))
    with pytest.raises(ValueError, match=r"\(2, 3\) does not broadcast to \(2, 4\)"):
        blocks().encode(Extent(2, 4, 80, 64, CPU))
    with pytest.raises(ValueError, match="heads: the pattern has 3"):
        blocks().to_dense(80, 64, heads=4)


def test_short_forms():
    assert as_pattern("full") == sa.Full() and as_pattern("causal") == sa.Causal()
    assert sa.BlockMask(torch.ones(1, 1, dtype=torch.bool), [16, 32]).block == (16, 32)


def test_a_new_pattern_is_one_small_class():
    class Even(sa.Pattern):
        name = "even"

        def keep(self, grid):
            return (grid.i - grid.j) % 2 == 0

    assert picture(Even().to_dense(2, 3)) == [".x.", "x.x"]
    assert Even().density(2, 2) == 0.5 and (Even() & sa.Causal()).density(2, 2) == 0.5
    assert tuple((Even() & sa.Causal()).encode(Extent(1, 1, 2, 2, CPU))) == ("even&causal", [], [])
