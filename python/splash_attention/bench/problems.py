"""What is measured: sizes, a family with its numbers, a normalizer; and the problems that have names."""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass, field, replace

import torch

from .choices import Choice
from .families import FAMILIES, Family

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
INPUTS = ("iid1", "iid4", "local")


@dataclass(frozen=True)
class Sizes:
    """dtype: a name of DTYPES. ValueError where the heads do not fit the key/value heads."""

    batch: int = 1
    heads: int = 8
    kv_heads: int = 8
    seq_len: int = 8192
    head_dim: int = 64
    dtype: str = "float32"

    def __post_init__(self):
        if self.heads % self.kv_heads:
            raise ValueError(f"heads: expected a multiple of the {self.kv_heads} key/value heads, got {self.heads}")

    def __str__(self) -> str:
        kv = "" if self.kv_heads == self.heads else f" Hkv{self.kv_heads}"
        return f"B{self.batch} H{self.heads}{kv} N{self.seq_len} D{self.head_dim} {self.dtype}"

    def words(self) -> list[str]:
        """The options that ask for these sizes."""
        return [
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


def named(name: str, family: str, sizes: Sizes, inputs: str = "iid1", normalizer: Choice | None = None, **numbers):
    """A problem of `bench run`."""
    kind = FAMILIES[family]
    unknown = numbers.keys() - kind.defaults().keys()
    if unknown:
        raise ValueError(f"{family}: has no {', '.join(sorted(unknown))}")
    return Problem(
        kind,
        kind.defaults() | numbers,
        sizes,
        normalizer or Choice(kind.normalizer, 1.5 if kind.normalizer == "entmax" else 1),
        inputs,
        name=name,
        named=True,
    )


def half(batch: int, heads: int, length: int, dim: int) -> Sizes:
    return Sizes(batch, heads, heads, length, dim, "bfloat16")


def _dense():
    for dim, heads in ((64, 32), (128, 16)):
        for label, causal in (("full", False), ("causal", True)):
            for batch, length in ((8, 2048), (2, 8192), (1, 16384)):
                name = f"D{dim} {label} B{batch} H{heads} N{length}"
                yield named(name, "dense", half(batch, heads, length, dim), causal=causal)


# The pattern table of shared/ANCHORS.md, and the families that no peer has.
PATTERNS = (
    ("window256-causal", "window", {"window": 256}),
    ("window1024-causal", "window", {"window": 1024}),
    ("window4096-causal", "window", {"window": 4096}),
    ("window+-512", "window", {"window": 512, "symmetric": True}),
    ("sink16+window64", "streaming", {"sink": 16, "window": 64}),
    ("sink4+window4096", "streaming", {"sink": 4, "window": 4096}),
    ("blockdiag16-causal", "block-diagonal", {"block": 16}),
    ("blockdiag128-causal", "block-diagonal", {"block": 128}),
    ("blockdiag1024-causal", "block-diagonal", {"block": 1024}),
    ("bigbird b64 w3 g2 r3", "bigbird", {"block": 64, "window": 3, "first": 2, "last": 0, "random": 3}),
    ("dilated8 window512x8-causal", "dilated", {"window": 512, "dilation": (8,)}),
    ("strided128 local128", "strided", {"local": 128, "stride": 128}),
    ("fixed128 summary8", "fixed", {"stride": 128, "summary": 8}),
    ("longformer window256 global64", "longformer", {"window": 256, "global_tokens": 64}),
    ("index-causal stretch4", "index-causal", {"stretch": 4}),
    ("longnet 2048:1 8192:4 32768:16", "longnet", {"segment": (2048, 8192, 32768), "rate": (1, 4, 16)}),
    ("lazy window512", "lazy", {"window": 512}),
    ("top-k64", "top-k", {}),
)


def _patterns():
    for label, family, numbers in PATTERNS:
        for length in (32768, 131072):
            yield named(f"{label} N{length}", family, half(1, 16, length, 128), **numbers)
    for block in (64, 128):
        for density in (0.05, 0.2):
            name = f"random blocks {block} density {density} full N32768"
            yield named(name, "block-mask", half(1, 16, 32768, 128), block=block, density=density)


def _entmax():
    for inputs in INPUTS:
        for batch, length in ((8, 2048), (2, 8192), (1, 32768)):
            name = f"a1.5 causal {inputs} B{batch} H16 N{length} D64"
            yield named(name, "entmax", half(batch, 16, length, 64), inputs)


PROBLEMS = {problem.name: problem for problem in (*_dense(), *_patterns(), *_entmax())}


def with_seed(problem: Problem, seed: int, **sizes: str) -> Problem:
    """A named problem with another seed or dtype, still called by its name."""
    return replace(problem, seed=seed, sizes=replace(problem.sizes, **sizes))


def find(names: list[str]) -> list[Problem]:
    """The problems with these names or shell patterns, each once. ValueError for one that names none."""
    found = {}
    for name in names:
        matches = [problem for problem in PROBLEMS.values() if fnmatch.fnmatchcase(problem.name, name)]
        if not matches:
            raise ValueError(f"no problem is called {name!r}; `bench list` names them all")
        found |= {problem.name: problem for problem in matches}
    return list(found.values())
