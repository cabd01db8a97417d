"""The short run of the suite: every file, function, pattern, normalizer, dtype and operator is in it."""

import dataclasses
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import chosen_set
import pytest
import torch
from cases import NAMES, Case

import splash_attention as sa

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def short(found_items):
    """The tests of a short run, out of those that this run found."""
    return chosen_set.chosen(found_items, chosen_set.slow())


def function_of(item):
    return item.nodeid.partition("[")[0]


def file_of(item):
    return item.nodeid.partition("::")[0]


def values_of(items):
    """Parameters of tests, the problems inside of packed ones too."""
    for item in items:
        for value in getattr(item, "callspec", SimpleNamespace(params={})).params.values():
            yield value
            if dataclasses.is_dataclass(value) and isinstance(getattr(value, "case", None), Case):
                yield value.case


def problems(items):
    return [value for value in values_of(items) if isinstance(value, Case)]


def classes(base):
    """What users can make of a base class."""
    public = (getattr(sa, name) for name in sa.__all__)
    return {cls for cls in public if inspect.isclass(cls) and issubclass(cls, base) and cls is not base}


def terms(pattern):
    return {type(term) for term in getattr(pattern, "terms", ())} | {type(pattern)}


def test_every_file_and_function(found_items, short):
    slow = chosen_set.slow()
    assert {file_of(item) for item in short} == {file_of(item) for item in found_items}
    wanted = {function_of(item) for item in found_items if item.nodeid not in slow}
    assert wanted <= {function_of(item) for item in short}


def test_every_value_of_a_parameter(found_items, short):
    def values(items):
        return {(function_of(item), feature) for item in items for feature in chosen_set.features(item)}

    slow = chosen_set.slow()
    assert values(item for item in found_items if item.nodeid not in slow) <= values(short)
    assert len(short) < len(found_items) / 2


def test_every_pattern_normalizer_and_dtype(short):
    found = problems(short)
    normalizers = {type(case.normalizer) for case in found}
    assert normalizers == classes(sa.Normalizer)
    makers = {case.name: case for case in found}
    assert set().union(*(terms(case.full_pattern("cpu")) for case in makers.values())) == classes(sa.Pattern)
    assert {case.dtype for case in found} == set(NAMES)


def test_every_operator_and_public_name(found_items):
    """Each stands in a test, or the operator whose gradient it is; and every test function runs."""
    text = "\n".join(path.read_text() for path in TESTS.rglob("*.py"))
    operators = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("splash::")}
    assert len(operators) > 10
    for name in operators:
        assert re.search(rf"\b(splash|ops)(\.|::){name.partition('::')[2].removesuffix('_backward')}", text), name
    for name in sa.__all__:
        assert re.search(rf"\bsa\.{name}\b|^from splash_attention import .*\b{name}\b", text, re.MULTILINE), name


def test_the_list_of_slow_tests_is_true(found_items):
    """Its names exist. `python -m pytest --all --write-slow` makes it anew."""
    found = {item.nodeid for item in found_items}
    stale = {test for test in chosen_set.slow() if test not in found}
    assert not stale


def test_cover():
    calls = [(0, {"a"}), (1, {"a", "b"}), (2, {"c"}), (3, {"b", "c"})]
    assert chosen_set.cover([(place, frozenset(has)) for place, has in calls]) == {1, 2}
    assert chosen_set.cover([(4, frozenset()), (5, frozenset())]) == {4}
