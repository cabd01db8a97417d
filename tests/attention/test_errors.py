"""What is refused, with which class and which text; and the odd input that is not."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import splash_attention as sa
from splash_attention import _library
from splash_attention._errors import translate


def tensors(batch=2, heads=4, kv_heads=2, Nq=6, Nk=8, dim=16, dtype=torch.float32):
    return [torch.zeros(batch, h, n, dim, dtype=dtype) for h, n in ((heads, Nq), (kv_heads, Nk), (kv_heads, Nk))]


def attend(q=None, k=None, v=None, *args, **options):
    defaults = tensors()
    q, k, v = (t if given is None else given for t, given in zip(defaults, (q, k, v), strict=True))
    return sa.attention(q, k, v, *args, **options)


def square(**options):
    return sa.attention(*tensors(Nq=8), **options)


def zeros(*shape, **options):
    return torch.zeros(*shape, **options)


def ints(*values, dtype=torch.int32):
    return torch.tensor(values, dtype=dtype)


def mask(*shape):
    return torch.ones(*shape, dtype=torch.bool)


REFUSED = {
    "q no tensor": (lambda: attend([1.0]), TypeError, "q: expected a tensor, got list"),
    "q integers": (
        lambda: attend(zeros(2, 4, 6, 16, dtype=torch.int32)),
        TypeError,
        "q: expected float16.*torch.int32",
    ),
    "k complex": (lambda: attend(k=zeros(2, 2, 8, 16, dtype=torch.complex64)), TypeError, "k: .*complex64"),
    "q 3 dimensions": (lambda: attend(zeros(4, 6, 16)), ValueError, r"q: expected 4 dimensions.*\(4, 6, 16\)"),
    "v 5 dimensions": (lambda: attend(v=zeros(1, 2, 2, 8, 16)), ValueError, "v: expected 4 dimensions"),
    "mixed dtypes": (lambda: attend(zeros(2, 4, 6, 16).half()), TypeError, "one dtype.*float16.*float32"),
    "other device": (
        lambda: attend(k=zeros(2, 2, 8, 16, device="meta")),
        ValueError,
        "k: expected q's device cpu, got meta",
    ),
    "batch": (lambda: attend(zeros(3, 4, 6, 16)), ValueError, r"k: expected shape \(3, kv_heads, keys, 16\)"),
    "k head dimension": (lambda: attend(k=zeros(2, 2, 8, 24)), ValueError, r"k: expected shape.*\(2, 2, 8, 24\)"),
    "v length": (lambda: attend(v=zeros(2, 2, 9, 16)), ValueError, r"v: expected k's shape \(2, 2, 8, 16\)"),
    "v head dimension": (lambda: attend(v=zeros(2, 2, 8, 24)), ValueError, "v: a head dimension other than k's"),
    "no head dimension": (lambda: sa.attention(*tensors(dim=0)), ValueError, "head dimension"),
    "heads": (lambda: attend(zeros(2, 3, 6, 16)), ValueError, "multiple of k's, got 3 and 2"),
    "no kv heads": (lambda: attend(k=zeros(2, 0, 8, 16), v=zeros(2, 0, 8, 16)), ValueError, "got 4 and 0"),
    "no heads": (lambda: attend(zeros(2, 0, 6, 16)), ValueError, "got 0 and 2"),
    "last stride": (lambda: attend(zeros(2, 4, 16, 6).mT), ValueError, r"q: expected stride 1.*q\.contiguous\(\)"),
    "v last stride": (lambda: attend(v=zeros(2, 2, 8, 32)[..., ::2]), ValueError, r"v\.contiguous\(\)"),
    "scale nan": (lambda: attend(scale=float("nan")), ValueError, "scale: expected a finite number, got nan"),
    "scale inf": (lambda: attend(scale=float("-inf")), ValueError, "scale"),
    "scale tensor": (lambda: attend(scale=zeros(())), TypeError, "scale: expected a number, got Tensor"),
    "scale text": (lambda: attend(scale="1"), TypeError, "scale: expected a number, got str"),
    "pattern type": (
        lambda: attend(None, None, None, 5),
        TypeError,
        "pattern: expected a pattern or a string, got int",
    ),
    "pattern name": (lambda: attend(None, None, None, "local"), ValueError, "pattern: expected .*causal.* got 'local'"),
    "pattern class": (lambda: attend(None, None, None, sa.Causal), TypeError, "pattern: "),
    "normalizer type": (lambda: attend(normalizer=None), TypeError, "normalizer: .*NoneType"),
    "normalizer bool": (lambda: attend(normalizer=True), TypeError, "normalizer: .*bool"),
    "normalizer name": (lambda: attend(normalizer="relu"), ValueError, "normalizer: expected .*softmax.* got 'relu'"),
    "alpha below 1": (lambda: attend(normalizer=0.5), ValueError, "alpha: expected 1 .* 1.01 to 2, got 0.5"),
    "alpha just above 1": (lambda: sa.Entmax(1.001), ValueError, "alpha"),
    "alpha above 2": (lambda: sa.Entmax(2.5), ValueError, "alpha"),
    "alpha nan": (lambda: sa.Entmax(float("nan")), ValueError, "alpha"),
    "alpha text": (lambda: sa.Entmax("1.5"), TypeError, "alpha"),
    "sink": (
        lambda: attend(normalizer=sa.Softmax(zeros(3))),
        ValueError,
        "sink_logit: expected .* 4",
    ),
    "left": (lambda: sa.SlidingWindow(-1, 0), ValueError, "left: expected at least 0, got -1"),
    "right": (lambda: sa.SlidingWindow(0, -5), ValueError, "right: .*-5"),
    "left float": (lambda: sa.SlidingWindow(1.0, 0), TypeError, "left: expected an int or None, got float"),
    "window 0": (lambda: sa.SlidingWindow.causal(0), ValueError, "window: expected at least 1"),
    "window negative": (lambda: sa.SlidingWindow.symmetric(-1), ValueError, "window"),
    "mask list": (lambda: sa.BlockMask([[True]], 16), TypeError, "mask: expected a tensor.*, got list"),
    "mask dtype": (lambda: sa.BlockMask(zeros(2, 2), 16), TypeError, "mask: expected dtype torch.bool"),
    "mask rank": (lambda: sa.BlockMask(mask(4), 16), ValueError, "mask: expected 2 to 4 dimensions"),
    "block 24": (lambda: sa.BlockMask(mask(1, 1), 24), ValueError, "block: expected a multiple of 16.*24"),
    "block 0": (lambda: sa.BlockMask(mask(1, 1), 0), ValueError, "block"),
    "block triple": (lambda: sa.BlockMask(mask(1, 1), (16, 16, 16)), ValueError, "block"),
    "block text": (lambda: sa.BlockMask(mask(1, 1), "64"), TypeError, "block"),
    "block float": (lambda: sa.BlockMask(mask(1, 1), 64.0), TypeError, "block"),
    "mask rows": (
        lambda: attend(None, None, None, sa.BlockMask(mask(2, 3), 16)),
        ValueError,
        "mask: .*does not broadcast",
    ),
    "mask heads": (
        lambda: attend(None, None, None, sa.BlockMask(mask(3, 1, 1), 16)),
        ValueError,
        "mask: .*batch, heads",
    ),
    "mask device": (
        lambda: attend(None, None, None, sa.BlockMask(mask(1, 1).to("meta"), 16)),
        ValueError,
        "mask: expected the inputs' device cpu, got meta",
    ),
    "five terms": (
        lambda: sa.Full() & sa.Full() & sa.Full() & sa.Full() & sa.Full(),
        ValueError,
        "1 to 4 terms, got 5",
    ),
    "q_start far": (
        lambda: attend(q_start=2**29),
        ValueError,
        r"q_start: positions must lie between -2\*\*29 and 2\*\*29",
    ),
    "k_start far": (lambda: attend(k_start=-(2**29)), ValueError, "q_start|k_start"),
    "k_start end": (lambda: attend(q_start=0, k_start=2**29 - 7), ValueError, "k_start: positions"),
    "q_start float": (lambda: attend(q_start=1.5), TypeError, "q_start: expected an int, got float"),
    "k_start None": (lambda: attend(k_start=None), TypeError, "k_start: expected an int, got NoneType"),
    "lengths list": (lambda: square(lengths=[1, 2]), TypeError, "lengths: expected a tensor, got list"),
    "lengths float": (lambda: square(lengths=zeros(2)), TypeError, "lengths: expected int32 or int64"),
    "lengths shape": (lambda: square(lengths=ints(1, 2, 3)), ValueError, r"lengths: expected shape \(2,\).*\(3,\)"),
    "lengths rank": (lambda: square(lengths=ints([1], [2])), ValueError, r"lengths: expected shape \(2,\)"),
    "lengths device": (lambda: square(lengths=ints(1, 2).to("meta")), ValueError, "lengths: expected q's device"),
    "lengths Nq": (
        lambda: attend(lengths=ints(1, 2)),
        ValueError,
        "lengths: expected as many queries as keys.*6 and 8",
    ),
    "lengths negative": (
        lambda: square(lengths=ints(-1, 2)),
        ValueError,
        "lengths: expected values from 0 to 8, got -1 to 2",
    ),
    "lengths large": (lambda: square(lengths=ints(1, 9)), ValueError, "lengths: .*got 1 to 9"),
    "lengths int64": (lambda: square(lengths=ints(1, 2**40, dtype=torch.int64)), ValueError, "lengths: "),
    "kv_lengths large": (lambda: attend(kv_lengths=ints(1, 9)), ValueError, "kv_lengths: expected values from 0 to 8"),
    "kv_lengths and q_start": (
        lambda: attend(kv_lengths=ints(1, 2), q_start=0),
        ValueError,
        "q_start: kv_lengths already",
    ),
    "both lengths": (lambda: square(lengths=ints(1, 2), kv_lengths=ints(1, 2)), ValueError, "not both"),
    "prepare pattern": (lambda: sa.prepare(7, *tensors()[:2]), TypeError, "pattern"),
    "prepare shapes": (lambda: sa.prepare("full", zeros(2, 4, 6, 16), zeros(3, 2, 8, 16)), ValueError, "k: "),
    "merge outputs": (lambda: sa.merge(zeros(2, 3), zeros(2), zeros(2, 4), zeros(2)), ValueError, "o2: "),
    "merge statistics": (lambda: sa.merge(zeros(2, 3), zeros(2), zeros(2, 3), zeros(3)), ValueError, "lse2: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, kind, text = REFUSED[name]
    with pytest.raises(kind, match=text) as caught:
        call()
    assert type(caught.value) is kind


def test_a_preparation_serves_its_own_problem_only():
    q, k, v = tensors()
    for pattern in ("causal", sa.BlockMask(mask(1, 1), 16) & sa.Causal()):
        prepared = sa.prepare(pattern, q, k)
        torch.testing.assert_close(sa.attention(q, k, v, prepared), sa.attention(q, k, v, pattern))
        with pytest.raises(ValueError, match=r"prepared for \(B, Hq, Nq, Nk\) = \(2, 4, 6, 8\) on cpu, used with"):
            sa.attention(q[:, :, 1:], k, v, prepared)
    forward_only = sa.prepare("causal", q, k, backward=False)
    assert sa.attention(q, k, v, forward_only).shape == q.shape
    with pytest.raises(ValueError, match="backward=False"):
        sa.attention(q, k, v.requires_grad_(), forward_only)
    with torch.no_grad():
        sa.attention(q, k, v, forward_only)


@pytest.mark.parametrize(
    "text,kind",
    [
        ("splash.ValueError: q: wrong", ValueError),
        ("splash.TypeError: q: wrong", TypeError),
        ("splash.NoKernelError: q: wrong", sa.NoKernelError),
        ("splash.CudaError: q: wrong", RuntimeError),
        ("attention.cpp:3: splash.ValueError: q: wrong\nException raised from boxed at shim.cpp:7", ValueError),
    ],
)
def test_errors_of_the_operators_get_their_class(text, kind):
    error = translate(RuntimeError(text))
    assert type(error) is kind and str(error) == "q: wrong"


def test_no_kernel_names_the_nearest_one():
    assert _library.explain("forward", "cpu", "any", "softmax", "float32", 64) == ""
    text = _library.explain("backward", "sm90", "any", "softmax", "float32", 64)
    assert text.startswith("no compiled instance for backward on sm90") and "the nearest one" in text


def test_a_missing_build_is_said_so():
    with pytest.raises(ImportError, match=r"libnothing\.so is missing .*pip install"):
        _library.find("libnothing.so")


def test_other_errors_stay_what_they_are():
    error = torch.OutOfMemoryError("CUDA out of memory")
    assert translate(error) is error
    assert issubclass(sa.NoKernelError, NotImplementedError)


@pytest.mark.parametrize("normalizer", ["softmax", 1.5])
@pytest.mark.parametrize(
    "sizes", [{"Nq": 0}, {"Nk": 0}, {"batch": 0}, {"Nq": 0, "Nk": 0}, {"batch": 0, "Nk": 0}], ids=str
)
def test_empty_tensors_are_legal(sizes, normalizer):
    q, k, v = (t.requires_grad_() for t in tensors(**sizes))
    empty_mask = mask(*(-(-n // 16) for n in (q.shape[2], k.shape[2])))
    for pattern in (sa.Full(), sa.Causal() & sa.BlockMask(empty_mask, 16)):
        out, statistic = sa.attention(q, k, v, pattern, normalizer, return_statistic=True)
        assert out.shape == q.shape and statistic.shape == q.shape[:3] and (out == 0).all()
        if k.shape[2] == 0:
            assert (statistic == (-torch.inf if normalizer == "softmax" else torch.inf)).all()
        for grad, tensor in zip(torch.autograd.grad(out.sum(), (q, k, v)), (q, k, v), strict=True):
            assert grad.shape == tensor.shape and (grad == 0).all()


def test_values_that_look_odd_are_legal():
    assert sa.Entmax(1).encode() == ("softmax", [], []) and sa.Entmax(1.01).encode() == ("entmax", [1.01], [])
    assert sa.SlidingWindow(2**80, None).ints() == [2**30, -1]
    q, k, v = tensors(Nq=8)
    whole = sa.attention(q, k, v)
    torch.testing.assert_close(sa.attention(q, k, v, normalizer=1), whole)
    torch.testing.assert_close(square(lengths=ints(8, 8, dtype=torch.int64)), whole)
    square(lengths=ints(100, 3), k_start=4)  # the length is that of the whole sequence, of which this is a slice
    square(lengths=torch.zeros(4, dtype=torch.int32)[::2])
    attend(scale=-1)
    attend(zeros(2, 4, 1, 16).expand(2, 4, 6, 16))
    attend(zeros(2, 4, 16, 1).mT)
    one = zeros(2, 1, 4, 1).mT
    sa.attention(zeros(2, 4, 1, 16)[..., :1], one.mT, one.mT)


any_int = st.integers(-(2**40), 2**40)


@settings(deadline=None)
@given(any_int, any_int)
def test_windows_are_checked(left, right):
    if left >= 0 and right >= 0:
        assert all(0 <= side <= 2**30 for side in sa.SlidingWindow(left, right).ints())
    else:
        with pytest.raises(ValueError, match="left" if left < 0 else "right"):
            sa.SlidingWindow(left, right)


@settings(deadline=None)
@given(st.floats())
def test_alphas_are_checked(alpha):
    if alpha == 1 or 1.01 <= alpha <= 2:
        assert sa.Entmax(alpha).encode()[0] == ("softmax" if alpha == 1 else "entmax")
    else:
        with pytest.raises(ValueError, match="alpha"):
            sa.Entmax(alpha)


@settings(deadline=None)
@given(any_int, any_int)
def test_positions_are_checked(q_start, k_start):
    legal = all(abs(start) < 2**29 - 20 for start in (q_start, k_start))
    try:
        attend(None, None, None, sa.SlidingWindow.symmetric(5), q_start=q_start, k_start=k_start)
    except ValueError as error:
        assert not legal and "position" in str(error)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 3), max_size=5),
    st.lists(st.integers(0, 3), max_size=5),
    st.lists(st.integers(0, 3), max_size=5),
)
def test_shapes_are_checked(q, k, v):
    shapes = [tuple(s) for s in (q, k, v)]
    legal = (
        all(len(s) == 4 for s in shapes)
        and k == v
        and q[0] == k[0]
        and q[3] == k[3] > 0
        and k[1] > 0
        and q[1] > 0
        and q[1] % k[1] == 0
    )
    inputs = [zeros(*s) if s else zeros(()) for s in shapes]
    if legal:
        assert sa.attention(*inputs).shape == shapes[0]
    else:
        with pytest.raises(ValueError, match=r"^[qkv]: "):
            sa.attention(*inputs)


@settings(deadline=None)
@given(st.lists(st.integers(-5, 12), min_size=2, max_size=2), st.booleans())
def test_lengths_are_checked(values, wide):
    lengths = ints(*values, dtype=torch.int64 if wide else torch.int32)
    if all(0 <= value <= 8 for value in values):
        square(lengths=lengths)
        square(kv_lengths=lengths)
    else:
        for name in ("lengths", "kv_lengths"):
            with pytest.raises(ValueError, match=f"^{name}: expected values from 0 to 8"):
                square(**{name: lengths})
