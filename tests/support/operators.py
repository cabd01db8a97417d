"""The raw operators torch.ops.splash.*, and their arguments for a case."""

import torch

from splash_attention.patterns import Extent

FORWARD = torch.ops.splash.attention_forward.default
BACKWARD = torch.ops.splash.attention_backward.default
FORWARD_NAMES = [argument.name for argument in FORWARD._schema.arguments]
BACKWARD_NAMES = [argument.name for argument in BACKWARD._schema.arguments]


def forward_arguments(case, device):
    """{name: argument} of the forward operator for a case."""
    q, k, v, _ = case.inputs(device)
    s, options = case.shape, case.options(device)
    names = ("k_start", "q_start", "lengths", "kv_lengths")
    extent = Extent(s.batch, s.heads, s.queries, s.keys, q.device, **{name: options[name] for name in names})
    encoded = case.pattern(case, device).encode(extent)
    q_start = options["k_start"] + s.keys - s.queries if options["q_start"] is None else options["q_start"]
    scale = s.dim**-0.5 if options["scale"] is None else options["scale"]
    normalizer = case.normalizer_of(case.parameters(device))
    packed = None, None, 0, 0
    positions = options["lengths"], options["kv_lengths"], *packed, q_start, options["k_start"]
    arguments = q, k, v, *encoded, *normalizer.encode(), *positions, scale, False
    return dict(zip(FORWARD_NAMES, arguments, strict=True))


def backward_arguments(case, device):
    """{name: argument} of the backward operator, with what the forward returned."""
    forward = forward_arguments(case, device)
    out, statistic, saved = FORWARD(**forward)
    results = {"out": out, "statistic": statistic, "saved": saved}
    grads = {"grad_out": case.inputs(device)[3], "grad_statistic": torch.randn_like(statistic)}
    merged = {**forward, **results, **grads}
    return {name: merged[name] for name in BACKWARD_NAMES}
