"""Devices, the `gpu` marker of pyproject.toml and the summary lines of the test suite."""

import ast
import importlib.util
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from pool import threads

TESTS = Path(__file__).resolve().parent
MISSING = pytest.StashKey[dict]()
WORST = pytest.StashKey[dict]()
FEATURES = pytest.StashKey[dict]()


def missing_packages(path):
    """What a test file imports at its top, and is not installed."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    folders = path.parent, TESTS / "support", TESTS / "memory"
    beside = {other.stem for folder in folders for other in folder.glob("*.py")}
    return sorted(name for name in names - beside if importlib.util.find_spec(name) is None)


def pytest_ignore_collect(collection_path, config):
    """A file whose packages are not installed takes no other file with it; the summary names it."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    if missing := missing_packages(collection_path):
        config.stash[MISSING][collection_path.name] = missing
        return True
    return None


def pytest_configure(config):
    config.stash[MISSING] = {}
    config.stash[WORST] = {}
    config.stash[FEATURES] = {}


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


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
    count: int = 1

    def joined(self, other):
        """The worse of both, counted together."""
        return replace(max(self, other, key=lambda worst: worst.share), count=self.count + other.count)


@pytest.fixture
def record_error(request):
    """record_error(device, quantity, error, bound, features): kept for the summary; 1.0 is the whole bound.

    features: names of what the problem has, each of which the summary counts, with the worst share among them.
    """

    def keep(found, key, entry):
        found[key] = found[key].joined(entry) if key in found else entry

    def record(device, quantity, error, bound, features=()):
        entry = Worst(error / bound, error, request.node.name)
        keep(request.config.stash[WORST], (device, quantity), entry)
        for feature in features:
            keep(request.config.stash[FEATURES], (device, feature), entry)

    return record


def pytest_terminal_summary(terminalreporter, config):
    for title, found, width in (
        ("largest share of the error bound", config.stash[WORST], 10),
        ("comparisons by feature", config.stash[FEATURES], 28),
    ):
        if not found:
            continue
        terminalreporter.section(title)
        for (device, name), entry in sorted(found.items(), key=lambda item: natural(" ".join(item[0]))):
            terminalreporter.line(
                f"{device:5} {name:{width}} {entry.count:6} compared, {entry.share:.3f} (error {entry.error:.2e}) "
                f"{entry.test}"
            )
    for name, missing in config.stash[MISSING].items():
        terminalreporter.line(f"{name} not run: {', '.join(missing)} missing, which the extras demo and test bring")
    skipped = [
        report for report in terminalreporter.stats.get("skipped", []) if "no CUDA device" in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.line(f"{len(skipped)} GPU tests not run: no CUDA device")


def natural(text):
    """Sorts numbers inside of texts by their size."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
