"""A backward pass whose unread inputs are NaN, against the float64 reference: what every device has to show."""

import random

import oracle
import torch
from forward_problem import poisoned, read_by
from layouts import LAYOUTS

import splash_attention as sa
from splash_attention.reference import reference_attention


def statistic_gradient(case, device):
    """A gradient of the statistic in every second problem, else None."""
    s = case.shape
    if random.Random(f"statistic {case.id}").random() < 0.5:
        return None
    return torch.randn(s.batch, s.heads, s.queries, generator=torch.Generator().manual_seed(2)).to(device)


def gradients(function, tensors, grad_statistic, parameters):
    """{dq, dk, dv, d0, ...} of function(q, k, v, *parameters) -> (out, statistic). tensors: q, k, v and dO."""
    *qkv, grad = tensors
    answers = oracle.with_gradients(function, *qkv, grad, grad_statistic, parameters)
    return {name: answer for name, answer in answers.items() if name not in ("out", "statistic")}


def poisoned_problem(case, numbers, kept, rows):
    """q, k, v and dO with NaN in keys and values that no query keeps, and in queries and dO of padding.

    rows: (B, Hq, Nq) bool, what is not padding. A query that is not padding and keeps nothing has numbers: its zero
    weights are factors of it in the gradients of the keys beside it, as in SDPA.
    """
    _, keys = read_by(case, kept)
    return poisoned(case, numbers, (rows, keys, keys, rows))


def rows_within(case, options, kept):
    """(B, Hq, Nq) bool: rows at positions below the lengths."""
    if case.lengths is None:
        return torch.ones_like(kept[..., 0])
    i = torch.arange(case.shape.queries, device=kept.device) + (case.q_start or 0)
    return (i < options["lengths"][:, None])[:, None].expand(kept.shape[:3])


def reference_gradients(case, tensors, kept, grad_statistic, parameters):
    """In float64, and by PyTorch in the precision of the inputs, over the scores in `kept`."""

    def reference(**options):
        def run(q, k, v, *parameters):
            normalizer = case.normalizer_of(parameters)
            return reference_attention(q, k, v, sa.ElementMask(kept), normalizer, scale=case.scale, **options)

        return run

    wide = [t.double() for t in tensors], grad_statistic, [p.double() for p in parameters]
    return gradients(reference(), *wide), gradients(reference(dtype=None), tensors, grad_statistic, parameters)


def of_rounded_output(case, tensors, kept, parameters):
    """{dq, dk}: what the output's 16 bits may cost a device that forms delta = dO . O of it, as Flash Attention does.

    PyTorch keeps the weights instead, whose rounding is 0 where a query has one key or two. An error of eps |dO O| in
    delta is scale sum_j P_j k_j as much in dq, and scale P_j q as much in dk.
    """
    q, k, v, grad = (t.double() for t in tensors)
    normalizer = case.normalizer_of([p.double() for p in parameters])
    out, mean_key = (
        reference_attention(q, k, values, sa.ElementMask(kept), normalizer, scale=case.scale)[0] for values in (v, k)
    )
    if not kept.any():
        return {}
    scale = case.shape.dim**-0.5 if case.scale is None else case.scale
    scores = (scale * q @ k.repeat_interleave(q.shape[1] // k.shape[1], 1).mT).masked_fill(~kept, -torch.inf)
    largest_weight = scores.softmax(-1).nan_to_num(0).amax(-1, keepdim=True)
    delta = abs(scale) * torch.finfo(tensors[0].dtype).eps * (out * grad).norm(dim=-1, keepdim=True)
    return {"dq": (delta * mean_key.abs()).max().item(), "dk": (delta * largest_weight * q.abs()).max().item()}


def compare(got, exact, same, record_error, device, features=(), prefix="", more=None):
    """Within the bound of DESIGN.md section 5, each gradient for itself. more: what is added to some of the bounds."""
    for name, want in exact.items():
        error, bound = oracle.error_and_bound(got[name], want, same[name])
        bound += (more or {}).get(name, 0.0)
        record_error(device, prefix + name, error, bound, features)
        assert error <= bound, f"{name}: error {error:.3e} above {bound:.3e}"


def assert_same_bits(got, want, what):
    for name, one in want.items():
        assert torch.equal(got[name], one), f"{name}: {what}"


def assert_zeros(case, got, kept):
    queries, keys = read_by(case, kept)
    assert not got["dq"][~queries].any(), "dq of rows that keep nothing"
    for name in ("dk", "dv"):
        assert not got[name][~keys].any(), f"{name} of keys that nobody keeps"


def check_backward(case, device, record_error):
    """Within the error bound, and exact zeros where nothing is kept.

    NaN in keys and values that nobody keeps, and in queries and dO of padding, changes no bit of a deterministic call.
    """
    numbers, options, parameters = case.numbers(device), case.options(device), case.parameters(device)
    pattern, layout = case.full_pattern(device), LAYOUTS[case.layout]
    kept = oracle.kept(pattern, *numbers[:2], options)
    dirty = poisoned_problem(case, numbers, kept, rows_within(case, options, kept))
    clean, dirty = ([layout(t) for t in tensors] for tensors in (numbers, dirty))
    prepared = sa.prepare(pattern, *clean[:2], k_start=case.k_start)
    grad_statistic = statistic_gradient(case, device)

    def splash(pattern, deterministic):
        def run(q, k, v, *parameters):
            own = {"return_statistic": True, "deterministic": deterministic, **options}
            return sa.attention(q, k, v, pattern, case.normalizer_of(parameters), **own)

        return run

    def run(tensors, pattern, deterministic):
        return gradients(splash(pattern, deterministic), tensors, grad_statistic, parameters)

    exact, same = reference_gradients(case, clean, kept, grad_statistic, parameters)
    got = run(dirty, prepared, False)
    more = of_rounded_output(case, clean, kept, parameters) if device == "cuda" else None
    compare(got, exact, same, record_error, device, case.features, more=more)
    assert_zeros(case, got, kept)
    fixed = run(dirty, pattern, True)
    if device == "cuda":
        compare(fixed, exact, same, record_error, device, case.features, prefix="fixed ", more=more)
    assert_zeros(case, fixed, kept)
    assert_same_bits(run(clean, prepared, True), fixed, "prepared, without NaN where nothing reads")
