"""Whether an installed wheel works by itself, as `.ci/run` asks it: no compiler, no sources, this file alone.

Exit code 1 and the reason where it does not.
"""

import importlib.metadata
import shutil
import sys
from pathlib import Path

import torch

import splash_attention as splash
from splash_attention import _library, info


def main() -> None:
    """Both passes of a call, and what the build says of itself."""
    found = [tool for tool in ("g++", "gcc", "cc", "nvcc", "cmake", "ninja") if shutil.which(tool)]
    assert not found, f"{', '.join(found)} can be found: this is no machine without a compiler"
    assert Path(splash.__file__).is_relative_to(sys.prefix), f"{splash.__file__} is not the wheel's"
    assert importlib.metadata.version("splash-attention") == splash.__version__ == _library.build_info()["version"]

    q, k, v = (torch.randn(1, 4, 130, 64, requires_grad=True) for _ in range(3))
    out = splash.attention(q, k, v, splash.SlidingWindow.causal(20))
    mask = torch.ones(130, 130, dtype=torch.bool).tril().triu(-19)
    wanted = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    torch.testing.assert_close(out, wanted)
    grad = torch.randn_like(out)
    for ours, theirs in zip(*(torch.autograd.grad(o, (q, k, v), grad) for o in (out, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs)
    info.show()
    archs = {row["arch"] for row in _library.instances()}
    assert "sm90" in archs, f"instances for {archs}: none for a GPU"


if __name__ == "__main__":
    main()
