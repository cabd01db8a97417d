"""Outputs between guards: what a kernel writes beside them, or leaves of them, shows."""

import torch

ROUNDING = 512  # bytes: Torch's CUDA allocator hands out multiples of it
SMALL, LARGE = 2**20, 2**26  # bytes: it keeps blocks up to SMALL apart from others; LARGE is enough for every test
GUARD, FRESH = 0x5A, 0xFF  # FRESH bytes are NaN in every float dtype


def between_guards(device, sizes, call):
    """Copies of call()'s tensors, which have these numbers of bytes and on CUDA lie between guards, in NaN memory.

    Torch's allocator takes the smallest free block that fits: one of a pool of which only blocks of the right sizes,
    filled with NaN, are free among guards. `call` must allocate nothing before its results. Fails where a guard, or
    the rest of a block behind its tensor, changes. On the CPU, where tests/memory has other means, it only calls.
    """
    if device != "cuda" or max(sizes) > LARGE or not all(sizes):
        return call()
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        if max(sizes) > SMALL:
            filled(FRESH, sum(sizes) + 32 * SMALL)  # free again at once: large blocks become neighbours in it
        guards, blocks = [], []
        for size in sizes:
            guards.append(filled(GUARD, guard(size)))
            blocks.append(filled(FRESH, rounded(size)))
            guards.append(filled(GUARD, guard(size)))
        places = {block.data_ptr(): size for block, size in zip(blocks, sizes, strict=True)}
        blocks.clear()
        results = call()
        where = [result.data_ptr() for result in results]
    copies = [result.clone() for result in results]
    del results
    assert set(where) == set(places), "outputs are not where the guards are"
    with torch.cuda.use_mem_pool(pool):
        blocks = [torch.empty(rounded(size), dtype=torch.uint8, device="cuda") for size in sizes]
    assert torch.cat(guards).eq(GUARD).all(), "written outside of the outputs"
    for block in blocks:
        if block.data_ptr() in places:
            assert block[places[block.data_ptr()] :].eq(FRESH).all(), "written behind an output"
    del guards, blocks, block  # before their pool
    return copies


def filled(value, size):
    return torch.full((size,), value, dtype=torch.uint8, device="cuda")


def rounded(size):
    return -(-size // ROUNDING) * ROUNDING


def guard(size):
    """Bytes of a guard, so that it comes from where a block of `size` comes from."""
    return ROUNDING if rounded(size) <= SMALL else 2 * SMALL
