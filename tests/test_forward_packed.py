"""The softmax forward of packed sequences, with poison, against the float64 reference of the same rows and columns."""

import oracle
import pytest
import torch
from cases import on_devices
from forward_problem import assert_same_bits, compare, poisoned, reference_answers
from guards import between_guards
from layouts import LAYOUTS
from operators import FORWARD
from packed_cases import CUT, PACKED, packed

import splash_attention as sa
from splash_attention.patterns import Extent

pytestmark = pytest.mark.usefixtures("one_thread")


def kept_by(problem, pattern, device):
    """(1, Hq, Tq, Tk) bool: each sequence keeps scores of its own rows and columns, positions ending together."""
    s = problem.case.shape
    mask = torch.zeros(1, s.heads, s.queries, s.keys, dtype=torch.bool, device=device)
    for rows, columns in problem.parts():
        queries, keys = rows.stop - rows.start, columns.stop - columns.start
        if queries and keys:
            i = torch.arange(queries, device=device)[None, None, :, None] + keys - queries
            mask[:, :, rows, columns] = oracle.dense_mask(pattern, i, torch.arange(keys, device=device), s.heads)
    return mask


def through_the_operator(problem, q, k, v, pattern, normalizer, ends):
    """A call whose metadata are already made, and which checks no value of `ends`: (out, statistic) of (1, H, T, D)."""
    s, longest = problem.case.shape, problem.longest
    extent = Extent(len(problem.queries), s.heads, *longest, q.device, cu_seqlens_k=ends[1])
    encoded, scale = pattern.encode(extent), problem.case.scale or s.dim**-0.5
    rows = None, None, *ends, *longest, 0, 0
    return lambda: FORWARD(q, k, v, *encoded, *normalizer.encode(), *rows, scale, False)[:2]


def varlen(problem, q, k, v, pattern, normalizer, ends):
    """attention_varlen() of tensors (1, H, T, D)."""
    tokens = (t[0].transpose(0, 1) for t in (q, k, v))
    out, statistic = sa.attention_varlen(
        *tokens, *ends, *problem.longest, pattern, normalizer, scale=problem.case.scale, return_statistic=True
    )
    return out.transpose(0, 1)[None], statistic[None]


@torch.no_grad()
def check(problem, device, record_error, public):
    case, layout, ends = problem.case, LAYOUTS[problem.case.layout], problem.ends(device)
    numbers, parameters = case.numbers(device)[:3], case.parameters(device)
    pattern, normalizer = case.full_pattern(device), case.normalizer_of(parameters)
    kept = kept_by(problem, pattern, device)
    q, k, v = (layout(t) for t in poisoned(case, numbers, kept))

    sizes = q.numel() * q.element_size(), q.numel() // case.shape.dim * 4
    got = between_guards(device, sizes, through_the_operator(problem, q, k, v, pattern, normalizer, ends))
    exact, same = reference_answers(q, k, v, kept, case.normalizer_of, parameters, case.scale)
    compare(got, exact, same, record_error, device, problem.features, prefix="packed ")
    assert not got[0][~kept.any(-1)].any(), "rows that keep nothing, or belong to no sequence"
    clean = [layout(t) for t in numbers]
    if public:
        assert_same_bits(varlen(problem, q, k, v, pattern, normalizer, ends), got, "called again")
        ends = problem.ends(device, torch.int64)
        assert_same_bits(varlen(problem, *clean, pattern, normalizer, ends), got, "without NaN where nothing reads")
    else:
        again = through_the_operator(problem, *clean, pattern, normalizer, ends)()
        assert_same_bits(again, got, "without NaN where nothing reads")


@pytest.mark.parametrize("problem, device", on_devices(PACKED, cpu_every=9, cpu_scores=2**21))
def test_packed(problem, device, record_error):
    check(problem, device, record_error, public=True)


@pytest.mark.parametrize("problem, device", on_devices(CUT, cpu_every=5, cpu_scores=2**21))
def test_too_small_max_seqlen_cuts(problem, device, record_error):
    """Rows beyond it are 0, keys beyond it do not exist, and nothing else happens."""
    check(problem, device, record_error, public=False)


ISOLATED = [
    packed(name, pattern, (3, 3), group=group)
    for name, group in (("uneven", 2), ("off-tiles", 1), ("few-queries", 4), ("self", 3))
    for pattern in ("full", "causal", "streaming", "dilated10x3", "strided", "bigbird", "longformer")
]


@pytest.mark.parametrize("problem, device", on_devices(ISOLATED, cpu_every=3))
def test_sequences_do_not_see_each_other(problem, device):
    """Where every second sequence is NaN altogether, the others are what they are among numbers."""
    case, ends = problem.case, problem.ends(device)
    numbers, normalizer = case.numbers(device)[:3], case.normalizer_of(case.parameters(device))
    pattern = case.full_pattern(device)
    want = varlen(problem, *numbers, pattern, normalizer, ends)
    bad = [t.clone() for t in numbers]
    good = torch.ones(case.shape.queries, dtype=torch.bool, device=device)
    for rows, columns in list(problem.parts())[::2]:
        good[rows] = False
        for tensor, where in zip(bad, (rows, columns, columns), strict=True):
            tensor[:, :, where] = torch.nan
    got = varlen(problem, *bad, pattern, normalizer, ends)
    assert_same_bits([t[:, :, good] for t in got], [t[:, :, good] for t in want], "among sequences of NaN")


def test_more_sequences_than_a_grid_is_wide(device):
    """One token each: its weight is 1."""
    q, k, v = (
        torch.randn(70_000, 2, 32, generator=torch.Generator().manual_seed(n)).to(device, torch.bfloat16)
        for n in range(3)
    )
    ends = torch.arange(70_001, dtype=torch.int32, device=device)
    out, statistic = sa.attention_varlen(q, k, v, ends, ends, 1, 1, "causal", scale=1.0, return_statistic=True)
    assert torch.equal(out, v)
    torch.testing.assert_close(statistic.T, (q.float() * k.float()).sum(-1), rtol=1e-5, atol=1e-4)


@pytest.mark.gpu
def test_other_normalizers_say_so_or_are_right():
    """Where there is no kernel for packed sequences yet, an error tells; never a wrong result."""
    problem = packed("uneven", "causal", dim=64, dtype=torch.bfloat16, heads=(4, 2))
    numbers, ends = problem.case.numbers("cuda")[:3], problem.ends("cuda")
    for normalizer in (sa.Entmax(1.5), sa.Entmax(1.25), sa.TopK(4)):
        try:
            got = varlen(problem, *numbers, sa.Causal(), normalizer, ends)
        except sa.NoKernelError:
            continue
        kept = kept_by(problem, sa.Causal(), "cuda")
        exact, same = reference_answers(*numbers, kept, lambda _, n=normalizer: n, [], None)
        compare(got, exact, same, lambda *_: None, "cuda")
