"""The torch.nn modules: what they compute, and that they behave as modules of torch.nn do."""

import copy
import io
import pickle

import pytest
import torch
from torch import nn

from splash_attention import Causal, Entmax
from splash_attention.modules import FlashAttention, LazyAttention, SplashAttention, StandardAttention
from splash_attention.normalizers import TopK
from splash_attention.patterns import IndexCausal
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def lazy(dim=24, heads=3, window=5, dtype=torch.float64, **options):
    """A LazyAttention whose learned parameters are away from their starts."""
    torch.manual_seed(0)
    module = LazyAttention(dim, heads, window, dtype=dtype, **options)
    with torch.no_grad():
        module.tau.copy_(torch.linspace(-1.3, 0.4, heads))
        module.attention_biases.copy_(draw(heads, window + 1, seed=9))
    return module


def lazy_oracle(parameters, x, heads, rope_base=10000, lengths=None):
    """The definition with dense matrices; rotations as products of complex numbers."""
    batch, N, dim = x.shape
    q, k, v = (
        (x @ parameters[f"{name}.weight"].T).view(batch, N, heads, -1).transpose(1, 2)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    half = q.shape[-1] // 2
    angle = torch.arange(N).double()[:, None] * rope_base ** (-torch.arange(half).double() / half)
    turn = torch.polar(torch.ones_like(angle), angle)
    q, k = (torch.complex(t[..., :half].contiguous(), t[..., half:].contiguous()) * turn for t in (q, k))
    scores = (q @ k.mH).real / (2 * half) ** 0.5
    biases = parameters["attention_biases"]
    for t in range(min(N, biases.shape[1])):
        scores = scores + torch.diag_embed(biases[:, t, None].expand(heads, N - t), offset=-t)
    kept = torch.ones(N, N).tril().bool().expand(batch, 1, N, N)
    if lengths is not None:
        kept = kept & (torch.arange(N) < lengths[:, None])[:, None, None]
    a = scores.masked_fill(~kept, -torch.inf).softmax(-1).nan_to_num()
    weights = torch.relu(a + parameters["tau"][:, None, None] / torch.arange(1, N + 1)[:, None]).masked_fill(~kept, 0)
    out = (weights @ v).transpose(1, 2).reshape(batch, N, dim) @ parameters["o_proj.weight"].T
    if lengths is not None:
        out = out.masked_fill((torch.arange(N) >= lengths[:, None])[..., None], 0)
    return out


def assert_same_gradients(module, function, x, rtol=1e-10):
    """Output and the gradients of x and all parameters agree with function(parameters, x)."""
    x = x.detach().requires_grad_()
    parameters = dict(module.named_parameters())
    got, want = module(x), function(parameters, x)
    torch.testing.assert_close(got, want, rtol=rtol, atol=rtol)
    grad = draw(*got.shape, dtype=got.dtype, seed=7)
    inputs = [x, *parameters.values()]
    for name, a, b in zip(
        ("x", *parameters),
        torch.autograd.grad(got, inputs, grad),
        torch.autograd.grad(want, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol, msg=lambda text, name=name: f"{name}: {text}")
    return got


# What they compute


@pytest.mark.parametrize("N, window", [(1, 5), (6, 5), (40, 5), (40, 0), (17, 60)], ids=str)
def test_lazy_attention(N, window):
    assert_same_gradients(
        lazy(window=window), lambda parameters, x: lazy_oracle(parameters, x, 3), draw(2, N, 24, seed=N)
    )


def test_lazy_attention_at_its_start():
    """tau -1 cuts the first row to 0 exactly: its only weight is 1 - 1."""
    module = LazyAttention(16, 2, 4, dtype=torch.float64)
    out = assert_same_gradients(module, lambda parameters, x: lazy_oracle(parameters, x, 2), draw(2, 12, 16))
    assert (out[:, 0] == 0).all() and (out[:, 1:] != 0).any()


def test_lazy_attention_of_strongly_negative_tau_is_zero():
    module = lazy()
    nn.init.constant_(module.tau, -100.0)
    assert (module(draw(1, 10, 24)) == 0).all()


def test_lazy_attention_rope_base():
    module = lazy(rope_base=50)
    x = draw(1, 20, 24)
    assert_same_gradients(module, lambda parameters, x: lazy_oracle(parameters, x, 3, rope_base=50), x)
    assert not torch.allclose(module(x), lazy()(x))


@pytest.mark.parametrize("lengths", [(20, 0, 1, 13)], ids=str)
def test_lazy_attention_lengths(lengths):
    lengths = torch.tensor(lengths)
    module, x = lazy(), draw(4, 20, 24)
    got = module(x, lengths=lengths)
    torch.testing.assert_close(got, lazy_oracle(dict(module.named_parameters()), x, 3, lengths=lengths))
    for n, length in enumerate(lengths.tolist()):
        torch.testing.assert_close(got[n, :length], module(x[n : n + 1, :length])[0])
        assert (got[n, length:] == 0).all()


def test_splash_attention_is_top_k_of_entmax():
    q, k, v = draw(2, 4, 20, 8, seed=1), draw(2, 2, 33, 8, seed=2), draw(2, 2, 33, 8, seed=3)
    generator = torch.Generator().manual_seed(4)
    q_idx, k_idx = (torch.randint(0, 30, (2, 4, N), generator=generator) for N in (20, 33))
    for alpha, k_keep, scale in ((1.5, 8, None), (1, 3, 0.2), (2, 100, None), (1.3, 5, 2.0)):
        module = SplashAttention(8, alpha, k_keep, scale)
        normalizer = TopK(k_keep, Entmax(alpha))
        for indices, pattern in (((), Causal()), ((q_idx, k_idx), IndexCausal(q_idx, k_idx))):
            inputs = [t.requires_grad_() for t in (q, k, v)]
            got = module(*inputs, *indices)
            want, _ = reference_attention(*inputs, pattern, normalizer, scale=scale)
            torch.testing.assert_close(got, want)
            grads = (torch.autograd.grad(out, inputs, torch.ones_like(out)) for out in (got, want))
            for a, b in zip(*grads, strict=True):
                torch.testing.assert_close(a, b)


def test_splash_attention_of_one_key_takes_the_best():
    q, k, v = draw(1, 2, 10, 8, seed=1), draw(1, 2, 10, 8, seed=2), draw(1, 2, 10, 8, seed=3)
    scores = (q @ k.mT).masked_fill(torch.ones(10, 10).triu(1).bool(), -torch.inf)
    best = scores.argmax(-1)
    want = v.gather(2, best[..., None].expand(-1, -1, -1, 8))
    torch.testing.assert_close(SplashAttention(8, k_keep=1)(q, k, v), want)


def test_splash_attention_indices_are_integers_of_any_kind():
    q = draw(1, 2, 10, 8)
    module = SplashAttention(8)
    positions = torch.arange(10)
    want = module(q, q, q)
    for dtype in (torch.int32, torch.int64):
        got = module(q, q, q, q_idx=positions.to(dtype).view(1, 1, 10), k_idx=positions.to(dtype).view(1, 1, 10))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_flash_and_standard_attention(dtype, causal):
    inputs = [draw(2, heads, N, 16, dtype=dtype, seed=N).requires_grad_() for heads, N in ((4, 21), (2, 40), (2, 40))]
    flash, standard = FlashAttention()(*inputs, causal=causal), StandardAttention()(*inputs, causal=causal)
    mask = torch.ones(21, 40).tril(19).bool() if causal else None
    sdpa = nn.functional.scaled_dot_product_attention(*(t.double() for t in inputs), attn_mask=mask, enable_gqa=True)
    bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    grad = draw(*flash.shape, dtype=dtype, seed=4)
    want = [sdpa, *torch.autograd.grad(sdpa, inputs, grad.double())]
    for out in (flash, standard):
        assert out.dtype is dtype
        for a, b in zip([out, *torch.autograd.grad(out, inputs, grad)], want, strict=True):
            torch.testing.assert_close(a.double(), b.double(), rtol=bound, atol=bound)


def test_rows_without_keys_are_zero():
    q, k = draw(1, 1, 5, 4), draw(1, 1, 2, 4)
    for module in (FlashAttention(), StandardAttention()):
        assert (module(q, k, k, causal=True)[:, :, :3] == 0).all()
    assert (SplashAttention(4)(q, k, k)[:, :, :3] == 0).all()


@pytest.mark.parametrize(
    "module, shapes",
    [
        (lazy(dim=8, heads=2, window=3), [(1, 9, 8)]),
        (SplashAttention(4, k_keep=3), [(1, 2, 7, 4), (1, 1, 9, 4), (1, 1, 9, 4)]),
        (FlashAttention(), [(1, 2, 7, 4), (1, 1, 9, 4), (1, 1, 9, 4)]),
        (StandardAttention(), [(1, 2, 7, 4), (1, 1, 9, 4), (1, 1, 9, 4)]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_gradcheck(module, shapes):
    inputs = [draw(*shape, seed=n).requires_grad_() for n, shape in enumerate(shapes)]
    parameters = dict(module.named_parameters())

    def function(*tensors):
        values = dict(zip(parameters, tensors[len(inputs) :], strict=True))
        return torch.func.functional_call(module, values, tensors[: len(inputs)])

    assert torch.autograd.gradcheck(function, (*inputs, *parameters.values()))


# How they behave as modules


def test_state_dict_names_and_shapes():
    shapes = {name: tuple(value.shape) for name, value in LazyAttention(24, 3, 7).state_dict().items()}
    assert shapes == {
        "tau": (3,),
        "attention_biases": (3, 8),
        "q_proj.weight": (24, 24),
        "k_proj.weight": (24, 24),
        "v_proj.weight": (24, 24),
        "o_proj.weight": (24, 24),
    }
    for module in (SplashAttention(8), FlashAttention(), StandardAttention()):
        assert not module.state_dict() and not list(module.parameters())


def test_defaults():
    module = LazyAttention(64, 4)
    assert module.window_size == 512 and module.rope_base == 10000 and module.attention_biases.shape == (4, 513)
    assert (module.tau == -1).all() and (module.attention_biases == 0).all()
    module = SplashAttention(64)
    assert (module.alpha, module.k_keep, module.sm_scale) == (1.5, 8, None)


def test_state_dict_round_trip():
    module, x = lazy(), draw(1, 12, 24)
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other = LazyAttention(24, 3, 5, dtype=torch.float64)
    assert not torch.equal(other(x), module(x))
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), module(x))


def test_copies():
    x = draw(1, 12, 24)
    module = lazy()
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))
        nn.init.zeros_(other.tau)
        assert not torch.equal(other(x), module(x))
    for module in (SplashAttention(4, 1.3, 2, 0.1), FlashAttention(), StandardAttention()):
        q = draw(1, 1, 5, 4)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
            assert torch.equal(other(q, q, q), module(q, q, q)) and repr(other) == repr(module)


def test_checkpoints_of_flash_lazy_attention_load():
    """They hold rope.inv_freq beside the parameters, which have the same names."""
    module = lazy()
    rates = 10000 ** (-torch.arange(0, 8, 2) / 8)
    for prefix, outer in (("", lazy()), ("0.", nn.Sequential(lazy()))):
        state = {f"{prefix}{name}": value for name, value in module.state_dict().items()}
        outer.load_state_dict({**state, f"{prefix}rope.inv_freq": rates})
        with pytest.raises(RuntimeError, match=r"rope.inv_freq: expected the rates of rope_base 10000"):
            outer.load_state_dict({**state, f"{prefix}rope.inv_freq": rates**0.5})
        with pytest.raises(RuntimeError, match="Unexpected key"):
            outer.load_state_dict({**state, f"{prefix}rope.cosines": rates})
        with pytest.raises(RuntimeError, match="Missing key"):
            outer.load_state_dict({name: value for name, value in state.items() if "tau" not in name})


def test_reset_parameters():
    torch.manual_seed(3)
    fresh = LazyAttention(24, 3, 5)
    module = lazy(dtype=torch.float32)
    torch.manual_seed(3)
    module.reset_parameters()
    for name, value in fresh.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def test_initial_projections_are_those_of_linear():
    torch.manual_seed(5)
    module = LazyAttention(24, 3)
    torch.manual_seed(5)
    for projection in (module.q_proj, module.k_proj, module.v_proj, module.o_proj):
        assert torch.equal(projection.weight, nn.Linear(24, 24, bias=False).weight)
        assert projection.bias is None


def test_meta_device():
    module = LazyAttention(24, 3, 5, device="meta", dtype=torch.bfloat16)
    assert all(parameter.is_meta for parameter in module.parameters())
    assert module(torch.empty(2, 7, 24, device="meta", dtype=torch.bfloat16)).shape == (2, 7, 24)
    module.to_empty(device="cpu")
    module.reset_parameters()
    assert (module.tau == -1).all() and module(draw(1, 7, 24, dtype=torch.bfloat16)).isfinite().all()


def dtypes(module):
    return module.q_proj.weight.dtype, module.o_proj.weight.dtype, module.tau.dtype, module.attention_biases.dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_learned_numbers_stay_float32(dtype):
    wanted = (dtype, dtype, torch.float32, torch.float32)
    module = lazy(dtype=torch.float32)
    tau = module.tau.detach().clone()
    module(draw(1, 9, 24, dtype=torch.float32)).sum().backward()
    for cast in (module.to(dtype), module.to("cpu", dtype), LazyAttention(24, 3, 5, dtype=dtype)):
        assert dtypes(cast) == wanted
    assert module.tau.grad.dtype is torch.float32 and module.q_proj.weight.grad.dtype is dtype
    assert torch.equal(module.tau, tau)
    module.zero_grad()
    out = module(draw(1, 9, 24, dtype=dtype))
    out.sum().backward()
    assert out.dtype is dtype and module.tau.grad.dtype is torch.float32
    assert dtypes(module.double()) == (torch.float64,) * 4
    assert dtypes(module.float()) == (torch.float32,) * 4
    assert dtypes(getattr(module, "half" if dtype is torch.float16 else "bfloat16")()) == wanted


@pytest.mark.parametrize("dtype, bound", [(torch.float16, 4e-3), (torch.bfloat16, 3e-2)], ids=["float16", "bfloat16"])
def test_half_precision_is_close(dtype, bound):
    module, x = lazy(), draw(2, 30, 24)
    want = module(x)
    torch.testing.assert_close(module.to(dtype)(x.to(dtype)).double(), want, rtol=bound, atol=bound)


def test_repr():
    text = repr(LazyAttention(24, 3, 5, 500))
    assert text.startswith("LazyAttention(\n  dim=24, num_heads=3, window_size=5, rope_base=500")
    assert repr(SplashAttention(8)) == "SplashAttention(head_dim=8, alpha=1.5, k_keep=8, sm_scale=None)"
    assert repr(FlashAttention()) == "FlashAttention()" and repr(StandardAttention()) == "StandardAttention()"


def test_positions_have_no_limit():
    """Far positions turn as near ones do: cosines are computed for the sequence that comes."""
    module = LazyAttention(8, 1, 3, dtype=torch.float64)
    nn.init.zeros_(module.tau)
    x = draw(1, 5000, 8)
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    with torch.no_grad():
        q, k, v = (x @ parameters[f"{name}.weight"].T for name in ("q_proj", "k_proj", "v_proj"))
        angle = torch.arange(5000).double()[:, None] * 10000 ** (-torch.arange(4).double() / 4)
        turn = torch.polar(torch.ones_like(angle), angle)
        q, k = (torch.complex(t[0, :, :4].contiguous(), t[0, :, 4:].contiguous()) * turn for t in (q, k))
        last = ((q[-1:] @ k.mH).real / 8**0.5).softmax(-1) @ v[0] @ parameters["o_proj.weight"].T
        torch.testing.assert_close(module(x)[0, -1:], last)


QKV = (torch.zeros(1, 2, 5, 8),) * 3
INDEX = torch.zeros(1, 1, 5, dtype=torch.int64)
REFUSED = {
    "dim": (lambda: LazyAttention(25, 3), ValueError, "dim"),
    "odd head_dim": (lambda: LazyAttention(9, 3), ValueError, "even"),
    "num_heads": (lambda: LazyAttention(24, 0), ValueError, "num_heads"),
    "num_heads type": (lambda: LazyAttention(24, 3.0), TypeError, "num_heads"),
    "window_size": (lambda: LazyAttention(24, 3, -1), ValueError, "window_size"),
    "rope_base": (lambda: LazyAttention(24, 3, rope_base=0), ValueError, "rope_base"),
    "rope_base NaN": (lambda: LazyAttention(24, 3, rope_base=float("nan")), ValueError, "rope_base"),
    "rope_base type": (lambda: LazyAttention(24, 3, rope_base="x"), TypeError, "rope_base"),
    "x": (lambda: LazyAttention(24, 3)(torch.zeros(1, 5, 25)), ValueError, "x: expected shape"),
    "x dims": (lambda: LazyAttention(24, 3)(torch.zeros(5, 24)), ValueError, "x: expected shape"),
    "x type": (lambda: LazyAttention(24, 3)([1]), TypeError, "x: expected a tensor"),
    "lengths": (lambda: LazyAttention(24, 3)(torch.zeros(1, 5, 24), lengths=torch.tensor([6])), ValueError, "lengths"),
    "head_dim": (lambda: SplashAttention(0), ValueError, "head_dim"),
    "head_dim type": (lambda: SplashAttention(8.0), TypeError, "head_dim"),
    "head_dim of q": (lambda: SplashAttention(16)(*QKV), ValueError, "head_dim 16"),
    "alpha": (lambda: SplashAttention(8, 2.5), ValueError, "alpha"),
    "alpha type": (lambda: SplashAttention(8, "x"), TypeError, "alpha"),
    "k_keep": (lambda: SplashAttention(8, k_keep=0), ValueError, "k_keep"),
    "k_keep type": (lambda: SplashAttention(8, k_keep=2.0), TypeError, "k_keep"),
    "sm_scale": (lambda: SplashAttention(8, sm_scale=float("inf")), ValueError, "sm_scale"),
    "q_idx alone": (lambda: SplashAttention(8)(*QKV, INDEX), ValueError, "q_idx alone"),
    "k_idx alone": (lambda: SplashAttention(8)(*QKV, k_idx=INDEX), ValueError, "k_idx alone"),
    "q_idx dtype": (lambda: SplashAttention(8)(*QKV, INDEX / 2, INDEX), TypeError, "q_idx"),
    "q_idx shape": (lambda: SplashAttention(8)(*QKV, INDEX[..., :4], INDEX), ValueError, "q_idx"),
    "causal": (lambda: FlashAttention()(*QKV, causal=None), TypeError, "causal"),
    "standard": (lambda: StandardAttention()(QKV[0], QKV[0][0], QKV[0]), ValueError, "k: expected 4 dimensions"),
    "one dtype": (lambda: FlashAttention()(QKV[0], QKV[0].double(), QKV[0]), TypeError, "one dtype"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    call, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        call()
