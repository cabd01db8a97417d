"""The build backend: scikit-build-core's hooks, and the Torch whose headers are compiled against.

Any Torch from 2.10 on will do, so the one that the target environment has is taken as it is, and an isolated build
pulls no gigabytes of another one. Where there is none the build asks for FALLBACK.
"""

from __future__ import annotations

import importlib.util
import os
import re
import site
import sys
from pathlib import Path

OLDEST = (2, 10)
FALLBACK = "torch==2.13.0"
VARIABLE = "SPLASH_TORCH_DIR"  # pyproject.toml hands it on to CMake


def _environment_folders() -> list[Path]:
    """Where the interpreter's packages lie; an isolated build of pip hides them, but runs the same interpreter."""
    prefixes = [sys.prefix]
    if sys.prefix != sys.base_prefix and _sees_base():
        prefixes.append(sys.base_prefix)
    folders = site.getsitepackages(prefixes)
    if sys.base_prefix in prefixes:
        folders.append(site.getusersitepackages())
    return [Path(folder) for folder in folders]


def _sees_base() -> bool:
    """Whether this virtual environment was made with --system-site-packages."""
    settings = Path(sys.prefix, "pyvenv.cfg")
    text = settings.read_text() if settings.is_file() else ""
    return bool(re.search(r"^include-system-site-packages\s*=\s*true\s*$", text, re.IGNORECASE | re.MULTILINE))


def _serves(folder: Path) -> bool:
    """Whether a Torch that is new enough lies there, with its headers."""
    version, header = folder / "version.py", folder / "include/torch/csrc/stable/library.h"
    if not version.is_file() or not header.is_file():
        return False
    found = re.search(r"^__version__ = '(\d+)\.(\d+)", version.read_text(), re.MULTILINE)
    return bool(found) and (int(found[1]), int(found[2])) >= OLDEST


def installed_torch() -> Path | None:
    """The folder of the Torch to build against: that of $SPLASH_TORCH_DIR, one that can be imported, or one of the
    environment that the build is for. None where there is none of OLDEST or later."""
    if os.environ.get(VARIABLE):
        return Path(os.environ[VARIABLE])
    spec = importlib.util.find_spec("torch")
    folders = [Path(spec.origin).parent] if spec and spec.origin else []
    folders += [folder / "torch" for folder in _environment_folders()]
    return next(filter(_serves, folders), None)


def _requirements() -> list[str]:
    return [] if installed_torch() else [FALLBACK]


def _choose_torch() -> None:
    if torch := installed_torch():
        os.environ[VARIABLE] = str(torch)


def get_requires_for_build_wheel(config_settings=None):
    from scikit_build_core import build

    return [*build.get_requires_for_build_wheel(config_settings), *_requirements()]


def get_requires_for_build_editable(config_settings=None):
    from scikit_build_core import build

    return [*build.get_requires_for_build_editable(config_settings), *_requirements()]


def get_requires_for_build_sdist(config_settings=None):
    from scikit_build_core import build

    return build.get_requires_for_build_sdist(config_settings)


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    from scikit_build_core import build

    return build.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None):
    from scikit_build_core import build

    return build.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_sdist(sdist_directory, config_settings=None):
    from scikit_build_core import build

    return build.build_sdist(sdist_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    from scikit_build_core import build

    _choose_torch()
    return build.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    from scikit_build_core import build

    _choose_torch()
    return build.build_editable(wheel_directory, config_settings, metadata_directory)
