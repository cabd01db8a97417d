"""What all normalizers have in common: options, dtypes, transforms, and the arguments that they take.

Every normalizer under every pattern is in test_attention.py and test_gradients.py; what is particular to one, in
test_sink.py, test_elastic.py and test_top_k.py.
"""

import pytest
import torch
from normalizer_problem import HEADS, assert_same, compare, draw, qkv, run

import splash_attention as sa
from splash_attention._constants import saved_numbers

pytestmark = pytest.mark.usefixtures("one_thread")


def every_normalizer(dtype=torch.float64):
    """(make, parameters) by name."""
    return {
        "sink": (sa.Softmax, [draw(HEADS, seed=5, dtype=dtype)]),
        "elastic": (sa.Elastic, [draw(HEADS, seed=5, dtype=dtype) - 0.5, draw(HEADS, 21, seed=6, dtype=dtype)]),
        "elastic without bias": (sa.Elastic, [draw(HEADS, seed=5, dtype=dtype) - 0.5]),
        "top 6": (lambda: sa.TopK(6), []),
        "top 6, entmax": (lambda: sa.TopK(6, 1.5), []),
        "top 6, entmax 1.3": (lambda: sa.TopK(6, 1.3), []),
    }


NAMES = list(every_normalizer())


@pytest.mark.parametrize("name", NAMES)
class TestEvery:
    @pytest.mark.parametrize(
        "options",
        [
            {"lengths": torch.tensor([41, 0])},
            {"lengths": torch.tensor([70, 1])},
            {"q_start": 90, "k_start": 13},
            {"q_start": -20, "k_start": -30},
            {"scale": -0.6},
        ],
        ids=lambda options: ",".join(options),
    )
    def test_options(self, name, options):
        make, parameters = every_normalizer()[name]
        got = compare(make, qkv(70, 70), parameters, sa.SlidingWindow.causal(45), **options)
        if "lengths" in options:
            for b, n in enumerate(options["lengths"]):
                assert all((t[b, :, n:] == 0).all() for t in (got[0], got[2]))

    def test_padded_caches(self, name):
        make, parameters = every_normalizer()[name]
        compare(make, qkv(3, 140), parameters, "causal", kv_lengths=torch.tensor([140, 66]))

    def test_packed_sequences_are_separate_problems(self, name):
        make, parameters = every_normalizer()[name]
        ends_q, ends_k = [0, 30, 30, 95], [0, 41, 50, 115]
        q, k, v = (t[0].transpose(0, 1) for t in qkv(95, 115, batch=1))

        def packed(q, k, v, *parameters):
            ends = (torch.tensor(ends, dtype=torch.int32) for ends in (ends_q, ends_k))
            out, statistic = sa.attention_varlen(
                q, k, v, *ends, 65, 65, "causal", make(*parameters), return_statistic=True
            )
            return out.transpose(0, 1), statistic

        def apart(q, k, v, *parameters):
            parts = []
            for n in range(3):
                rows, keys = slice(*ends_q[n : n + 2]), slice(*ends_k[n : n + 2])
                one = [t.transpose(0, 1)[None] for t in (q[rows], k[keys], v[keys])]
                parts.append(sa.attention(*one, "causal", make(*parameters), return_statistic=True))
            return [torch.cat(part, 2)[0] for part in zip(*parts, strict=True)]

        assert_same(run(packed, [q, k, v, *parameters]), run(apart, [q, k, v, *parameters]), 1e-13)

    def test_a_nan_reaches_the_rows_that_keep_it(self, name):
        make, parameters = every_normalizer()[name]
        q, k, v = qkv(60, 60)
        k[:, :, 30] = torch.nan
        out, statistic = sa.attention(q, k, v, sa.SlidingWindow.causal(10), make(*parameters), return_statistic=True)
        keeps_it = torch.arange(60).sub(30).div(10, rounding_mode="floor") == 0
        assert torch.equal(out.isnan().all(-1), keeps_it.expand(2, HEADS, 60))
        assert torch.equal(out.isnan().any(-1), keeps_it.expand(2, HEADS, 60))
        assert not statistic[:, :, ~keeps_it].isnan().any()

    def test_no_nan_from_padding(self, name):
        """NaN in keys, values and queries past a length touches nothing, gradients of the parameters included."""
        make, parameters = every_normalizer()[name]
        lengths = torch.tensor([44, 61])

        def poisoned(t):
            t = t.clone()
            for b, n in enumerate(lengths):
                t[b, :, n:] = torch.nan
            return t

        inputs = qkv(70, 70)

        def function(q, k, v, *parameters):
            return sa.attention(q, k, v, "causal", make(*parameters), lengths=lengths, return_statistic=True)

        clean = run(function, [*inputs, *parameters])
        dirty = run(function, [*(poisoned(t) for t in inputs), *parameters])
        for a, b in zip(clean, dirty, strict=True):
            assert torch.equal(a, b)

    def test_saved_rows_are_those_of_the_kernel(self, name):
        make, parameters = every_normalizer(torch.float32)[name]
        encoded = make(*parameters).encode()
        q, k, v = qkv(10, 20, dtype=torch.float32)
        arguments = q, k, v, "causal", [], [], *encoded, None, None, None, None, 0, 0, 10, 0, 0.25, False
        parameters = [t.contiguous() for t in encoded.parameters]
        assert parameters == encoded.parameters or len(parameters) == len(encoded.parameters)
        _, _, saved = torch.ops.splash.attention_forward(*arguments)
        assert saved.shape == (saved_numbers(encoded.name, "cpu"), 2, HEADS, 10)

    def test_parameters_learn_under_compile_and_autocast(self, name):
        """Parameters stay float32 and get float32 gradients while q, k and v are cast."""
        make, parameters = every_normalizer(torch.float32)[name]
        inputs = [t.requires_grad_() for t in (*qkv(40, 50, dtype=torch.float32), *parameters)]

        def function(q, k, v, *parameters):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return sa.attention(q, k, v, "causal", make(*parameters))

        want = function(*inputs)
        out = torch.compile(function, fullgraph=True, backend="aot_eager")(*inputs)
        assert out.dtype is torch.bfloat16 and torch.equal(out, want)
        grad = draw(*out.shape, dtype=out.dtype)
        got, want = (torch.autograd.grad(result, inputs, grad) for result in (out, want))
        for a, b in zip(got, want, strict=True):
            assert a.dtype is torch.float32 and torch.equal(a, b)

    def test_half_parameters_get_half_gradients(self, name):
        make, parameters = every_normalizer(torch.float32)[name]
        parameters = [t.to(torch.bfloat16).requires_grad_() for t in parameters]
        out = sa.attention(*qkv(40, 50, dtype=torch.bfloat16), "causal", make(*parameters))
        if parameters:
            gradients = torch.autograd.grad(out.float().sum(), parameters)
            assert all(g.dtype is torch.bfloat16 and g.abs().max() > 0 for g in gradients)


class TestArguments:
    def test_encoding(self):
        sink, tau, bias = torch.zeros(4), torch.zeros(4), torch.zeros(4, 3)
        assert sa.Softmax().encode() == ("softmax", [], [])
        assert sa.Entmax(1.25).encode() == ("entmax", [1.25], [])
        assert sa.Entmax(1).encode() == ("softmax", [], [])
        assert sa.TopK(3).encode() == ("top_k_softmax", [3.0], [])
        assert sa.TopK(3, 1.5).encode() == ("top_k_entmax", [1.5, 3.0], [])
        assert sa.TopK(3, sa.Entmax(1)).encode() == ("top_k_softmax", [3.0], [])
        name, floats, (parameter,) = sa.Softmax(sink).encode()
        assert (name, floats) == ("softmax_sink", []) and parameter is sink
        name, floats, parameters = sa.Elastic(tau, bias).encode()
        assert (name, floats) == ("elastic", []) and parameters[0] is tau and parameters[1] is bias
        assert sa.Elastic(tau).encode().parameters[1].shape == (4, 0)

    def test_equality(self):
        sink = torch.zeros(4)
        assert sa.Softmax() == sa.Softmax() and hash(sa.Softmax()) == hash(sa.Softmax())
        assert sa.TopK(3) == sa.TopK(3, "softmax") != sa.TopK(4)
        assert sa.TopK(3, 1.5) == sa.TopK(3, sa.Entmax(1.5)) != sa.TopK(3)
        assert len({sa.TopK(3), sa.TopK(3, sa.Softmax()), sa.Softmax(), sa.Softmax(None)}) == 2
        one, other = sa.Softmax(sink), sa.Softmax(sink)
        assert one == one and one != other and one != sa.Softmax() and len({one, other}) == 2
        one, other = sa.Elastic(sink), sa.Elastic(sink)
        assert one == one and one != other and len({one, other}) == 2
        assert sa.Softmax() != "softmax" and sa.Softmax() != sa.Entmax(1)

    @pytest.mark.parametrize(
        "make, kind, text",
        [
            (lambda: sa.Softmax(1.0), TypeError, "sink_logit.*tensor.*float"),
            (lambda: sa.Softmax(torch.zeros(4, dtype=torch.int64)), TypeError, "sink_logit.*int64"),
            (lambda: sa.Softmax(torch.zeros(4, 1)), ValueError, r"sink_logit.*\(Hq\).*\(4, 1\)"),
            (lambda: sa.Elastic(None), TypeError, "tau.*NoneType"),
            (lambda: sa.Elastic(torch.zeros(())), ValueError, r"tau.*\(Hq\).*\(\)"),
            (lambda: sa.Elastic(torch.zeros(4), torch.zeros(4)), ValueError, r"bias.*\(Hq, T\).*\(4,\)"),
            (lambda: sa.Elastic(torch.zeros(4), torch.zeros(4, 2) > 0), TypeError, "bias.*bool"),
            (lambda: sa.TopK(0), ValueError, "k: .*at least 1.*0"),
            (lambda: sa.TopK(-3), ValueError, "k: .*-3"),
            (lambda: sa.TopK(2.0), TypeError, "k: .*int.*float"),
            (lambda: sa.TopK(True), TypeError, "k: .*bool"),
            (lambda: sa.TopK(3, sa.TopK(2)), ValueError, "then: .*Softmax.*Entmax.*TopK"),
            (lambda: sa.TopK(3, sa.Softmax(torch.zeros(4))), ValueError, "then: .*without sink_logit"),
            (lambda: sa.TopK(3, sa.Elastic(torch.zeros(4))), ValueError, "then: .*Elastic"),
            (lambda: sa.TopK(3, 3.0), ValueError, "alpha.*3.0"),
            (lambda: sa.TopK(3, None), TypeError, "NoneType"),
            (lambda: sa.TopK(3, "elastic"), ValueError, "elastic"),
        ],
    )
    def test_constructors(self, make, kind, text):
        with pytest.raises(kind, match=text):
            make()

    @pytest.mark.parametrize("heads", [1, 2, 5, 0])
    def test_one_number_a_query_head(self, heads):
        q, k, v = qkv(8, 8)
        wrong, right = torch.zeros(heads, dtype=torch.float64), torch.zeros(HEADS, dtype=torch.float64)
        for normalizer, name in (
            (sa.Softmax(wrong), "sink_logit"),
            (sa.Elastic(wrong), "tau"),
            (sa.Elastic(right, torch.zeros(heads, 3)), "bias"),
        ):
            with pytest.raises(ValueError, match=f"{name}.*{HEADS}.*{heads}"):
                sa.attention(q, k, v, "causal", normalizer)

    def test_parameters_of_other_devices_and_dtypes(self):
        q, k, v = qkv(8, 8, dtype=torch.float32)
        with pytest.raises(ValueError, match="device"):
            sa.attention(q, k, v, "causal", sa.Softmax(torch.zeros(HEADS, device="meta")))
        sink = draw(HEADS, seed=5)
        out = sa.attention(q, k, v, "causal", sa.Softmax(sink))
        assert torch.equal(out, sa.attention(q, k, v, "causal", sa.Softmax(sink.float())))
