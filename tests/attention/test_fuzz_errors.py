"""Calls with exactly one mistake: the documented exception, which names the argument and says what it takes."""

import re

import bad_calls
import bad_objects
import pytest
import torch
from bad_calls import Sizes
from hypothesis import given, settings
from hypothesis import strategies as st

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")

ALLOWED = re.compile(
    r"expected|allowed|needs|not supported|already|give one|does not broadcast|prepared|made for|have their own|"
    r"do not share|must"
)


def assert_refused(call, good, bad):
    given = {**good, **bad.arguments()}
    tensors = [t for t in given.values() if isinstance(t, torch.Tensor)]
    versions = [t._version for t in tensors]
    with pytest.raises((ValueError, TypeError, NotImplementedError)) as caught:
        call(**given)
    text = str(caught.value)
    assert type(caught.value) is bad.error, text
    assert re.search(rf"\b({bad.text or bad.argument})\b", text), text
    assert ALLOWED.search(text), text
    assert [t._version for t in tensors] == versions


@pytest.mark.parametrize("bad", list(bad_calls.of_attention()), ids=lambda bad: bad.id)
def test_attention(bad):
    assert_refused(sa.attention, bad_calls.good_attention(Sizes()), bad)


@pytest.mark.parametrize("bad", list(bad_calls.of_varlen()), ids=lambda bad: bad.id)
def test_attention_varlen(bad):
    assert_refused(sa.attention_varlen, bad_calls.good_varlen(), bad)


@pytest.mark.parametrize("bad", list(bad_calls.of_prepare()), ids=lambda bad: bad.id)
def test_prepare(bad):
    good = {"pattern": "causal", "q": Sizes().q(), "k": Sizes().k()}
    assert_refused(sa.prepare, good, bad)


@pytest.mark.parametrize("bad", list(bad_calls.of_merge()), ids=lambda bad: bad.id)
def test_merge(bad):
    assert_refused(sa.merge, bad_calls.good_merge(), bad)


@pytest.mark.parametrize("bad", list(bad_calls.of_longnet()), ids=lambda bad: bad.id)
def test_longnet_attention(bad):
    assert_refused(sa.longnet_attention, bad_calls.good_longnet(), bad)


@pytest.mark.parametrize("bad", list(bad_calls.of_entmax()), ids=lambda bad: bad.id)
def test_entmax(bad):
    assert_refused(sa.entmax, {"x": torch.zeros(3, 5)}, bad)
    if bad.argument != "alpha":
        for function in (sa.sparsemax, sa.entmax15):
            assert_refused(function, {"x": torch.zeros(3, 5)}, bad)


CALLS = {**bad_objects.constructors(), **{f"{name}()": call for name, call in bad_objects.of_modules().items()}}


@pytest.mark.parametrize(
    "name, bad", [pytest.param(name, bad, id=f"{name}-{bad.id}") for name, (*_, bads) in CALLS.items() for bad in bads]
)
def test_constructors_and_modules(name, bad):
    call, good, _ = CALLS[name]
    assert_refused(call, good, bad)


def sizes():
    """Any legal ones, also without batches, queries or keys."""
    return st.builds(
        lambda batch, kv_heads, group, queries, keys, dim, dtype: Sizes(
            batch, kv_heads * group, kv_heads, queries, keys, dim, dtype
        ),
        *(st.integers(low, high) for low, high in ((1, 3), (1, 3), (1, 3), (1, 70), (1, 70), (1, 20))),
        st.sampled_from((torch.float16, torch.bfloat16, torch.float32, torch.float64)),
    )


GOOD_OPTIONS = {
    "pattern": st.sampled_from(["full", sa.SlidingWindow(3, 0), sa.BigBird(16), sa.Causal() & sa.Strided(2, 3)]),
    "normalizer": st.sampled_from(["softmax", 1.5, 2.0, sa.TopK(3), sa.TopK(5, 1.3)]),
    "scale": st.none() | st.floats(-3, 3),
    "return_statistic": st.booleans(),
    "deterministic": st.none() | st.booleans(),
}


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sizes(), st.fixed_dictionaries({}, optional=GOOD_OPTIONS), st.data())
def test_attention_of_any_sizes(sizes, options, data):
    """The mistake is found whatever else the call says."""
    good = {**bad_calls.good_attention(sizes), **options}
    assert sa.attention(**good) is not None
    mistakes = data.draw(st.sampled_from(KINDS))
    bad = data.draw(st.sampled_from(list(mistakes(sizes))))
    assert_refused(sa.attention, good, bad)


KINDS = [
    bad_calls.inputs,
    bad_calls.numbers,
    bad_calls.positions,
    bad_calls.patterns,
    bad_calls.normalizers,
    lambda sizes: bad_calls.lengths(sizes, "lengths"),
    lambda sizes: bad_calls.lengths(sizes, "kv_lengths"),
]
