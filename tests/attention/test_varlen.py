"""Packed sequences: each is a problem of its own, with its own alignment, and nothing reaches across their ends."""

import oracle
import pytest
import torch
from cases import BY_POSITION, RULES, Case, Shape
from operators import BACKWARD, FORWARD
from torch._dynamo.testing import CompileCounterWithBackend

import splash_attention as sa
from splash_attention.patterns import Extent
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES, KEYS = (5, 0, 70, 1, 130, 33), (9, 3, 70, 0, 200, 12)
TAIL = 3  # tokens after the last sequence


def ends(lengths):
    return torch.tensor([0, *lengths]).cumsum(0)


def pack(heads, kv_heads, dim, dtype=torch.float64, queries=QUERIES, keys=KEYS, seed=0):
    """q, k, v (T, H, D) and dO."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(queries) + TAIL, sum(keys) + TAIL
    shapes = [(total[0], heads, dim), *[(total[1], kv_heads, dim)] * 2, (total[0], heads, dim)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def packed(q, k, v, pattern, normalizer, queries=QUERIES, keys=KEYS):
    return sa.attention_varlen(
        q, k, v, ends(queries), ends(keys), max(queries), max(keys), pattern, normalizer, return_statistic=True
    )


def one_by_one(function, q, k, v, queries=QUERIES, keys=KEYS):
    """function(q, k, v) -> (out, statistic) of (1, H, N, D) for each sequence, put together again."""
    outs, statistics = [], []
    for n in range(len(queries)):
        rows, columns = (slice(*ends(lengths)[n : n + 2].tolist()) for lengths in (queries, keys))
        parts = (t[where].transpose(0, 1)[None] for t, where in ((q, rows), (k, columns), (v, columns)))
        out, statistic = function(*parts)
        outs.append(out[0].transpose(0, 1))
        statistics.append(statistic[0])
    tail = q.new_zeros(TAIL, *q.shape[1:], dtype=outs[0].dtype)
    return torch.cat([*outs, tail]), torch.cat(statistics, -1)


NORMALIZERS = {"softmax": 1, "entmax1.5": 1.5, **{name: name for name in RULES}}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["f64", "bf16"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("name", ["causal", *BY_POSITION])
def test_each_sequence_is_a_problem_of_its_own(name, normalizer, dtype, record_error):
    make = BY_POSITION.get(name, lambda case, device: sa.Causal())
    case = Case(name, make, NORMALIZERS[normalizer], dtype, Shape(1, 4, 2, 1, 1, 16))
    pattern = case.full_pattern("cpu")
    parameters = case.parameters()
    q, k, v, grad = pack(4, 2, 16, dtype)
    # No gradient for the statistic of rows that keep nothing, which is infinite.
    finite = packed(q, k, v, pattern, case.normalizer)[1][:, : sum(QUERIES)].isfinite()
    grad_statistic = torch.randn(finite.shape, generator=torch.Generator().manual_seed(1)).masked_fill(~finite, 0)

    def splash(q, k, v, *parameters):
        out, statistic = packed(q, k, v, pattern, case.normalizer_of(parameters))
        return out, statistic[:, : sum(QUERIES)]

    def reference(dtype):
        def run(q, k, v, *parameters):
            normalizer = case.normalizer_of(parameters)
            return one_by_one(lambda *qkv: reference_attention(*qkv, pattern, normalizer, dtype=dtype), q, k, v)

        return run

    doubled = [t.double() for t in (q, k, v)], [p.double() for p in parameters]
    want = oracle.with_gradients(reference(torch.float64), *doubled[0], grad, grad_statistic, doubled[1])
    same = oracle.with_gradients(reference(None), q, k, v, grad, grad_statistic, parameters)
    got = oracle.with_gradients(splash, q, k, v, grad, grad_statistic, parameters)
    for quantity in want:
        error, bound = oracle.error_and_bound(got[quantity], want[quantity], same[quantity])
        record_error("cpu", f"packed {quantity}", error, bound)
        assert error <= bound, f"{quantity}: error {error:.3e} above {bound:.3e}"


def test_the_operator_takes_tokens_and_views_with_heads_first():
    """(T, H, D) and (1, H, T, D): the same bits, each in its own shape; opcheck holds for tokens."""
    q, k, v, grad = pack(4, 2, 16)
    problem = (*sa.Causal().encode(Extent(len(QUERIES), 4, max(QUERIES), max(KEYS), q.device)), *sa.Softmax().encode())
    rows = None, None, ends(QUERIES).int(), ends(KEYS).int(), max(QUERIES), max(KEYS), 0, 0, 0.25, False
    torch.library.opcheck(FORWARD, (*(t.clone().requires_grad_() for t in (q, k, v)), *problem, *rows))
    out, statistic, saved = FORWARD(q, k, v, *problem, *rows)
    assert out.shape == q.shape and out.is_contiguous()
    torch.library.opcheck(BACKWARD, (grad, None, q, k, v, out, statistic, saved, *problem, *rows))
    views = [t.transpose(0, 1)[None] for t in (q, k, v)]
    others = FORWARD(*views, *problem, *rows)
    for a, b in zip((out.transpose(0, 1)[None], statistic, saved), others, strict=True):
        assert torch.equal(a, b)
    got = BACKWARD(grad, None, q, k, v, out, statistic, saved, *problem, *rows)[:3]
    want = BACKWARD(grad.transpose(0, 1)[None], None, *views, *others, *problem, *rows)[:3]
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.transpose(0, 1)[None], b)
    with pytest.raises(RuntimeError, match="q has 3 dimensions; expected 4"):
        FORWARD(q, k, v, *problem, None, None, None, None, 0, 0, 0, 0, 0.25, False)


@pytest.mark.parametrize("normalizer", [sa.Softmax(), sa.Entmax(1.5), sa.TopK(4)])
def test_same_as_a_padded_batch(normalizer):
    """Right-padded with `lengths` and packed: the same outputs and gradients."""
    lengths = torch.tensor([40, 0, 7, 64])
    real = torch.arange(64)[None] < lengths[:, None]
    padded = [torch.randn(4, 64, 2, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    tokens = [t[real] for t in padded]
    cu_seqlens = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    got = sa.attention_varlen(*tokens, cu_seqlens, cu_seqlens, 64, 64, "causal", normalizer)
    want = sa.attention(*(t.transpose(1, 2) for t in padded), "causal", normalizer, lengths=lengths).transpose(1, 2)
    torch.testing.assert_close(got, want[real])
    grad = torch.randn_like(want)
    for a, b in zip(torch.autograd.grad(got, padded, grad[real]), torch.autograd.grad(want, padded, grad), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("alpha", [1, 1.5])
def test_poison_after_the_last_sequence(alpha):
    q, k, v, grad = pack(2, 1, 8)
    want = packed(q, k, v, "full", alpha)[0]
    for tensor in (q, k, v, grad):
        tensor[-TAIL:] = torch.nan
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out = packed(*inputs, "full", alpha)[0]
    assert torch.equal(out, want) and not out[-TAIL:].any()
    for gradient in torch.autograd.grad(out, inputs, grad):
        assert gradient.isfinite().all() and not gradient[-TAIL:].any()


def test_sequences_do_not_see_each_other():
    """A NaN in one sequence stays there, in the output and in the gradients."""
    q, k, v, grad = pack(2, 2, 8)
    begin, end = ends(KEYS)[2:4].tolist()
    k[begin + 5] = torch.nan
    inputs = [t.requires_grad_() for t in (q, k, v)]
    out = packed(*inputs, "full", 1)[0]
    rows = slice(*ends(QUERIES)[2:4].tolist())
    assert out[rows].isnan().all()
    others = torch.ones(out.shape[0], dtype=torch.bool)
    others[rows] = False
    assert out[others].isfinite().all()
    dq, dk, dv = torch.autograd.grad(out, inputs, grad)
    assert dq[others].isfinite().all()
    keys = torch.ones(k.shape[0], dtype=torch.bool)
    keys[begin:end] = False
    assert dk[keys].isfinite().all() and dv[keys].isfinite().all()


@pytest.mark.parametrize("normalizer", ["softmax", "entmax1.5", "sink", "elastic", "top8"])
def test_gradcheck(normalizer):
    case = Case("causal", lambda *_: sa.Causal(), NORMALIZERS[normalizer], torch.float64, Shape(1, 2, 1, 1, 1, 3))
    queries, keys = (4, 0, 7), (6, 2, 7)
    inputs = [t.requires_grad_() for t in (*pack(2, 1, 3, queries=queries, keys=keys)[:3], *case.parameters())]

    def function(q, k, v, *parameters):
        return packed(q, k, v, "causal", case.normalizer_of(parameters), queries, keys)[0]

    assert torch.autograd.gradcheck(function, inputs)


def test_ten_lengths_take_two_graphs():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def function(q, k, v, cu_q, cu_k, max_q, max_k):
        return sa.attention_varlen(q, k, v, cu_q, cu_k, max_q, max_k, sa.Streaming(3, 20), 1.5)

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for n in range(10):
        queries, keys = (5 + n, 17 + 2 * n), (9 + 3 * n, 40 - n)
        q, k, v, _ = pack(4, 2, 16, torch.float32, queries, keys)
        arguments = q, k, v, ends(queries), ends(keys), max(queries), max(keys)
        torch.testing.assert_close(compiled(*arguments), function(*arguments))
    assert counter.frame_count <= 2


def test_empty():
    q = torch.randn(0, 2, 8, requires_grad=True)
    out = sa.attention_varlen(q, q, q, torch.tensor([0]), torch.tensor([0]), 0, 0)
    assert out.shape == (0, 2, 8)
    out = sa.attention_varlen(q, q, q, torch.tensor([0, 0, 0]), torch.tensor([0, 0, 0]), 0, 0)
    out.sum().backward()
    assert q.grad.shape == (0, 2, 8)


def test_max_seqlen_may_be_larger():
    q, k, v, _ = pack(2, 2, 8)
    want = packed(q, k, v, "causal", 1)[0]
    got = sa.attention_varlen(q, k, v, ends(QUERIES), ends(KEYS), 1000, 999, "causal")
    assert torch.equal(got, want)


Q, K = torch.zeros(10, 4, 8), torch.zeros(12, 2, 8)
CU_Q, CU_K = torch.tensor([0, 4, 10]), torch.tensor([0, 6, 12])
GOOD = {"q": Q, "k": K, "v": K, "cu_seqlens_q": CU_Q, "cu_seqlens_k": CU_K, "max_seqlen_q": 6, "max_seqlen_k": 6}
BAD = [
    ({"q": Q[None]}, ValueError, "q"),
    ({"q": None}, TypeError, "q"),
    ({"q": Q.long()}, TypeError, "q"),
    ({"q": Q.double()}, TypeError, "dtype"),
    ({"q": Q[:, :3]}, ValueError, "heads"),
    ({"k": K[:11]}, ValueError, "v"),
    ({"v": K[..., :4]}, ValueError, "v"),
    ({"cu_seqlens_q": [0, 4, 10]}, TypeError, "cu_seqlens_q"),
    ({"cu_seqlens_q": CU_Q.float()}, TypeError, "cu_seqlens_q"),
    ({"cu_seqlens_q": CU_Q[None]}, ValueError, "cu_seqlens_q"),
    ({"cu_seqlens_q": CU_Q[:0]}, ValueError, "cu_seqlens_q"),
    ({"cu_seqlens_q": CU_Q[:2]}, ValueError, "cu_seqlens_k"),
    ({"cu_seqlens_q": torch.tensor([0, 4, 11])}, ValueError, "cu_seqlens_q"),
    ({"cu_seqlens_q": torch.tensor([1, 4, 10])}, ValueError, "cu_seqlens_q"),
    ({"cu_seqlens_q": torch.tensor([0, 5, 4])}, ValueError, "cu_seqlens_q"),
    ({"cu_seqlens_k": torch.tensor([0, -1, 12])}, ValueError, "cu_seqlens_k"),
    ({"max_seqlen_q": 5}, ValueError, "max_seqlen_q"),
    ({"max_seqlen_k": -1}, ValueError, "max_seqlen_k"),
    ({"max_seqlen_k": 6.0}, TypeError, "max_seqlen_k"),
    ({"max_seqlen_k": 2**40}, ValueError, "max_seqlen_k"),
    ({"pattern": sa.BlockMask(torch.ones(1, 1, dtype=torch.bool), 16)}, ValueError, "packed"),
    ({"pattern": sa.ElementMask(torch.ones(6, 6, dtype=torch.bool))}, ValueError, "packed"),
    ({"pattern": sa.IndexCausal(torch.zeros(6).int(), torch.zeros(6).int())}, ValueError, "packed"),
    ({"pattern": sa.Dilated(3, (1, 2))}, ValueError, "dilation"),
    ({"scale": float("nan")}, ValueError, "scale"),
]


@pytest.mark.parametrize("change, error, text", BAD, ids=lambda p: "-".join(p) if isinstance(p, dict) else None)
def test_errors(change, error, text):
    sa.attention_varlen(**GOOD)
    with pytest.raises(error, match=text):
        sa.attention_varlen(**{**GOOD, **change})
