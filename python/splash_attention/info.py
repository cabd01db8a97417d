"""What this build contains and what it finds on this machine: `python -m splash_attention info`."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable

import torch

from . import _library


def show() -> None:
    """Prints version and build, devices, and the compiled instances."""
    build = {name.replace("_", " "): _text(value) for name, value in _library.build_info().items()}
    build["running Torch"] = torch.__version__
    _print_facts("Build", build)

    devices = {"cpu": f"{torch.get_num_threads()} threads"}
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        memory = found.total_memory / 2**30
        devices[f"cuda:{index}"] = f"{found.name}, sm_{found.major}{found.minor}, {memory:.0f} GiB"
    if not torch.cuda.is_available():
        devices["cuda"] = "none visible"
    _print_facts("Devices", devices)

    instances = _library.instances()
    print(f"Compiled instances: {len(instances)}")
    title = None
    for (arch, direction, subject), normalizers in _grouped(instances).items():
        if title != (arch, direction):
            title = arch, direction
            print(f"\n  {arch} {direction}")
        print(f"    {subject}")
        for served, names in normalizers.items():
            _print_wrapped(f"{', '.join(names)}: {served}" if names != [None] else served, 6)


def show_tuning() -> None:
    """Prints the tile and schedule numbers of the compiled GPU kernels, and what each set of them is for."""
    found: dict[tuple[str, str, str], list[dict]] = {}
    for row in _library.instances():
        for kernel, numbers in row.get("kernels", {}).items():
            found.setdefault((row["arch"], kernel, _numbers(numbers)), []).append(row)
    if not found:
        print("This build has no kernels with tuning: it has CPU code alone.")
    title = None
    for (arch, kernel, numbers), rows in found.items():
        if title != (arch, kernel):
            title = arch, kernel
            print(f"\n{arch} {kernel}")
        _print_wrapped(numbers, 2)
        for (head_dim, span), members in _by(rows, "head_dim", "span").items():
            what = f"head dim {head_dim}" + ("" if span == "any" else f", span {span}")
            names = dict.fromkeys(f"{row['pattern']} x {row['normalizer']}, {row['dtype']}" for row in members)
            _print_wrapped(f"{what}: {'; '.join(names)}", 4)


def _numbers(groups: dict[str, dict]) -> str:
    """`tile consumers 2, columns 128; ...`: flags that are set by their names, those that are not left out."""
    texts = []
    for group, fields in groups.items():
        named = [name if value is True else f"{name} {value}" for name, value in fields.items() if value is not False]
        if named:
            texts.append(f"{group} {', '.join(named)}")
    return "; ".join(texts)


def _by(rows: list[dict], *fields: str) -> dict[tuple, list[dict]]:
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row[field] for field in fields), []).append(row)
    return groups


def _print_facts(title: str, facts: dict[str, str]) -> None:
    print(title)
    width = max(map(len, facts))
    for name, value in facts.items():
        _print_wrapped(f"{name:{width}}  {value}", 2, width + 4)
    print()


def _print_wrapped(text: str, indent: int, further: int | None = None) -> None:
    """Whole words, in as many lines as the terminal's width asks for."""
    width = max(40, shutil.get_terminal_size().columns)
    following = " " * (indent + 2 if further is None else further)
    first = " " * indent
    lines = textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=following, break_long_words=False, break_on_hyphens=False
    )
    print("\n".join(lines))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return str(value) or "none"


def _grouped(instances: list[dict]) -> dict[tuple[str, ...], dict[str, list[str | None]]]:
    """By device, pass and pattern: what is compiled, and the normalizers that it is compiled for. Functions that are no
    attention stand in the pattern's place, and have no normalizer."""
    members: dict[tuple[str | None, ...], list[dict]] = {}
    for instance in sorted(instances, key=lambda instance: (instance["arch"], instance["pass"] != "forward")):
        subject = instance.get("pattern", instance["op"])
        key = instance["arch"], instance["pass"], subject, instance.get("normalizer")
        members.setdefault(key, []).append(instance)
    grouped: dict[tuple[str, ...], dict[str, list[str | None]]] = {}
    for (*place, normalizer), rows in members.items():
        grouped.setdefault(tuple(place), {}).setdefault(_served(rows), []).append(normalizer)
    return grouped


def _served(rows: list[dict]) -> str:
    dtypes = _values(rows, "dtype")
    if "head_dim" not in rows[0]:
        return dtypes
    return f"{dtypes}; head dims {_values(rows, 'head_dim')}; spans {_values(rows, 'span')}"


def _values(members: Iterable[dict], field: str) -> str:
    values = dict.fromkeys(member[field] for member in members)
    return ", ".join(str(value or "any") for value in values)
