"""Times, what a machine can do, and where a row comes from."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from splash_attention import _library


def times(
    functions: dict[str, Callable], device: torch.device, rounds: int, repeat_ms: int, warm: bool = False
) -> dict[str, float]:
    """{name: median seconds of one call}. warm: each was called before."""
    if device.type == "cuda":
        return {name: device_seconds(function, repeat_ms) for name, function in functions.items()}
    return interleaved(functions, rounds, warm)


def device_seconds(function: Callable, repeat_ms: int = 100) -> float:
    """Median time of one call on the GPU: device events, L2 flushed before each call."""
    from triton.testing import do_bench

    return do_bench(function, warmup=25, rep=repeat_ms, return_mode="median") / 1e3


def interleaved(functions: dict[str, Callable], rounds: int, warm: bool = False) -> dict[str, float]:
    """Median times of calls on the CPU, in turns, so that all of them meet the same machine."""
    taken = {name: [] for name in functions}
    if not warm:
        for function in functions.values():
            function()
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


@dataclass(frozen=True)
class Machine:
    """product: TFLOP/s of an 8192^3 bf16 matrix product. copy: TB/s read and written by a 2 GiB copy."""

    product: float
    copy: float

    def __str__(self) -> str:
        return f"8192^3 bf16 product {self.product:.0f} TFLOP/s, 2 GiB copy {self.copy:.2f} TB/s"

    def columns(self) -> dict[str, str]:
        return {"machine_matmul_tflops": f"{self.product:.0f}", "machine_copy_tbs": f"{self.copy:.2f}"}


def ceilings(device: torch.device) -> Machine | None:
    """What the GPU at hand can do; None on the CPU."""
    if device.type == "cpu":
        return None
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = 2 * 8192**3 / device_seconds(lambda: a @ b) / 1e12
    source = torch.empty(2**31, dtype=torch.int8, device="cuda").random_()
    target = torch.empty_like(source)
    return Machine(product, 2 * source.numel() / device_seconds(lambda: target.copy_(source)) / 1e12)


def pick_device(name: str) -> torch.device:
    """The device of --device; "auto" is the GPU where kernels for it are compiled, otherwise the CPU.

    ValueError for "cuda" where there is none.
    """
    if name != "auto":
        if name == "cuda" and not torch.cuda.is_available():
            raise ValueError(
                f"device: Torch {torch.__version__} sees no CUDA device here; --device cpu runs without one"
            )
        return torch.device(name)
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        if any(row["arch"] == f"sm{major}{minor}" for row in _library.instances()):
            return torch.device("cuda")
    return torch.device("cpu")


def commit() -> str:
    """SPLASH_COMMIT, or the commit of the checkout that this file lies in, or that of the build."""
    if "SPLASH_COMMIT" in os.environ:
        return os.environ["SPLASH_COMMIT"]
    here = Path(__file__).resolve().parent
    for root in here.parents:
        if (root / ".git").exists() and (root / "benchmarks" / "splash_bench") == here:
            command = ["git", "rev-parse", "--short", "HEAD"]
            found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
            if found:
                return found
    return _library.build_info()["commit"][:7] or "unknown"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def origin(device: torch.device) -> dict[str, str]:
    """The columns that say where and when a row was measured."""
    return {
        "machine": machine(device),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }
