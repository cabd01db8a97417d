"""The softmax forward of packed sequences, with poison, against the float64 reference of the same rows and columns."""

import pytest
import torch
from cases import on_devices
from forward_problem import assert_same_bits, compare, reference_answers
from packed_cases import CUT, PACKED, packed
from packed_problem import check_packed, kept_by, varlen

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("problem, device", on_devices(PACKED, cpu_every=9, cpu_scores=2**21))
def test_packed(problem, device, record_error):
    check_packed(problem, device, record_error, public=True)


@pytest.mark.parametrize("problem, device", on_devices(CUT, cpu_every=5, cpu_scores=2**21))
def test_too_small_max_seqlen_cuts(problem, device, record_error):
    """Rows beyond it are 0, keys beyond it do not exist, and nothing else happens."""
    check_packed(problem, device, record_error, public=False)


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
