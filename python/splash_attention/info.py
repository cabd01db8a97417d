"""What this build contains and what it finds on this machine: `python -m splash_attention info`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from rich.console import Console
from rich.table import Table

from . import _library

UNRESTRICTED = {"head_dim": 0, "block": 0}  # the value that stands for "every one" in a compiled row


def show(console: Console) -> None:
    """Prints version and build, devices, and the compiled instances."""
    build = Table(title="Build", show_header=False)
    for name, value in _library.build_info().items():
        build.add_row(name.replace("_", " "), _text(value))
    build.add_row("running Torch", torch.__version__)
    console.print(build)

    devices = Table(title="Devices", show_header=False)
    devices.add_row("cpu", f"{torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = found.total_memory / 2**30
        devices.add_row(f"cuda:{index}", f"{found.name}, sm_{found.major}{found.minor}, {memory:.0f} GiB")
    if not torch.cuda.is_available():
        devices.add_row("cuda", "none visible")
    console.print(devices)

    instances = _library.instances()
    table = Table(title=f"Compiled instances: {len(instances)}")
    for header in ("device", "pass", "pattern", "normalizer", "dtypes", "head dims", "blocks", "kernels"):
        table.add_column(header)
    for row in _grouped(instances):
        table.add_row(*row)
    console.print(table)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return str(value) or "none"


def _grouped(instances: list[dict]) -> Iterable[tuple[str, ...]]:
    """Instances that differ only in dtype, head dimension and block share a row."""
    groups: dict[tuple[str, ...], list[dict]] = {}
    for instance in instances:
        key = tuple(instance[field] for field in ("arch", "pass", "pattern", "normalizer"))
        groups.setdefault(key, []).append(instance)
    for key, members in groups.items():
        varying = (_values(members, field) for field in ("dtype", "head_dim", "block"))
        yield (*key, *varying, str(len(members)))


def _values(members: list[dict], field: str) -> str:
    values = dict.fromkeys(member[field] for member in members)
    return ", ".join("any" if value == UNRESTRICTED.get(field) else str(value) for value in values)
