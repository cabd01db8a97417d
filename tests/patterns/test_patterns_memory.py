"""What building a pattern's metadata takes: of the order of the blocks and words that the call touches."""

import itertools

import pytest
import torch

import splash_attention as sa
from splash_attention.patterns import Extent

CPU = torch.device("cpu")
KIB, MIB = 2**10, 2**20
pytestmark = pytest.mark.usefixtures("one_thread")


def peak_of(make):
    """Bytes that Torch's allocator holds at most for what is made, and those of the result."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        made = make()
    events = (event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]")
    held = itertools.accumulate(event.nbytes() for event in sorted(events, key=lambda event: event.start_ns()))
    return max(held, default=0), sum(tensor.nbytes for tensor in made)


def check(make, result, peak):
    """make() holds at most `peak` bytes, and what it returns `result`."""
    make()  # what is made once for all is not the call's
    most, kept = peak_of(make)
    assert kept <= result, f"the result has {kept / MIB:.2f} MiB"
    assert most <= peak, f"{most / MIB:.2f} MiB at the peak"
    assert most >= kept


def packed(lengths, longest, queries=None):
    ends = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    of_queries = ends if queries is None else torch.tensor([0, *itertools.accumulate(queries)], dtype=torch.int32)
    own = {"cu_seqlens_q": of_queries, "cu_seqlens_k": ends, "rows": int(of_queries[-1]), "columns": int(ends[-1])}
    return Extent(len(lengths), 8, int(of_queries.diff().max()), longest, CPU, **own)


def test_the_measure_sees_temporaries():
    most, kept = peak_of(lambda: [torch.zeros(MIB).sum()])
    assert 4 * MIB <= most < 5 * MIB and kept == 4


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("tiny", [63, 400, 4000])
def test_tiny_sequences_beside_a_long_one(tiny, causal):
    """One of 131072 needs 0.5 MiB a table; it took 565 MiB with 63 others and 3.7 GiB with 400."""
    extent = packed([9] * tiny + [131072], 131072)
    lines = 131072 // 64 + 2.2 * tiny + 16
    needed = 2 * lines * 64 * 4
    check(lambda: sa.BigBird(causal=causal).encode(extent).tensors, needed, 5 * needed)
    check(lambda: sa.BigBird(causal=causal).encode(extent._replace(backward=False)).tensors, needed, 5 * needed)


def test_an_announced_length_costs_nothing():
    """max_seqlen may be any upper bound."""
    check(lambda: sa.BigBird().encode(packed([100, 30], 2**29)).tensors, KIB, 8 * KIB)


@pytest.mark.parametrize("q_start, k_start", [(262144, 262144), (2**28, 2**28), (2**29 - 64, 2**29 - 64), (5, 2**28)])
def test_slices_build_their_own_blocks(q_start, k_start):
    """64 tokens at position 262144 took 579 MiB."""
    for seed in range(2):
        pattern = sa.BigBird(length=2**29, seed=q_start + seed, per_head=True)
        extent = Extent(1, 8, 64, 64, CPU, k_start=k_start, q_start=q_start)
        check(lambda pattern=pattern, extent=extent: pattern._bits(extent, 2**29, 8), KIB, 24 * KIB)
    few = Extent(1, 8, 64, 262144, CPU)
    check(lambda: sa.BigBird()._bits(few, 262144, 1), 40 * KIB, 640 * KIB)


def test_caches():
    """One query of each of 64 sequences meets a row of blocks, not the square of the cache."""
    held = torch.randint(0, 131073, (64,), dtype=torch.int32)
    extent = Extent(64, 8, 1, 131072, CPU, kv_lengths=held, backward=False)
    # Forward only: a row of 64 words for each, and a word for each column of one of them.
    check(lambda: sa.BigBird().encode(extent).tensors, 64 * 64 * 4 + 2048 * 4, 256 * KIB)
    # Backward: also a word for each of their columns.
    with_backward = extent._replace(backward=True)
    check(lambda: sa.BigBird().encode(with_backward).tensors, 64 * 64 * 4 + 64 * 2048 * 4, 9 * MIB)


def test_padded_batches():
    lengths = torch.randint(0, 8193, (16,), dtype=torch.int32)
    extent = Extent(16, 8, 8192, 8192, CPU, lengths=lengths)
    needed = 2 * 16 * 128 * 4 * 4
    check(lambda: sa.BigBird().encode(extent).tensors, needed, 8 * needed)


@pytest.mark.parametrize("heads", [1, 8])
def test_one_long_sequence(heads):
    extent = Extent(1, heads, 131072, 131072, CPU)
    needed = 2 * heads * MIB / 2
    check(lambda: sa.BigBird(per_head=True)._bits(extent, 131072, heads), needed, 5 * needed + MIB)


def random_mask(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.7


N = 8192
MASKS = {
    "keys": lambda: random_mask(4, 1, 1, N),
    "keys expanded": lambda: random_mask(4, 1, 1, N).expand(4, 8, N, N),
    "queries": lambda: random_mask(4, 1, N, 1),
    "queries expanded": lambda: random_mask(4, 1, N, 1).expand(4, 8, N, N),
    "one": lambda: random_mask(1, 1, 1, 1),
    "lengths": lambda: torch.arange(N) < torch.tensor([N, 100, 64, 0])[:, None, None, None],
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_that_broadcast(name):
    """32 KiB for four rows of keys took 546 MiB; an entry for each of 4 * 128 * 128 tiles are 256 KiB."""
    pattern, extent = sa.ElementMask(MASKS[name]()), Extent(4, 8, N, N, CPU)
    check(lambda: pattern.encode(extent).tensors, 640 * KIB, 2 * MIB)


def test_masks_expanded_over_heads_are_packed_once():
    mask = random_mask(2, 1, 1000, 1000)
    pattern, extent = sa.ElementMask(mask.expand(2, 8, -1, -1)), Extent(2, 8, 1000, 1000, CPU)
    alone = sa.ElementMask(mask).encode(extent).tensors
    assert all(torch.equal(a, b) for a, b in zip(pattern.encode(extent).tensors, alone, strict=True))
    check(lambda: pattern.encode(extent).tensors, 300 * KIB, 6 * MIB)
    blocks = random_mask(2, 1, 63, 63)
    pattern, alone = sa.BlockMask(blocks.expand(2, 8, -1, -1), 16), sa.BlockMask(blocks, 16)
    assert all(torch.equal(*pair) for pair in zip(pattern.tensors(extent), alone.tensors(extent), strict=True))


def test_a_dense_mask_is_copied_at_most_once():
    mask = random_mask(1, 1, 4096, 4096)
    extent = Extent(1, 8, 4096, 4096, CPU)
    check(lambda: sa.ElementMask(mask).encode(extent).tensors, 2.1 * MIB, 24 * MIB)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2048), (1, 1, 2048, 1), (1, 1, 1, 1)])
def test_block_masks_that_broadcast(shape):
    """131072 tokens in blocks of 64: half a MiB of bits each way, and not 4 MiB of bools several times."""
    pattern, extent = sa.BlockMask(random_mask(*shape), 64), Extent(1, 1, 131072, 131072, CPU)
    check(lambda: pattern.encode(extent).tensors, MIB, 1.2 * MIB)


def test_block_masks():
    pattern, extent = sa.BlockMask(random_mask(1, 1, 2048, 2048), 64), Extent(1, 1, 131072, 131072, CPU)
    check(lambda: pattern.encode(extent).tensors, MIB, 12 * MIB)


def test_indices():
    index, extent = torch.arange(131072) + 2**40, Extent(1, 8, 131072, 131072, CPU)
    check(lambda: sa.IndexCausal(index, index).encode(extent).tensors, 1.1 * MIB, 8 * MIB)
    check(lambda: sa.IndexCausal(index[-1:], index).encode(extent._replace(queries=1)).tensors, 0.6 * MIB, 4 * MIB)


def test_single_tokens():
    """Bits up to the last position that the call has, and a list of tokens otherwise."""
    pattern = sa.Longformer(16, (0, 2**29 - 1, 2**28 + 5))
    check(lambda: pattern._words(4), KIB, 2 * KIB)
    assert pattern.encode(Extent(1, 1, 64, 262144, CPU)).tensors[0].nbytes == 32 * KIB


def test_chosen_blocks():
    """No copy of q or k in float32, and no 64-bit index for every pair of blocks."""
    q = torch.randn(1, 8, 16384, 32, dtype=torch.bfloat16)
    bools = 8 * 256 * 256
    check(lambda: [sa.top_k_blocks(q, q, 64, 8, causal=False).mask], bools, 21 * bools)
