"""Times, the machine's ceilings, and rows of results as CSV."""

import csv
import datetime
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch


def milliseconds(function, repeat_ms=100):
    """Median time of one call on the GPU: device events, L2 flushed before each call."""
    from triton.testing import do_bench

    return do_bench(function, warmup=25, rep=repeat_ms, return_mode="median")


def interleaved(functions, rounds):
    """{name: median seconds} of calls on the CPU, in turns, so that all of them meet the same machine."""
    times = {name: [] for name in functions}
    for round_ in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if round_:  # the first round warms up
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def ceilings():
    """TFLOP/s of an 8192^3 bf16 matrix product, and TB/s read + written by a 2 GiB copy."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = 2 * 8192**3 / milliseconds(lambda: a @ b) / 1e9
    source = torch.empty(2**31, dtype=torch.int8, device="cuda").random_()
    target = torch.empty_like(source)
    return product, 2 * source.numel() / milliseconds(lambda: target.copy_(source)) / 1e9


def commit():
    """The commit of the checkout, or SPLASH_COMMIT where there is no checkout."""
    if "SPLASH_COMMIT" in os.environ:
        return os.environ["SPLASH_COMMIT"]
    here = Path(__file__).parent
    result = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=False
    )
    return result.stdout.strip() or "unknown"


def cpu_name():
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def machine(device):
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def origin(device):
    """The columns that say where and when a row was measured."""
    return {
        "machine": machine(device),
        "torch": torch.__version__,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
    }


def command(*arguments):
    """The shell command that repeats a row."""
    script = Path(sys.argv[0])
    return " ".join(["python", f"benchmarks/{script.name}", *arguments])


def write(path, rows):
    """All rows as CSV; columns are the keys of all rows in their order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
