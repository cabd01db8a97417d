"""Devices, the `gpu` marker of pyproject.toml, workers, the short run and the summary lines of the test suite."""

import ast
import importlib.util
import os
import re
from pathlib import Path

import chosen_set
import pytest
import torch
from pool import threads
from summary import Summary, Worst

SUMMARY = pytest.StashKey[Summary]()
FOUND = pytest.StashKey[list]()
BEGAN = pytest.StashKey[float]()
COST = "processor seconds"
SECONDS = {}  # of processor time that each test took
GIBIBYTES_A_WORKER = 3  # the largest took 2


def pytest_addoption(parser):
    group = parser.getgroup("splash")
    group.addoption("--all", action="store_true", help="all tests; without, and without names, -k and -m, a chosen set")
    group.addoption("--write-slow", action="store_true", help="with --all: write the list of tests that cost much")


def is_worker(config):
    return hasattr(config, "workerinput")


def names_files(config):
    if is_worker(config):
        return config.workerinput["names files"]
    return config.args_source is config.ArgsSource.ARGS


def is_whole(config):
    """Whether nobody said which tests to run."""
    return not (names_files(config) or config.option.keyword or config.option.markexpr)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """As many as processors and memory allow, but none for files that somebody names."""
    if names_files(config):
        return 0
    return max(1, min(len(os.sched_getaffinity(0)), int(memory() / 2**30 / GIBIBYTES_A_WORKER)))


def memory():
    """Bytes that this process and its children may take."""
    free = int(re.search(r"MemAvailable:\s*(\d+)", Path("/proc/meminfo").read_text())[1]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return free if text == "max" else min(free, int(text))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node):
    node.workerinput["names files"] = names_files(node.config)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    if output := getattr(node, "workeroutput", None):
        node.config.stash[SUMMARY].join(output["summary"])


def pytest_configure(config):
    config.stash[SUMMARY] = Summary()
    if is_worker(config):
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // config.workerinput["workercount"]))


def pytest_sessionfinish(session):
    if is_worker(session.config):
        session.config.workeroutput["summary"] = session.config.stash[SUMMARY].packed()


def missing_packages(path):
    """What a test file imports at its top, and is not installed."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.partition(".")[0])
    beside = {other.stem for other in path.parent.glob("*.py")}
    return sorted(name for name in names - beside if importlib.util.find_spec(name) is None)


def pytest_ignore_collect(collection_path, config):
    """A file whose packages are not installed takes no other file with it; the summary names it."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    if missing := missing_packages(collection_path):
        config.stash[SUMMARY].missing[collection_path.name] = missing
        return True
    return None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    counts = config.stash[SUMMARY].counts
    kept = items[:]
    if not torch.cuda.is_available():
        kept = [item for item in items if not item.get_closest_marker("gpu")]
        counts["gpu"] = len(items) - len(kept)
    counts["found"] = len(kept)
    config.stash[FOUND] = kept
    if is_whole(config) and not config.option.all:
        kept = chosen_set.chosen(kept, chosen_set.slow())
        counts["chosen"] = len(kept)
    if left := set(items).difference(kept):
        config.hook.pytest_deselected(items=list(left))
        items[:] = kept


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item):
    item.stash[BEGAN] = processor_seconds()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":
        report.user_properties.append((COST, processor_seconds() - item.stash[BEGAN]))
    return report


def pytest_runtest_logreport(report):
    SECONDS.update((report.nodeid, value) for name, value in report.user_properties if name == COST)


def processor_seconds():
    """Of this process and of the children that ended."""
    return sum(os.times()[:4])


@pytest.fixture(scope="module")
def one_thread():
    """Small dense operations lose more time in the pool than they gain, most of all on a busy machine."""
    with threads(1):
        yield


@pytest.fixture(params=[pytest.param("cpu"), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@pytest.fixture(scope="session")
def found_items(request):
    """The tests that this run found, of which a short run chooses some."""
    if not is_whole(request.config):
        pytest.skip("only a run without names, -k and -m sees all tests")
    return request.config.stash[FOUND]


@pytest.fixture
def record_error(request):
    """record_error(device, quantity, error, bound, features): kept for the summary; 1.0 is the whole bound.

    features: names of what the problem has, each of which the summary counts, with the worst share among them.
    """

    def record(device, quantity, error, bound, features=()):
        entry = Worst(error / bound, error, request.node.name)
        request.config.stash[SUMMARY].record(device, quantity, features, entry)

    return record


def pytest_terminal_summary(terminalreporter, config):
    for title, lines in config.stash[SUMMARY].sections():
        if title:
            terminalreporter.section(title)
        for line in lines:
            terminalreporter.line(line)
    if config.option.write_slow:
        chosen_set.write_slow(SECONDS)
