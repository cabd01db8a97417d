"""Patterns with a tensor an element, a row or a key: ElementMask, from dense masks and sparse rows, and IndexCausal."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splash_attention.patterns import Causal, ElementMask, Extent, IndexCausal, SlidingWindow
from splash_attention.patterns.csr import check_csr, dense, entries
from splash_attention.patterns.tiles import tiles_of_entries
from splash_attention.reference import dense_mask

CPU = torch.device("cpu")
BATCH, HEADS = 2, 3
pytestmark = pytest.mark.usefixtures("one_thread")


def unpack(words, length):
    bits = words[..., None] >> torch.arange(32, dtype=torch.int32) & 1
    return bits.bool().flatten(-2)[..., :length]


def decode(index, words, Nq, Nk):
    """The mask (B, H, Nq, Nk) that tiles and their bits stand for."""
    tiles = torch.cat([unpack(words, 64), torch.ones(1, 64, 64, dtype=bool), torch.zeros(1, 64, 64, dtype=bool)])
    picked = tiles[torch.where(index == -2, len(words), torch.where(index == -1, len(words) + 1, index.long()))]
    batch, heads, rows, columns = index.shape
    return picked.transpose(3, 4).reshape(batch, heads, rows * 64, columns * 64)[..., :Nq, :Nk]


def random_mask(seed, shape, density, whole_tiles):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < density
    if whole_tiles and mask.shape[-2] > 1 and mask.shape[-1] > 1:
        mask[..., 64:128, :70] = True
        mask[..., 128:, 128:192] = False
    return mask


def csr_of(mask):
    """crow, col of a 2-D mask, by hand."""
    crow = torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(1).cumsum(0)])
    return crow, mask.nonzero()[:, 1]


SIZES = st.tuples(st.integers(0, 260), st.integers(0, 260))
DENSITIES = st.sampled_from((0.0, 0.0005, 0.05, 0.9, 1.0))


@given(SIZES, st.tuples(*[st.booleans()] * 4), DENSITIES, st.booleans(), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_tiles_of_a_dense_mask(sizes, broadcast, density, whole_tiles, seed):
    shape = [1 if one else size for one, size in zip(broadcast, (BATCH, HEADS, *sizes), strict=True)]
    mask = random_mask(seed, shape, density, whole_tiles)
    name, ints, tensors = ElementMask(mask).encode(Extent(BATCH, HEADS, *sizes, CPU))
    assert (name, ints) == ("element_mask", [])
    assert all(t.dtype == torch.int32 and t.is_contiguous() for t in tensors)
    by_row, by_column, index, words = tensors
    whole = mask.expand(-1, -1, *sizes)
    assert index.shape == (*shape[:2], -(-sizes[0] // 64), -(-sizes[1] // 64)) and words.shape[1:] == (64, 2)
    assert torch.equal(decode(index, words, *sizes), whole)
    assert torch.equal(unpack(by_row, index.shape[3]), index != -1)
    assert torch.equal(unpack(by_column, index.shape[2]), (index != -1).transpose(2, 3))
    # Counted exactly on the CPU, and once where rows or columns are all the same.
    assert sorted({*index[index >= 0].tolist()}) == list(range(len(words)))
    for b, h, row, column in (index < 0).nonzero().tolist():
        tile = whole[b, h, row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
        assert tile.all() if index[b, h, row, column] == -2 else not tile.any()


@given(SIZES, DENSITIES, st.booleans(), st.sampled_from((torch.int32, torch.int64)), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_sparse_rows_are_the_mask_that_they_name(sizes, density, whole_tiles, dtype, seed):
    mask = random_mask(seed, sizes, density, whole_tiles)
    crow, col = (t.to(dtype) for t in csr_of(mask))
    pattern = ElementMask.from_csr(crow, col, *sizes)
    assert torch.equal(pattern.to_dense(*sizes), mask[None, None])
    extent = Extent(BATCH, HEADS, *sizes, CPU)
    for ours, theirs in zip(pattern.tensors(extent), ElementMask(mask).tensors(extent), strict=True):
        assert torch.equal(ours, theirs)


def test_sparse_rows_of_every_head():
    masks = torch.stack([torch.eye(70, dtype=torch.bool), torch.eye(70, dtype=torch.bool).flip(0)])
    rows = [csr_of(mask) for mask in masks]
    crow, col = (torch.stack(parts) for parts in zip(*rows, strict=True))
    pattern = ElementMask.from_csr(crow, col, 70, 70)
    assert torch.equal(pattern.to_dense(70, 70, heads=2), masks[None])
    _, _, index, words = pattern.tensors(Extent(4, 2, 70, 70, CPU))
    assert torch.equal(decode(index, words, 70, 70), masks[None])
    assert torch.equal(dense_mask(pattern, None, None), masks)
    assert pattern.density(70, 70) == 1 / 70
    with pytest.raises(ValueError, match=r"crow, col: \(1, 2\) does not broadcast to \(4, 3\)"):
        pattern.encode(Extent(4, 3, 70, 70, CPU))


def test_a_column_may_come_twice():
    pattern = ElementMask.from_csr(torch.tensor([0, 3, 3, 5]), torch.tensor([1, 0, 1, 1, 1]), 3, 2)
    assert pattern.to_dense(3, 2)[0, 0].tolist() == [[True, True], [False, False], [False, True]]
    _, _, index, words = pattern.tensors(Extent(1, 1, 3, 2, CPU))
    assert index.tolist() == [[[[0]]]] and words[0, :3].tolist() == [[3, 0], [0, 0], [2, 0]]
    assert pattern.density(3, 2) == 0.5


def test_long_sparse_rows_are_never_dense():
    length = 2**20
    place = torch.arange(length)
    pattern = ElementMask.from_csr(torch.arange(length + 1), place * 7919 % length, length, length)
    assert pattern.density(length, length) == 1 / length
    assert (pattern & Causal()).density(length, length) == (place * 7919 % length <= place).sum().item() / length**2


BAD_ENTRIES = [
    ([0, 2, 1, 4], [0, 1, 2, 3]),
    ([1, 2, 3, 4], [0, 1, 2, 3]),
    ([0, 1, 2, 3], [0, 1, 2, 3]),
    ([0, 1, 2, 9], [0, 1, 2, 3]),
    ([-5, 1, 2, 4], [0, 1, 2, 3]),
    ([0, 1, 2, 4], [0, 1, 2, 4]),
    ([0, 1, 2, 4], [0, -1, 2, 3]),
    ([0, 2**62, 2, 4], [0, 2**62, 2, 3]),
]


@pytest.mark.parametrize("crow,col", BAD_ENTRIES)
def test_values_are_checked_where_they_can_be_read_and_harmless_elsewhere(crow, col):
    crow, col = torch.tensor(crow), torch.tensor(col)
    with pytest.raises(ValueError, match=r"(crow|col): expected (offsets that rise from|columns from) 0 to"):
        check_csr(crow, col, 3, 4, validate=False)
    found = entries(crow, col, 4)
    assert found.row.min() >= 0 and found.row.max() <= 3 and found.column.min() >= 0 and found.column.max() <= 3
    mask = dense(found, 3, 4)
    assert mask.shape == (3, 4)
    index, words = tiles_of_entries(found, 3, 4)
    assert torch.equal(decode(index, words, 3, 4)[0, 0], mask)


@pytest.mark.parametrize("q_start", [None, -3, 40])
def test_density(q_start):
    mask = random_mask(0, (90, 70), 0.1, True)
    for pattern in (ElementMask(mask), ElementMask.from_csr(*csr_of(mask), 90, 70)):
        assert pattern.density(90, 70, q_start) == pytest.approx(mask.double().mean().item(), abs=1e-12)
        both = pattern & SlidingWindow(11, 30)
        expected = both.to_dense(90, 70, q_start=q_start).double().mean().item()
        assert both.density(90, 70, q_start) == pytest.approx(expected, abs=1e-12)


def test_without_a_backward_every_row_may_see_a_tile():
    mask = random_mask(0, (1, 2, 200, 70), 0.001, False)
    with_backward = ElementMask(mask).tensors(Extent(1, 2, 200, 70, CPU))
    without = ElementMask(mask).tensors(Extent(1, 2, 200, 70, CPU, backward=False))
    for n in (0, 2, 3):
        assert torch.equal(with_backward[n], without[n])
    assert without[1].shape == (1, 1, 2, 1) and (without[1] == -1).all()


INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


@given(SIZES, st.tuples(*[st.booleans()] * 6), st.sampled_from(INTEGERS), st.integers(0, 2**31))
@settings(max_examples=80, deadline=None)
def test_indices_and_their_ranges(sizes, broadcast, dtype, seed):
    full = (BATCH, HEADS, sizes[0], BATCH, HEADS, sizes[1])
    shape = [1 if one else size for one, size in zip(broadcast, full, strict=True)]
    generator = torch.Generator().manual_seed(seed)
    q_idx, k_idx = (
        torch.randint(0 if dtype is torch.uint8 else -50, 50, part, generator=generator).to(dtype)
        for part in (shape[:3], shape[3:])
    )
    pattern = IndexCausal(q_idx, k_idx)
    mask = pattern.to_dense(*sizes)
    expected = dense_mask(pattern, None, None)
    assert torch.equal(mask, expected.expand(-1, -1, *sizes))
    name, ints, tensors = pattern.encode(Extent(BATCH, HEADS, *sizes, CPU))
    assert (name, ints) == ("index_causal", [])
    assert all(t.dtype == torch.int32 and t.is_contiguous() for t in tensors)
    assert torch.equal((tensors[1][..., None, :] <= tensors[0][..., :, None]).expand_as(mask), mask)
    for index, ranges, given_index, length in zip(tensors[:2], tensors[2:], (q_idx, k_idx), sizes, strict=True):
        assert dtype is torch.int64 or torch.equal(index, given_index.int().expand(-1, -1, length))
        assert ranges.shape == (*index.shape[:2], -(-length // 64), 2)
        for n in range(ranges.shape[2]):
            tile = index[..., 64 * n : 64 * n + 64]
            assert torch.equal(ranges[..., n, 0], tile.amin(-1)) and torch.equal(ranges[..., n, 1], tile.amax(-1))


def test_positions_are_causal():
    q_idx, k_idx = torch.arange(5) + 2, torch.arange(7)
    assert torch.equal(IndexCausal(q_idx, k_idx).to_dense(5, 7), Causal().to_dense(5, 7))


def test_texts_and_comparison():
    mask = torch.ones(2, 1, 4, 5, dtype=torch.bool)
    assert repr(ElementMask(mask)) == "ElementMask(mask=<bool (2, 1, 4, 5)>)"
    sparse = ElementMask.from_csr(torch.tensor([0, 1]), torch.tensor([2]), 1, 3)
    assert repr(sparse) == "ElementMask.from_csr(crow=<(2,)>, col=<(1,)>, Nq=1, Nk=3)"
    index = IndexCausal(torch.zeros(3, dtype=torch.int16), torch.zeros(2, 4, dtype=torch.long))
    assert repr(index) == "IndexCausal(q_idx=<int16 (3,)>, k_idx=<int64 (2, 4)>)"
    assert ElementMask(mask) != ElementMask(mask) and sparse == sparse and len({index, sparse}) == 2
    assert not sparse.is_causal() and not index.is_causal() and index.band() is None


def ints(*values):
    return torch.tensor(values)


csr = ElementMask.from_csr


ONES = torch.ones(4, 5, dtype=torch.bool)
EXTENT = Extent(2, 3, 4, 5, CPU)
PACKED = Extent(2, 3, 4, 5, CPU, cu_seqlens_k=torch.tensor([0, 2, 5], dtype=torch.int32))


@pytest.mark.parametrize(
    "make,error,text",
    [
        (lambda: ElementMask(ONES.int()), TypeError, "mask: expected dtype torch.bool, got torch.int32"),
        (lambda: ElementMask([[True]]), TypeError, "mask: expected a tensor, got list"),
        (lambda: ElementMask(ONES[0]), ValueError, "mask: expected 2 to 4 dimensions"),
        (lambda: ElementMask(None), ValueError, "mask: expected a tensor, or None where"),
        (lambda: ElementMask(ONES).to_dense(4, 6), ValueError, r"mask: \(4, 5\) does not broadcast to \(4, 6\)"),
        (lambda: ElementMask(ONES).encode(Extent(2, 3, 5, 5, CPU)), ValueError, r"does not broadcast to \(5, 5\)"),
        (lambda: ElementMask(ONES.expand(2, 2, 4, 5)).encode(EXTENT), ValueError, r"\(2, 2\) does not broadcast"),
        (lambda: ElementMask(ONES.to("meta")).encode(EXTENT), ValueError, "mask: expected the inputs' device cpu"),
        (lambda: ElementMask(ONES).encode(PACKED), ValueError, "ElementMask: .* packed sequences"),
        (lambda: csr(ints(0, 1).float(), ints(0), 1, 3), TypeError, "crow: expected int32 or int64"),
        (lambda: csr(ints(0, 1), ints(0).bool(), 1, 3), TypeError, "col: expected int32 or int64"),
        (lambda: csr(ints(0, 1), 0, 1, 3), TypeError, "col: expected a tensor, got int"),
        (lambda: csr(ints(0, 1), ints(0), 2, 3), ValueError, "crow: expected 3 offsets for 2 rows"),
        (lambda: csr(ints(0, 1)[None], ints(0), 1, 3), ValueError, "col: expected crow's batches"),
        (lambda: csr(ints(0, 1), ints(3), 1, 3), ValueError, "col: expected columns from 0 to 2, got 3 to 3"),
        (lambda: csr(ints(0, 1), ints(0), -1, 3), ValueError, "Nq: expected at least 0"),
        (lambda: csr(ints(0, 1), ints(0), 1, 3.0), TypeError, "Nk: expected an int"),
        (lambda: csr(ints(0, 1), ints(0), 1, 3).to_dense(1, 4), ValueError, r"made for \(Nq, Nk\) = \(1, 3\)"),
        (lambda: IndexCausal(ints(1).float(), ints(1)), TypeError, "q_idx: expected an integer dtype, got torch.f"),
        (lambda: IndexCausal(ints(1), ints(1).bool()), TypeError, "k_idx: expected an integer dtype, got torch.bool"),
        (lambda: IndexCausal([1], ints(1)), TypeError, "q_idx: expected a tensor, got list"),
        (lambda: IndexCausal(ints(1)[0], ints(1)), ValueError, "q_idx: expected 1 to 3 dimensions"),
        (lambda: IndexCausal(ints(1), ints(1).to("meta")), ValueError, "k_idx: expected the inputs' device cpu"),
        (lambda: IndexCausal(ints(1, 2), ints(1)).to_dense(3, 1), ValueError, r"q_idx: \(2,\) does not broadcast"),
        (lambda: IndexCausal(ints(1), ints(1, 2)).encode(EXTENT), ValueError, r"k_idx: \(2,\) does not broadcast"),
        (lambda: IndexCausal(ints(1).expand(4, 1, 1), ints(1)).encode(EXTENT), ValueError, r"q_idx: \(4, 1\) does"),
        (lambda: IndexCausal(ints(1), ints(1)).encode(PACKED), ValueError, "IndexCausal: .* packed sequences"),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_errors_name_the_argument(make, error, text):
    with pytest.raises(error, match=text):
        make()
