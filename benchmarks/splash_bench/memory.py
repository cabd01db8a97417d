"""Peak memory of a forward, or a forward and a backward, in a process of its own.

`python -m splash_bench.memory` is that process: a request as JSON on its standard input, the peak on its
standard output.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import torch

from .case import Case
from .choices import Choice
from .families import FAMILIES
from .peers import PEERS
from .problems import Problem
from .sizes import Sizes

MIB = 2**20


@dataclass(frozen=True)
class Peak:
    """MiB: `all` of the process (CUDA: of Torch's allocator), `call` beyond the inputs. error: why no figures."""

    all: float = 0
    call: float = 0
    error: str = ""


def peak(problem: Problem, peer: str, direction: str, device: torch.device) -> Peak:
    """direction: "fwd", or "bwd" for a forward and a backward."""
    request = {
        "family": problem.family.name,
        "numbers": problem.numbers,
        "sizes": dataclasses.asdict(problem.sizes),
        "normalizer": dataclasses.asdict(problem.normalizer),
        "inputs": problem.inputs,
        "seed": problem.seed,
        "peer": peer,
        "direction": direction,
        "device": device.type,
        "threads": torch.get_num_threads(),
    }
    program = [sys.executable, "-m", f"{__package__}.memory"]
    own = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # it finds what this process found
    result = subprocess.run(program, input=json.dumps(request), env=own, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines()
        return Peak(error=lines[-1][:300] if lines else f"ended with code {result.returncode}")
    return Peak(**json.loads(result.stdout.splitlines()[-1]))


def _answer(request: dict) -> Peak:
    torch.set_num_threads(request["threads"])
    problem = Problem(
        FAMILIES[request["family"]],
        request["numbers"],
        Sizes(**request["sizes"]),
        Choice(**request["normalizer"]),
        request["inputs"],
        request["seed"],
    )
    device = torch.device(request["device"])
    case = Case(problem, device)
    peer = PEERS[request["peer"]]
    backward = request["direction"] == "bwd"
    reason = peer.why_not(case) or (backward and peer.backward(case))
    if reason:
        return Peak(error=f"not run: {reason}")
    first = _reset(device)
    before = _memory(device, peak=False)
    call = peer.prepare(case)
    if backward:
        torch.autograd.grad(call(*case.qkv), case.leaves, case.grad, allow_unused=True)
    else:
        with torch.no_grad():
            call(*case.qkv)
    last = _memory(device, peak=True)
    return Peak(max(first, last), last - before)


def _reset(device: torch.device) -> float:
    """The peak up to now, MiB; from here on the peak starts anew."""
    peak = _memory(device, peak=True)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    return peak


def _memory(device: torch.device, peak: bool) -> float:
    """What is in use, or the most that was, MiB."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / MIB
    # Not getrusage(): its figure starts with that of the process which started this one.
    name = "VmHWM:" if peak else "VmRSS:"
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith(name))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    print(json.dumps(dataclasses.asdict(_answer(json.load(sys.stdin)))))
