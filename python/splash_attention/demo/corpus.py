"""The text that the demo trains on: real bytes that lie on every machine with Python."""

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
        library = Path(sysconfig.get_path("stdlib"))
        files = [library / name for name in CANDIDATES if (library / name).is_file()]
        name = f"{', '.join(file.name for file in files)} of {library}"
    else:
        files, name = [path], str(path)
    data = b"".join(file.read_bytes() for file in files)
    if len(data) < at_least:
        raise ValueError(f"text: {name} has {len(data)} bytes, expected at least {at_least}; --text names another")
    return Corpus(name, torch.frombuffer(bytearray(data), dtype=torch.uint8))
