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


@given(
    st.integers(1, 9),
    st.sampled_from((1, 3, 5)),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 300),
    st.none() | st.integers(0, 300),
)
@settings(max_examples=100, deadline=None)
def test_bits_are_those_of_the_blocks(block, window, numbers, per_head, causal, keys, length):
    pattern = BigBird(block, window, *numbers, per_head=per_head, causal=causal, length=length)
    name, ints, (by_row, by_column) = pattern.encode(Extent(2, 3, 50, keys, CPU, k_start=20))
    assert (name, ints, by_row.dtype) == ("big_bird", [block, int(causal), *numbers[:2]], torch.int32)
    length = keys + 20 if length is None else length
    blocks = -(-length // block)
    heads = 3 if per_head and numbers[2] and blocks else 1  # without a draw they do not differ
    assert by_row.shape == by_column.shape == (1, heads, blocks, -(-blocks // 32))
    assert by_row.is_contiguous() and by_column.is_contiguous()
    assert torch.equal(unpack(by_row, blocks), unpack(by_column, blocks).transpose(2, 3))
    for head in range(heads):
        of_row = big_bird_blocks(pattern, length, head)
        lines = unpack(by_row, blocks)[0, head]
        assert {row: frozenset(lines[row].nonzero().flatten().tolist()) for row in range(blocks)} == of_row


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("random", [0, 1, 2])
def test_packed_sequences_have_their_own_blocks(causal, per_head, random):
    lengths = [100, 0, 1, 333, 64]
    pattern = BigBird(16, 3, 1, 2, random, seed=5, causal=causal, per_head=per_head)
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    extent = Extent(len(lengths), 4, 400, 333, CPU, cu_seqlens_k=offsets)
    by_row, by_column = pattern.encode(extent).tensors
    heads = 4 if per_head and random else 1
    assert by_row.shape == by_column.shape == (5, heads, 21, 1)
    assert torch.equal(unpack(by_row, 21), unpack(by_column, 21).transpose(2, 3))
    for b, length in enumerate(lengths):
        alone = pattern.encode(Extent(1, 4, length, length, CPU)).tensors[0]
        blocks = alone.shape[2]
        own = unpack(by_row[b : b + 1], 21)[..., :blocks, :blocks]
        assert torch.equal(own, unpack(alone, blocks).expand_as(own))
        assert not unpack(by_row[b], 21)[:, blocks:].any() and not unpack(by_row[b], 21)[..., blocks:].any()


def test_packed_offsets_that_make_no_sense_stay_in_bounds():
    offsets = torch.tensor([50, 20, 2**31 - 1, -(2**31)], dtype=torch.int32)
    by_row, _ = BigBird(16).encode(Extent(3, 2, 64, 64, CPU, cu_seqlens_k=offsets)).tensors
    assert by_row.shape == (3, 1, 4, 1) and not by_row[0].any() and not by_row[2].any()
    assert torch.equal(by_row[1:2], BigBird(16).encode(Extent(1, 2, 64, 64, CPU)).tensors[0])
    with pytest.raises(ValueError, match="length: packed sequences have their own, got 99 too"):
        BigBird(16, length=99).encode(Extent(3, 2, 64, 64, CPU, cu_seqlens_k=offsets))


def test_without_a_backward_every_row_may_see_a_block():
    with_backward = BigBird(8).encode(Extent(1, 2, 300, 300, CPU))
    without = BigBird(8).encode(Extent(1, 2, 300, 300, CPU, backward=False))
    assert torch.equal(with_backward.tensors[0], without.tensors[0])
    assert without.tensors[1].shape == (1, 1, 38, 2) and (without.tensors[1] == -1).all()


def test_no_keys_and_more_draws_than_blocks():
    assert BigBird().encode(Extent(1, 1, 5, 0, CPU)).tensors[0].shape == (1, 1, 0, 0)
    assert BigBird().to_dense(5, 0).shape == (1, 1, 5, 0)
    assert not BigBird().to_dense(5, 3, k_start=-9).any()
    assert BigBird(4, 1, 0, 0, random=2**30).to_dense(30, 30).all()
