"""Inputs that must not matter, do not matter; extreme inputs give what the mathematics says."""

import ctypes
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import oracle
import pytest
import torch
from cases import CAUSAL, PATTERNS, Case, Shape, on_devices, random_blocks
from guards import between_guards

import splash_attention as sa
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

NAN = float("nan")
MALLOC_DEBUG = "libc_malloc_debug.so.0"  # part of glibc since 2.34
BASE = Case("causal", CAUSAL, 1, torch.bfloat16, Shape(2, 4, 2, 200, 200, 64))


def for_both(case):
    """Softmax and entmax 1.5, in bfloat16 (both devices) and float32 (CPU)."""
    for alpha in (1, 1.5):
        yield replace(case, alpha=alpha)
        yield replace(case, alpha=alpha, dtype=torch.float32)


UNREAD = [
    variant
    for case in (
        replace(BASE, shape=Shape(2, 4, 2, 70, 200, 64), q_start=0),  # keys behind the last query
        replace(
            BASE, shape=Shape(2, 4, 2, 70, 300, 64), name="window37", pattern=PATTERNS["window37"]
        ),  # keys before the first window
        replace(BASE, shape=Shape(1, 2, 1, 33, 190, 128), name="ahead", pattern=PATTERNS["ahead"], q_start=50),
        replace(BASE, shape=Shape(2, 4, 2, 250, 330, 64), name="blocks64", pattern=random_blocks(64, 0.2, heads=1)),
        replace(BASE, shape=Shape(2, 2, 2, 250, 330, 64), name="blocks128", pattern=random_blocks(128, 0.3)),
        replace(BASE, shape=Shape(2, 2, 2, 250, 330, 64), name="blocks16x32", pattern=random_blocks((16, 32), 0.05)),
        replace(BASE, lengths=(130, 65)),
        replace(BASE, lengths=(0, 1), name="full", pattern=PATTERNS["full"]),
        replace(BASE, lengths=(63, 190), name="blocks64", pattern=random_blocks(64, 0.5)),
        replace(BASE, kv_lengths=(130, 65), shape=Shape(2, 4, 2, 3, 200, 64)),
        replace(BASE, kv_lengths=(0, 64), shape=Shape(2, 4, 2, 1, 200, 128)),
        replace(BASE, q_start=400, name="window37", pattern=PATTERNS["window37"]),  # nothing is kept at all
        replace(BASE, layout="sliced"),
    )
    for variant in for_both(case)
]


@pytest.mark.parametrize("case, device", on_devices(UNREAD))
def test_nan_where_nothing_reads(case, device):
    """NaN in keys and values that no query keeps, and in rows past a length, changes no bit of output and gradients."""
    q, k, v, grad = case.inputs(device)
    options, pattern = case.options(device), case.pattern(case, device)
    kept = oracle.kept(pattern, q, k, options)
    group = case.shape.heads // case.shape.kv_heads
    read = kept.any(2).unflatten(1, (-1, group)).any(2)[..., None]  # (B, Hkv, Nk, 1)
    assert case.layout == "sliced" or not read.all()
    rows = torch.ones(q.shape[:3], dtype=torch.bool, device=device)[..., None]
    if case.lengths is not None:
        rows &= (torch.arange(q.shape[2], device=device) < options["lengths"][:, None])[:, None, :, None]

    backward = device == "cpu" or case.trains_on_gpu

    def run(q, k, v, grad):
        def splash(q, k, v):
            return sa.attention(q, k, v, pattern, case.normalizer, return_statistic=True, deterministic=True, **options)

        if not backward:
            return dict(zip(("out", "statistic"), splash(q, k, v), strict=True))
        return oracle.with_gradients(splash, q, k, v, grad)

    def poisoned(t, good):
        return torch.where(good, t, NAN)

    clean = run(q, k, v, grad)
    dirty = run(poisoned(q, rows), poisoned(k, read), poisoned(v, read), poisoned(grad, rows))
    for quantity, want in clean.items():
        assert torch.equal(dirty[quantity], want), quantity
        assert not want.isnan().any()
    assert (clean["out"][~kept.any(-1)] == 0).all()
    assert torch.equal(clean["statistic"].isinf(), ~kept.any(-1))
    if backward:
        assert (clean["dq"][~kept.any(-1)] == 0).all()
        for quantity in ("dk", "dv"):
            assert (clean[quantity][~read.squeeze(-1)] == 0).all()


SCALES = (1250.0, -1250.0, 1e-30, 0.0)
EXTREME = [v for s in SCALES for v in for_both(replace(BASE, scale=s, shape=Shape(1, 2, 1, 150, 150, 64)))]
EXTREME += [
    replace(BASE, alpha=alpha, scale=s, shape=Shape(1, 8, 1, queries, keys, dim), dtype=dtype)
    for s in SCALES
    for alpha, dtype, dim, queries, keys in (
        ("sink", torch.bfloat16, 128, 150, 150),
        ("sink", torch.float16, 64, 1, 2100),
        (1, torch.float16, 32, 150, 150),
        (1, torch.float16, 256, 1, 2100),
        (1, torch.bfloat16, 192, 70, 300),
    )
]


@pytest.mark.parametrize("case, device", on_devices(EXTREME))
def test_extreme_scales(case, device, record_error):
    """Scores of 1e4 and more, either sign, and nearly none at all: finite, and close to the reference."""
    tensors, parameters = case.inputs(device)[:3], case.parameters(device)
    normalizer, options = case.normalizer_of(parameters), {"scale": case.scale}
    got = sa.attention(*tensors, "causal", normalizer, return_statistic=True, **options)
    want = reference_attention(*tensors, "causal", case.normalizer_of([p.double() for p in parameters]), **options)
    # Scores are float32 in the kernels, whatever the inputs are.
    same = reference_attention(*(t.float() for t in tensors), "causal", normalizer, dtype=None, **options)
    for quantity, *answers in zip(("out", "statistic"), got, want, same, strict=True):
        assert answers[0].isfinite().all()
        error, bound = oracle.error_and_bound(*answers)
        record_error(device, quantity, error, bound, ["topic scales"])
        assert error <= bound, quantity


@pytest.mark.parametrize("alpha", [1, 1.5])
@pytest.mark.parametrize("pattern", ["full", "causal"])
def test_zero_queries(device, alpha, pattern):
    """q = 0: every kept key has the same weight, so the support is everything and the output is the mean."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    k, v = (torch.randn(1, 2, 500, 64, generator=torch.Generator().manual_seed(s)).to(device, dtype) for s in (0, 1))
    out = sa.attention(torch.zeros_like(k), k, v, pattern, alpha)
    count = torch.arange(1, 501, device=device, dtype=torch.float64)[:, None]
    want = v.double().mean(2, keepdim=True).expand(out.shape) if pattern == "full" else v.double().cumsum(2) / count
    torch.testing.assert_close(out.double(), want, rtol=0, atol=2e-6 if device == "cpu" else 2e-2)


@pytest.mark.parametrize("alpha", [1, 1.5])
@pytest.mark.parametrize("descending", [False, True])
def test_ordered_scores(device, alpha, descending, record_error):
    """Scores that rise (or fall) along the keys: every tile moves the running maximum (or none does)."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    k = torch.zeros(1, 1, 400, 64, device=device, dtype=dtype)
    k[0, 0, :, 0] = torch.linspace(0, 40, 400, device=device).to(dtype)
    k = k.flip(2) if descending else k
    q = torch.ones(1, 1, 130, 64, device=device, dtype=dtype)
    v = torch.randn(1, 1, 400, 64, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    out = sa.attention(q, k, v, "full", alpha, scale=1.0)
    want = reference_attention(q, k, v, "full", alpha, scale=1.0)[0]
    same = reference_attention(q, k, v, "full", alpha, scale=1.0, dtype=None)[0]
    error, bound = oracle.error_and_bound(out, want, same)
    record_error(device, "out", error, bound)
    assert error <= bound


@pytest.mark.parametrize("alpha", [1, 1.5])
@pytest.mark.parametrize("value", [NAN, math.inf])
def test_nan_spreads_to_its_readers(device, alpha, value):
    """A bad key or value reaches at least the queries that keep it (a value: those that give it weight)."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    q, k, v = (
        torch.randn(1, 1, 150, 64, generator=torch.Generator().manual_seed(s)).to(device, dtype) for s in range(3)
    )
    bad = v.clone()
    bad[0, 0, 140] = value
    if alpha == 1:
        assert not sa.attention(q, k, bad, "causal", alpha)[0, 0, 140:].isfinite().any()
    if math.isnan(value):
        bad = k.clone()
        bad[0, 0, 140] = NAN
        assert sa.attention(q, bad, v, "causal", alpha)[0, 0, 140:].isnan().all()


@pytest.mark.parametrize("alpha", [1, 1.5])
@pytest.mark.parametrize("name", ["causal", "window37", "symmetric20"])
def test_slices_are_parts_of_the_whole(device, name, alpha):
    """q_start and k_start: chunks of queries over the keys so far are the rows of the whole."""
    case = Case(
        name, PATTERNS[name], alpha, torch.float32 if device == "cpu" else torch.bfloat16, Shape(1, 4, 2, 300, 300, 64)
    )
    q, k, v, _ = case.inputs(device)
    pattern = case.pattern(case, device)
    whole, statistic = sa.attention(q, k, v, pattern, case.normalizer, return_statistic=True)
    tolerance = {"rtol": 0, "atol": 1e-5 if device == "cpu" else 2e-2}
    for begin, end in ((0, 1), (1, 100), (100, 229), (229, 300)):
        part = sa.attention(q[:, :, begin:end], k, v, pattern, case.normalizer, q_start=begin)
        torch.testing.assert_close(part, whole[:, :, begin:end], **tolerance)
        first, last = max(0, begin - 64), min(300, end + 64) if name == "symmetric20" else end
        if name != "causal":  # the window lies inside these keys
            keys = slice(first, last)
            part, lse = sa.attention(q[:, :, begin:end], k[:, :, keys], v[:, :, keys], pattern, case.normalizer,
                                     q_start=begin, k_start=first, return_statistic=True)  # fmt: skip
            torch.testing.assert_close(part, whole[:, :, begin:end], **tolerance)
            torch.testing.assert_close(lse, statistic[:, :, begin:end], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("alpha", [1, 1.5])
def test_every_element_is_written(device, alpha):
    """With fresh memory filled with NaN, nothing of it is left in outputs and gradients."""
    case = Case("blocks64", random_blocks(64, 0.3), alpha, torch.bfloat16, Shape(2, 4, 2, 190, 200, 64), layout="bnhd")
    q, k, v, grad = case.inputs(device)
    pattern = case.pattern(case, device)
    fill, deterministic = (
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    try:
        probe = torch.empty(4, device=device)
        assert probe.isnan().all()
        for _ in range(3):  # an allocation that does not fill gets what lay there before
            full = [torch.full_like(q, NAN), torch.full(q.shape[:3], NAN, device=device)]
            del full
        out, statistic = sa.attention(q, k, v, pattern, case.normalizer, return_statistic=True)
        assert not out.isnan().any() and not statistic.isnan().any()
        if device == "cpu" or case.trains_on_gpu:
            for grads in oracle.with_gradients(
                lambda q, k, v: sa.attention(q, k, v, pattern, case.normalizer, return_statistic=True), q, k, v, grad
            ).values():
                assert not grads.isnan().any()
    finally:
        torch.utils.deterministic.fill_uninitialized_memory = fill
        torch.use_deterministic_algorithms(deterministic)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name, alpha, dim, length",
    [
        ("causal", 1, 64, 4001),
        ("causal", 1.5, 64, 4001),
        ("full", "sink", 128, 2177),
        ("window37", 1, 256, 4001),
        ("dilated10x3", 1, 128, 4001),
        ("dilated4x70", "sink", 96, 2111),
        ("blocks64", 1, 64, 2113),
        ("blocks128", 1, 128, 2113),
        ("strided", 1, 128, 2113),
        ("fixed", 1, 192, 2113),
        ("longformer", 1, 128, 2113),
        ("bigbird", 1, 32, 2113),
    ],
)
def test_canaries_around_outputs(name, alpha, dim, length):
    """Outputs of many tiles, of which the last ones are not whole, lie among bytes that stay as they are."""
    case = Case(name, PATTERNS[name], alpha, torch.bfloat16, Shape(1, 8, 2, length, length, dim))
    q, k, v, _ = case.inputs("cuda")
    normalizer = case.normalizer_of(case.parameters("cuda"))
    prepared = sa.prepare(case.full_pattern("cuda"), q, k, backward=False)

    def call():
        return sa.attention(q, k, v, prepared, normalizer, return_statistic=True)

    want = call()
    got = between_guards("cuda", (2 * q.numel(), 4 * q.shape[1] * length), call)
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_inputs_stay_as_they_are(device):
    """Views inside a larger buffer: not a bit of the buffer changes, neither in the views nor around them."""
    case = replace(BASE, layout="sliced", alpha=1.5)
    tensors = case.inputs(device)
    before = [t._base.view(torch.int16).clone() for t in tensors]
    q, k, v, grad = tensors
    if device == "cpu":
        oracle.with_gradients(
            lambda q, k, v: sa.attention(q, k, v, "causal", case.normalizer, return_statistic=True), q, k, v, grad
        )
    else:
        sa.attention(q, k, v, "causal", case.normalizer)
    for t, copy in zip(tensors, before, strict=True):
        assert torch.equal(t._base.view(torch.int16), copy)


def test_layouts_agree(device):
    """The same numbers in any layout give the same bits."""
    base = replace(BASE, alpha=1.5)
    results = {}
    for layout in ("bhnd", "bnhd", "sliced"):
        q, k, v, _ = replace(base, layout=layout).inputs(device)
        results[layout] = sa.attention(q, k, v, "causal", base.normalizer)
    assert torch.equal(results["bhnd"], results["bnhd"]) and torch.equal(results["bhnd"], results["sliced"])


def test_unaligned_inputs(device):
    """Bases and strides that are no multiple of 16 bytes: a right answer, or a ValueError that names the cure."""
    generator = torch.Generator().manual_seed(0)
    wide = [torch.randn(1, 2, 100, 67, generator=generator).to(device, torch.bfloat16) for _ in range(3)]
    q, k, v = (t[..., 3:] for t in wide)
    want = sa.attention(q.contiguous(), k.contiguous(), v.contiguous(), "causal")
    try:
        got = sa.attention(q, k, v, "causal")
    except ValueError as error:
        assert device == "cuda" and ".contiguous()" in str(error)
    else:
        torch.testing.assert_close(got, want)


def test_empty_batch_or_rows(device):
    """Tensors without batches or rows give tensors without batches or rows; no keys give zeros."""
    q = torch.randn(1, 2, 5, 64).to(device, torch.bfloat16)
    k = torch.randn(1, 2, 0, 64).to(device, torch.bfloat16)
    for normalizer in (sa.Softmax(), sa.Entmax(1.5)):
        out, statistic = sa.attention(q, k, k, "full", normalizer, return_statistic=True)
        assert (out == 0).all() and statistic.isinf().all()
        assert sa.attention(q[:, :, :0], q, q, "full", normalizer).shape == (1, 2, 0, 64)
        assert sa.attention(q[:0], q[:0], q[:0], "full", normalizer).shape == (0, 2, 5, 64)


def has_malloc_debug():
    try:
        ctypes.CDLL(MALLOC_DEBUG)
    except OSError:
        return False
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize(
    "script",
    [
        "guard_pages.py",
        pytest.param(
            "malloc_check.py", marks=pytest.mark.skipif(not has_malloc_debug(), reason="needs glibc's malloc debugger")
        ),
    ],
)
def test_memory_bounds_on_cpu(script):
    """Nothing past an input is read (a protected page lies behind each) and nothing past an output is written."""
    tests = Path(__file__).parents[1]
    paths = [str(tests / "support"), os.environ.get("PYTHONPATH", "")]
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(filter(None, paths)))
    if script == "malloc_check.py":
        environment |= {"LD_PRELOAD": MALLOC_DEBUG, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165"}
    result = subprocess.run(
        [sys.executable, tests / "memory" / script], env=environment, capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert "calls done" in result.stdout
