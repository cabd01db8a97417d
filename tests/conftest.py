"""Devices, the `gpu` marker of pyproject.toml and the summary lines of the test suite."""

import contextlib
from dataclasses import dataclass

import pytest
import torch

WORST = pytest.StashKey[dict]()


def pytest_configure(config):
    config.stash[WORST] = {}


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@contextlib.contextmanager
def threads(count):
    """Torch's pool, which splash uses too, has this many threads on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_thread():
    """Small dense operations lose more time in the pool than they gain, most of all on a busy machine."""
    with threads(1):
        yield


@pytest.fixture(params=[pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@dataclass(frozen=True)
class Worst:
    """The largest share of an error bound that a quantity took on a device, and the test that took it."""

    share: float
    error: float
    test: str


@pytest.fixture
def record_error(request):
    """record_error(device, quantity, error, bound): kept for the summary; 1.0 is the whole bound."""
    worst = request.config.stash[WORST]

    def record(device, quantity, error, bound):
        share = error / bound
        if (device, quantity) not in worst or worst[device, quantity].share < share:
            worst[device, quantity] = Worst(share, error, request.node.name)

    return record


def pytest_terminal_summary(terminalreporter, config):
    worst = config.stash[WORST]
    if worst:
        terminalreporter.section("largest share of the error bound")
        for (device, quantity), entry in sorted(worst.items()):
            terminalreporter.line(f"{device:5} {quantity:10} {entry.share:.3f} (error {entry.error:.2e}) {entry.test}")
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if "no CUDA device" in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.line(f"{len(skipped)} GPU tests not run: no CUDA device")
