"""The weights of the softmax forward one by one, read off through one-hot values: which exist, and what each is.

An output averages errors of single weights away; here each has its own bound, and is exactly 0 where the pattern keeps
nothing. The values are one tensor for all heads and batch entries, by strides of 0.
"""

import itertools
import random

import oracle
import pytest
import torch
from cases import GPU_HEAD_DIMS, HALVES, PATTERNS, on_devices
from forward_cases import SPLIT, UNEVEN_HEADS, drawn
from forward_problem import NAN

import splash_attention as sa
from splash_attention.reference.normalizers import normalize

pytestmark = pytest.mark.usefixtures("one_thread")


def cases():
    for (name, pattern), dim in itertools.product({**PATTERNS, **UNEVEN_HEADS}.items(), (64, 128)):
        choice = random.Random(f"weights {name} {dim}")
        sizes = {"queries": choice.choice((65, 129, 200, 17)), "keys": choice.choice((130, 257, 300))}
        yield drawn("weights", name, pattern, dim=dim, **sizes)
    for dim, dtype, name in itertools.product(GPU_HEAD_DIMS, HALVES, ("causal", "symmetric20", "blocks64", "elements")):
        yield drawn("weights", name, PATTERNS[name], 0, dim=dim, dtype=dtype, queries=150, keys=300)
    for name, pattern in SPLIT.items():
        more = {"kv_lengths": (2100, 1000, 65)} if name != "one-key" else {}
        yield drawn("weights", name, pattern, dim=256, heads=(8, 2), queries=2, keys=2100, **more)
    for name in ("full", "streaming", "dilated10x3", "longformer"):
        yield drawn("weights", name, PATTERNS[name], 1, dim=128, queries=300, lengths=(300, 130, 1, 0))


WEIGHTS = list(cases())


@torch.no_grad()
@pytest.mark.parametrize("case, device", on_devices(WEIGHTS, cpu_every=5, cpu_scores=2**19))
def test_weights(case, device, record_error):
    q, k, _, _ = case.inputs(device)
    options, parameters = case.options(device), case.parameters(device)
    pattern, keys, dim = case.full_pattern(device), case.shape.keys, case.shape.dim
    kept = oracle.kept(pattern, q, k, options)
    prepared = sa.prepare(pattern, q, k, backward=False, k_start=case.k_start)

    one_hot = torch.eye(-(-keys // dim) * dim, dtype=case.dtype, device=device)[:keys]

    def output_of(values):
        return sa.attention(q, k, values.expand(k.shape), prepared, case.normalizer_of(parameters), **options)

    columns = [output_of(one_hot[:, begin : begin + dim]) for begin in range(0, keys, dim)]
    got = torch.cat(columns, -1)[..., :keys]
    assert not got[~kept].any()

    heads = kept.shape[1] // case.shape.kv_heads
    scores = case.shape.dim**-0.5 * q.double() @ k.double().repeat_interleave(heads, 1).transpose(-1, -2)
    grouped = (t.unflatten(1, (-1, heads)) for t in (scores, kept))
    normalizer = case.normalizer_of([p.double() for p in parameters])
    want = normalize(normalizer, *grouped, torch.zeros(1), torch.zeros(1))[0].flatten(1, 2)
    # A weight is rounded as an operand of the second product and again in the output, and float16 ends at 6e-8.
    bound = 2 * torch.finfo(case.dtype).eps * want + (2e-7 if case.dtype == torch.float16 else 1e-30)
    share = ((got.double() - want).abs() / bound).max().item() if kept.any() else 0.0
    record_error(device, "weights", share, 1.0, case.features)
    assert share <= 1


def test_a_nan_that_is_the_only_key(device):
    """The row is NaN: not 0, as a row without keys would be."""
    for dim, queries, keys, group in ((64, 130, 130, 1), (256, 1, 2100, 8)):
        case = drawn(
            "nan", "one", PATTERNS["causal"], dim=dim, queries=queries, keys=keys, heads=(group, 1), layout="bhnd"
        )
        q, k, v, _ = case.inputs(device)
        k[:, :, 0] = NAN
        pattern = sa.Causal() & sa.SlidingWindow(0, None)
        out = sa.attention(q, k, v, pattern, case.normalizer_of(case.parameters(device)), q_start=0)
        assert out[:, :, 0].isnan().all()


def test_nan_queries_stay_in_their_rows(device):
    """Heads of a group and neighbouring rows share tiles, but not what is wrong with one of them."""
    for queries, name in ((5, "causal"), (1, "full"), (150, "window37"), (70, "dilated10x3"), (1, "streaming")):
        case = drawn("rows", name, PATTERNS[name], heads=(8, 2), batch=2, queries=queries, keys=300, dim=64)
        q, k, v, _ = case.inputs(device)
        pattern, normalizer = case.full_pattern(device), case.normalizer_of(case.parameters(device))
        want = sa.attention(q, k, v, pattern, normalizer)
        bad = torch.zeros(q.shape[:3], dtype=torch.bool, device=device)
        bad[0, 1::3] = True
        bad[1, :, :: max(2, queries)] = True
        got = sa.attention(torch.where(bad[..., None], NAN, q), k, v, pattern, normalizer)
        assert got[bad].isnan().all()
        torch.testing.assert_close(got[~bad], want[~bad], rtol=2e-2, atol=2e-3)
