"""How large a problem is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True)
class Sizes:
    """dtype: a name of DTYPES. queries: the last positions of the sequence, None for all of them.

    ValueError where the heads do not fit the key/value heads, or there are more queries than positions.
    """

    batch: int = 1
    heads: int = 8
    kv_heads: int = 8
    seq_len: int = 8192
    head_dim: int = 64
    dtype: str = "float32"
    queries: int | None = None

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"heads: expected a multiple of the {self.kv_heads} key/value heads, got {self.heads}")
        if self.rows > self.seq_len:
            raise ValueError(f"queries: expected at most the {self.seq_len} positions, got {self.queries}")

    @property
    def rows(self) -> int:
        """Queries of a head."""
        return self.seq_len if self.queries is None else self.queries

    @property
    def square(self) -> bool:
        """Whether there are as many queries as keys."""
        return self.rows == self.seq_len

    def __str__(self) -> str:
        kv = "" if self.kv_heads == self.heads else f" Hkv{self.kv_heads}"
        queries = "" if self.queries is None else f" Nq{self.queries}"
        return f"B{self.batch} H{self.heads}{kv}{queries} N{self.seq_len} D{self.head_dim} {self.dtype}"

    def words(self) -> list[str]:
        """The options that ask for these sizes."""
        return [
            *([] if self.queries is None else ["--queries", str(self.queries)]),
            *("--batch", str(self.batch), "--heads", str(self.heads), "--kv-heads", str(self.kv_heads)),
            *("--seq-len", str(self.seq_len), "--head-dim", str(self.head_dim), "--dtype", self.dtype),
        ]
