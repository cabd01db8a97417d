"""Loads the compiled libraries, and reads what they say about themselves."""

from __future__ import annotations

import ctypes
import functools
import json
import sys
from pathlib import Path

import torch

OPERATORS = "libsplash_torch.so"
KERNELS = "libsplash.so"


def find(name: str) -> Path:
    """The path of a compiled library.

    Raises ImportError where the package was not built.
    """
    # An editable install has the sources and the built libraries in two folders, both in the package's path.
    folders = [Path(folder) / "lib" for folder in sys.modules[__package__].__path__]
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    searched = ", ".join(str(folder) for folder in folders)
    raise ImportError(
        f"splash_attention: {name} is missing (searched {searched}). The package is not built here: run "
        "`pip install .` in the repository, and import it from another folder than the sources'."
    )


def load() -> None:
    """Registers torch.ops.splash.*; needs no GPU and initialises none."""
    path = find(OPERATORS)
    try:
        torch.ops.load_library(path)
    except OSError as error:
        raise ImportError(
            f"splash_attention: {path} does not load in this environment (Torch {torch.__version__}; 2.10 or later is "
            f"needed): {error}"
        ) from error


@functools.cache
def _kernels() -> ctypes.CDLL:
    library = ctypes.CDLL(str(find(KERNELS)))
    texts = "build_info", "instances_json", "constants_json", "explain", "plan"
    for name in texts:
        getattr(library, f"splash_{name}").restype = ctypes.c_char_p
    library.splash_explain.argtypes = [ctypes.c_char_p] * 5 + [ctypes.c_int, ctypes.c_char_p]
    return library


def build_info() -> dict:
    """What the kernels were built with and for."""
    return json.loads(_kernels().splash_build_info())


def instances() -> list[dict]:
    """The compiled instances, one dictionary {op, pass, arch, dtype} each, and for the op "attention" also pattern,
    normalizer, head_dim and span, on a GPU kernels too: the numbers that each of its kernels is tuned to."""
    return json.loads(_kernels().splash_instances_json())


def plan(call) -> str:
    """What a call would launch, a line a step, or why nothing. call: a pointer to a splash_call."""
    return _kernels().splash_plan(call).decode()


def constants() -> dict:
    """Limits of the kernels, and `saved`: by the operators' name of a normalizer, how many statistics it keeps."""
    return json.loads(_kernels().splash_constants_json())


def explain(pass_: str, arch: str, pattern: str, normalizer: str, dtype: str, head_dim: int, span: str = "any") -> str:
    """Why no instance serves a key: the nearest one and the fields that differ. "" where one does."""
    texts = (text.encode() for text in (pass_, arch, pattern, normalizer, dtype))
    return _kernels().splash_explain(*texts, head_dim, span.encode()).decode()
