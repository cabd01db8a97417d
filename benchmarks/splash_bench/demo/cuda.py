"""What the demo shows where a CUDA device is: splash's forward there against the reference."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from splash_attention import NoKernelError

from .variants import VARIANTS, Variant

DTYPES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Check:
    """The largest error of one forward on the device, and what is allowed: twice that of PyTorch, and one rounding."""

    variant: Variant
    dtype: torch.dtype
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        return self.error <= self.allowed


def missing_backward(device: torch.device) -> str | None:
    """None where attention can be trained on the device, otherwise the library's own words why not."""
    q, k, v = (torch.zeros(1, 1, 64, 64, dtype=torch.bfloat16, device=device, requires_grad=True) for _ in range(3))
    try:
        VARIANTS[0].splash(q, k, v).sum().backward()
    except NoKernelError as error:
        return str(error)
    return None


@torch.no_grad()
def check_forward(calls: dict[str, tuple[torch.Tensor, ...]], device: torch.device) -> list[Check]:
    """Every variant on its own trained (q, k, v), in every dtype that the device's kernels take."""
    checks = []
    for variant in VARIANTS:
        for dtype in DTYPES:
            q, k, v = (tensor.to(device, dtype) for tensor in calls[variant.name])
            want = variant.reference(q.double(), k.double(), v.double())
            rounding = torch.finfo(dtype).eps * want.abs().max().item()
            # A NaN anywhere makes the largest difference NaN, which no bound allows.
            error, same = (
                (attend(q, k, v).double() - want).abs().max().item()
                for attend in (variant.splash, variant.same_precision)
            )
            checks.append(Check(variant, dtype, error, 2 * same + rounding))
    return checks
