"""The library's own exception, and the way from the operators' errors to Python classes."""

from __future__ import annotations

import re


class NoKernelError(NotImplementedError):
    """A legal problem that this build has no kernel for. The text names the nearest compiled one."""


_CLASSES = {
    "ValueError": ValueError,
    "TypeError": TypeError,
    "NoKernelError": NoKernelError,
    "CudaError": RuntimeError,
}
_PREFIX = re.compile(rf"splash\.({'|'.join(_CLASSES)}): ")


def translate(error: RuntimeError) -> Exception:
    """The exception that an operator meant.

    The stable ABI can only raise RuntimeError, so the operators put the name of the class in front of the text. Any
    other error comes back as it is.
    """
    text = str(error)
    found = _PREFIX.search(text)
    if not found:
        return error
    # Torch may append a C++ stack trace after the first line.
    return _CLASSES[found[1]](text[found.end() :].split("\nException raised from", 1)[0].strip())
