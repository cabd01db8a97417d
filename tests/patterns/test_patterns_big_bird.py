"""BigBird's draw: known values, statistics, heads, slices, packed sequences, and the bits that C++ reads."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splash_attention.patterns import BigBird, Extent, draw
from splash_attention.reference.big_bird import big_bird_blocks

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def unpack(words, length):
    bits = words[..., None] >> torch.arange(32, dtype=torch.int32) & 1
    return bits.bool().flatten(-2)[..., :length]


def kept_blocks(pattern, blocks, heads=1):
    """bool (heads, blocks, blocks), by one element of each block: its last row and its first column."""
    length = blocks * pattern.block
    dense = pattern.to_dense(length, length, heads=heads)
    return dense[0, :, pattern.block - 1 :: pattern.block, :: pattern.block]


KNOWN_MIX = {0x0: 0x0, 0x1: 0x688990C0, 0xFFFFFFFF: 0x6768824A, 0xDEADBEEF: 0xE628C683}
KNOWN_DRAWS = {
    (0, 0, 0, 0): 1453340664,
    (0, 0, 5, 2): 1191091553,
    (123456789012345, 3, 1000, 1): 3471036068,
    (2**64 - 1, 31, 2**20, 7): 2942058615,
}


def test_the_hash_has_known_values():
    for word, expected in KNOWN_MIX.items():
        assert draw.mix(word) == expected and draw.mix(torch.tensor(word)).item() == expected
    for (seed, head, row, number), expected in KNOWN_DRAWS.items():
        word = draw.stream(seed, torch.tensor([[head]]), torch.tensor([row]))
        assert word.item() == draw.stream(seed, head, row)
        assert draw.draws(word, 9)[number].item() == expected


def test_known_blocks():
    mask = kept_blocks(BigBird(seed=7), 12)[0]
    further = {1: (4, 7, 9), 2: (4, 6, 10), 3: (5, 9, 10), 4: (1, 2, 7), 5: (1, 3, 9), 6: (2, 8, 10), 10: (2, 3, 6)}
    for row, columns in further.items():
        assert set(mask[row].nonzero().flatten().tolist()) == {0, row - 1, row, row + 1, 11, *columns}
    assert mask[0].all() and mask[11].all()
    mask = kept_blocks(BigBird(seed=7, causal=True), 12)[0]
    for row, columns in {5: (1, 2, 3), 6: (1, 2, 4), 7: (1, 4, 5), 8: (1, 5, 6), 9: (1, 4, 5), 10: (2, 3, 6)}.items():
        assert set(mask[row].nonzero().flatten().tolist()) == {0, row - 1, row, *columns}
    assert mask[11].all()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "window,first,last,random", [(3, 1, 1, 3), (1, 0, 0, 2), (5, 2, 3, 7), (1, 0, 4, 40), (7, 6, 0, 1)]
)
def test_every_row_draws_as_many_as_it_can(causal, window, first, last, random):
    blocks, heads = 23, 5
    pattern = BigBird(4, window, first, last, random, seed=1, per_head=True, causal=causal)
    mask = kept_blocks(pattern, blocks, heads)
    for row in range(blocks):
        allowed = range(row + 1) if causal else range(blocks)
        structural = {
            column
            for column in allowed
            if abs(column - row) <= window // 2 or column < first or column >= blocks - last
        }
        whole = row < first or row >= blocks - last
        expected = len(allowed) if whole else len(structural) + min(random, len(allowed) - len(structural))
        for head in range(heads):
            kept = set(mask[head, row].nonzero().flatten().tolist())
            assert structural <= kept <= set(allowed) and len(kept) == expected


def chi_square(counts, classes):
    expected = sum(counts.values()) / classes
    unseen = (classes - len(counts)) * expected
    return sum((count - expected) ** 2 / expected for count in counts.values()) + unseen


@pytest.mark.parametrize("causal,row", [(False, 5), (True, 11)])
def test_every_set_of_blocks_is_equally_likely(causal, row):
    """Chi-square over all sets of three blocks, which each head and seed draws anew; six sigma of its distribution."""
    blocks, heads, counts = 12, 512, Counter()
    for seed in range(40):
        pattern = BigBird(1, 1, 0, 0, 3, seed=seed * 0x1_0000_0001, per_head=True, causal=causal)
        mask = kept_blocks(pattern, blocks, heads)[:, row]
        mask[:, row] = False
        counts.update(map(tuple, mask.nonzero()[:, 1].view(heads, 3).tolist()))
    classes = math.comb(11, 3)
    assert abs(chi_square(counts, classes) - (classes - 1)) < 6 * math.sqrt(2 * (classes - 1))


def test_rows_draw_apart_from_each_other():
    """How often two neighbouring rows take the same far block: as often as chance does."""
    pattern = BigBird(1, 1, 0, 0, 4, per_head=True, seed=3)
    mask = kept_blocks(pattern, 200, 64)
    mask.diagonal(dim1=1, dim2=2).fill_(False)
    shared = (mask[:, :-1] & mask[:, 1:]).sum().item()
    expected = 64 * 199 * 4 * 4 / 199
    assert abs(shared - expected) < 6 * math.sqrt(expected)


def test_heads_and_seeds_draw_anew():
    one = kept_blocks(BigBird(4), 40, 8)
    assert one.shape[0] == 1 and torch.equal(one, kept_blocks(BigBird(4, per_head=True), 40, 1))
    each = kept_blocks(BigBird(4, per_head=True), 40, 8)
    assert each.shape[0] == 8
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(each, 2))
    assert torch.equal(each[:3], kept_blocks(BigBird(4, per_head=True), 40, 3))
    seeds = [kept_blocks(BigBird(4, seed=seed), 40) for seed in (0, 1, 2**32, 2**63)]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(seeds, 2))


def expected_tables(pattern, length, head, rows, columns):
    """bool (rows, columns) of the blocks that a problem touches, by the reference's sets."""
    kept = big_bird_blocks(pattern, length, head)
    return torch.tensor([[column in kept.get(row, ()) for column in columns] for row in rows], dtype=torch.bool)


def touched(start, count, block):
    """The blocks of positions from 0 on; those before 0 count as 0."""
    return sorted({max(0, position) // block for position in range(start, start + count)})


@given(
    st.integers(1, 9),
    st.sampled_from((1, 3, 5)),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 300),
    st.none() | st.integers(0, 300),
    st.integers(-60, 400),
    st.integers(-60, 300),
)
@settings(max_examples=100, deadline=None)
def test_bits_are_those_of_the_blocks(block, window, numbers, per_head, causal, keys, length, q_start, k_start):
    pattern = BigBird(block, window, *numbers, per_head=per_head, causal=causal, length=length)
    extent = Extent(2, 3, 50, keys, CPU, k_start=k_start, q_start=q_start)
    name, ints, (by_row, by_column) = pattern.encode(extent)
    end = 2**30 if length is None else -(-length // block) * block
    length = max(0, keys + k_start) if length is None else length
    assert (name, ints, by_row.dtype) == ("big_bird", [block, int(causal), *numbers[:2], end], torch.int32)
    heads = by_row.shape[1]
    assert heads in ((1, 3) if per_head and numbers[2] else (1,))  # without a draw they do not differ
    rows, columns = touched(q_start, 50, block), touched(k_start, keys, block)
    assert by_row.shape == (1, heads, len(rows), -(-len(columns) // 32))
    assert by_column.shape == (1, heads, len(columns), -(-len(rows) // 32))
    assert by_row.is_contiguous() and by_column.is_contiguous()
    for head in range(3 if per_head else 1):
        expected = expected_tables(pattern, length, head, rows, columns)
        at = head if heads > 1 else 0
        assert torch.equal(unpack(by_row, len(columns))[0, at], expected.view(len(rows), len(columns)))
        assert torch.equal(unpack(by_column, len(rows))[0, at], expected.view(len(rows), len(columns)).T)


def ragged(lengths):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


def packed_extent(heads, queries, keys, ends, rows=None, columns=None):
    own = {"rows": rows or int(ends[0][-1]), "columns": columns or int(ends[1][-1])}
    return Extent(len(ends[0]) - 1, heads, queries, keys, CPU, cu_seqlens_q=ends[0], cu_seqlens_k=ends[1], **own)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("random", [0, 1, 2])
def test_packed_sequences_have_their_own_blocks(causal, per_head, random):
    queries, keys = [100, 0, 1, 200, 64, 30], [100, 0, 1, 333, 64, 5]
    pattern = BigBird(16, 3, 1, 2, random, seed=5, causal=causal, per_head=per_head)
    ends = ragged(queries), ragged(keys)
    name, ints, (by_row, by_column) = pattern.encode(packed_extent(4, 400, 333, ends))
    heads = 4 if per_head and random else 1
    assert (name, ints) == ("big_bird", [16, int(causal), 1, 2, 2**30])
    assert by_row.shape == (heads, 395 // 16 + 12, 1) and by_column.shape == (heads, 503 // 16 + 12, 1)
    for b, (Nq, Nk) in enumerate(zip(queries, keys, strict=True)):
        rows, columns = touched(Nk - Nq, Nq, 16), touched(0, Nk, 16)
        begins = [int(end[b]) // 16 + 2 * b for end in ends]
        for head in range(heads):
            expected = expected_tables(pattern, Nk, head, rows, columns).view(len(rows), len(columns))
            own = unpack(by_row[head, begins[0] :][: len(rows)], 32)
            assert torch.equal(own[:, : len(columns)], expected) and not own[:, len(columns) :].any()
            own = unpack(by_column[head, begins[1] :][: len(columns)], 32)
            assert torch.equal(own[:, : len(rows)], expected.T)


def test_packed_offsets_that_make_no_sense_stay_in_bounds():
    offsets = torch.tensor([50, 20, 2**31 - 1, -(2**31)], dtype=torch.int32)
    tensors = BigBird(16).encode(packed_extent(2, 64, 64, (offsets, offsets.flip(0)), 70, 90)).tensors
    assert [t.shape for t in tensors] == [(1, 10, 1), (1, 11, 1)]
    with pytest.raises(ValueError, match="length: packed sequences have their own, got 99 too"):
        BigBird(16, length=99).encode(packed_extent(2, 64, 64, (offsets, offsets)))


@pytest.mark.parametrize("length", [None, 300])
@pytest.mark.parametrize("causal", [False, True])
def test_batch_entries_have_their_own_blocks(causal, length):
    pattern = BigBird(16, 3, 1, 2, 2, seed=5, causal=causal, length=length)
    held = torch.tensor([500, 0, 77, 2**31 - 1, -3, 16], dtype=torch.int32)
    cached = Extent(6, 2, 33, 500, CPU, k_start=20, kv_lengths=held)
    by_row, by_column = pattern.encode(cached).tensors
    assert by_row.shape == (6, 1, 3, 1) and by_column.shape == (6, 1, 32, 1)
    for b, keys in enumerate((500, 0, 77, 500, 0, 16)):
        end = 20 + keys if length is None else length
        rows, columns = touched(20 + keys - 33, 33, 16), touched(20, 500, 16)
        expected = expected_tables(pattern, end, 0, rows, columns)
        assert torch.equal(unpack(by_row, 32)[b, 0, : len(rows)], expected)
        assert torch.equal(unpack(by_column, len(rows))[b, 0], expected.T)
    padded = Extent(6, 2, 500, 500, CPU, k_start=20, q_start=20, lengths=held)
    by_row, by_column = pattern.encode(padded).tensors
    shared = length is not None
    assert by_row.shape == by_column.shape == (1 if shared else 6, 1, 32, 1)
    for b, end in enumerate((500, 0, 77, 2**31 - 1, 0, 16)[: len(by_row)]):
        if end <= 500:
            blocks = touched(20, 500, 16)
            expected = expected_tables(pattern, length or end, 0, blocks, blocks)
            assert torch.equal(unpack(by_row, 32)[b, 0], expected) and torch.equal(
                unpack(by_column, 32)[b, 0], expected.T
            )


def test_without_a_backward_every_row_may_see_a_block():
    with_backward = BigBird(8).encode(Extent(1, 2, 300, 300, CPU))
    without = BigBird(8).encode(Extent(1, 2, 300, 300, CPU, backward=False))
    assert torch.equal(with_backward.tensors[0], without.tensors[0])
    assert without.tensors[1].shape == (1, 1, 38, 2) and (without.tensors[1] == -1).all()


def test_no_keys_and_more_draws_than_blocks():
    assert BigBird().encode(Extent(1, 1, 5, 0, CPU)).tensors[0].shape == (1, 1, 1, 0)
    assert BigBird().encode(Extent(1, 1, 0, 5, CPU)).tensors[0].shape == (1, 1, 0, 1)
    assert BigBird().to_dense(5, 0).shape == (1, 1, 5, 0)
    assert not BigBird().to_dense(5, 3, k_start=-9).any()
    assert BigBird(4, 1, 0, 0, random=2**30).to_dense(30, 30).all()
