"""Three answers to a case (splash, the float64 reference, the same by PyTorch) and the bound between them."""

import operator
from functools import reduce

import torch
from pool import threads

import splash_attention as sa
from splash_attention.reference import masks, reference_attention
from splash_attention.reference.big_bird import big_bird_blocks

# Rounding of the result itself, in units of the dtype's epsilon times the largest magnitude.
FLOOR = {torch.float16: 2, torch.bfloat16: 2, torch.float32: 32, torch.float64: 64}
# Smaller results count as if they were this large. Gradients are differences of numbers of order 1, and what float32
# loses in those is more than the rounding of a small result; in 16 bits the rounding of the operands covers it.
SMALLEST = {torch.float16: 1e-2, torch.bfloat16: 1e-2, torch.float32: 1, torch.float64: 1}


def with_gradients(function, q, k, v, grad, grad_statistic=None, parameters=()):
    """{out, statistic, dq, dk, dv} of function(q, k, v, *parameters) -> (out, statistic); {d0, ...} of parameters."""
    inputs = [t.detach().requires_grad_() for t in (q, k, v, *parameters)]
    out, statistic = function(*inputs)
    outputs, grads = [out], [grad.to(out.dtype)]
    if grad_statistic is not None:
        outputs.append(statistic)
        grads.append(grad_statistic.to(statistic.dtype))
    names = ["dq", "dk", "dv", *(f"d{n}" for n in range(len(parameters)))]
    gradients = torch.autograd.grad(outputs, inputs, grads)
    return {"out": out.detach(), "statistic": statistic.detach(), **dict(zip(names, gradients, strict=True))}


def answers(case, device, backward=True):
    """What splash, the reference and PyTorch in the case's precision make of it: three dicts of tensors."""
    q, k, v, grad = case.inputs(device)
    parameters = case.parameters(device)
    options = case.options(device)
    pattern = case.full_pattern(device)
    grad_statistic = None
    if case.statistic_gradient:
        generator = torch.Generator().manual_seed(1)
        grad_statistic = torch.randn(q.shape[:3], generator=generator).to(device)

    def splash(q, k, v, *parameters):
        normalizer = case.normalizer_of(parameters)
        return sa.attention(q, k, v, pattern, normalizer, return_statistic=True, **options)

    def exact(q, k, v, *parameters):
        return reference_attention(q, k, v, pattern, case.normalizer_of(parameters), **options)

    def same_precision(q, k, v, *parameters):
        return reference_attention(q, k, v, pattern, case.normalizer_of(parameters), dtype=None, **options)

    def run(function, *tensors):
        if backward:
            return with_gradients(function, *tensors[:3], grad, grad_statistic, tensors[3:])
        out, statistic = function(*tensors)
        return {"out": out, "statistic": statistic}

    exact_answer = run(exact, *(t.double() for t in (q, k, v, *parameters)))
    same_answer = run(same_precision, q, k, v, *parameters)
    if q.dtype in (torch.float16, torch.bfloat16):  # statistics are float32 whatever the inputs are
        same_answer["statistic"] = same_precision(q.float(), k.float(), v.float(), *parameters)[1]
    with threads(2):
        return run(splash, q, k, v, *parameters), exact_answer, same_answer


def error_and_bound(got, want, same):
    """Largest error of `got` against float64 `want`, and twice that of `same` plus a floor. Infinities must agree."""
    assert got.shape == want.shape
    got64, same64 = got.double(), same.double()
    assert torch.equal(got64.isnan(), want.isnan()), "NaN in other places than the reference"
    infinite = want.isinf()
    assert torch.equal(got64.isinf(), infinite), "infinities in other places than the reference"
    assert torch.equal(got64[infinite], want[infinite]), "infinities of the other sign"
    finite = want.isfinite()
    if not finite.any():
        return 0.0, 1.0
    magnitude = max(want[finite].abs().max().item(), SMALLEST[got.dtype])
    error = (got64 - want)[finite].abs().max().item()
    same_error = (same64 - want)[finite].abs().nan_to_num(0).max().item()
    return error, 2 * same_error + FLOOR[got.dtype] * torch.finfo(got.dtype).eps * magnitude


def kept(pattern, q, k, options):
    """(B, Hq, Nq, Nk) bool: the scores that exist, by the reference's index formulas, lengths and positions."""
    batch, heads, queries, keys = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
    k_start, device = options["k_start"], q.device
    row = torch.arange(queries, device=device)[None, None, :, None]
    j = torch.arange(keys, device=device) + k_start
    i = row + (options["q_start"] if options["q_start"] is not None else k_start + keys - queries)
    if options["kv_lengths"] is not None:
        held = options["kv_lengths"].long()[:, None, None, None]
        ends = options["kv_lengths"] + k_start
        mask = dense_mask(pattern, row + (k_start + held - queries), j, heads, ends) & (j < k_start + held)
    else:
        mask = dense_mask(pattern, i, j, heads, options["lengths"])
    if options["lengths"] is not None:
        length = options["lengths"].long()[:, None, None, None]
        mask = mask & (i < length) & (j < length)
    return mask.expand(batch, heads, queries, keys)


def dense_mask(pattern, i, j, heads, ends=None):
    """The reference's mask, with BigBird's looked up in a table of blocks: the reference walks its rows one by one."""
    if isinstance(pattern, sa.patterns.And):
        return reduce(operator.and_, (dense_mask(term, i, j, heads, ends) for term in pattern.terms))
    if not isinstance(pattern, sa.BigBird) or not len(j):
        return masks.dense_mask(pattern, i, j, heads, ends)
    if ends is None or pattern.length is not None:
        return big_bird_mask(pattern, i, j, heads, int(j[-1]) + 1 if pattern.length is None else pattern.length)
    entries = zip(i.expand(len(ends), -1, -1, -1), ends.tolist(), strict=True)
    return torch.cat([big_bird_mask(pattern, own[None], j, heads, end) for own, end in entries])


def big_bird_mask(pattern, i, j, heads, length):
    rows, columns = (
        torch.div(i, pattern.block, rounding_mode="floor"),
        torch.div(j, pattern.block, rounding_mode="floor"),
    )
    blocks = max(0, -(-length // pattern.block))
    table = torch.zeros(heads if pattern.per_head else 1, blocks + 1, blocks + 1, dtype=torch.bool)
    for head in range(len(table)):
        for row, kept_columns in big_bird_blocks(pattern, length, head).items():
            table[head, row, list(kept_columns)] = True
    # What lies outside of the sequence reads the last line, which keeps nothing.
    rows, columns = (torch.where((at >= 0) & (at < blocks), at, blocks) for at in (rows, columns))
    kept = table.to(i.device)[torch.arange(len(table), device=i.device)[None, :, None, None], rows, columns]
    return kept & (j <= i) if pattern.causal else kept


def read_weights(function, q, k):
    """The weights (B, H, Nq, Nk) that function(q, k, v) used, read off through one-hot values."""
    batch, heads, keys, dim = k.shape
    columns = []
    for start in range(0, keys, dim):
        one_hot = torch.eye(keys, dtype=k.dtype, device=k.device)[:, start : start + dim]
        one_hot = torch.nn.functional.pad(one_hot, (0, dim - one_hot.shape[1]))
        columns.append(function(q, k, one_hot.expand(batch, heads, keys, dim)))
    return torch.cat(columns, -1)[..., :keys]
