"""The one place of the version: the package, pyproject.toml, CMake and libsplash read it."""

__version__ = "0.1.0"
