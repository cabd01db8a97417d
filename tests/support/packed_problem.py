"""A forward pass of packed sequences whose unread inputs are NaN, against the float64 reference."""

import oracle
import torch
from forward_problem import assert_same_bits, compare, poisoned_inputs, reference_answers
from guards import between_guards
from layouts import LAYOUTS
from operators import FORWARD

import splash_attention as sa
from splash_attention.patterns import Extent


def kept_by(problem, pattern, device):
    """(1, Hq, Tq, Tk) bool: each sequence keeps scores of its own rows and columns, positions ending together."""
    s = problem.case.shape
    mask = torch.zeros(1, s.heads, s.queries, s.keys, dtype=torch.bool, device=device)
    for rows, columns in problem.parts():
        queries, keys = rows.stop - rows.start, columns.stop - columns.start
        if queries and keys:
            i = torch.arange(queries, device=device)[None, None, :, None] + keys - queries
            mask[:, :, rows, columns] = oracle.dense_mask(pattern, i, torch.arange(keys, device=device), s.heads)
    return mask


def through_the_operator(problem, q, k, v, pattern, normalizer, ends, deterministic=False):
    """A call whose metadata are already made, and which checks no value of `ends`: (out, statistic) of (1, H, T, D)."""
    s, longest = problem.case.shape, problem.longest
    of_tensors = {"cu_seqlens_q": ends[0], "cu_seqlens_k": ends[1], "rows": q.shape[2], "columns": k.shape[2]}
    extent = Extent(len(problem.queries), s.heads, *longest, q.device, **of_tensors)
    encoded, scale = pattern.encode(extent), problem.case.scale or s.dim**-0.5
    rows = None, None, *ends, *longest, 0, 0
    return lambda: FORWARD(q, k, v, *encoded, *normalizer.encode(), *rows, scale, deterministic)[:2]


def varlen(problem, q, k, v, pattern, normalizer, ends, deterministic=False):
    """attention_varlen() of tensors (1, H, T, D)."""
    tokens = (t[0].transpose(0, 1) for t in (q, k, v))
    options = {"scale": problem.case.scale, "return_statistic": True, "deterministic": deterministic}
    out, statistic = sa.attention_varlen(*tokens, *ends, *problem.longest, pattern, normalizer, **options)
    return out.transpose(0, 1)[None], statistic[None]


@torch.no_grad()
def check_packed(problem, device, record_error, public):
    case, layout, ends = problem.case, LAYOUTS[problem.case.layout], problem.ends(device)
    numbers, parameters = case.numbers(device)[:3], case.parameters(device)
    pattern, normalizer = case.full_pattern(device), case.normalizer_of(parameters)
    kept = kept_by(problem, pattern, device)
    q, k, v = (layout(t) for t in poisoned_inputs(case, numbers, kept))

    sizes = q.numel() * q.element_size(), q.numel() // case.shape.dim * 4
    got = between_guards(device, sizes, through_the_operator(problem, q, k, v, pattern, normalizer, ends))
    exact, same = reference_answers(q, k, v, kept, case.normalizer_of, parameters, case.scale)
    compare(got, exact, same, record_error, device, problem.features, prefix="packed ")
    assert not got[0][~kept.any(-1)].any(), "rows that keep nothing, or belong to no sequence"
    clean = [layout(t) for t in numbers]
    if public:
        assert_same_bits(varlen(problem, q, k, v, pattern, normalizer, ends), got, "called again")
        ends = problem.ends(device, torch.int64)
        assert_same_bits(varlen(problem, *clean, pattern, normalizer, ends), got, "without NaN where nothing reads")
    else:
        again = through_the_operator(problem, *clean, pattern, normalizer, ends)()
        assert_same_bits(again, got, "without NaN where nothing reads")
