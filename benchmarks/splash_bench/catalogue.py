"""The problems that have names, which `bench run` and the tables take."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterator
from dataclasses import replace

from .choices import Choice
from .families import FAMILIES
from .problems import INPUTS, Problem
from .sizes import Sizes


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


def half(batch: int, heads: int, length: int, dim: int, kv_heads: int | None = None, queries: int | None = None):
    return Sizes(batch, heads, kv_heads or heads, length, dim, "bfloat16", queries)


def _dense() -> Iterator[Problem]:
    for dim, heads in ((64, 32), (128, 16)):
        for label, causal in (("full", False), ("causal", True)):
            for batch, length in ((8, 2048), (2, 8192), (1, 16384)):
                name = f"D{dim} {label} B{batch} H{heads} N{length}"
                yield named(name, "dense", half(batch, heads, length, dim), causal=causal)
    for dim, heads in ((32, 32), (96, 16), (192, 8), (256, 8)):
        for label, causal in (("full", False), ("causal", True)):
            name = f"D{dim} {label} B2 H{heads} N8192"
            yield named(name, "dense", half(2, heads, 8192, dim), causal=causal)
    for label, causal in (("full", False), ("causal", True)):
        yield named(f"GQA 32/8 D128 {label} B2 N8192", "dense", half(2, 32, 8192, 128, kv_heads=8), causal=causal)


def _decode() -> Iterator[Problem]:
    """One query at the end of a cache."""
    for batch, length in ((8, 32768), (1, 131072)):
        sizes = half(batch, 32, length, 128, kv_heads=8, queries=1)
        yield named(f"decode 32/8 D128 B{batch} N{length}", "dense", sizes)


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
    ("dilated1,2,4,8 window512-causal", "dilated", {"window": 512, "dilation": (1, 2, 4, 8) * 4}),
    ("strided64 local256", "strided", {"local": 256, "stride": 64}),
    ("strided128 local128", "strided", {"local": 128, "stride": 128}),
    ("fixed128 summary8", "fixed", {"stride": 128, "summary": 8}),
    ("fixed128 summary16", "fixed", {"stride": 128, "summary": 16}),
    ("longformer window256 global64", "longformer", {"window": 256, "global_tokens": 64}),
    ("longformer window512 global64", "longformer", {"window": 512, "global_tokens": 64}),
    ("index-causal stretch4", "index-causal", {"stretch": 4}),
    ("longnet 2048:1 8192:4 32768:16", "longnet", {"segment": (2048, 8192, 32768), "rate": (1, 4, 16)}),
    ("packed16-causal", "packed", {"sequences": 16}),
    ("lazy window512", "lazy", {"window": 512}),
    ("top-k64", "top-k", {}),
)


def _patterns() -> Iterator[Problem]:
    for label, family, numbers in PATTERNS:
        for length in (32768, 131072):
            yield named(f"{label} N{length}", family, half(1, 16, length, 128), **numbers)
    for block in (64, 128):
        for density in (0.05, 0.2):
            name = f"random blocks {block} density {density} full N32768"
            yield named(name, "block-mask", half(1, 16, 32768, 128), block=block, density=density)


def _varied() -> Iterator[Problem]:
    """Other windows, head dimensions, dtypes, groups and lengths than those of the table."""
    window, long = {"window": 256}, half(1, 16, 32768, 128)
    for size in (300, 512, 2048):
        yield named(f"window{size}-causal N32768", "window", long, window=size)
    yield named("window256-causal fp16 N32768", "window", replace(long, dtype="float16"), **window)
    for dim, heads in ((32, 32), (64, 32), (96, 16), (192, 8), (256, 8)):
        yield named(f"window256-causal D{dim} H{heads} N32768", "window", half(1, heads, 32768, dim), **window)
    yield named("window256-causal GQA 32/8 N32768", "window", half(1, 32, 32768, 128, kv_heads=8), **window)
    yield named("window256-causal N30001", "window", half(1, 16, 30001, 128), **window)
    yield named("D128 causal fp16 B2 H16 N8192", "dense", replace(half(2, 16, 8192, 128), dtype="float16"))
    yield named("D128 causal B2 H16 N8001", "dense", half(2, 16, 8001, 128))
    bird = {"block": 64, "window": 3, "first": 2, "last": 0, "random": 3}
    yield named("bigbird b64 D64 H32 N32768", "bigbird", half(1, 32, 32768, 64), **bird)
    yield named("bigbird b128 N32768", "bigbird", long, **bird | {"block": 128, "first": 1})
    yield named("dilated8 window512x8-causal D64 H32 N32768", "dilated", half(1, 32, 32768, 64), window=512)
    yield named("dilated8 window512x8-causal N30001", "dilated", half(1, 16, 30001, 128), window=512)
    for block in (32, 64):
        name = f"random blocks {block} density 0.05 D64 H32 N32768"
        yield named(name, "block-mask", half(1, 32, 32768, 64), block=block, density=0.05)
    yield named("packed16 D64 H32 N32768", "packed", half(1, 32, 32768, 64), causal=False)
    yield named("chunk 512 of D128 causal N32768", "dense", half(1, 16, 32768, 128, queries=512))
    yield named("element-mask documents16-causal N16384", "element-mask", half(1, 16, 16384, 128))


def _entmax() -> Iterator[Problem]:
    for inputs in INPUTS:
        for batch, length in ((8, 2048), (2, 8192), (1, 32768)):
            name = f"a1.5 causal {inputs} B{batch} H16 N{length} D64"
            yield named(name, "entmax", half(batch, 16, length, 64), inputs)


VARIED = tuple(_varied())
TABLE = (*_dense(), *_decode(), *_patterns(), *_entmax())
PROBLEMS = {problem.name: problem for problem in (*TABLE, *VARIED)}
LINEAR = tuple(
    label
    for label, family, _ in PATTERNS
    if family not in ("strided", "fixed", "index-causal", "packed") and FAMILIES[family].normalizer == "softmax"
)
"""Those of PATTERNS whose work grows as the length."""


def with_seed(problem: Problem, seed: int, **sizes: str) -> Problem:
    """A named problem with another seed or dtype, still called by its name."""
    return replace(problem, seed=seed, sizes=replace(problem.sizes, **sizes))


def find(names: list[str], first: Collection[str] = ()) -> list[Problem]:
    """The problems with these names or shell patterns, each once. ValueError for one that names none.

    first: where a pattern fits some of these names, it means no others.
    """
    found = {}
    for name in names:
        matches = [problem for problem in PROBLEMS.values() if fnmatch.fnmatchcase(problem.name, name)]
        matches = [problem for problem in matches if problem.name in first] or matches
        if not matches:
            raise ValueError(f"no problem is called {name!r}; `bench list` names them all")
        found |= {problem.name: problem for problem in matches}
    return list(found.values())
