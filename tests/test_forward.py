"""The softmax forward of every pattern, dtype, head dimension and size, with poison, against the float64 reference."""

import pytest
from cases import on_devices
from forward_cases import FORWARD
from forward_problem import check_forward
from memory import cuda_calls

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("case, device", on_devices(FORWARD, cpu_every=11, cpu_scores=2**20))
def test_forward(case, device, record_error):
    check_forward(case, device, record_error)


def test_ids_are_unique():
    ids = [case.id for case in FORWARD]
    assert len(ids) == len(set(ids))


@pytest.mark.gpu
def test_calls_for_memory_checkers():
    """They run; benchmarks/gpu_check.py --sanitize runs them under compute-sanitizer."""
    assert cuda_calls.run() > 100
