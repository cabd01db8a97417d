"""Row functions: entmax of plain tensors, against torch's softmax and the package entmax."""

from __future__ import annotations

from collections.abc import Callable

import torch
from rich.console import Console
from torch import Tensor

from splash_attention import NoKernelError, reference

from . import measure, report
from .check import TOLERANCES, WrongResult
from .sizes import DTYPES

COLUMNS = {
    "problem": "problem",
    "pass": "pass",
    "peer": "peer",
    "ms": "ms",
    "gb_s": "GB/s",
    "splash_speedup": "splash is x times as fast",
    "relative_error": "error",
}
CHECKED = 256  # rows
MOVES = {"fwd": 2, "bwd": 3}  # tensors read and written: x and p; dp, p and dx


def functions(alpha: float) -> dict[str, Callable[[Tensor], Tensor] | str]:
    """{peer: function, or why there is none}."""
    from splash_attention.rows import entmax

    found: dict = {"splash": lambda x: entmax(x, alpha), "torch-softmax": lambda x: x.softmax(-1)}
    try:
        import entmax as package
    except ImportError:
        found["entmax"] = "not installed"
    else:
        known = {1: torch.softmax, 1.5: package.entmax15, 2: package.sparsemax}
        found["entmax"] = lambda x: (
            known[alpha](x, dim=-1) if alpha in known else package.entmax_bisect(x, alpha, dim=-1)
        )
    try:
        from adasplash import triton_entmax
    except ImportError:
        found["adasplash"] = "not installed"
    else:
        found["adasplash"] = lambda x: triton_entmax(x, alpha)
    return found


def rows(
    count: int,
    columns: int,
    alpha: float,
    dtype: str,
    seed: int,
    directions: list[str],
    peers: list[str],
    device: torch.device,
    rounds: int,
    repeat_ms: int,
    console: Console,
) -> list[dict]:
    """One row a peer and direction, for random normal x of shape (count, columns)."""
    name = f"rows {count}x{columns} alpha {alpha:g} {dtype}"
    generator = torch.Generator(device).manual_seed(seed)
    x, grad = (torch.randn(count, columns, generator=generator, device=device).to(DTYPES[dtype]) for _ in range(2))
    x.requires_grad_()
    calls: dict[str, dict[str, Callable]] = {direction: {} for direction in directions}
    errors = {}
    for peer, function in functions(alpha).items():
        if peers and "all" not in peers and peer not in peers:
            continue
        if isinstance(function, str) or (peer == "adasplash" and device.type == "cpu"):
            reason = function if isinstance(function, str) else "Triton kernels need CUDA"
            console.print(f"  {peer}: not run: {reason}", highlight=False)
            continue
        if peer != "torch-softmax" or alpha == 1:
            try:
                checked = _check(peer, function, x, grad, alpha)
            except NoKernelError as error:
                console.print(f"  {peer}: no kernel: {error}", highlight=False)
                continue
            errors |= {(peer, key): error for key, error in checked.items()}
        if "fwd" in directions:
            calls["fwd"][peer] = _forward(function, x)
        if "bwd" in directions:
            calls["bwd"][peer] = _backward(function, x, grad)
    found = []
    for direction in directions:
        seconds = measure.times(calls[direction], device, rounds, repeat_ms)
        for peer, second in seconds.items():
            chosen = ["--peer", "splash", *(["--peer", peer] if peer != "splash" else [])]
            sizes = ["--rows", count, "--columns", columns, "--alpha", f"{alpha:g}", "--dtype", dtype, "--seed", seed]
            how = ["--rounds", rounds] if device.type == "cpu" else ["--repeat-ms", repeat_ms]
            error = errors.get((peer, direction))
            found.append(
                {
                    "problem": name,
                    "pass": direction,
                    "peer": peer,
                    "ms": report.number(second * 1e3),
                    "gb_s": report.number(MOVES[direction] * x.numel() * x.element_size() / second / 1e9),
                    "splash_speedup": f"{second / seconds['splash']:.3g}" if "splash" in seconds else "",
                    "relative_error": "" if error is None else f"{error:.1e}",
                    "command": report.command(
                        ["rows", *sizes, *chosen, "--direction", direction, "--device", device.type, *how]
                    ),
                }
            )
    return found


def _forward(function: Callable, x: Tensor) -> Callable:
    def forward():
        with torch.no_grad():
            return function(x)

    return forward


def _backward(function: Callable, x: Tensor, grad: Tensor) -> Callable:
    out = function(x)
    return lambda: torch.autograd.grad(out, x, grad, retain_graph=True)


def _check(peer: str, function: Callable, x: Tensor, grad: Tensor, alpha: float) -> dict[str, float]:
    """{direction: relative error} on some rows; WrongResult beyond the tolerance."""
    part, upstream = x.detach()[:CHECKED].clone().requires_grad_(), grad[:CHECKED]
    exact = part.detach().double().requires_grad_()
    kept = torch.ones_like(exact, dtype=torch.bool)
    want, _ = reference.softmax(exact, kept) if alpha == 1 else reference.entmax(exact, kept, alpha)
    (want_grad,) = torch.autograd.grad(want, exact, upstream.double())
    got = function(part)
    (got_grad,) = torch.autograd.grad(got, part, upstream)
    errors = {
        direction: ((a.double() - b).norm() / b.norm()).item()
        for direction, a, b in (("fwd", got, want.detach()), ("bwd", got_grad, want_grad))
    }
    if not all(error <= TOLERANCES[x.dtype] for error in errors.values()):
        raise WrongResult(f"{peer}: wrong: relative errors {errors}, allowed {TOLERANCES[x.dtype]:g}")
    return errors
