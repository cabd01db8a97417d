"""Runs the chosen calls with every input right before a protected page: a read past its end crashes."""

import ctypes
import mmap

import calls
import torch

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
mappings = []


def place(tensor):
    """A copy with the same layout whose last element is the last before the protected page."""
    transposed = not tensor.is_contiguous()  # (B, N, H, D) seen as (B, H, N, D)
    dense = tensor.transpose(1, 2) if transposed else tensor
    assert dense.is_contiguous()
    size = dense.numel() * dense.element_size()
    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    if libc.mprotect(address + pages, mmap.PAGESIZE, 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    mappings.append(memory)
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=dense.numel(), offset=pages - size).view(dense.shape)
    copy.copy_(dense)
    return copy.transpose(1, 2) if transposed else copy


print(calls.run(place), "calls done")
