"""What a peer is: it says why it cannot run a case, or makes a call of (q, k, v) for it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from torch import Tensor

from ..case import Case

Call = Callable[[Tensor, Tensor, Tensor], Tensor]
NOT_INSTALLED = "not installed"


class Peer:
    """A subclass sets `name` and `about`, names the `package` that it needs, and writes refuses() and prepare()."""

    name: str
    about: str
    package: str | None = None

    def missing(self) -> str:
        """ "" where its package can be imported."""
        if self.package is None:
            return ""
        try:
            return "" if find_spec(self.package) else NOT_INSTALLED
        except ModuleNotFoundError:  # a parent package is absent
            return NOT_INSTALLED

    def why_not(self, case: Case) -> str:
        """Why it cannot run the case; "" where it can."""
        return self.missing() or self.refuses(case)

    def refuses(self, case: Case) -> str:
        raise NotImplementedError

    def computes(self, case: Case) -> str:
        """ "same" where its answer is that of the problem, otherwise what it computes instead."""
        return "same"

    def backward(self, case: Case) -> str:
        """Why it has no backward there; "" where it has."""
        return ""

    def prepare(self, case: Case) -> Call:
        """A forward call; metadata is built here, outside of the times."""
        raise NotImplementedError


def dense_scores_refusal(case: Case, copies: int) -> str:
    """Why `copies` of all scores, in float32, are too much to hold; "" where they are not."""
    limit = {"cpu": 4, "cuda": 32}[case.device.type]
    sizes = case.sizes
    needed = copies * 4 * sizes.batch * sizes.heads * sizes.rows * sizes.seq_len / 2**30
    return f"needs about {needed:.0f} GiB for N x N scores, more than {limit} GiB" if needed > limit else ""
