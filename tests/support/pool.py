"""Torch's pool of threads."""

import contextlib

import torch


@contextlib.contextmanager
def threads(count):
    """Torch's pool, which splash uses too, has this many threads on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
