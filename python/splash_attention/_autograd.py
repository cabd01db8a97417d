"""A torch.autograd.Function as the autograd kernel of an operator, also below torch.func transforms."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function


def as_kernel(function: type[torch.autograd.Function]) -> Callable:
    """kernel(keyset, *arguments of the operator), for Library.impl(..., "Autograd", with_keyset=True).

    `function` has forward(keyset, *arguments), which redispatches below autograd, and setup_context.
    """
    # Function.apply wants to see torch.func transforms first, and inspects signatures at each call. Here the dispatcher
    # has already taken the transforms apart, as for any other operator: the plain apply below it is the right one.
    apply = super(torch.autograd.Function, function).apply

    def kernel(keyset, *args):
        if not (torch.is_grad_enabled() and torch._C._any_requires_grad(*args)):
            return function.forward(keyset, *args)
        if not torch._C._are_functorch_transforms_active():
            return apply(keyset, *args)
        with enable_single_level_autograd_function():
            return apply(keyset, *args)

    return kernel
