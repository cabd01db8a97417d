"""The softmax backward of packed sequences, with poison, against the float64 reference of the same rows and columns."""

import pytest
import torch
from backward_problem import gradients
from cases import on_devices
from drawn_cases import sequences
from packed_backward_problem import check_packed_backward
from packed_cases import CUT, PACKED, packed
from packed_problem import varlen

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("problem, device", on_devices(PACKED, cpu_every=13, cpu_scores=2**20, backward=True))
def test_packed(problem, device, record_error):
    check_packed_backward(problem, device, record_error, public=True)


@pytest.mark.parametrize("problem, device", on_devices(CUT, cpu_every=7, cpu_scores=2**20, backward=True))
def test_too_small_max_seqlen_cuts(problem, device, record_error):
    """Rows beyond it give no gradient and get none, keys beyond it do not exist, and nothing else happens."""
    check_packed_backward(problem, device, record_error, public=False)


DRAWN = [sequences(seed) for seed in range(120)]


@pytest.mark.parametrize("problem, device", on_devices(DRAWN, cpu_every=13, backward=True))
def test_drawn(problem, device, record_error):
    check_packed_backward(problem, device, record_error, public=True)


ISOLATED = [
    packed(name, pattern, (3, 3), group=group)
    for name, group in (("uneven", 2), ("off-tiles", 1), ("few-queries", 4), ("self", 3))
    for pattern in ("full", "causal", "streaming", "dilated10x3", "strided", "bigbird", "longformer")
]


@pytest.mark.parametrize("problem, device", on_devices(ISOLATED, cpu_every=5, backward=True))
def test_sequences_do_not_see_each_other(problem, device):
    """Where every second sequence and its dO are NaN, the gradients of the others are what they are among numbers."""
    case, ends = problem.case, problem.ends(device)
    numbers, parameters = case.numbers(device), case.parameters(device)
    pattern = case.full_pattern(device)

    def run(tensors):
        return gradients(
            lambda q, k, v, *p: varlen(problem, q, k, v, pattern, case.normalizer_of(p), ends, True),
            tensors,
            None,
            parameters,
        )

    want = run(numbers)
    bad = [t.clone() for t in numbers]
    good = [torch.ones(size, dtype=torch.bool, device=device) for size in (case.shape.queries, case.shape.keys)]
    for rows, columns in list(problem.parts())[::2]:
        good[0][rows] = False
        good[1][columns] = False
        for tensor, where in zip(bad, (rows, columns, columns, rows), strict=True):
            tensor[:, :, where] = torch.nan
    got = run(bad)
    for name, where in (("dq", good[0]), ("dk", good[1]), ("dv", good[1])):
        assert torch.equal(got[name][:, :, where], want[name][:, :, where]), name
