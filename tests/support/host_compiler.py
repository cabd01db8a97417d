"""Programs of the repository and of users, built with the host compiler and run."""

import shutil
import subprocess
from pathlib import Path

import pytest

import splash_attention

CPP = Path(__file__).resolve().parents[1] / "cpp"
COMPILER = shutil.which("g++") or shutil.which("c++")
INCLUDE = next(
    folder for base in splash_attention.__path__ if (folder := Path(base) / "include").joinpath("splash").is_dir()
)

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler on PATH")


def run(*command, timeout=300, **options):
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=timeout, check=False, **options
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build_and_run(source, folder, *flags):
    program = folder / source.stem
    run(COMPILER, "-std=c++20", "-O2", "-Wall", "-Wextra", "-Werror", source, *flags, "-o", program)
    return run(program)
