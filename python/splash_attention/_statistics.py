"""The kind of a statistic travels with it, so that merge() can refuse those that do not merge.

A statistic that is not the log-sum-exp of a plain softmax carries the name of its normalizer: on the tensor itself,
which torch.compile follows and copy, pickle and torch.save keep, and on its storage, which views of it share. Clones
and results of arithmetic carry none, nor does what a user has computed.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MERGES = "softmax"


def marked(statistic: Tensor, normalizer: object, name: str) -> Tensor:
    """`statistic` with its kind, which it carries from now on. name: by which the operators know the normalizer."""
    if name != _MERGES:
        if torch.compiler.is_compiling():
            statistic = statistic.view_as(statistic)  # what an operator with several results returned takes no mark
        kind = type(normalizer).__name__
        statistic._splash_kind = f"{kind} with sink_logit" if name == "softmax_sink" else kind
        storage = _storage(statistic)
        if storage is not None:
            storage._splash_kind = statistic._splash_kind
    return statistic


def kind_of(statistic: Tensor) -> str | None:
    """The normalizer whose statistic does not merge; None for a log-sum-exp, and where nothing is known."""
    kind = getattr(statistic, "_splash_kind", None)
    return kind if kind is not None else getattr(_storage(statistic), "_splash_kind", None)


def _storage(tensor: Tensor):
    if torch.compiler.is_compiling():
        return None
    try:
        return tensor.untyped_storage()
    except NotImplementedError:  # below transforms, and of some subclasses, which have none
        return None
