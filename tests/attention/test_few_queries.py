"""A few queries against many keys on the CPU, which go a way of their own (cpu/few_queries.hpp): every pattern,
normalizer and dtype with poison where nothing reads, packed and cached, with gradients, on any number of threads."""

import itertools

import oracle
import pytest
import torch
from cases import PATTERNS, RULES, Case, Shape, per_head
from forward_cases import UNEVEN_HEADS, drawn
from forward_problem import assert_same_bits, check_forward
from packed_cases import LENGTHS, PATTERNS_THAT_PACK, packed
from packed_problem import check_packed, varlen
from pool import threads

import splash_attention as sa
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
NORMALIZERS = (1, 1.5, 1.3, 2.0, *RULES)
QUERIES = (1, 2, 5, 8)
KEYS = (1, 63, 64, 65, 200, 333, 1100, 2100)  # a chunk has 1024 at least
HEADS = ((2, 2), (4, 2), (6, 2), (8, 1), (3, 3), (40, 1))  # 40 heads of 5 rows are several groups
DIMS = (64, 128, 40, 33, 20, 8, 3, 96)


def lengths_of_cache(choice, queries, keys):
    return {"kv_lengths": tuple(min(keys, length) for length in (keys // 2, 0, queries, keys)[: 2 + choice % 3])}


def everything():
    """Sizes, heads, head dimensions and dtypes take turns."""
    turns = [itertools.cycle(values) for values in (QUERIES, KEYS, HEADS, DIMS, DTYPES)]
    layouts = itertools.cycle(("bhnd", "bnhd", "sliced", "expanded"))
    problems = itertools.product({**PATTERNS, **UNEVEN_HEADS}.items(), NORMALIZERS)
    for n, ((name, pattern), alpha) in enumerate(problems):
        if n % 5 == 0:  # else lists of equal lengths would meet in the same order
            next(turns[0]), next(turns[3])
        queries, keys, heads, dim, dtype = (next(turn) for turn in turns)
        more = lengths_of_cache(n, queries, keys) if n % 3 == 0 else {"q_start": keys // 3 - 2} if n % 7 == 0 else {}
        if str(alpha).startswith("elastic"):  # the reference of check_forward knows no positions
            more = {}
        fields = {"queries": queries, "keys": keys, "heads": heads, "dim": dim, "dtype": dtype, **more}
        yield drawn("few", name, pattern, alpha=alpha, layout=next(layouts), **fields)


def options_of_positions():
    base = {"heads": (4, 2), "dtype": torch.float32, "dim": 20}
    for alpha in NORMALIZERS:
        yield drawn("few", "causal", PATTERNS["causal"], 0, alpha=alpha, queries=7, lengths=(7, 0, 3), **base)
        yield drawn("few", "full", PATTERNS["full"], 1, alpha=alpha, queries=3, keys=300, scale=-0.3, **base)
        yield drawn("few", "causal", PATTERNS["causal"], 2, alpha=alpha, queries=3, keys=70, scale=0.0, **base)
        if not str(alpha).startswith("elastic"):
            for name, queries, keys, start in (("symmetric20", 6, 900, -3), ("window37", 2, 90, 400)):
                place = {"queries": queries, "keys": keys, "q_start": start}
                yield drawn("few", name, PATTERNS[name], alpha=alpha, **place, **base)


@pytest.mark.parametrize("case", [*everything(), *options_of_positions()], ids=lambda case: case.id)
def test_few_queries(case, record_error):
    check_forward(case, "cpu", record_error)


@pytest.mark.parametrize("alpha", [alpha for alpha in NORMALIZERS if alpha not in ("elastic", "elastic-tau")])
@pytest.mark.parametrize("lengths", [name for name in LENGTHS if name not in ("ones", "many", "tiles")])
def test_packed(lengths, alpha, record_error):
    """Sequences of few queries beside others of many, and beside empty ones."""
    names = list(PATTERNS_THAT_PACK)
    name = names[(sum(map(ord, lengths)) + NORMALIZERS.index(alpha)) % len(names)]
    group, dtype = (1, 2, 3, 4)[len(lengths) % 4], DTYPES[NORMALIZERS.index(alpha) % 3]
    problem = packed(lengths, name, (3, 3), alpha=alpha, dtype=dtype, group=group, dim=40)
    check_packed(problem, "cpu", record_error, public=True)


@torch.no_grad()
@pytest.mark.parametrize("alpha", ["elastic", "elastic-tau"])
@pytest.mark.parametrize("lengths", ["decode", "few-queries", "long-and-short"])
def test_packed_elastic(lengths, alpha):
    """Positions are those of each sequence."""
    problem = packed(lengths, "causal", alpha=alpha, dtype=torch.float64, group=2, dim=24)
    tensors, parameters = problem.case.numbers("cpu")[:3], problem.case.parameters()
    normalizer = problem.case.normalizer_of(parameters)
    found = varlen(problem, *tensors, sa.Causal(), normalizer, problem.ends("cpu"))
    for rows, columns in problem.parts():
        own = [t[:, :, part] for t, part in zip(tensors, (rows, columns, columns), strict=True)]
        want = reference_attention(*own, sa.Causal(), normalizer)
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a[:, :, rows], b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alpha", NORMALIZERS)
@pytest.mark.parametrize(
    "place", [{}, {"kv_lengths": (700, 2)}, {"q_start": 3, "k_start": -20}], ids=["end", "cache", "start"]
)
@pytest.mark.parametrize("name", ["full", "window37", "streaming", "bigbird-heads", "blocks16-heads", "elements"])
def test_gradients(name, place, alpha, record_error):
    """The backward finds what it needs: it is the ordinary one."""
    pattern = {**PATTERNS, **UNEVEN_HEADS}[name]
    shape = Shape(2, 4, 2, 1 + 2 * (len(name) % 3), 1300, 16)
    case = Case(name, pattern, alpha, torch.float32, shape, statistic_gradient=True, **place)
    answers = oracle.answers(case, "cpu")
    for quantity in answers[0]:
        error, bound = oracle.error_and_bound(*(answer[quantity] for answer in answers))
        record_error("cpu", quantity, error, bound, case.features)
        assert error <= bound, f"{quantity}: error {error:.3e} above {bound:.3e}"


@torch.no_grad()
@pytest.mark.parametrize("alpha", NORMALIZERS)
@pytest.mark.parametrize("heads, batch", [((1, 1), 1), ((4, 2), 1), ((6, 2), 3)])
@pytest.mark.parametrize("name", ["full", "window37", "streaming", "longformer"])
def test_threads_change_no_bit(name, heads, batch, alpha):
    """Threads that share the rows of a group, and threads that take whole groups, find the same."""
    case = Case(name, PATTERNS[name], alpha, torch.float32, Shape(batch, *heads, 3, 5000, 24))
    q, k, v, _ = case.inputs("cpu")
    pattern, normalizer = case.full_pattern("cpu"), case.normalizer
    found = {}
    for count in (1, 2, 5):
        with threads(count):
            found[count] = sa.attention(q, k, v, pattern, normalizer, return_statistic=True)
    for count in (2, 5):
        assert_same_bits(found[count], found[1], f"{count} threads")


@torch.no_grad()
def test_sequences_of_very_different_lengths_share_threads(record_error):
    """One long sequence among many short ones is dealt out, the bits stay."""
    ends = torch.tensor([0, 9000, *range(9001, 9041)], dtype=torch.int32)
    queries = torch.arange(len(ends), dtype=torch.int32)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(int(n), 2, 16, generator=generator) for n in (queries[-1], ends[-1], ends[-1]))
    found = []
    for count in (1, 4):
        with threads(count):
            found.append(sa.attention_varlen(q, k, v, queries, ends, 1, 9000, return_statistic=True))
    assert_same_bits(*found, "4 threads")
    want = reference_attention(*(t.transpose(0, 1)[None].double() for t in (q[:1], k[:9000], v[:9000])))
    torch.testing.assert_close(found[0][0][:1], want[0][0].transpose(0, 1).float())
    torch.testing.assert_close(found[0][0][1:], v[9000:])


@torch.no_grad()
@pytest.mark.parametrize("alpha", NORMALIZERS)
def test_a_nan_reaches_the_heads_that_keep_it(alpha):
    """Of heads that share keys, those that keep another column know nothing of it."""
    case = Case("dilated-heads", per_head, alpha, torch.float32, Shape(1, 4, 1, 1, 200, 16))
    q, k, v, _ = case.inputs("cpu")
    pattern, normalizer = case.full_pattern("cpu"), case.normalizer
    kept = oracle.kept(pattern, q, k, case.options("cpu"))[0, :, 0]
    clean = sa.attention(q, k, v, pattern, normalizer)
    for column in (199 - 3, 199 - 4):
        assert 0 < kept[:, column].sum() < 4
        for tensor in (k, v):
            dirty = tensor.clone()
            dirty[:, :, column] = torch.nan
            out = sa.attention(q, *((dirty, v) if tensor is k else (k, dirty)), pattern, normalizer)
            assert torch.equal(out.isnan().any(-1)[0, :, 0], kept[:, column])
            assert torch.equal(out[0, ~kept[:, column]], clean[0, ~kept[:, column]])


@torch.no_grad()
@pytest.mark.parametrize("alpha", NORMALIZERS)
def test_as_many_queries_go_the_other_way(alpha):
    """Rows of eight queries and of nine agree to rounding: one way each."""
    case = Case("causal", PATTERNS["causal"], alpha, torch.float64, Shape(2, 4, 2, 9, 1500, 24))
    q, k, v, _ = case.inputs("cpu")
    many = sa.attention(q, k, v, "causal", case.normalizer, return_statistic=True)
    few = sa.attention(q[:, :, 1:], k, v, "causal", case.normalizer, return_statistic=True)
    for a, b in zip(few, many, strict=True):
        torch.testing.assert_close(a, b[:, :, 1:], rtol=1e-9, atol=1e-11)
