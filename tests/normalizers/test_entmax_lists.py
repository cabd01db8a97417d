"""Entmax where rows have few, many, too many or no candidates: a GPU's lists, rows without one, and the CPU beside."""

import oracle
import pytest
import torch

import splash_attention as sa
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = 300


def inputs(kind, device, heads=2, dim=64):
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, heads, ROWS, dim, generator=generator) for _ in range(4))
    if kind == "no scores apart":
        q = torch.zeros_like(q)
    if kind == "nearly the same":
        q = q * 1e-3
    if kind == "one row of them":  # among rows that have lists
        q[:, :, 250] = 0
    if kind == "ascending":
        q, k = torch.ones_like(q), torch.arange(ROWS).view(1, 1, ROWS, 1).expand_as(k) / ROWS
    if kind == "descending":
        q, k = torch.ones_like(q), -torch.arange(ROWS).view(1, 1, ROWS, 1).expand_as(k) / ROWS
    if kind == "negative scores":
        q, k = q.abs(), -k.abs()
    if kind == "far apart":
        q = q * 100
    if kind == "one key for all":  # its queries are more than a group of lanes adds up
        k[:, :, 0], q[..., 0] = 0, 4
        k[:, :, 0, 0] = 4
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return [t.to(device, dtype) for t in (q, k, v, grad)]


KINDS = (
    "random", "no scores apart", "nearly the same", "one row of them", "ascending", "descending", "negative scores",
    "far apart", "one key for all",
)  # fmt: skip


@pytest.mark.parametrize("alpha", [1.1, 4 / 3, 1.5, 1.75])  # at 2 gradients jump where a key enters
@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_rows(device, kind, alpha):
    q, k, v, grad = inputs(kind, device)
    grad_statistic = torch.linspace(-1, 1, ROWS, device=device).expand(1, 2, ROWS)

    def of(function, **options):
        return lambda q, k, v: function(q, k, v, "causal", sa.Entmax(alpha), **options)

    got = oracle.with_gradients(of(sa.attention, return_statistic=True), q, k, v, grad, grad_statistic)
    exact = (t.double() for t in (q, k, v, grad, grad_statistic))
    want = oracle.with_gradients(of(reference_attention), *exact)
    same = oracle.with_gradients(of(reference_attention, dtype=None), q, k, v, grad, grad_statistic)
    for quantity in want:
        error, bound = oracle.error_and_bound(got[quantity], want[quantity], same[quantity])
        assert error <= bound, f"{quantity}: error {error:.3e} above {bound:.3e}"


@pytest.mark.parametrize("kind", ["random", "one row of them", "one key for all"])
def test_repeats(device, kind):
    """Bit for bit where asked to, keys of many queries and rows without lists among them."""
    tensors = inputs(kind, device)

    def run():
        def call(q, k, v):
            return sa.attention(q, k, v, "causal", 1.5, return_statistic=True, deterministic=True)

        return oracle.with_gradients(call, *tensors)

    first = run()
    for _ in range(19):
        for name, tensor in run().items():
            assert torch.equal(tensor, first[name]), name


@pytest.mark.parametrize("place", ["query", "key"])
def test_nan_stays_in_its_rows(device, place):
    q, k, v, _ = inputs("random", device)
    clean = sa.attention(q, k, v, "causal", 1.5)
    (q if place == "query" else k)[:, :, 200, 3] = torch.nan
    dirty = sa.attention(q, k, v, "causal", 1.5)
    # On a GPU rows beside a NaN take another way, and round in another order.
    room = {"rtol": 0, "atol": 0 if device == "cpu" else 2**-5}
    torch.testing.assert_close(dirty[:, :, :200], clean[:, :, :200], **room)
    assert dirty[:, :, 200].isnan().all()
    if place == "query":
        torch.testing.assert_close(dirty[:, :, 201:], clean[:, :, 201:], **room)
