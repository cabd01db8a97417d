"""Host time of one Python call on small tensors, beside that of SDPA's own call."""

from __future__ import annotations

import fnmatch
import gc
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console

from . import report
from .case import Case
from .choices import Choice
from .families import FAMILIES
from .packed import Packed
from .peers.splash import Splash, packed_call
from .problems import Problem
from .sizes import Sizes

COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "splash_us": "splash us",
    "sdpa_us": "SDPA us",
    "ratio": "ratio",
    "wanted": "wanted at most",
    "met": "met",
    "note": "note",
}
WANTED = {"fwd": 1.5, "fwd with grad": 2.5}
CALLS = 200  # far from the thousand launches at which the host waits for the GPU
PATTERNS: dict[str, tuple[str, dict, Choice]] = {
    "full": ("dense", {"causal": False}, Choice()),
    "causal": ("dense", {}, Choice()),
    "causal, sink logit": ("dense", {}, Choice("softmax-sink")),
    "window": ("window", {"window": 32}, Choice()),
    "streaming": ("streaming", {"sink": 4, "window": 32}, Choice()),
    "block-diagonal": ("block-diagonal", {"block": 32}, Choice()),
    "dilated": ("dilated", {"window": 8, "dilation": (4,)}, Choice()),
    "dilated by head": ("dilated", {"window": 8, "dilation": (1, 2, 4, 8)}, Choice()),
    "strided": ("strided", {"local": 8, "stride": 8}, Choice()),
    "fixed": ("fixed", {"stride": 16, "summary": 2}, Choice()),
    "longformer": ("longformer", {"window": 16, "global_tokens": 4}, Choice()),
    "bigbird": ("bigbird", {"block": 16}, Choice()),
    "block-mask": ("block-mask", {"block": 64, "density": 0.5}, Choice()),
    "block-mask & causal": ("top-k-blocks", {"block": 16, "top": 2}, Choice()),
    "element-mask": ("element-mask", {"documents": 4, "causal": False}, Choice()),
    "index-causal": ("index-causal", {}, Choice()),
    "packed": ("packed", {"sequences": 4}, Choice()),
}


def find(only: str) -> list[str]:
    """The patterns that a shell pattern names. ValueError where there are none."""
    found = [name for name in PATTERNS if fnmatch.fnmatchcase(name, only)]
    if not found:
        raise ValueError(f"only: expected a name or shell pattern of {', '.join(PATTERNS)}, got {only!r}")
    return found


def rows(only: str, length: int, device: torch.device, rounds: int, console: Console) -> list[dict]:
    """A row for each pattern, without and with a graph for gradients. Nothing waits for the GPU while it is timed."""
    found = []
    for name in find(only):
        family, numbers, choice = PATTERNS[name]
        kind = FAMILIES[family]
        dtype = "bfloat16" if device.type == "cuda" else "float32"
        sizes = Sizes(1, 4, 4, length, 64, dtype)
        case = Case(Problem(kind, kind.defaults() | numbers, sizes, choice), device)
        for direction, wanted in WANTED.items():
            command = ["host", "--only", name, "--seq-len", length, "--rounds", rounds, "--device", device.type]
            row = {"problem": f"{name} {sizes}", "pass": direction, "peer": "sdpa", "wanted": wanted}
            with console.status(f"{name}, {direction}"):
                try:
                    row |= _times(case, direction, rounds, wanted)
                except Exception as error:
                    row["note"] = f"{type(error).__name__}: {str(error)[:300]}"
            found.append(row | {"command": report.command(command)})
    return found


def _times(case: Case, direction: str, rounds: int, wanted: float) -> dict[str, str]:
    q, k, v = case.qkv
    if isinstance(case.pattern, Packed):  # as its callers have them: the views of other layouts are not its cost
        call = packed_call(case)
        own = [t.detach()[0].transpose(0, 1).contiguous().requires_grad_(t.requires_grad) for t in (q, k, v)]
    else:
        call, own = Splash().prepare(case), (q, k, v)
    calls = {
        "splash": lambda: call(*own),
        "sdpa": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    with torch.set_grad_enabled(direction != "fwd"):
        seconds = _seconds(calls, case.device, rounds)
    ratio = f"{seconds['splash'] / seconds['sdpa']:.3g}"
    return {
        "splash_us": report.number(seconds["splash"] * 1e6),
        "sdpa_us": report.number(seconds["sdpa"] * 1e6),
        "ratio": ratio,
        "met": "yes" if float(ratio) <= wanted else "no",
    }


def _seconds(calls: dict[str, Callable], device: torch.device, rounds: int) -> dict[str, float]:
    """{name: median time of one call}; the calls take turns, and on the CPU they have one thread."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    threads, collecting = torch.get_num_threads(), gc.isenabled()
    torch.set_num_threads(1)
    gc.disable()
    try:
        for turn in range(rounds + 1):  # the first one warms up
            for name, call in calls.items():
                wait()
                found = [_once(call) for _ in range(CALLS)]
                if turn:
                    taken[name] += found
    finally:
        wait()
        torch.set_num_threads(threads)
        if collecting:
            gc.enable()
    return {name: statistics.median(values) for name, values in taken.items()}


def _once(call: Callable) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
