"""The text that models are trained on: real bytes that lie on every machine with Python."""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch

CANDIDATES = ("LICENSE.txt", "argparse.py", "inspect.py", "typing.py", "os.py")


@dataclass(frozen=True)
class Corpus:
    """The bytes of a text and where they came from."""

    name: str
    data: torch.Tensor  # (length,) uint8

    def split(self, share: float) -> tuple[Corpus, Corpus]:
        """The first `share` of the bytes, and the others."""
        middle = round(share * len(self.data))
        return Corpus(self.name, self.data[:middle]), Corpus(self.name, self.data[middle:])

    def batches(self, steps: int, batch: int, length: int, seed: int) -> torch.Tensor:
        """(steps, batch, length + 1) int64: slices at random places, the same ones for the same seed."""
        generator = torch.Generator().manual_seed(seed)
        begin = torch.randint(len(self.data) - length, (steps, batch, 1), generator=generator)
        return self.data[begin + torch.arange(length + 1)].long()


def load(path: Path | None, at_least: int) -> Corpus:
    """Reads `path`, or what there is of CANDIDATES in Python's library folder.

    Raises ValueError where the text has less than `at_least` bytes, OSError where `path` cannot be read.
    """
    if path is None:
        folder = Path(sysconfig.get_path("stdlib"))
        files = [folder / name for name in CANDIDATES if (folder / name).is_file()]
        name = f"{', '.join(file.name for file in files)} of {folder}"
    else:
        files, name = [path], str(path)
    return _read(name, files, at_least, "; --text names another")


def library(at_least: int) -> Corpus:
    """The Python sources of the standard library, in the order of their names, without installed packages.

    Raises ValueError where they have less than `at_least` bytes.
    """
    folder = Path(sysconfig.get_path("stdlib"))
    files = [
        file
        for file in sorted(folder.rglob("*.py"))
        if not {"site-packages", "dist-packages"} & set(file.relative_to(folder).parts)
    ]
    return _read(f"{len(files)} files of {folder}", files, at_least)


def _read(name: str, files: list[Path], at_least: int, otherwise: str = "") -> Corpus:
    data = b"".join(file.read_bytes() for file in files)
    if len(data) < at_least:
        raise ValueError(f"text: {name} has {len(data)} bytes, expected at least {at_least}{otherwise}")
    return Corpus(name, torch.frombuffer(bytearray(data), dtype=torch.uint8))
