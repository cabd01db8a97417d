"""What is measured: sizes, a family with its numbers, a normalizer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from .choices import Choice
from .families import Family

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
INPUTS = ("iid1", "iid4", "local")


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


@dataclass(frozen=True)
class Problem:
    """inputs: of INPUTS. name: what rows call it. named: whether `bench run` knows that name."""

    family: Family
    numbers: dict[str, object]
    sizes: Sizes
    normalizer: Choice
    inputs: str = "iid1"
    seed: int = 0
    name: str = field(default="")
    named: bool = False

    def __post_init__(self):
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs: expected one of {', '.join(INPUTS)}, got {self.inputs!r}")
        if not self.name:
            object.__setattr__(self, "name", f"{self.label} {self.sizes}")

    @property
    def label(self) -> str:
        """The name without sizes."""
        numbers = (f"{name.replace('_', '-')}={_text(value)}" for name, value in self.numbers.items())
        normalizer = [] if self.normalizer.name == "softmax" else [self.normalizer.label]
        return " ".join([self.family.name, *numbers, *normalizer])

    def with_sizes(self, **sizes: int) -> Problem:
        """The same at other sizes, without the name."""
        return replace(self, sizes=replace(self.sizes, **sizes), name="", named=False)

    def words(self) -> list[str]:
        """The words of the command line that ask for this problem."""
        if self.named:
            seed = ["--seed", str(self.seed)] if self.seed else []
            return ["run", self.name, "--dtype", self.sizes.dtype, *seed]
        return [self.family.name, *self.options()]

    def options(self) -> list[str]:
        """All of its options, without the family."""
        words = self.sizes.words()
        for name, value in self.numbers.items():
            words += option_words(name, value)
        words += self.normalizer.words()
        if self.inputs != "iid1":
            words += ["--inputs", self.inputs]
        return [*words, "--seed", str(self.seed)]


def option_words(name: str, value: object) -> list[str]:
    """An option with its value, as the command line takes it."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in (f"--{option}", str(item))]
    return [f"--{option}", str(value)]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
