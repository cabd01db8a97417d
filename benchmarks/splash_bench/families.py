"""The families of problems: a pattern, or a pattern and a normalizer, with the numbers that the command line takes.

A family is a function of what is drawn already, and of its own numbers; it returns the pattern. Its docstring is the
help of its command, and its signature the command's options.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
import typer
from torch import Tensor

from splash_attention import patterns

from .longnet import LongNet
from .packed import Packed
from .sizes import Sizes


class Drawn(Protocol):
    """What a pattern may depend on: the sizes of a problem, its q and k, and what they were drawn with."""

    sizes: Sizes
    seed: int
    device: torch.device
    generator: torch.Generator
    q: Tensor
    k: Tensor


@dataclass(frozen=True)
class Family:
    """normalizer: what its problems use unless the command line says otherwise."""

    name: str
    build: Callable
    normalizer: str

    @property
    def help(self) -> str:
        return inspect.getdoc(self.build)

    @property
    def parameters(self) -> list[inspect.Parameter]:
        """Its own options, as parameters of a command."""
        return list(inspect.signature(self.build).parameters.values())[1:]

    def defaults(self) -> dict[str, object]:
        return {parameter.name: parameter.default for parameter in self.parameters}


FAMILIES: dict[str, Family] = {}


def family(name: str, normalizer: str = "softmax"):
    def register(build):
        FAMILIES[name] = Family(name, build, normalizer)
        return build

    return register


def number(low: int, help: str):
    return Annotated[int, typer.Option(min=low, help=help)]


def share(help: str):
    return Annotated[float, typer.Option(min=0, max=1, help=help)]


CausalFlag = Annotated[bool, typer.Option(help="Keep no later key.")]
Block = number(1, "Positions of a block.")
TileBlock = number(16, "Rows and columns of a block, a multiple of 16.")
Window = number(1, "Keys of the window, self included.")
OneSided = number(0, "Keys on each side.")
Stride = number(1, "Distance of the kept columns.")


@family("dense")
def dense(case: Drawn, causal: CausalFlag = True):
    """Every score, or those of earlier keys: what all other patterns are measured against."""
    return patterns.Causal() if causal else patterns.Full()


@family("window")
def window(
    case: Drawn,
    window: Window = 256,
    symmetric: Annotated[bool, typer.Option(help="As many keys on each side, self not counted.")] = False,
):
    """The last keys, or the keys around the query."""
    return patterns.SlidingWindow.symmetric(window) if symmetric else patterns.SlidingWindow.causal(window)


@family("streaming")
def streaming(case: Drawn, sink: number(0, "First keys, kept by all.") = 16, window: Window = 64):
    """The first keys and the last ones (Xiao et al. 2023)."""
    return patterns.Streaming(sink, window)


@family("block-diagonal")
def block_diagonal(case: Drawn, block: Block = 128, causal: CausalFlag = True):
    """Keys of the query's own block."""
    return patterns.BlockDiagonal(block, causal)


@family("dilated")
def dilated(
    case: Drawn,
    window: number(1, "Keys, self included (not causal: on each side).") = 64,
    dilation: Annotated[list[int], typer.Option(min=1, help="Distance of the keys; one for all heads or each.")] = (8,),
    causal: CausalFlag = True,
):
    """A window with gaps: keys at multiples of a distance."""
    if len(dilation) not in (1, case.sizes.heads):
        raise ValueError(f"dilation: expected one, or one for each of {case.sizes.heads} heads, got {len(dilation)}")
    return patterns.Dilated(window, dilation[0] if len(dilation) == 1 else tuple(dilation), causal)


@family("strided")
def strided(case: Drawn, local: number(0, "Last keys that are kept.") = 128, stride: Stride = 128):
    """The last keys, and earlier ones at multiples of a distance (Child et al. 2019)."""
    return patterns.Strided(local, stride)


@family("fixed")
def fixed(case: Drawn, stride: Stride = 128, summary: number(0, "Last columns of a stride, kept by all.") = 8):
    """The query's own stride and the summary columns of earlier ones (Child et al. 2019)."""
    return patterns.Fixed(stride, summary)


@family("longformer")
def longformer(
    case: Drawn,
    window: OneSided = 128,
    global_tokens: number(0, "First positions that see all and are seen by all.") = 64,
    dilation: number(1, "Distance of the window's keys.") = 1,
    causal: CausalFlag = False,
):
    """A window around the query and global tokens (Beltagy et al. 2020)."""
    return patterns.Longformer(window, global_tokens, dilation, causal)


@family("bigbird")
def bigbird(
    case: Drawn,
    block: Block = 64,
    window: number(1, "Neighbouring blocks, an odd number.") = 3,
    first: number(0, "First block rows and columns.") = 1,
    last: number(0, "Last block rows and columns.") = 1,
    random: number(0, "Further blocks of each block row.") = 3,
    per_head: Annotated[bool, typer.Option(help="Draw anew for each head.")] = False,
    causal: CausalFlag = False,
):
    """Neighbouring, global and random blocks (Zaheer et al. 2020)."""
    return patterns.BigBird(block, window, first, last, random, per_head=per_head, causal=causal)


@family("block-mask")
def block_mask(case: Drawn, block: TileBlock = 64, density: share("Share of the key blocks of each row.") = 0.1):
    """Random key blocks, as many for each block row and head."""
    rows, count = (-(-size // block) for size in (case.sizes.rows, case.sizes.seq_len))
    shape = case.sizes.batch, case.sizes.heads, rows, count
    scores = torch.rand(shape, generator=case.generator, device=case.device)
    chosen = scores.argsort(-1)[..., : max(1, int(count * density))]
    return patterns.BlockMask(
        torch.zeros(shape, dtype=torch.bool, device=case.device).scatter_(-1, chosen, True), block
    )


@family("top-k-blocks")
def top_k_blocks(
    case: Drawn,
    block: TileBlock = 64,
    top: number(1, "Key blocks of each query block.") = 8,
    causal: CausalFlag = True,
):
    """The key blocks with the largest mean-pooled scores."""
    with torch.no_grad():
        return patterns.top_k_blocks(case.q, case.k, block, top, causal=causal)


@family("element-mask")
def element_mask(
    case: Drawn, documents: number(1, "Documents of random lengths in the sequence.") = 16, causal: CausalFlag = True
):
    """Documents packed into one sequence, as a mask of single elements."""
    count = case.sizes.seq_len
    ends = torch.rand(documents - 1, generator=case.generator, device=case.device).mul(count).long()
    document = torch.zeros(count + 1, dtype=torch.long, device=case.device)
    document = document.index_add_(0, ends, torch.ones_like(ends))[:count].cumsum(0)
    same = patterns.ElementMask(document[count - case.sizes.rows :, None] == document)
    return same & patterns.Causal() if causal else same


@family("index-causal")
def index_causal(case: Drawn, stretch: number(1, "Positions are drawn from this many times the length.") = 4):
    """Tokens that were picked out of a longer sequence, each with its position there."""

    def positions(count: int) -> Tensor:
        draw = torch.rand(case.sizes.batch, 1, count, generator=case.generator, device=case.device)
        return (draw * (stretch * case.sizes.seq_len)).int().sort(-1).values

    return patterns.IndexCausal(positions(case.sizes.rows), positions(case.sizes.seq_len))


@family("packed")
def packed(
    case: Drawn,
    sequences: number(1, "Sequences of random lengths, --seq-len tokens together.") = 16,
    causal: CausalFlag = True,
):
    """Sequences packed one after the other, without padding."""
    if case.sizes.batch > 1 or not case.sizes.square:
        raise ValueError("packed: has no batch and as many queries as keys; leave --batch and --queries out")
    return Packed.drawn(sequences, case.sizes.seq_len, case.seed, causal)


@family("longnet")
def longnet(
    case: Drawn,
    segment: Annotated[list[int], typer.Option(min=1, help="Tokens of a branch's segments.")] = (512, 2048, 8192),
    rate: Annotated[
        list[int], typer.Option(min=1, help="Distance of the tokens that see each other; one for each segment.")
    ] = (
        1,
        4,
        16,
    ),
    causal: CausalFlag = True,
):
    """Dilated segments of several lengths, mixed by their log-sum-exps (Ding et al. 2023)."""
    if not case.sizes.square:
        raise ValueError("longnet: has as many queries as keys; leave --queries out")
    return LongNet(segment, rate, causal)


@family("entmax", normalizer="entmax")
def entmax(case: Drawn, causal: CausalFlag = True):
    """Entmax over every score, or those of earlier keys."""
    return dense(case, causal)


@family("lazy", normalizer="elastic")
def lazy(case: Drawn, window: Window = 512):
    """Elastic softmax over the last keys, with a learned bias of each distance."""
    return patterns.SlidingWindow.causal(window)


@family("top-k", normalizer="top-k")
def top_k(case: Drawn):
    """The largest scores among those of earlier keys."""
    return patterns.Causal()
