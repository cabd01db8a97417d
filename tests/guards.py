"""Outputs between guards: what a kernel writes beside them, or leaves of them, shows."""

import torch

ROUNDING = 512  # bytes: Torch's CUDA allocator hands out multiples of it
LARGEST = 2**20  # bytes: above, it takes blocks from elsewhere
GUARD, FRESH = 0x5A, 0xFF  # FRESH bytes are NaN in every float dtype


def between_guards(device, sizes, call):
    """Copies of call()'s tensors, which have these numbers of bytes and on CUDA lie between guards, in NaN memory.

    Torch's allocator takes the smallest free block that fits: one of a pool of which only blocks of the right sizes,
    filled with NaN, are free among guards. Fails where a guard, or the rest of a block behind its tensor, changes. On
    the CPU, where tests/memory has other means, and for large tensors it only makes the call.
    """
    if device != "cuda" or max(sizes) > LARGEST or not all(sizes):
        return call()
    pool = torch.cuda.MemPool()
    with torch.cuda.use_mem_pool(pool):
        guards, blocks = [filled(GUARD, ROUNDING)], []
        for size in sizes:
            blocks.append(filled(FRESH, rounded(size)))
            guards.append(filled(GUARD, ROUNDING))
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
    return copies


def filled(value, size):
    return torch.full((size,), value, dtype=torch.uint8, device="cuda")


def rounded(size):
    return -(-size // ROUNDING) * ROUNDING
