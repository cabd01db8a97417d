"""The times that each pass owes on an H200 (targets.csv), scaled to the machine at hand. A wheel has neither.

pass: "fwd" or "bwd", the backward alone. unit: of must and aim, "ms" or "tflops" (TFLOP/s over kept scores). A problem
without figures, in the file or not, must take at most SLACK times its floor, which is what its bytes take at the rate
of a copy or its tiles at TILE_TFLOPS, whichever is longer.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import report
from .measure import Machine
from .tiles import Work

FILE = Path(__file__).with_name("targets.csv")
SLACK = 1.5
TILE_TFLOPS = {"fwd": 600, "bwd": 480}


MEASURED = Machine(788, 4.27)
"""The H200 that the figures of the file are for."""


@dataclass(frozen=True)
class Target:
    """must, aim: None where the floor says what must be."""

    must: float | None
    aim: float | None
    unit: str


@cache
def targets() -> dict[tuple[str, str], Target]:
    """By the name of the problem and the pass, in the order of the table."""
    with FILE.open(newline="") as file:
        return {
            (row["problem"], row["pass"]): Target(_number(row["must"]), _number(row["aim"]), row["unit"])
            for row in csv.DictReader(file)
        }


def owing(directions: Collection[str]) -> list[str]:
    """The names of the problems that owe something in one of these passes, in the order of the table."""
    return list(dict.fromkeys(name for name, direction in targets() if direction in directions))


def owed(name: str, directions: list[str]) -> list[str]:
    """Those of the passes in which the problem owes something; all of them where it owes nothing in any."""
    return [direction for direction in directions if (name, direction) in targets()] or directions


def _number(text: str) -> float | None:
    return float(text) if text else None


def columns(name: str, direction: str, work: Work, seconds: float, rate: float, machine: Machine) -> dict[str, str]:
    """What a row says of its target: floor_ms, must, aim, unit and what was met.

    rate: TFLOP/s. met: "aim", "must" or "no". of_must: how many times as fast as it must be.
    """
    bytes_ms = work.bytes / machine.copy / 1e9
    tiles_ms = work.flops / (TILE_TFLOPS[direction] * machine.product / MEASURED.product) / 1e9
    floor = max(bytes_ms, tiles_ms)
    # How much longer what bounds the problem takes here than where the figures come from.
    longer = MEASURED.copy / machine.copy if bytes_ms > tiles_ms else MEASURED.product / machine.product
    target = targets().get((name, direction), Target(None, None, "ms"))
    if target.unit == "tflops":
        must, aim, value = target.must / longer, target.aim / longer, rate
        of_must = value / must
        aimed = value >= aim
        texts = {"must": f"{must:.0f}", "aim": f"{aim:.0f}"}
    else:
        must = SLACK * floor if target.must is None else target.must * longer
        aim = None if target.aim is None else target.aim * longer
        value = seconds * 1e3
        of_must = must / value
        aimed = aim is not None and value <= aim
        texts = {"must": report.number(must), "aim": "" if aim is None else report.number(aim)}
    met = "aim" if aimed else "must" if of_must >= 1 else "no"
    return {"floor_ms": report.number(floor)} | texts | {"unit": target.unit, "of_must": f"{of_must:.3f}", "met": met}
