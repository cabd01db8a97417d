"""What must not matter, does not matter, and extremes stay finite: every pattern and normalizer, and packed sequences.

test_poison.py has the same for bands, block masks, softmax and 1.5-entmax in 16 bits, and on CUDA.
"""

import math
from dataclasses import replace

import oracle
import pytest
import torch
from cases import BY_POSITION, CAUSAL, PATTERNS, RULES, Case, Shape, fixed

import splash_attention as sa
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = math.nan, math.inf
NORMALIZERS = (1, 1.5, 1.3, *RULES)
SHAPE = Shape(2, 4, 2, 70, 330, 24)


def elements(case, device):
    """Partial tiles in which whole columns are empty."""
    s = case.shape
    mask = torch.rand(s.batch, 1, s.queries, s.keys, generator=torch.Generator().manual_seed(4)) < 0.2
    return sa.ElementMask(mask & (torch.arange(s.keys) % 7 != 3))


def indices(case, device):
    """Ascending, up to the middle of the keys."""
    s = case.shape
    return sa.IndexCausal(torch.arange(s.queries) + 60, torch.arange(s.keys))


READERS = {
    **BY_POSITION,
    "elements": elements,
    "indices": indices,
    "elements&streaming": lambda case, device: elements(case, device) & sa.Streaming(40, 40),
    "blocks16x32": PATTERNS["blocks16x32"],
}
CASES = [
    Case(name, make, alpha, torch.float32, SHAPE, q_start=60) for name, make in READERS.items() for alpha in NORMALIZERS
]
for alpha in NORMALIZERS:
    square = Case("causal", CAUSAL, alpha, torch.float32, Shape(3, 4, 2, 150, 150, 24))
    CASES += [
        replace(square, lengths=(130, 65, 0)),
        replace(square, lengths=(64, 1, 149), name="strided", pattern=PATTERNS["strided"]),
        replace(square, lengths=(130, 65, 3), name="bigbird", pattern=fixed(lambda: sa.BigBird(16, length=300))),
        replace(square, kv_lengths=(140, 64, 0), shape=replace(square.shape, queries=5)),
        replace(square, dtype=torch.bfloat16, lengths=(130, 65, 0), name="longformer", pattern=PATTERNS["longformer"]),
    ]


def read_keys(kept):
    """(B, Hkv, Nk, 1): which keys any query keeps, of two query heads a key head."""
    return kept.any(2).unflatten(1, (-1, 2)).any(2)[..., None]


def run(case, pattern, parameters, options, q, k, v, grad):
    def splash(q, k, v, *parameters):
        normalizer = case.normalizer_of(parameters)
        return sa.attention(q, k, v, pattern, normalizer, return_statistic=True, deterministic=True, **options)

    return oracle.with_gradients(splash, q, k, v, grad, parameters=parameters)


def assert_same_bits(dirty, clean):
    for quantity, want in clean.items():
        assert torch.equal(dirty[quantity], want), quantity
        assert not want.isnan().any(), quantity


@pytest.mark.parametrize("value", [NAN, -INF])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_unread_rows_do_not_matter(case, value):
    """Keys and values that no query keeps, and rows past a length: not a bit changes, of parameters' gradients too."""
    q, k, v, grad = case.inputs("cpu")
    options, pattern, parameters = case.options("cpu"), case.full_pattern("cpu"), case.parameters()
    kept = oracle.kept(pattern, q, k, options)
    if read_keys(kept).all():  # within a window, then
        pattern = pattern & sa.SlidingWindow(20, 20)
        kept = oracle.kept(pattern, q, k, options)
    read = read_keys(kept)
    assert not read.all()
    rows = torch.ones(q.shape[:3], dtype=torch.bool)[..., None]
    if case.lengths is not None:
        rows &= (torch.arange(q.shape[2]) < options["lengths"][:, None])[:, None, :, None]

    clean = run(case, pattern, parameters, options, q, k, v, grad)
    poison = (torch.where(good, t, value) for t, good in ((q, rows), (k, read), (v, read), (grad, rows)))
    assert_same_bits(run(case, pattern, parameters, options, *poison), clean)
    empty = ~kept.any(-1)
    assert not clean["out"][empty].any() and not clean["dq"][empty].any()
    for quantity in ("dk", "dv"):
        assert not clean[quantity][~read.squeeze(-1)].any()


QUERIES, KEYS, TAIL = (5, 0, 70, 1, 130, 33), (9, 3, 70, 0, 200, 12), 3


@pytest.mark.parametrize("alpha", NORMALIZERS)
@pytest.mark.parametrize("name", ["causal", *BY_POSITION])
def test_unread_rows_of_packed_sequences_do_not_matter(name, alpha):
    """Keys that no query of their sequence keeps, and tokens after the last sequence."""
    make = {"causal": CAUSAL, **BY_POSITION}[name]
    case = Case(name, make, alpha, torch.float32, Shape(1, 4, 2, sum(QUERIES) + TAIL, sum(KEYS) + TAIL, 24))
    q, k, v, grad = (t[0].transpose(0, 1) for t in case.inputs("cpu"))
    pattern, parameters = case.full_pattern("cpu"), case.parameters()
    ends = [torch.tensor([0, *lengths]).cumsum(0) for lengths in (QUERIES, KEYS)]
    masks = [pattern.to_dense(*sizes, heads=4)[0].expand(4, *sizes) for sizes in zip(QUERIES, KEYS, strict=True)]
    read = torch.cat(
        [*(mask.any(1).view(2, 2, -1).any(1) for mask in masks), torch.zeros(2, TAIL, dtype=torch.bool)], 1
    )
    rows = torch.arange(q.shape[0])[:, None, None] < sum(QUERIES)

    def result(q, k, v, grad):
        def splash(q, k, v, *parameters):
            normalizer = case.normalizer_of(parameters)
            longest = max(QUERIES), max(KEYS)
            return sa.attention_varlen(q, k, v, *ends, *longest, pattern, normalizer, return_statistic=True)

        return oracle.with_gradients(splash, q, k, v, grad, parameters=parameters)

    good = rows, read.T[..., None], read.T[..., None], rows
    poison = (torch.where(good, t, NAN) for t, good in zip((q, k, v, grad), good, strict=True))
    assert_same_bits(result(*poison), result(q, k, v, grad))


def inputs_of(kind):
    """q, k, v, dO (1, 2, N, 8) whose scores are what `kind` says."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(1, 2, 150, 8, generator=generator) for _ in range(4))
    slope = torch.linspace(-20, 20, 150)[:, None]
    if kind == "zero queries":
        q = q * 0
    elif kind in ("ascending", "descending"):
        q, k = torch.ones_like(q), slope.expand(k.shape) * (1 if kind == "ascending" else -1)
    elif kind == "equal keys":
        k = k[:, :, :1].expand(k.shape).contiguous()
    elif kind == "one far above":
        k[:, :, 40] *= 100
    return q, k, v, grad


@pytest.mark.parametrize("alpha", NORMALIZERS)
@pytest.mark.parametrize("kind", ["zero queries", "ascending", "descending", "equal keys", "one far above"])
def test_scores_of_all_kinds(kind, alpha, record_error):
    """Everything in the support, ties, and maxima that every tile moves; the first rows keep nothing."""
    q, k, v, grad = inputs_of(kind)
    case = Case(kind, PATTERNS["streaming"], alpha, torch.float32, Shape(1, 2, 2, 150, 150, 8))
    pattern, parameters = case.full_pattern("cpu"), case.parameters()

    def answer(function, real, **options):
        def call(q, k, v, *parameters):
            return function(q, k, v, pattern, case.normalizer_of(parameters), q_start=-9, **options)

        tensors = (t.to(real) for t in (q, k, v))
        return oracle.with_gradients(call, *tensors, grad, parameters=[p.to(real) for p in parameters])

    want = answer(reference_attention, torch.float64)
    same = answer(reference_attention, torch.float32, dtype=None)
    got = answer(sa.attention, torch.float32, return_statistic=True)
    for quantity in want:
        error, bound = oracle.error_and_bound(got[quantity], want[quantity], same[quantity])
        record_error("cpu", quantity, error, bound)
        assert error <= bound, quantity
    assert not got["out"][:, :, :9].any() and not got["dq"][:, :, :9].any()


HUGE = {"scale": (1e4, -1e4), "values": (1e30, -1e30), "gradient": (1e30,), "parameters": (1e4, -1e4, 1e30, -1e30)}


@pytest.mark.parametrize("what, size", [(what, size) for what, sizes in HUGE.items() for size in sizes])
@pytest.mark.parametrize("alpha", NORMALIZERS)
def test_extremes_stay_finite(alpha, what, size):
    """Outputs and every gradient, where one of the inputs is huge."""
    case = Case(what, CAUSAL, alpha, torch.float32, Shape(1, 2, 1, 150, 150, 8))
    q, k, v, grad = case.inputs("cpu")
    parameters = [p * size if what == "parameters" else p for p in case.parameters()]
    v, grad = (t * size if what == name else t for t, name in ((v, "values"), (grad, "gradient")))
    options = {"scale": size} if what == "scale" else {}
    for quantity, tensor in run(case, sa.Causal(), parameters, options, q, k, v, grad).items():
        assert tensor.isfinite().all(), quantity
