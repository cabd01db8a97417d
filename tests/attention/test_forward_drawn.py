"""The softmax forward of random patterns, conjunctions, sizes, lengths, positions, heads and views, with poison."""

import pytest
from cases import on_devices
from drawn_cases import dense, sequences
from forward_problem import check_forward
from packed_problem import check_packed

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case, device", on_devices([dense(seed) for seed in range(260)], cpu_every=9))
def test_drawn(case, device, record_error):
    check_forward(case, device, record_error)


@pytest.mark.parametrize("problem, device", on_devices([sequences(seed) for seed in range(120)], cpu_every=9))
def test_drawn_packed(problem, device, record_error):
    check_packed(problem, device, record_error, public=True)
