"""entmax, sparsemax and entmax15 along one dimension of a tensor: values, supports and gradients."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from host_compiler import CPP, INCLUDE, build_and_run, needs_compiler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pool import threads
from torch._dynamo.testing import CompileCounterWithBackend

import splash_attention as sa
from splash_attention import _library
from splash_attention.reference.normalizers import entmax as reference_entmax

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
ALPHAS = (1.5, 2.0, 1.25, 1.75, 1.01)
MARGIN = 1e-4  # an entry whose z is as near to tau as this may lie on either side of it
OPERATORS = {"forward": torch.ops.splash.entmax_forward.default, "backward": torch.ops.splash.entmax_backward.default}

# Shape and dimension. Rows of neighbours: below a vector, odd, aligned, around every size that has a kernel of its own.
LAST = [((), -1), ((1,), 0), ((7,), -1), ((5, 64), 1), ((3, 65), -1), ((2, 2, 256), 2), ((3, 257), 1), ((3, 1000), -1)]
LAST += [((2, 1024), 1), ((2, 1025), 1), ((2, 5000), 1), ((2, 2, 4097), -1)]
OTHER = [((7, 1), 0), ((7, 3), 0), ((3, 17, 5), 1), ((2, 200, 40), 1), ((1000, 33), -2), ((2, 300, 16), 1)]
OTHER += [((31, 2, 9), 0), ((5000, 20), 0)]
LONG = [((2, 8192), 1), ((2, 8195), 1), ((2, 16384), 1), ((2, 20001), 1), ((2, 32768), 1), ((2, 33333), 1)]
LONG += [((2, 60004), 1), ((2, 70001), 1), ((1, 120000), 1), ((2, 2000, 70), 1)]


def draw(shape, dtype=torch.float32, device="cpu", spread=2.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).to(device)


def exact(x, alpha, dim, grad):
    """Weights, gradient and z - tau of the float64 reference, each with the shape of x."""
    wide = x.detach().double().cpu().reshape(x.shape or (1,)).requires_grad_()
    along = wide.movedim(dim, -1)
    weights, tau = reference_entmax(along, torch.ones_like(along, dtype=torch.bool), alpha)
    weights = weights.movedim(-1, dim)
    (gradient,) = torch.autograd.grad(weights, wide, grad.double().cpu().reshape(weights.shape))
    above = ((alpha - 1) * along - tau[..., None]).movedim(-1, dim)
    return [t.detach().reshape(x.shape) for t in (weights, gradient, above)]


def run(x, alpha, dim, grad):
    x = x.detach().requires_grad_()
    weights = sa.entmax(x, alpha, dim)
    (gradient,) = torch.autograd.grad(weights, x, grad)
    return weights.detach(), gradient


def check(x, alpha, dim, record_error, seed=1):
    device, eps = x.device.type, torch.finfo(x.dtype).eps
    grad = draw(x.shape, x.dtype, device, 1.0, seed)
    weights, gradient = run(x, alpha, dim, grad)
    assert weights.shape == x.shape and weights.dtype is x.dtype and weights.is_contiguous()
    assert gradient.shape == x.shape and gradient.dtype is x.dtype
    want, want_gradient, above = exact(x, alpha, dim, grad)
    name = str(x.dtype).removeprefix("torch.")

    error = float((weights.double().cpu() - want).abs().max())
    beta = 1 / (alpha - 1)  # a weight is a power of this degree of a number that is rounded
    bound = eps * {torch.float32: 16, torch.float64: 16 + 4 * beta}.get(x.dtype, 1)
    record_error(device, f"p {name}", error, bound)
    assert error <= bound
    clear = above.abs() > MARGIN
    least = 2 * torch.finfo(x.dtype).tiny
    assert torch.equal((weights.cpu() > 0)[clear & (want > least)], (above > 0)[clear & (want > least)])
    assert not (weights.cpu() > 0)[clear & (above < 0)].any()

    # At alpha 2 an entry has the same share of the gradient however small its weight is.
    clear = clear.all(dim, keepdim=True).expand_as(above) if x.ndim else clear
    difference = (gradient.double().cpu() - want_gradient).abs()[clear]
    if difference.numel():
        # u is the power beta - 1, which is steep near tau where that is below 1.
        steepest = (beta - 1) * MARGIN ** min(beta - 2, 0)
        error, bound = float(difference.max()), eps * (32 + 4 * beta + steepest)
        record_error(device, f"dx {name}", error, bound)
        assert error <= bound
    assert not gradient.cpu()[(above < 0) & clear].any()


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_last_dimension(dtype, alpha, device, record_error):
    for n, (shape, dim) in enumerate(LAST):
        check(draw(shape, dtype, device, seed=n), alpha, dim, record_error)


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_dimensions(dtype, alpha, device, record_error):
    for n, (shape, dim) in enumerate(OTHER):
        check(draw(shape, dtype, device, seed=n), alpha, dim, record_error)


@pytest.mark.gpu
@pytest.mark.parametrize("alpha", (1.5, 2.0, 1.25))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_rows(dtype, alpha, record_error):
    for n, (shape, dim) in enumerate(LONG):
        check(draw(shape, dtype, "cuda", seed=n), alpha, dim, record_error)


def test_every_length(device, record_error):
    for n in range(1, 140):
        check(draw((3, n), device=device, seed=n), 1.5, 1, record_error)
        check(draw((n, 3), device=device, seed=n), 1.5, 0, record_error)
        check(draw((n, 35), device=device, seed=n), 2.0, 0, record_error)


def assert_weights(x, alpha, dim, record_error):
    """Within 2e-6 of the float64 reference in float32, whatever alpha, the length and the magnitude are."""
    want = exact(x, alpha, dim, torch.zeros_like(x))[0]
    error = float((sa.entmax(x, alpha, dim).double().cpu() - want).abs().max())
    eps = torch.finfo(x.dtype).eps
    bound = {torch.float32: 2e-6, torch.float64: eps * (16 + 4 / (alpha - 1))}.get(x.dtype, eps)
    record_error(x.device.type, f"p {x.dtype}".replace("torch.", ""), error, bound)
    assert error <= bound


def test_few_columns_of_a_small_alpha(device, record_error):
    assert_weights(torch.randn(3, 5, 1000, generator=torch.Generator().manual_seed(0)).to(device), 1.1, 1, record_error)


@given(data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_accuracy_of_rows_and_columns(data, device, record_error):
    length = data.draw(st.one_of(st.integers(1, 40), st.integers(1, 1500), st.sampled_from([3000, 10_000])), "length")
    inner = data.draw(st.sampled_from([1, 1, 3, 8, 33]), "inner")
    outer = data.draw(st.integers(1, 3), "outer")
    alpha = data.draw(st.one_of(st.floats(1.01, 2.0), st.sampled_from([1.01, 1.1, 1.5, 2.0])), "alpha")
    magnitude = 10.0 ** data.draw(st.floats(-3, 4), "exponent")
    dtype = data.draw(st.sampled_from([torch.float32, torch.float32, *DTYPES]), "dtype")
    x = draw((outer, length, inner), torch.float64, device, magnitude, data.draw(st.integers(0, 99), "seed")).to(dtype)
    assert_weights(x.squeeze(-1) if inner == 1 else x, alpha, 1, record_error)


@pytest.mark.parametrize("alpha", (1.01, 1.1, 1.5, 2.0))
@pytest.mark.parametrize("length", (100, 1000, 10_000))
@pytest.mark.parametrize("columns", (False, True))
def test_tiny_weights_beside_a_large_one(columns, length, alpha, device, record_error):
    """Together they count, though each is less than the large one's rounding."""
    large = torch.linspace(0.02, 0.98, 20, dtype=torch.float64)
    bases = torch.stack([large, (1 - large) / length]) ** (alpha - 1)
    x = ((bases[1] - bases[0]) / (alpha - 1)).expand(length, 20).clone()
    x[torch.arange(20) * 37 % length, torch.arange(20)] = 0
    x = x.float().to(device)
    assert_weights(x if columns else x.T.contiguous(), alpha, 0 if columns else 1, record_error)


@pytest.mark.parametrize("function", ("sparsemax", "entmax15", "entmax_bisect"))
def test_published_package(function, device):
    published = pytest.importorskip("entmax")
    alphas = {"sparsemax": [2.0], "entmax15": [1.5], "entmax_bisect": [1.2, 1.7]}[function]
    for alpha, (shape, dim) in itertools.product(alphas, [((4, 30), -1), ((3, 50, 20), 1), ((2, 700), 0)]):
        x = draw(shape, torch.float64, device)
        grad = draw(shape, torch.float64, device, seed=1)
        theirs = x.clone().requires_grad_()
        options = {"alpha": alpha, "n_iter": 100} if function == "entmax_bisect" else {}
        want = getattr(published, function)(theirs, dim=dim, **options)
        want.backward(grad)
        weights, gradient = run(x, alpha, dim, grad)
        torch.testing.assert_close(weights, want.detach(), rtol=0, atol=1e-11)
        torch.testing.assert_close(gradient, theirs.grad, rtol=0, atol=1e-9)


def test_named_alphas(device):
    x = draw((4, 9, 5), device=device)
    for dim in range(-3, 3):
        assert torch.equal(sa.sparsemax(x, dim), sa.entmax(x, 2, dim))
        assert torch.equal(sa.entmax15(x, dim), sa.entmax(x, dim=dim))
        assert torch.equal(sa.entmax(x, 1, dim), torch.softmax(x, dim))


ROWS = {
    "random": lambda n: draw((n,)),
    "equal": lambda n: torch.full((n,), 0.3),
    "zero": torch.zeros,
    "ascending": lambda n: torch.arange(float(n)),
    "fine ascent": lambda n: torch.arange(float(n)) / (10 * n),
    "ties at the top": lambda n: torch.arange(float(n)).clamp(max=n // 2),
    "one far above": lambda n: torch.cat([torch.zeros(n - 1), torch.full((1,), 50.0)]),
    "steps": lambda n: torch.arange(float(n)) // 3 * 0.25,
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_any_kind(name, device):
    """Sums of 1 at any magnitude, the whole support where all entries are equal, and the order of the scores kept."""
    for n, alpha, factor in itertools.product((1, 5, 90, 3000), (1.5, 2.0, 1.1), (1.0, 1e-4, 1e4)):
        x = ROWS[name](n).to(device) * factor
        for weights in (sa.entmax(x, alpha), sa.entmax(x[:, None].expand(n, 40), alpha, 0)[:, 7]):
            assert abs(float(weights.double().sum()) - 1) < 1e-5
            ordered = weights[x.argsort()]
            assert not (ordered.diff() < -1e-6).any()
            if name in ("equal", "zero"):
                torch.testing.assert_close(weights, torch.full_like(weights, 1 / n), rtol=2e-5, atol=0)


@pytest.mark.parametrize("alpha", (1.5, 2.0, 1.3))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masked_and_broken_rows(dtype, alpha, device):
    """-inf has no weight and no gradient, NaN and +inf stay in their own row."""
    inf, nan = torch.inf, torch.nan
    for length in (4, 200, 1500):
        rows = torch.tensor([[1, -inf, 0.5, 2], [-inf] * 4, [nan, 1, 2, -inf], [inf, 1, 0, 2], [-inf, 3, -inf, -inf]])
        x = torch.cat([rows, torch.full((5, length - 4), -inf)], 1).to(dtype).to(device)
        along = (run(x, alpha, 1, draw(x.shape, dtype, device)), x)
        wide = x.T[:, :, None].expand(length, 5, 8).reshape(length, 40)
        across = run(wide, alpha, 0, draw(wide.shape, dtype, device))
        across = tuple(t.T.reshape(5, 8, length)[:, 3] for t in across), x
        for (weights, gradient), scores in (along, across):
            assert not weights[1].any() and not gradient[1].any()
            assert weights[2:4].isnan().all() and gradient[2:4].isnan().all()
            sound = [0, 1, 4]
            assert not weights[sound][scores[sound] == -inf].any()
            assert not gradient[sound][scores[sound] == -inf].any()
            assert weights[[0, 4]].double().sum(1).sub(1).abs().max() < 4 * torch.finfo(dtype).eps
            assert weights[4, 1] == 1 and gradient[4].abs().max() < 4 * torch.finfo(dtype).eps


def test_gradient_is_not_read_off_the_support(device):
    for shape, dim in (((3, 900), 1), ((900, 40), 0)):
        x = draw(shape, device=device)
        weights = sa.entmax15(x, dim)
        grad = torch.where(weights > 0, draw(shape, device=device, seed=1), torch.nan)
        assert torch.equal(run(x, 1.5, dim, grad)[1], run(x, 1.5, dim, grad.nan_to_num(3.0))[1])


LAYOUTS = {
    "transposed": lambda t: t.transpose(0, 2).contiguous().transpose(0, 2),
    "every second": lambda t: torch.stack([t, -t], -1).flatten(-2)[..., ::2],
    "offset": lambda t: torch.cat([t.new_zeros(1), t.flatten()])[1:].view(t.shape),
    "expanded": lambda t: t[:1].expand_as(t),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides(layout, device):
    for shape, dim, dtype in itertools.product([(4, 6, 8), (2, 40, 36)], range(3), (torch.float32, torch.bfloat16)):
        x, grad = (LAYOUTS[layout](draw(shape, dtype, device, seed=seed)) for seed in (0, 1))
        assert layout == "offset" or not x.is_contiguous()
        for got, want in zip(run(x, 1.5, dim, grad), run(x.contiguous(), 1.5, dim, grad.contiguous()), strict=True):
            # Rows that are not aligned are shared out in another order.
            torch.testing.assert_close(got, want, rtol=1e-5 if dtype is torch.float32 else 2e-2, atol=1e-6)


def test_empty(device):
    for shape, dim in itertools.product([(0,), (3, 0), (0, 3), (2, 0, 40), (0, 4, 40)], (0, -1)):
        x = torch.empty(shape, device=device, requires_grad=True)
        weights = sa.entmax15(x, dim)
        weights.sum().backward()
        assert weights.shape == x.grad.shape == shape


@pytest.mark.parametrize("alpha", (1.5, 2.0, 1.3))
@pytest.mark.parametrize("dim", (0, 1, 2))
def test_gradcheck(alpha, dim, device):
    x = draw((3, 5, 4), torch.float64, device).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: sa.entmax(t, alpha, dim), x)
    assert torch.autograd.gradgradcheck(lambda t: sa.entmax(t, alpha, dim), x)


def test_function_transforms(device):
    x = draw((3, 6, 5), device=device)

    def loss(t, dim=-1):
        return (sa.entmax15(t, dim) ** 2).sum()

    leaf = x.clone().requires_grad_()
    loss(leaf).backward()
    torch.testing.assert_close(torch.func.grad(loss)(x), leaf.grad)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(x), leaf.grad)
    for dim, inner in itertools.product(range(3), (-2, -1, 0, 1)):
        got = torch.vmap(lambda t, inner=inner: sa.entmax15(t, inner), dim, dim)(x)
        want = torch.stack([sa.entmax15(t, inner) for t in x.unbind(dim)], dim)
        assert torch.equal(got, want)
    assert torch.equal(torch.vmap(sa.entmax15)(x[0, 0]), torch.ones_like(x[0, 0]))
    batched = torch.vmap(lambda g: torch.autograd.grad(sa.entmax15(leaf), leaf, g)[0])(torch.stack([x, 2 * x]))
    torch.testing.assert_close(batched[1], 2 * batched[0])

    row = x[0, 0].double()
    jacobian = torch.func.jacrev(sa.sparsemax)(row)
    torch.testing.assert_close(jacobian, torch.autograd.functional.jacobian(sa.sparsemax, row))
    hessian = torch.autograd.functional.hessian(loss, row)
    torch.testing.assert_close(torch.func.jacrev(torch.func.grad(loss))(row), hessian)


@pytest.mark.parametrize("alpha", (1.5, 2.0, 1.3))
def test_opcheck(alpha, device):
    for shape, dim in (((3, 7), -1), ((2, 9, 4), 1), ((), 0)):
        x = draw(shape, device=device)
        p = sa.entmax(x, alpha, dim)
        arguments = {"forward": (x.requires_grad_(), alpha, dim)}
        arguments["backward"] = (draw(shape, device=device, seed=1).requires_grad_(), p.requires_grad_(), alpha, dim)
        for name, operator in OPERATORS.items():
            assert set(torch.library.opcheck(operator, arguments[name]).values()) == {"SUCCESS"}


def test_compile_takes_two_graphs_for_ten_lengths(device):
    torch._dynamo.reset()

    def function(x):
        return sa.entmax(x * 2, 1.5) + sa.sparsemax(x, 0)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for n in range(10):
        x = draw((3 + n, 20 + 7 * n), device=device).requires_grad_()
        got, want = compiled(x), function(x)
        assert torch.equal(got, want)
        grads = [torch.autograd.grad(out, x, torch.ones_like(out).cumsum(-1))[0] for out in (got, want)]
        assert torch.equal(*grads)
    assert counter.frame_count <= 2


def test_autocast_gives_float32(device):
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        x = draw((4, 30), dtype, device).requires_grad_()
        with torch.autocast(device, dtype=torch.bfloat16):
            weights = sa.entmax15(x)
        assert weights.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
        weights.pow(2).sum().backward()
        assert x.grad.dtype is dtype and x.grad.any()


@pytest.mark.parametrize(
    "arguments, error, text",
    [
        ((torch.zeros(3, 4), 1.5, 2), ValueError, "dim is 2; x has 2 dimensions"),
        ((torch.zeros(3, 4), 1.5, -3), ValueError, "dim is -3"),
        ((torch.zeros(()), 1.5, 1), ValueError, "dim is 1; x has 0 dimensions"),
        ((torch.zeros(3), 1.5, 0.0), TypeError, "dim is 0.0"),
        ((torch.zeros(3), 1.5, True), TypeError, "dim is True"),
        ((torch.zeros(3), 1.005), ValueError, "alpha is 1.005"),
        ((torch.zeros(3), 2.001), ValueError, "alpha is 2.001"),
        ((torch.zeros(3), 0.5), ValueError, "alpha is 0.5"),
        ((torch.zeros(3), float("nan")), ValueError, "alpha is nan"),
        ((torch.zeros(3), "1.5"), TypeError, "alpha is '1.5'"),
        ((torch.zeros(3, dtype=torch.int64),), TypeError, "int64"),
        ((torch.zeros(3, dtype=torch.complex64),), TypeError, "complex64"),
        (([1.0, 2.0],), TypeError, "x is list"),
    ],
)
def test_errors(arguments, error, text):
    with pytest.raises(error, match=text):
        sa.entmax(*arguments)


@pytest.mark.parametrize(
    "name, arguments, text",
    [
        ("forward", (torch.zeros(3), 1.0, 0), "ValueError: alpha is 1"),
        ("forward", (torch.zeros(3), 1.5, 1), "ValueError: dim is 1"),
        ("forward", (torch.zeros(3, dtype=torch.int32), 1.5, 0), "TypeError: x has"),
        ("backward", (torch.zeros(3), torch.zeros(4), 1.5, 0), "ValueError: grad and p have different shapes"),
        ("backward", (torch.zeros(3), torch.zeros(3).double(), 1.5, 0), "TypeError: grad and p have different dtypes"),
    ],
)
def test_errors_of_the_operators(name, arguments, text):
    with pytest.raises(RuntimeError, match=f"splash.{text}"):
        OPERATORS[name](*arguments)


def test_threads_change_nothing():
    x, grad = draw((300, 700)), draw((300, 700), seed=1)
    for dim in (0, 1):
        with threads(4):
            parallel = run(x, 1.5, dim, grad)
        with threads(1):
            assert all(torch.equal(a, b) for a, b in zip(run(x, 1.5, dim, grad), parallel, strict=True))


@pytest.mark.parametrize("isa", ("x86-64-v2", "x86-64-v3"))
def test_lower_instruction_sets(isa):
    """The same tests of values and gradients in a process that may only use this instruction set."""
    names = ["test_last_dimension", "test_other_dimensions", "test_masked_and_broken_rows", "test_rows_of_any_kind"]
    chosen = " or ".join(names)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not gpu", "-k", chosen, "-p", "no:cacheprovider", __file__],
        env=dict(os.environ, SPLASH_CPU_ISA=isa, OMP_NUM_THREADS="1"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@needs_compiler
def test_plain_cpp(tmp_path):
    source, folder = CPP / "outside" / "rows.cpp", _library.find("libsplash.so").parent
    build_and_run(source, tmp_path, f"-I{INCLUDE}")
    library = f"-L{folder}", f"-Wl,-rpath,{folder}", "-lsplash"
    assert "entmax_rows forward on sm80, float32" in build_and_run(
        source, tmp_path, "-DROWS_LIBRARY", f"-I{INCLUDE}", *library
    )


@pytest.mark.gpu
def test_cuda_graph_stream_and_repetition():
    x, grad = draw((64, 5000), device="cuda"), draw((64, 5000), device="cuda", seed=1)
    want = run(x, 1.5, 1, grad)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        got = run(x, 1.5, 1, grad)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        weights = sa.entmax15(x)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(weights, want[0])
