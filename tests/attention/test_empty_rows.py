"""A gradient that arrives at a row that keeps nothing ends there, whatever it is; one that arrives at a row that keeps
something reaches no more than what that row keeps."""

import math
from dataclasses import replace

import oracle
import pytest
import torch
from cases import BY_POSITION, CAUSAL, HALVES, PATTERNS, RULES, Case, Shape, fixed, on_devices, random_blocks

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")

NAN, INF = math.nan, math.inf
NORMALIZERS = (1, 1.5, 1.3, 2.0, *RULES)
SHAPE = Shape(2, 4, 2, 150, 150, 64)


def scattered(case, device):
    """An ElementMask with empty rows among others of every tile, and one whose last key alone is kept."""
    s = case.shape
    mask = torch.rand(s.batch, 1, s.queries, s.keys, generator=torch.Generator().manual_seed(6)) < 0.3
    mask |= torch.eye(s.queries, s.keys, dtype=torch.bool)
    mask[:, :, ::5] = False
    mask[1, :, 40:110] = False
    return sa.ElementMask(mask.to(device))


def late_indices(case, device):
    """An IndexCausal whose queries of every third row come before all keys."""
    s = case.shape
    queries = torch.where(torch.arange(s.queries) % 3 == 1, -1, torch.arange(s.queries))
    return sa.IndexCausal(queries.expand(s.batch, s.heads, -1).to(device), torch.arange(s.keys, device=device))


BASE = Case("causal", CAUSAL, 1, torch.float32, SHAPE)
PLACES = [
    replace(BASE, shape=replace(SHAPE, queries=230)),  # the first rows lie before the first key
    replace(BASE, shape=replace(SHAPE, queries=70), q_start=-20),
    replace(BASE, q_start=-45, k_start=-30),  # positions below 0 that keep keys
    replace(BASE, lengths=(150, 70)),
    replace(BASE, kv_lengths=(30, 0), shape=replace(SHAPE, queries=45)),
    replace(BASE, q_start=90, name="window37", pattern=PATTERNS["window37"]),  # the last rows are past every key
    replace(BASE, q_start=40, name="ahead", pattern=PATTERNS["ahead"]),
    replace(BASE, name="streaming", pattern=PATTERNS["streaming"], q_start=-20),
    replace(BASE, name="diagonal16", pattern=PATTERNS["diagonal16"], q_start=60),
    replace(BASE, name="dilated10x3", pattern=PATTERNS["dilated10x3"], q_start=120),
    replace(BASE, name="dilated-heads", pattern=PATTERNS["dilated-heads"], q_start=130),
    replace(BASE, name="strided", pattern=PATTERNS["strided"], q_start=-33),
    replace(BASE, name="fixed", pattern=PATTERNS["fixed"], lengths=(131, 0)),
    replace(BASE, name="longformer", pattern=PATTERNS["longformer-causal"], q_start=-20),
    replace(BASE, name="bigbird", pattern=fixed(lambda: sa.BigBird(16, length=150)), shape=replace(SHAPE, queries=190)),
    replace(BASE, name="blocks64", pattern=random_blocks(64, 0.4)),
    replace(BASE, name="blocks16x32", pattern=random_blocks((16, 32), 0.1), lengths=(149, 100)),
    replace(BASE, name="scattered", pattern=scattered),
    replace(BASE, name="indices", pattern=late_indices),
    replace(BASE, name="scattered&window37", pattern=lambda c, d: scattered(c, d) & sa.SlidingWindow.causal(37)),
]
CASES = [replace(case, alpha=alpha) for case in PLACES for alpha in NORMALIZERS]
CASES += [
    replace(case, alpha=alpha, dtype=dtype, shape=replace(case.shape, dim=dim))
    for case in PLACES
    for alpha, dtype, dim in (
        (1, HALVES[0], 64),
        ("sink", HALVES[1], 128),
        ("sink", HALVES[0], 256),
        (1, HALVES[1], 96),
    )
]
# Long enough for the backward that finds dq beside dk and dv.
CASES += [
    replace(case, alpha=alpha, dtype=torch.bfloat16, shape=Shape(1, 2, 1, 2177 + more, 2177, dim))
    for case, more in (
        (BASE, 300),
        (replace(BASE, name="full", pattern=PATTERNS["full"], lengths=(1999,)), 0),
        (replace(BASE, name="blocks128", pattern=random_blocks(128, 0.5)), 0),
        (replace(BASE, name="scattered", pattern=lambda c, d: sa.ElementMask(rows_without_keys(c, d))), 0),
    )
    for alpha, dim in ((1, 64), (1, 128), ("sink", 128))
]


def rows_without_keys(case, device):
    return (torch.arange(case.shape.queries, device=device) % 7 > 0)[:, None].expand(-1, case.shape.keys)


def small(case):
    return case.scores < 1 << 20


def calls_of(case, device, deterministic):
    """The tensors of a case and its answer to (q, k, v, *parameters): (out, statistic)."""
    pattern, options = case.full_pattern(device), case.options(device)

    def splash(q, k, v, *parameters):
        return sa.attention(
            q, k, v, pattern, case.normalizer_of(parameters), return_statistic=True, deterministic=deterministic,
            **options,
        )  # fmt: skip

    return case.inputs(device), case.parameters(device), splash


def empty_rows(case, device, statistic):
    """(B, Hq, Nq), by the reference's mask; rows at positions below 0 count as such under Elastic."""
    q, k, _, _ = case.inputs(device)
    options = case.options(device)
    empty = ~oracle.kept(case.full_pattern(device), q, k, options).any(-1)
    if case.alpha in ("elastic", "elastic-tau") and case.kv_lengths is None:
        first = case.k_start + k.shape[2] - q.shape[2] if case.q_start is None else case.q_start
        empty = empty | (torch.arange(q.shape[2], device=device) + first < 0)
    assert torch.equal(empty, statistic.isinf())
    assert empty.any() and not empty.all()
    return empty


def assert_ends(clean, dirty, empty):
    for quantity, want in clean.items():
        assert torch.equal(dirty[quantity], want), quantity
        assert not want.isnan().any(), quantity
    assert not dirty["dq"][empty].any()


@pytest.mark.parametrize("case, device", on_devices([case for case in CASES if small(case)], backward=True))
def test_what_arrives_at_an_empty_row_ends_there(case, device):
    """NaN and inf in its gradients and in its query: not a bit of any gradient changes, and its own is 0."""
    (q, k, v, grad), parameters, splash = calls_of(case, device, True)
    numbers = torch.randn(q.shape[:3], generator=torch.Generator().manual_seed(1)).to(device)
    empty = empty_rows(case, device, splash(q, k, v, *parameters)[1])

    def run(q, grad, at_empty):
        grad_statistic = torch.where(empty, at_empty, numbers)
        return oracle.with_gradients(splash, q, k, v, grad, grad_statistic, parameters)

    clean = run(q, grad, 0)
    assert_ends(clean, run(q, grad, NAN), empty)
    for value in (NAN, INF):
        dirty = [torch.where(empty[..., None], value, t) for t in (q, grad)]
        assert_ends(clean, run(*dirty, value), empty)


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("case", [case for case in CASES if not small(case)], ids=lambda case: case.id)
def test_what_arrives_at_an_empty_row_of_many_ends_there(case, deterministic):
    (q, k, v, grad), parameters, splash = calls_of(case, "cuda", deterministic)
    empty = splash(q, k, v, *parameters)[1].isinf()
    assert empty.any() and not empty.all()
    grad_statistic = torch.where(empty, NAN, 0.1)
    dirty = [torch.where(empty[..., None], NAN, t) for t in (q, grad)]
    got = oracle.with_gradients(splash, dirty[0], k, v, dirty[1], grad_statistic, parameters)
    want = oracle.with_gradients(splash, q, k, v, grad, torch.where(empty, 0, 0.1), parameters)
    for quantity in want:
        assert not got[quantity].isnan().any(), quantity
        if deterministic or quantity not in ("dq",):
            assert torch.equal(got[quantity], want[quantity]), quantity
    torch.testing.assert_close(got["dq"], want["dq"], rtol=2e-2, atol=2e-3)
    assert not got["dq"][empty].any()


@pytest.mark.parametrize("case, device", on_devices([case for case in CASES if small(case)], backward=True))
def test_a_masked_square_of_the_statistic(case, device):
    """where() itself makes the NaN: 0 times the derivative at an infinite statistic."""
    (q, k, v, _), parameters, splash = calls_of(case, device, True)
    tensors = [t.detach().requires_grad_() for t in (q, k, v, *parameters)]
    out, statistic = splash(*tensors)
    loss = torch.where(statistic.isfinite(), statistic**2, 0).sum() + out.float().sum()
    for gradient in torch.autograd.grad(loss, tensors):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("case, device", on_devices([case for case in CASES if small(case)], backward=True))
def test_a_bad_gradient_of_the_statistic_reaches_what_its_row_keeps(case, device):
    """dq of the row and dk of its keys at most; dv, and the gradients of what no statistic depends on, not at all."""
    (q, k, v, grad), parameters, splash = calls_of(case, device, True)
    kept = oracle.kept(case.full_pattern(device), q, k, case.options(device))
    grad_statistic = torch.zeros(q.shape[:3], device=device)
    live = kept.any(-1)
    row = int(live[0, 1].nonzero()[len(live[0, 1].nonzero()) // 2])
    clean = oracle.with_gradients(splash, q, k, v, grad, grad_statistic, parameters)
    grad_statistic[0, 1, row] = NAN
    dirty = oracle.with_gradients(splash, q, k, v, grad, grad_statistic, parameters)
    reached = {"dq": torch.zeros_like(live), "dk": torch.zeros(k.shape[:3], dtype=torch.bool, device=device)}
    reached["dq"][0, 1, row] = True
    reached["dk"][0, 1 // (case.shape.heads // case.shape.kv_heads)] = kept[0, 1, row]
    for quantity, want in clean.items():
        got = dirty[quantity]
        if case.alpha == "elastic" and quantity == "d1":  # of the bias, which the statistic is of
            assert torch.equal(got[0], want[0]) and torch.equal(got[2:], want[2:])
            continue
        if quantity in reached:
            got, want = (torch.where(reached[quantity][..., None], 0, t) for t in (got, want))
        assert torch.equal(got, want), quantity
    assert not dirty["dq"][0, 1, row].isfinite().all()


QUERIES, KEYS, TAIL = (40, 0, 70, 1, 130, 33), (9, 3, 100, 0, 64, 33), 5
PACKED = [
    Case(name, PATTERNS[name], alpha, dtype, Shape(1, 4, 2, sum(QUERIES) + TAIL, sum(KEYS) + TAIL, 64))
    for name in ("causal", "window37", "full", *BY_POSITION)
    for alpha, dtype in (*((alpha, torch.float32) for alpha in NORMALIZERS), (1, HALVES[0]), ("sink", HALVES[1]))
]


@pytest.mark.parametrize("case, device", on_devices(PACKED, backward=True))
def test_empty_rows_of_packed_sequences(case, device):
    """Queries before the first key of their sequence, of sequences without keys, and after the last sequence."""
    q, k, v, grad = (t[0].transpose(0, 1) for t in case.inputs(device))
    pattern, parameters = case.full_pattern(device), case.parameters(device)
    ends = [torch.tensor([0, *lengths]).cumsum(0).to(device) for lengths in (QUERIES, KEYS)]

    def splash(q, k, v, *parameters):
        normalizer = case.normalizer_of(parameters)
        longest = max(QUERIES), max(KEYS)
        return sa.attention_varlen(
            q, k, v, *ends, *longest, pattern, normalizer, return_statistic=True, deterministic=True
        )

    empty = splash(q, k, v, *parameters)[1].isinf()  # (Hq, Tq)
    assert empty[:, -TAIL:].all() and empty[:, 110].all() and not empty.all()
    numbers = torch.randn(empty.shape, generator=torch.Generator().manual_seed(1)).to(device)

    def dirty(t):
        return torch.where(empty.T[..., None], NAN, t)

    clean = oracle.with_gradients(splash, q, k, v, grad, torch.where(empty, 0, numbers), parameters)
    got = oracle.with_gradients(splash, dirty(q), k, v, dirty(grad), torch.where(empty, NAN, numbers), parameters)
    assert_ends(clean, got, empty.T)


def halves(device, dtype, dim=64):
    """Two sets of keys for the same queries, the first rows of which keep nothing of one, of the other, of both."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 100, dim, generator=generator).to(device, dtype) for _ in range(3))
    rows = torch.arange(100, device=device)
    masks = [torch.rand(100, 50, generator=generator).to(device) < 0.3 for _ in range(2)]
    masks[0] &= (rows % 4 > 0)[:, None]
    masks[1] &= (rows % 4 > 1)[:, None]
    masks[1] |= (rows % 4 == 0)[:, None] & (rows % 8 > 0)[:, None]
    return q, k, v, masks


def test_merge_of_empty_rows(device):
    """As one call over all keys; a NaN at a row that neither part keeps keys of ends there."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q, k, v, masks = halves(device, dtype)
    empty = ~(masks[0].any(1) | masks[1].any(1))
    assert empty.any() and not empty.all() and not torch.equal(masks[0].any(1), masks[1].any(1))

    def merged(q, k, v):
        parts = [
            sa.attention(
                q, k[:, :, keys], v[:, :, keys], sa.ElementMask(mask), return_statistic=True, deterministic=True
            )
            for keys, mask in zip((slice(0, 50), slice(50, 100)), masks, strict=True)
        ]
        return sa.merge(*parts[0], *parts[1])

    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(5)).to(device, dtype)
    numbers = torch.randn(q.shape[:3], generator=torch.Generator().manual_seed(6)).to(device)
    clean = oracle.with_gradients(merged, q, k, v, grad, numbers.masked_fill(empty, 0))
    dirty = oracle.with_gradients(
        merged, q, k, v, grad.masked_fill(empty[:, None], NAN), numbers.masked_fill(empty, NAN)
    )
    for quantity, want in clean.items():
        assert not want.isnan().any() and torch.equal(dirty[quantity], want), quantity
    o1, l1, o2, l2 = (t.requires_grad_() for t in self_made_parts(device))
    out, lse = sa.merge(o1, l1, o2, l2)
    assert not out[0].any() and lse[0] == -INF
    bad = torch.full_like(out, 1.0), torch.ones_like(lse)
    bad[0][0], bad[1][0] = NAN, NAN
    for gradient in torch.autograd.grad((out, lse), (o1, l1, o2, l2), bad):
        assert gradient.isfinite().all() and not gradient[0].any()


def self_made_parts(device):
    """Parts of three rows, of which the first one is empty in both and the second one in the first."""
    out = [torch.randn(3, 8, generator=torch.Generator().manual_seed(n)).to(device) for n in range(2)]
    return (
        out[0].masked_fill(torch.tensor([[True], [True], [False]], device=device), 0),
        torch.tensor([-INF, -INF, 0.5], device=device),
        out[1].masked_fill(torch.tensor([[True], [False], [False]], device=device), 0),
        torch.tensor([-INF, 0.2, -1.0], device=device),
    )


@pytest.mark.parametrize("causal", [True, False])
def test_longnet_rows_without_keys(device, causal):
    """Tokens past a length, which every branch has and keeps nothing of, and tokens that no branch has."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = (torch.randn(2, 4, 128, 64, generator=generator).to(device, dtype) for _ in range(4))
    lengths = torch.tensor([128, 50], device=device)

    def splash(q, k, v):
        out = sa.longnet_attention(q, k, v, ((32, 4), (64, 8)), causal, lengths=lengths, deterministic=True)
        return out, out.detach().float().sum(-1)

    empty = (splash(q, k, v)[0] == 0).all(-1)
    assert empty[1, :, 50:].all() and empty[0].any() and not empty.all()
    clean = oracle.with_gradients(splash, q, k, v, grad)
    for value in (NAN, INF):
        dirty = oracle.with_gradients(splash, q, k, v, grad.masked_fill(empty[..., None], value))
        assert_ends(clean, dirty, empty)


@pytest.mark.parametrize(
    "shape, dim", [((5, 40), -1), ((5, 3000), 1), ((40, 5), 0), ((3, 1500, 7), 1), ((1200, 64), 0)]
)
@pytest.mark.parametrize("alpha", [1.2, 1.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_entmax_rows_of_masked_scores(device, dtype, alpha, shape, dim):
    """Rows of nothing but -inf: weights and gradients 0, twice over, and no trace of it in other rows."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device, dtype)
    lines = x.movedim(dim, -1)
    lines[..., 1:3, :] = -INF
    lines[..., 0, 1:] = -INF  # keeps one
    x.requires_grad_()
    p = sa.entmax(x, alpha, dim)
    good = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device, dtype)
    bad = good.clone()
    bad.movedim(dim, -1)[..., 1:3, :] = NAN
    bad.movedim(dim, -1)[..., 0, 1:] = NAN  # where there is no weight
    want, got = (torch.autograd.grad(p, x, g, create_graph=True)[0] for g in (good, bad))
    assert torch.equal(got, want) and want.isfinite().all()
    assert not p.movedim(dim, -1)[..., 1:3, :].any() and not got.movedim(dim, -1)[..., 1:3, :].any()
    second = torch.autograd.grad(got, x, bad)[0]
    assert second.isfinite().all() and not second.movedim(dim, -1)[..., 1:3, :].any()
