"""Forward and backward of every case against the float64 reference, within the error bound of DESIGN.md section 5."""

import oracle
import pytest
import torch
from cases import CASES, CAUSAL, PATTERNS, Case, Shape, on_devices
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from operators import BACKWARD, backward_arguments
from torch.utils._pytree import tree_map_only

import splash_attention as sa
from splash_attention import NoKernelError
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")


def assert_within_bound(case, device, record_error, backward):
    got, want, same = oracle.answers(case, device, backward)
    for quantity in want:
        error, bound = oracle.error_and_bound(got[quantity], want[quantity], same[quantity])
        record_error(device, quantity, error, bound)
        assert error <= bound, f"{quantity}: error {error:.3e} above {bound:.3e}"


@pytest.mark.parametrize("case, device", on_devices(CASES))
def test_against_reference(case, device, record_error):
    assert_within_bound(case, device, record_error, device == "cpu" or case.trains_on_gpu)


def test_ids_are_unique():
    ids = [case.id for case in CASES]
    assert len(ids) == len(set(ids))


sizes = st.integers(1, 150)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_ragged_sizes(data, record_error):
    kv_heads = data.draw(st.integers(1, 2))
    batch, group, dim = (data.draw(st.integers(1, most)) for most in (2, 3, 70))
    shape = Shape(batch, kv_heads * group, kv_heads, data.draw(sizes), data.draw(sizes), dim)
    name = data.draw(st.sampled_from(sorted(PATTERNS)))
    # The gradient is a continuous function of the scores up to alpha 1.5: above, one rounding at the threshold may move
    # it by any amount.
    alpha = data.draw(st.sampled_from((1, 1.5, 1.3)))
    starts = {"q_start": data.draw(st.none() | st.integers(-60, 200)), "k_start": data.draw(st.integers(-50, 50))}
    case = Case(name, PATTERNS[name], alpha, torch.float32, shape, statistic_gradient=True, **starts)
    assert_within_bound(case, "cpu", record_error, backward=True)


SPARSE = [
    Case(name, PATTERNS[name], alpha, dtype, Shape(1, 4, 2, 150, 190, 64), scale=0.5)
    for name in ("full", "causal", "window37", "blocks64")
    for alpha in (1.5, 1.25, 2.0)
    for dtype in (torch.float32, torch.bfloat16, torch.float16)
]


@pytest.mark.parametrize("case, device", on_devices(SPARSE))
def test_entmax_support(case, device):
    """The zeros are exact zeros at the reference's places, up to keys within a rounding of the threshold."""
    q, k, _, _ = case.inputs(device)
    options, pattern = case.options(device), case.pattern(case, device)

    def exact(q, k, v):
        return reference_attention(q, k, v, pattern, case.normalizer, **options)

    got = oracle.read_weights(lambda *qkv: sa.attention(*qkv, pattern, case.normalizer, **options), q, k)
    want = oracle.read_weights(lambda *qkv: exact(*qkv)[0], q.double(), k.double())
    tau = exact(q.double(), k.double(), k.double())[1][..., None]
    scores = case.scale * q.double() @ k.double().repeat_interleave(2, 1).transpose(-1, -2)
    near = ((case.alpha - 1) * scores - tau).abs() < 1e-5 * (1 + tau.abs())
    kept = oracle.kept(pattern, q, k, options)
    near &= kept
    assert near.double().mean() < 1e-3
    assert (got[(want == 0) & ~near] == 0).all()
    # float16 has nothing below 6e-8, and at alpha 1.25 weights are fourth powers.
    visible = (want > (1e-6 if case.dtype == torch.float16 else 1e-30)) & ~near
    assert (got[visible] > 0).all()
    assert (got[~kept] == 0).all()
    assert (want[kept] == 0).double().mean() > 0.1  # the inputs are sparse enough to show something


@pytest.mark.parametrize("alpha", [1, 1.5, 1.25, 2.0])
@pytest.mark.parametrize("magnitude", [0.0, 1.0, 1e4])
def test_row_sums(device, alpha, magnitude):
    """Weights sum to 1 at any magnitude of the scores: v = 1 gives 1."""
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    generator = torch.Generator().manual_seed(3)
    q, k = (torch.randn(1, 2, 200, 64, generator=generator).to(device, dtype) for _ in range(2))
    normalizer = sa.Softmax() if alpha == 1 else sa.Entmax(alpha)
    out = sa.attention(q, k, torch.ones_like(k), "full", normalizer, scale=magnitude / 8)
    torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=1e-5 if device == "cpu" else 2**-7)


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [8, 40, 72, 96, 120])
def test_head_dimensions_between_those_of_the_table(dim):
    """They run through the next larger one, with zeros where it has more columns; softmax: forward_cases.py."""
    q, k, v = (torch.randn(2, 3, 150, dim, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    out = sa.attention(q, k, v, "causal", 1.5)
    want, _ = reference_attention(q, k, v, "causal", 1.5)
    same_precision, _ = reference_attention(q, k, v, "causal", 1.5, dtype=None)
    allowed = 2 * (same_precision - want).abs().max() + 1e-3
    assert (out - want).abs().max() <= allowed


class TestCudaErrors:
    """What the CUDA build refuses by name, since it has no kernels for it."""

    pytestmark = pytest.mark.gpu

    def run(self, dtype=torch.bfloat16, dim=64, normalizer="softmax"):
        q, k, v = (torch.randn(1, 2, 64, dim, device="cuda", dtype=dtype) for _ in range(3))
        return sa.attention(q, k, v, "causal", normalizer)

    def test_float32(self):
        with pytest.raises(NoKernelError, match="float32"):
            self.run(dtype=torch.float32)

    @pytest.mark.parametrize("normalizer", ["softmax", 1.5])
    def test_head_dimension_beyond_the_table(self, normalizer):
        with pytest.raises((NoKernelError, ValueError), match="264"):
            self.run(dim=264, normalizer=normalizer)

    def test_head_dimension_that_is_no_multiple_of_8(self):
        with pytest.raises((NoKernelError, ValueError), match="multiple of"):
            self.run(dim=60)

    @pytest.mark.parametrize("normalizer", ["elastic", "top8", "top5-entmax1.5"])
    def test_other_normalizers(self, normalizer):
        case = Case("causal", CAUSAL, normalizer, torch.bfloat16, Shape(1, 2, 2, 64, 64, 64))
        with pytest.raises(NoKernelError, match=r"forward on sm90.* normalizer is"):
            self.run(normalizer=case.normalizer_of(case.parameters("cuda")))

    @pytest.mark.parametrize(
        "alpha, dtype, difference",
        [
            (1, torch.float32, "dtype is float32, compiled is bfloat16"),
            ("sink", torch.float32, "dtype is float32, compiled is bfloat16"),
            (1.25, torch.float32, "dtype is float32, compiled is bfloat16"),
            ("elastic", torch.bfloat16, "normalizer is elastic, compiled is "),
            ("top8", torch.bfloat16, "normalizer is top_k_softmax, compiled is "),
            ("top5-entmax1.5", torch.bfloat16, "normalizer is top_k_entmax15, compiled is "),
        ],
    )
    def test_backward_whose_forward_has_no_kernel_either(self, alpha, dtype, difference):
        """Through the operator, with what the CPU's forward returned."""
        case = Case("causal", CAUSAL, alpha, dtype, Shape(1, 2, 2, 64, 64, 64))
        arguments = tree_map_only(torch.Tensor, torch.Tensor.cuda, backward_arguments(case, "cpu"))
        with pytest.raises(RuntimeError, match=rf"splash\.NoKernelError: .*backward on sm90.* {difference}"):
            BACKWARD(**arguments)
