"""The patterns of plain numbers: pictures, formulas, densities, encodings and errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_mask

from splash_attention.patterns import (
    BigBird,
    BlockDiagonal,
    Dilated,
    Extent,
    Fixed,
    Longformer,
    SlidingWindow,
    Streaming,
    Strided,
)
from splash_attention.reference import dense_mask

CPU = torch.device("cpu")
HEADS = 3
pytestmark = pytest.mark.usefixtures("one_thread")


def picture(mask):
    return ["".join(".x"[int(kept)] for kept in row) for row in mask.reshape(mask.shape[-2:])]


SMALL = [
    (Streaming(1, 2), 5, 5, {}, ["x....", "xx...", "xxx..", "x.xx.", "x..xx"]),
    (Streaming(0, 1), 3, 3, {}, ["x..", ".x.", "..x"]),
    (Streaming(2, 1), 2, 6, {}, ["xx..x.", "xx...x"]),
    (Streaming(2, 2), 4, 2, {}, ["..", "..", "x.", "xx"]),
    (Streaming(2, 1), 2, 3, {"k_start": -1, "q_start": 2}, ["xxx", "xxx"]),
    (BlockDiagonal(2), 5, 5, {}, ["xx...", "xx...", "..xx.", "..xx.", "....x"]),
    (BlockDiagonal(2, causal=True), 4, 4, {}, ["x...", "xx..", "..x.", "..xx"]),
    (BlockDiagonal(3), 3, 4, {"q_start": -2, "k_start": -3}, ["xxx.", "xxx.", "...x"]),
    (Dilated(2, 2), 5, 5, {}, ["x....", ".x...", "x.x..", ".x.x.", "..x.x"]),
    (Dilated(1, 2, causal=False), 5, 5, {}, ["x.x..", ".x.x.", "x.x.x", ".x.x.", "..x.x"]),
    (Dilated(3, 1), 4, 4, {}, ["x...", "xx..", "xxx.", ".xxx"]),
    (Dilated(0, 3, causal=False), 2, 2, {}, ["x.", ".x"]),
    (Dilated(3, 3), 2, 4, {"q_start": 7, "k_start": 0}, [".x..", "..x."]),
    (Strided(1, 3), 5, 5, {}, ["x....", ".x...", "..x..", "x..x.", ".x..x"]),
    (Strided(2, 3), 5, 5, {}, ["x....", "xx...", ".xx..", "x.xx.", ".x.xx"]),
    (Fixed(3, 1), 7, 7, {}, ["x......", "xx.....", "xxx....", "..xx...", "..xxx..", "..xxxx.", "..x..xx"]),
    (Fixed(2, 0), 4, 4, {}, ["x...", "xx..", "..x.", "..xx"]),
    (Fixed(3, 1), 2, 4, {"q_start": 1, "k_start": -2}, [".xxx", ".xxx"]),
    (Longformer(1, 1), 4, 4, {}, ["xxxx", "xxx.", "xxxx", "x.xx"]),
    (Longformer(0, (2,)), 4, 4, {}, ["x.x.", ".xx.", "xxxx", "..xx"]),
    (Longformer(0, [3, 1]), 4, 4, {}, ["xx.x", "xxxx", ".xxx", "xxxx"]),
    (Longformer(0, 1, causal=True), 3, 3, {}, ["x..", "xx.", "x.x"]),
    (Longformer(1, 0, dilation=2), 4, 4, {}, ["x.x.", ".x.x", "x.x.", ".x.x"]),
    (Longformer(0, 2), 3, 3, {"q_start": -2, "k_start": -2}, ["x.x", ".xx", "xxx"]),
    (BigBird(1, 1, 1, 0, 0), 4, 4, {}, ["xxxx", "xx..", "x.x.", "x..x"]),
    (BigBird(2, 1, 0, 1, 0), 5, 5, {}, ["xx..x", "xx..x", "..xxx", "..xxx", "xxxxx"]),
    (BigBird(2, 3, 0, 0, 0, causal=True), 6, 6, {}, ["x.....", "xx....", "xxx...", "xxxx..", "..xxx.", "..xxxx"]),
    (BigBird(2, 1, 0, 1, 0, length=8), 2, 4, {}, ["..xx", "..xx"]),
]


@pytest.mark.parametrize("pattern,Nq,Nk,positions,expected", SMALL, ids=lambda value: None)
def test_small_masks(pattern, Nq, Nk, positions, expected):
    mask = pattern.to_dense(Nq, Nk, **positions)
    assert mask.shape == (1, 1, Nq, Nk) and mask.dtype == torch.bool
    assert picture(mask) == expected


def test_one_dilation_a_head():
    mask = Dilated(2, (1, 2, 3)).to_dense(4, 4, heads=3)
    assert mask.shape == (1, 3, 4, 4)
    for head, dilation in enumerate((1, 2, 3)):
        assert torch.equal(mask[0, head], Dilated(2, dilation).to_dense(4, 4)[0, 0])
    assert Dilated(2, [1, 2]) == Dilated(2, (1, 2)) != Dilated(2, (2, 1))


flags = st.booleans()
windows = st.integers(1, 50)
PATTERNS = st.one_of(
    st.builds(Streaming, st.integers(0, 20), windows),
    st.builds(BlockDiagonal, windows, flags),
    st.builds(Dilated, windows, st.integers(1, 9) | st.tuples(*[st.integers(1, 9)] * HEADS), flags),
    st.builds(Strided, windows, st.integers(1, 30)),
    st.integers(1, 30).flatmap(lambda stride: st.builds(Fixed, st.just(stride), st.integers(0, stride))),
    st.builds(
        Longformer, st.integers(0, 20), st.integers(0, 20) | st.lists(st.integers(0, 90)), st.integers(1, 5), flags
    ),
    st.builds(
        BigBird,
        st.integers(1, 20),
        st.sampled_from((1, 3, 5)),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(0, 4),
        st.integers(0, 2**64 - 1),
        flags,
        flags,
        st.none() | st.integers(0, 120),
    ),
)
SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))
POSITIONS = st.tuples(st.none() | st.integers(-60, 120), st.just(0) | st.integers(-60, 60))


def formula(pattern, Nq, Nk, q_start, k_start):
    q_start = k_start + Nk - Nq if q_start is None else q_start
    i, j = torch.arange(Nq) + q_start, torch.arange(Nk) + k_start
    return dense_mask(pattern, i.view(1, 1, -1, 1), j, heads=HEADS).expand(1, HEADS, Nq, Nk)


@given(PATTERNS, SIZES, POSITIONS)
@settings(max_examples=400, deadline=None)
def test_masks_are_those_of_the_formulas(pattern, sizes, positions):
    q_start, k_start = positions
    mask = pattern.to_dense(*sizes, heads=HEADS, q_start=q_start, k_start=k_start)
    expected = formula(pattern, *sizes, q_start, k_start)
    assert torch.equal(mask.expand_as(expected), expected)
    if pattern.band() is not None:
        assert torch.equal(SlidingWindow(*pattern.band()).to_dense(*sizes, q_start=q_start, k_start=k_start), mask)
    if pattern.is_causal():
        assert torch.equal(expected & formula(SlidingWindow(None, 0), *sizes, q_start, k_start), expected)


@given(PATTERNS, SIZES, POSITIONS, st.tuples(*[st.none() | st.integers(0, 40)] * 2))
@settings(max_examples=300, deadline=None)
def test_density_is_the_share_of_the_mask(pattern, sizes, positions, band):
    options = {"q_start": positions[0], "k_start": positions[1], "heads": HEADS}
    mask = pattern.to_dense(*sizes, **options)
    assert pattern.density(*sizes, **options) == pytest.approx(mask.double().mean().item(), abs=1e-12)
    both = pattern & SlidingWindow(*band)
    mask = both.to_dense(*sizes, **options)
    assert both.density(*sizes, **options) == pytest.approx(mask.double().mean().item(), abs=1e-12)


@given(PATTERNS, PATTERNS, SIZES, POSITIONS)
@settings(max_examples=50, deadline=None)
def test_conjunctions_of_two(a, b, sizes, positions):
    options = {"q_start": positions[0], "k_start": positions[1], "heads": HEADS}
    both = (a & b).to_dense(*sizes, **options)
    assert torch.equal(both, a.to_dense(*sizes, **options) & b.to_dense(*sizes, **options))
    density = (a & b).density(*sizes, **options)
    assert density == pytest.approx(both.double().mean().item(), abs=1e-12)


@given(PATTERNS, st.integers(20, 90), st.data())
@settings(max_examples=100, deadline=None)
def test_a_slice_keeps_what_the_whole_keeps(pattern, length, data):
    if isinstance(pattern, BigBird):
        pattern = BigBird(**{**vars(pattern), "length": length})
    whole = pattern.to_dense(length, length, heads=HEADS)
    row, column = data.draw(st.integers(0, length - 1)), data.draw(st.integers(0, length - 1))
    Nq, Nk = data.draw(st.integers(1, length - row)), data.draw(st.integers(1, length - column))
    part = pattern.to_dense(Nq, Nk, heads=HEADS, q_start=row, k_start=column)
    assert torch.equal(part, whole[..., row : row + Nq, column : column + Nk])


MASK_MODS = [
    (Streaming(4, 9), lambda h, i, j: (j <= i) & ((j < 4) | (i - j < 9))),
    (BlockDiagonal(16), lambda h, i, j: i // 16 == j // 16),
    (BlockDiagonal(7, True), lambda h, i, j: (i // 7 == j // 7) & (j <= i)),
    (Dilated(4, 3), lambda h, i, j: ((i - j) % 3 == 0) & (i - j >= 0) & (i - j < 12)),
    (Dilated(4, 3, False), lambda h, i, j: ((i - j) % 3 == 0) & (i - j >= -12) & (i - j <= 12)),
    (Dilated(3, (1, 2, 4)), lambda h, i, j: ((i - j) % 2**h == 0) & (i - j >= 0) & (i - j < 3 * 2**h)),
    (Strided(5, 6), lambda h, i, j: (j <= i) & ((i - j < 5) | ((i - j) % 6 == 0))),
    (Fixed(6, 2), lambda h, i, j: (j <= i) & ((j // 6 == i // 6) | (j % 6 >= 4))),
    (Longformer(3, 2), lambda h, i, j: ((i - j <= 3) & (j - i <= 3)) | (i < 2) | (j < 2)),
    (Longformer(3, (9, 30), 2, True), lambda h, i, j: (j <= i) & (
        (((i - j) % 2 == 0) & (i - j <= 6)) | (i == 9) | (i == 30) | (j == 9) | (j == 30))),
    (BigBird(8, 3, 1, 1, 0), lambda h, i, j: (
        ((i // 8 - j // 8).abs() <= 1) | (i < 8) | (j < 8) | (i >= 56) | (j >= 56))),
]  # fmt: skip


@pytest.mark.parametrize("pattern,keeps", MASK_MODS, ids=lambda value: None)
@pytest.mark.parametrize("q_start", [0, 17])
def test_masks_are_those_of_flex_attention(pattern, keeps, q_start):
    expected = create_mask(lambda b, h, row, column: keeps(h, row + q_start, column), 1, 3, 37, 61, device="cpu")
    mask = pattern.to_dense(37, 61, heads=3, q_start=q_start)
    assert torch.equal(mask.expand(1, 3, 37, 61), expected)


LONG = 131072


@pytest.mark.parametrize(
    "pattern,kept",
    [
        (Streaming(16, 64), 80 * LONG - 80 * 79 // 2),
        (BlockDiagonal(128), 128 * LONG),
        (BlockDiagonal(100, causal=True), LONG // 100 * 5050 + LONG % 100 * (LONG % 100 + 1) // 2),
        (Dilated(64, 8), 64 * LONG - 8 * 63 * 64 // 2),
        (Dilated(64, (1, 2, 4, 8)), 64 * LONG - (1 + 2 + 4 + 8) * 63 * 64 // 8),
        (Strided(1, 2**30), LONG),
        (Strided(128, 128), 128 * LONG - 128 * 127 // 2 + 128 * sum(range(LONG // 128))),
        (Fixed(128, 8), LONG // 128 * (128 * 129 // 2) + 128 * 8 * sum(range(LONG // 128))),
        (Longformer(0, 5), 2 * 5 * LONG - 25 + LONG - 5),
        (Longformer(256, tuple(range(0, LONG, 64))), None),
        (BigBird(64, 3, 1, 1, 3), 64 * 64 * (2 * 2048 + 2046 * 8 - 2)),
        (BigBird(64, causal=True, per_head=True), None),
        (BigBird(64) & SlidingWindow.causal(5000), None),
    ],
    ids=lambda value: None,
)
def test_density_of_long_sequences_is_counted_by_rows(pattern, kept, monkeypatch):
    monkeypatch.setattr(type(pattern), "keep", None)
    density = pattern.density(LONG, LONG, heads=4)
    assert 0 < density < 1
    if kept is not None:
        assert density == pytest.approx(kept / LONG**2, rel=1e-12)


def test_encodings():
    extent = Extent(2, 4, 70, 90, CPU)
    far = 2**40
    expected = [
        (Streaming(16, 64), "streaming", [16, 64]),
        (Streaming(far, far), "streaming", [2**30, 2**30]),
        (BlockDiagonal(128, True), "block_diagonal", [128, 1]),
        (Dilated(64, 8), "dilated", [64, 8, 1]),
        (Dilated(far, 8, False), "dilated", [2**30, 8, 0]),
        (Strided(32, 64), "strided", [32, 64]),
        (Fixed(64, 8), "fixed", [64, 8]),
        (Longformer(32, 4, 2, True), "longformer", [32, 4, 2, 1]),
    ]
    for pattern, name, ints in expected:
        assert tuple(pattern.encode(extent)) == (name, ints, [])

    name, ints, tensors = Dilated(64, (1, 2, 4, 8)).encode(extent)
    assert (name, ints) == ("dilated_heads", [64, 1, 4, 1, 2, 4, 8])
    assert [(t.tolist(), t.dtype) for t in tensors] == [([1, 2, 4, 8], torch.int32)]

    name, ints, (words,) = Longformer(32, (0, 33, 31, 33), 2).encode(extent)
    assert (name, ints, words.dtype) == ("longformer_tokens", [32, 2, 0], torch.int32)
    assert words.tolist() == [1 - 2**31, 2]
    assert Longformer(32, ()).encode(extent).tensors[0].tolist() == [0]

    joined = (Dilated(2, (1, 2, 3, 4)) & Streaming() & Longformer(1, (2,))).encode(extent)
    assert joined.pattern == "dilated_heads&streaming&longformer_tokens"
    assert joined.ints == [2, 1, 4, 1, 2, 3, 4, 16, 64, 1, 1, 0]
    assert [t.tolist() for t in joined.tensors] == [[1, 2, 3, 4], [4]]


def test_texts_and_comparison():
    assert repr(Streaming()) == "Streaming(sink=16, window=64)"
    assert repr(Dilated(4, [1, 2])) == "Dilated(window=4, dilation=(1, 2), causal=True)"
    assert repr(Longformer(4, [7])) == "Longformer(window=4, global_tokens=(7,), dilation=1, causal=False)"
    assert repr(BlockDiagonal(8) & Fixed(4, 1)) == "BlockDiagonal(block=8, causal=False) & Fixed(stride=4, summary=1)"
    assert Longformer(4, [7]) == Longformer(4, (7,)) and hash(Strided(1, 2)) == hash(Strided(1, 2))
    assert BlockDiagonal(8).is_causal() is False and BlockDiagonal(8, True).is_causal() is True
    assert (BlockDiagonal(8) & Streaming()).is_causal() and not (BlockDiagonal(8) & Dilated(1, 1, False)).is_causal()


@pytest.mark.parametrize(
    "make,error,text",
    [
        (lambda: Streaming(-1, 4), ValueError, "sink: expected at least 0, got -1"),
        (lambda: Streaming(4, 0), ValueError, "window: expected at least 1, got 0"),
        (lambda: Streaming(True, 4), TypeError, "sink: expected an int, got bool"),
        (lambda: Streaming(4, 2.0), TypeError, "window: expected an int, got float"),
        (lambda: BlockDiagonal(0), ValueError, "block: expected at least 1, got 0"),
        (lambda: BlockDiagonal(2**31), ValueError, "block: expected at most 1073741824"),
        (lambda: BlockDiagonal(8, 1), TypeError, "causal: expected True or False, got int"),
        (lambda: Dilated(0, 2), ValueError, "window: expected at least 1, got 0"),
        (lambda: Dilated(-1, 2, False), ValueError, "window: expected at least 0, got -1"),
        (lambda: Dilated(4, 0), ValueError, "dilation: expected at least 1, got 0"),
        (lambda: Dilated(4, ()), ValueError, "dilation: expected one for each query head, got none"),
        (lambda: Dilated(4, (1, 0)), ValueError, "dilation: expected at least 1, got 0"),
        (lambda: Dilated(4, (1, "2")), TypeError, "dilation: expected an int, got str"),
        (lambda: Dilated(4, torch.tensor([1])), TypeError, "dilation: expected an int or a tuple of ints, got Tensor"),
        (lambda: Strided(0, 2), ValueError, "local: expected at least 1"),
        (lambda: Strided(2, 0), ValueError, "stride: expected at least 1"),
        (lambda: Fixed(4, 5), ValueError, "summary: expected at most 4, got 5"),
        (lambda: Fixed(4, -1), ValueError, "summary: expected at least 0, got -1"),
        (lambda: Longformer(-1, 2), ValueError, "window: expected at least 0"),
        (lambda: Longformer(1, -2), ValueError, "global_tokens: expected at least 0"),
        (lambda: Longformer(1, (3, -2)), ValueError, "global_tokens: expected at least 0, got -2"),
        (lambda: Longformer(1, (2**29,)), ValueError, "global_tokens: expected at most"),
        (lambda: Longformer(1, 2.5), TypeError, "global_tokens: expected an int or a tuple of ints"),
        (lambda: Longformer(1, 2, 0), ValueError, "dilation: expected at least 1"),
        (lambda: Longformer(1, 2, 1, None), TypeError, "causal: expected True or False, got NoneType"),
        (lambda: BigBird(0), ValueError, "block: expected at least 1"),
        (lambda: BigBird(window=4), ValueError, "window: expected an odd number of blocks, got 4"),
        (lambda: BigBird(first=-1), ValueError, "first: expected at least 0"),
        (lambda: BigBird(last=False), TypeError, "last: expected an int, got bool"),
        (lambda: BigBird(random=-1), ValueError, "random: expected at least 0"),
        (lambda: BigBird(seed=-1), ValueError, "seed: expected at least 0"),
        (lambda: BigBird(seed=2**64), ValueError, "seed: expected at most"),
        (lambda: BigBird(per_head=2), TypeError, "per_head: expected True or False, got int"),
        (lambda: BigBird(length=-1), ValueError, "length: expected at least 0"),
        (lambda: BigBird(length="8"), TypeError, "length: expected an int or None, got str"),
        (lambda: Dilated(4, (1, 2)).encode(Extent(1, 3, 5, 5, CPU)), ValueError, "each of 3 query heads, got 2"),
        (lambda: Dilated(4, (1, 2)).to_dense(5, 5, heads=3), ValueError, "heads: the pattern has 2"),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_errors_name_the_argument(make, error, text):
    with pytest.raises(error, match=text):
        make()
