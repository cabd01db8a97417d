"""A forward pass whose unread inputs are NaN, against the float64 reference: what every device has to show."""

import oracle
import torch
from guards import between_guards
from layouts import LAYOUTS, SHARED

import splash_attention as sa
from splash_attention.reference import reference_attention

NAN = float("nan")
BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


def read_by(case, kept):
    """(B, Hq, Nq) and (B, Hkv, Nk) bool: the queries that keep a key, and the keys that a query keeps."""
    return kept.any(3), kept.any(2).unflatten(1, (-1, case.shape.heads // case.shape.kv_heads)).any(2)


def poisoned(case, tensors, read):
    """(B, H, N, D) tensors with NaN in the rows that `read`, (B, H, N) bool each, does not have."""
    if case.layout in SHARED:
        read = [one.any(SHARED[case.layout], keepdim=True) for one in read]
    return [torch.where(one[..., None], t, NAN) for t, one in zip(tensors, read, strict=True)]


def poisoned_inputs(case, numbers, kept):
    """q, k and v with NaN in keys and values that no query keeps, and in queries that keep nothing."""
    queries, keys = read_by(case, kept)
    return poisoned(case, numbers, (queries, keys, keys))


def reference_answers(q, k, v, kept, normalizer_of, parameters, scale):
    """The float64 answer and PyTorch's in the inputs' precision, each (out, statistic), over the scores in `kept`."""

    def answer(tensors, parameters, **options):
        return reference_attention(*tensors, sa.ElementMask(kept), normalizer_of(parameters), scale=scale, **options)

    exact = answer([t.double() for t in (q, k, v)], [p.double() for p in parameters])
    out, statistic = answer((q, k, v), parameters, dtype=None)
    if q.dtype in (torch.float16, torch.bfloat16):  # statistics are float32 whatever the inputs are
        statistic = answer([t.float() for t in (q, k, v)], parameters, dtype=None)[1]
    return exact, (out, statistic)


def compare(answers, exact, same, record_error, device, features=(), prefix=""):
    """(out, statistic) against the reference, within the bound of DESIGN.md section 5."""
    for quantity, *tensors in zip(("out", "statistic"), answers, exact, same, strict=True):
        error, bound = oracle.error_and_bound(*tensors)
        record_error(device, prefix + quantity, error, bound, features)
        assert error <= bound, f"{quantity}: error {error:.3e} above {bound:.3e}"


def assert_same_bits(got, want, what):
    for quantity, a, b in zip(("out", "statistic"), got, want, strict=True):
        assert torch.equal(a, b), f"{quantity}: {what}"


@torch.no_grad()
def check_forward(case, device, record_error):
    """Within the error bound, exact zeros where a row keeps nothing, nothing written beside the outputs.

    And the same bits again, from a pattern that is not prepared, and without the poison.
    """
    layout = LAYOUTS[case.layout]
    numbers, options, parameters = case.numbers(device)[:3], case.options(device), case.parameters(device)
    pattern, normalizer = case.full_pattern(device), case.normalizer_of(parameters)
    kept = oracle.kept(pattern, *numbers[:2], options)
    clean = [layout(t) for t in numbers]
    dirty = poisoned_inputs(case, numbers, kept)
    q, k, v = (layout(t) for t in dirty)

    # Metadata are built before: while the outputs come to lie between guards, nothing else may be allocated.
    prepared = sa.prepare(pattern, q, k, backward=False, k_start=case.k_start, q_start=options.get("q_start"))

    def call(q, k, v, pattern):
        return sa.attention(q, k, v, pattern, normalizer, return_statistic=True, **options)

    sizes = q.numel() * q.element_size(), q.numel() // case.shape.dim * 4
    # Of a q whose rows overlap, Torch may first make an output of the wrong strides; and some patterns build their
    # metadata in the call where entries have lengths of their own.
    own_lengths = any(options.get(name) is not None for name in ("lengths", "kv_lengths"))
    guarded = None if case.layout in SHARED or (prepared.by_place and own_lengths) else device
    got = between_guards(guarded, sizes, lambda: call(q, k, v, prepared))
    exact, same = reference_answers(q, k, v, kept, case.normalizer_of, parameters, case.scale)
    compare(got, exact, same, record_error, device, case.features)
    assert not got[0][~kept.any(-1)].any(), "rows that keep nothing"
    assert_same_bits(call(q, k, v, pattern), got, "not prepared, and called again")
    assert_same_bits(call(*clean, prepared), got, "without NaN where nothing reads")
    if case.layout not in SHARED:
        for name, view, original in zip("qkv", (q, k, v), dirty, strict=True):
            assert torch.equal(view.view(BITS[view.dtype]), original.view(BITS[view.dtype])), f"{name} was changed"
