"""Gradients of 16 bits where dP is nearly the same for all keys, so that dP and dO . O nearly cancel.

delta = dO . O of an output that is rounded to 16 bits is off by the size of the common part; on the CPU it comes from a
sweep instead.
"""

import pytest
import torch
from cases import RULES, Case, Shape, fixed

import splash_attention as sa
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

NORMALIZERS = (1, 1.5, 1.3, *RULES)
SHAPE = Shape(1, 4, 2, 200, 200, 64)
WANTED = 5e-3  # of the norm of the gradient; its own rounding to bfloat16 takes 1.7e-3


def common_values(q, k, v, grad):
    """Every key has a large part of its value in common."""
    return q, k, v + 30 * torch.randn(v.shape[-1], generator=torch.Generator().manual_seed(9)), grad


def common_keys(q, k, v, grad):
    """Values that differ from key to key by a hundredth."""
    return q, k, v[:, :, :1] + 0.02 * v, grad


def one_sign(q, k, v, grad):
    """As a mean over outputs gives it, with values that are all positive."""
    return q, k, v.abs() + 8, torch.ones_like(grad)


def long_rows(q, k, v, grad):
    """Weights that are nearly uniform: the output is nearly the mean of all values."""
    return 0.1 * q, k, v + 5, grad.abs()


@pytest.mark.parametrize("pattern", [sa.Causal(), sa.SlidingWindow.causal(40)], ids=["causal", "window"])
@pytest.mark.parametrize("alpha", NORMALIZERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("make", [common_values, common_keys, one_sign, long_rows], ids=lambda make: make.__name__)
def test_gradients_of_what_cancels(make, dtype, alpha, pattern, record_error):
    case = Case("", fixed(lambda: pattern), alpha, torch.float32, SHAPE)
    tensors = [t.to(dtype) for t in make(*case.inputs("cpu"))]
    parameters = case.parameters()

    def gradients(function, real, **options):
        inputs = [t.to(real).requires_grad_() for t in tensors[:3]]
        own = [p.to(torch.float64 if real == torch.float64 else torch.float32).requires_grad_() for p in parameters]
        out = function(*inputs, pattern, case.normalizer_of(own), **options)
        out = out[0] if isinstance(out, tuple) else out
        return torch.autograd.grad(out, [*inputs, *own], tensors[3].to(out.dtype))

    names = ["dq", "dk", "dv", *(f"d{n}" for n in range(len(parameters)))]
    got, want = gradients(sa.attention, dtype), gradients(reference_attention, torch.float64)
    for name, one, exact in zip(names, got, want, strict=True):
        error = ((one.double() - exact).norm() / exact.norm()).item() if exact.norm() > 0 else one.norm().item()
        record_error("cpu", f"cancelling {name}", error, WANTED)
        assert error <= WANTED, f"{name}: {error:.2e} of its norm"
