"""Raw operators with arguments that make no sense: refused with a text that names the argument, never a crash."""

import re

import pytest
import torch
from cases import PATTERNS, Case, Shape
from operators import BACKWARD, BACKWARD_NAMES, FORWARD, FORWARD_NAMES, backward_arguments, forward_arguments
from raw_problems import BAD_INTS, PATTERN_NAMES, Draw, bad_tensors, good_terms, int32
from torch._subclasses import FakeTensorMode
from torch.utils._pytree import tree_map

PLAIN = Case("full", PATTERNS["full"], 1, torch.float32, Shape(2, 4, 2, 45, 70, 16))
BITS = [int32(1, 1, 1, 1), int32(1, 1, 2, 1)]  # for 45 queries and 70 keys in blocks of 64
BLOCKS = {"pattern": "block_mask", "pattern_ints": [64, 64]}
Q = torch.zeros(2, 4, 45, 16)
K = torch.zeros(2, 2, 70, 16)
TAU, BIAS = torch.zeros(4), torch.zeros(4, 9)


def learned(normalizer, *parameters, floats=()):
    return {"normalizer": normalizer, "normalizer_floats": list(floats), "normalizer_parameters": list(parameters)}


LEARNED = [
    (learned("softmax", TAU), "ValueError", "normalizer_parameters"),
    (learned("softmax_sink"), "ValueError", "normalizer_parameters"),
    (learned("softmax_sink", TAU, TAU), "ValueError", "normalizer_parameters"),
    (learned("softmax_sink", TAU.double()), "TypeError", "normalizer_parameters"),
    (learned("softmax_sink", TAU.half()), "TypeError", "normalizer_parameters"),
    (learned("softmax_sink", TAU.int()), "TypeError", "normalizer_parameters"),
    (learned("softmax_sink", TAU[:2]), "ValueError", "normalizer_parameters"),
    (learned("softmax_sink", TAU[None]), "ValueError", "normalizer_parameters"),
    (learned("softmax_sink", TAU[0]), "ValueError", "normalizer_parameters"),
    (learned("softmax_sink", torch.zeros(8)[::2]), "ValueError", "normalizer_parameters"),
    (learned("softmax_sink", TAU[:1].expand(4)), "ValueError", "normalizer_parameters"),
    (learned("softmax_sink", TAU, floats=[1.0]), "ValueError", "normalizer_floats"),
    (learned("elastic"), "ValueError", "normalizer_parameters"),
    (learned("elastic", TAU), "ValueError", "normalizer_parameters"),
    (learned("elastic", TAU, TAU), "ValueError", "normalizer_parameters"),
    (learned("elastic", BIAS, TAU), "ValueError", "normalizer_parameters"),
    (learned("elastic", TAU, BIAS[:3]), "ValueError", "normalizer_parameters"),
    (learned("elastic", TAU, BIAS[None]), "ValueError", "normalizer_parameters"),
    (learned("elastic", TAU, torch.zeros(9, 4).T), "ValueError", "normalizer_parameters"),
    (learned("elastic", TAU, BIAS.bfloat16()), "TypeError", "normalizer_parameters"),
    (learned("elastic", TAU.double(), BIAS), "TypeError", "normalizer_parameters"),
    (learned("elastic", TAU[:1], BIAS), "ValueError", "normalizer_parameters"),
    (learned("top_k_entmax15", floats=[1.5, 8.0]), "ValueError", "normalizer"),
    (learned("top_k_softmax"), "ValueError", "normalizer_floats"),
    (learned("top_k_softmax", TAU, floats=[8.0]), "ValueError", "normalizer_parameters"),
    (learned("top_k_entmax", floats=[8.0]), "ValueError", "normalizer_floats"),
    *(
        (learned("top_k_softmax", floats=[k]), "ValueError", "top_k_softmax")
        for k in (0.0, -1.0, -0.0, 2.0**31 + 512, float("nan"), float("inf"), -float("inf"))
    ),
    *(
        (learned("top_k_entmax", floats=floats), "ValueError", "top_k_entmax")
        for floats in ([1.0, 8.0], [2.5, 8.0], [float("nan"), 8.0], [1.5, 0.0], [1.5, float("nan")], [8.0, 1.5])
    ),
]
ENDS = int32(3)
ONE = {"q": torch.zeros(1, 4, 45, 16), "k": torch.zeros(1, 2, 70, 16), "v": torch.zeros(1, 2, 70, 16)}
ONE |= {name: torch.zeros(1, 4, 45, 16) for name in ("out", "grad_out")}
ONE |= {name: torch.zeros(1, 4, 45) for name in ("statistic", "grad_statistic")} | {"saved": torch.zeros(0, 1, 4, 45)}
SEQUENCES = {**ONE, "cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS, "max_seqlen_q": 45, "max_seqlen_k": 70}
PACKED = [
    ({"cu_seqlens_q": ENDS, "cu_seqlens_k": ENDS}, "ValueError", "q"),  # two batch entries
    ({**SEQUENCES, "cu_seqlens_k": None}, "ValueError", "cu_seqlens"),
    ({**SEQUENCES, "cu_seqlens_q": None}, "ValueError", "cu_seqlens"),
    ({**SEQUENCES, "cu_seqlens_q": int32(0)}, "ValueError", "cu_seqlens_q"),
    ({**SEQUENCES, "cu_seqlens_q": int32()}, "ValueError", "cu_seqlens_q"),
    ({**SEQUENCES, "cu_seqlens_q": int32(1, 3)}, "ValueError", "cu_seqlens_q"),
    ({**SEQUENCES, "cu_seqlens_q": ENDS.long()}, "TypeError", "cu_seqlens_q"),
    ({**SEQUENCES, "cu_seqlens_q": ENDS.float()}, "TypeError", "cu_seqlens_q"),
    ({**SEQUENCES, "cu_seqlens_q": int32(6)[::2]}, "ValueError", "cu_seqlens_q"),
    ({**SEQUENCES, "cu_seqlens_k": int32(4)}, "ValueError", "cu_seqlens_k"),
    ({**SEQUENCES, "cu_seqlens_k": int32(2)}, "ValueError", "cu_seqlens_k"),
    ({**SEQUENCES, "cu_seqlens_k": ENDS.long()}, "TypeError", "cu_seqlens_k"),
    ({**SEQUENCES, "max_seqlen_q": -1}, "ValueError", "max_seqlen"),
    ({**SEQUENCES, "max_seqlen_k": -(2**63)}, "ValueError", "max_seqlen"),
    ({**SEQUENCES, "max_seqlen_k": 2**40}, "ValueError", "max_seqlen"),
    ({**SEQUENCES, "kv_lengths": int32(1)}, "ValueError", "lengths"),
    ({**SEQUENCES, "k": ONE["q"][:, :2], "v": ONE["q"][:, :2], "lengths": int32(1)}, "ValueError", "lengths"),
    *(
        ({**SEQUENCES, "pattern": name, "pattern_ints": ints, "pattern_tensors": tensors}, "ValueError", name)
        for name, (ints, tensors) in good_terms(1, 4, 45, 70).items()
        if name in ("block_mask", "element_mask", "index_causal")
    ),
]
BAD_PROBLEMS = [
    ({"q": None}, "ValueError", "q"),
    ({"k": None}, "ValueError", "k"),
    ({"v": None}, "ValueError", "v"),
    ({"q": Q[0]}, "ValueError", "q"),
    ({"q": Q[None]}, "ValueError", "q"),
    ({"k": K[0]}, "ValueError", "k"),
    ({"v": K[..., None]}, "ValueError", "v"),
    ({"v": K[:, :, :, :8]}, "ValueError", "v"),
    ({"v": K[:, :, :60]}, "ValueError", "v"),
    ({"k": K[:1]}, "ValueError", "k"),
    ({"q": Q[:, :3]}, "ValueError", "q"),
    ({"q": Q[..., :0], "k": K[..., :0], "v": K[..., :0]}, "ValueError", "q"),
    ({"k": K[:, :0], "v": K[:, :0]}, "ValueError", "k"),
    ({"q": Q.double()}, "TypeError", "k"),
    ({"k": K.half()}, "TypeError", "k"),
    ({"v": K.half()}, "TypeError", "v"),
    ({"q": Q.int(), "k": K.int(), "v": K.int()}, "TypeError", "q"),
    ({"q": Q.to(torch.complex64)}, "TypeError", "q"),
    ({"k": K.to(torch.float8_e4m3fn)}, "TypeError", "k"),
    ({"q": torch.zeros(2, 4, 16, 45).transpose(2, 3)}, "ValueError", "q"),
    ({"k": K[..., :1].expand(-1, -1, -1, 16)}, "ValueError", "k"),
    ({"pattern": ""}, "ValueError", "pattern"),
    ({"pattern": "&"}, "ValueError", "pattern"),
    ({"pattern": "causal&"}, "ValueError", "pattern"),
    ({"pattern": "causal & full"}, "ValueError", "pattern"),
    ({"pattern": "circle"}, "ValueError", "pattern"),
    ({"pattern": "full\0"}, "ValueError", "pattern"),
    ({"pattern": "&".join(["full"] * 5)}, "ValueError", "pattern"),
    ({"pattern": "any"}, "ValueError", "pattern"),
    ({"pattern_ints": [1]}, "ValueError", "pattern_ints"),
    ({"pattern_tensors": BITS}, "ValueError", "pattern_tensors"),
    ({"pattern": "sliding_window"}, "ValueError", "pattern_ints"),
    ({"pattern": "sliding_window", "pattern_ints": [1]}, "ValueError", "pattern_ints"),
    ({"pattern": "sliding_window", "pattern_ints": [1, 2, 3]}, "ValueError", "pattern_ints"),
    ({**BLOCKS, "pattern_tensors": BITS[:1]}, "ValueError", "pattern_tensors"),
    ({**BLOCKS, "pattern_tensors": BITS * 2}, "ValueError", "pattern_tensors"),
    ({**BLOCKS, "pattern_tensors": [BITS[0], BITS[1].long()]}, "ValueError", "by_column"),
    ({**BLOCKS, "pattern_tensors": [BITS[0].float(), BITS[1]]}, "ValueError", "by_row"),
    ({**BLOCKS, "pattern_tensors": [int32(1, 1, 1), BITS[1]]}, "ValueError", "by_row"),
    ({**BLOCKS, "pattern_tensors": [int32(1, 1, 1, 1, 1), BITS[1]]}, "ValueError", "pattern_tensors"),
    ({**BLOCKS, "pattern_tensors": [int32(1, 1, 0, 1), BITS[1]]}, "ValueError", "by_row"),
    ({**BLOCKS, "pattern_tensors": [int32(3, 1, 1, 1), BITS[1]]}, "ValueError", "by_row"),
    ({**BLOCKS, "pattern_tensors": [int32(1, 2, 1, 1), BITS[1]]}, "ValueError", "by_row"),
    ({**BLOCKS, "pattern_tensors": [BITS[0], int32(1, 1, 2, 2)[..., ::2]]}, "ValueError", "by_column"),
    ({**BLOCKS, "pattern_tensors": [BITS[0], int32(1, 1, 1, 1)]}, "ValueError", "by_column"),
    ({**BLOCKS, "pattern_tensors": [int32(1).expand(2, 4, 1, 1), BITS[1]]}, "ValueError", "by_row"),
    ({**BLOCKS, "pattern_ints": [0, 64], "pattern_tensors": BITS}, "ValueError", "block_mask"),
    ({**BLOCKS, "pattern_ints": [-64, 64], "pattern_tensors": BITS}, "ValueError", "block_mask"),
    ({**BLOCKS, "pattern_ints": [24, 64], "pattern_tensors": BITS}, "ValueError", "block_mask"),
    ({**BLOCKS, "pattern_ints": [64, 2**62], "pattern_tensors": BITS}, "ValueError", "block_mask"),
    ({"normalizer": "sparsest"}, "ValueError", "normalizer"),
    ({"normalizer": ""}, "ValueError", "normalizer"),
    ({"normalizer": "entmax15", "normalizer_floats": [1.5]}, "ValueError", "normalizer"),
    ({"normalizer": "entmax"}, "ValueError", "normalizer_floats"),
    ({"normalizer": "entmax", "normalizer_floats": [1.5, 1.5]}, "ValueError", "normalizer_floats"),
    ({"normalizer_floats": [1.5]}, "ValueError", "normalizer_floats"),
    *(
        ({"normalizer": "entmax", "normalizer_floats": [alpha]}, "ValueError", "entmax")
        for alpha in (1.0, 0.5, 2.5, -1.0, float("nan"), float("inf"))
    ),
    ({"lengths": int32(2)}, "ValueError", "lengths"),  # Nq is not Nk
    ({"kv_lengths": int32(3)}, "ValueError", "kv_lengths"),
    ({"kv_lengths": int32()}, "ValueError", "kv_lengths"),
    ({"kv_lengths": int32(2, 1)}, "ValueError", "kv_lengths"),
    ({"kv_lengths": int32(2).long()}, "TypeError", "kv_lengths"),
    ({"kv_lengths": torch.zeros(2)}, "TypeError", "kv_lengths"),
    ({"kv_lengths": int32(4)[::2]}, "ValueError", "kv_lengths"),
    ({"kv_lengths": int32(2), "lengths": int32(2), "k": Q[:, :2], "v": Q[:, :2]}, "ValueError", "lengths"),
    ({"q_start": 2**40}, "ValueError", "position"),
    ({"k_start": -(2**63)}, "ValueError", "position"),
    ({"scale": float("nan")}, "ValueError", "scale"),
    ({"scale": float("inf")}, "ValueError", "scale"),
    *LEARNED,
    *PACKED,
]
BAD_RESULTS = [
    ({"out": None}, "ValueError", "out"),
    ({"out": Q[:, :2]}, "ValueError", "out"),
    ({"out": Q.half()}, "TypeError", "out"),
    ({"statistic": None}, "ValueError", "statistic"),
    ({"statistic": torch.zeros(2, 4, 44)}, "ValueError", "statistic"),
    ({"statistic": torch.zeros(2, 4, 45).double()}, "TypeError", "statistic"),
    ({"statistic": torch.zeros(2, 4, 90)[..., ::2]}, "ValueError", "statistic"),
    ({"normalizer": "entmax", "normalizer_floats": [1.5]}, "ValueError", "saved"),
    ({"normalizer": "entmax", "normalizer_floats": [1.5], "saved": torch.zeros(1, 2, 4, 45)}, "ValueError", "saved"),
    ({"grad_out": None}, "ValueError", "grad_out"),
    ({"grad_out": Q[0]}, "ValueError", "grad_out"),
    ({"grad_out": Q.half()}, "TypeError", "grad_out"),
    ({"grad_out": Q[..., :8]}, "ValueError", "grad_out"),
    ({"grad_statistic": Q}, "ValueError", "grad_statistic"),
    ({"grad_statistic": torch.zeros(2, 4, 45).half()}, "TypeError", "grad_statistic"),
]


def good_forward():
    return forward_arguments(PLAIN, "cpu")


def good_backward():
    return backward_arguments(PLAIN, "cpu")


def bad_id(parameter):
    return "-".join(parameter) if isinstance(parameter, dict) else str(parameter)


@torch.no_grad
def assert_refused(operator, arguments, error, name):
    with pytest.raises(RuntimeError, match=rf"^splash\.{error}: .*\b{re.escape(name)}"):
        operator(**arguments)


@pytest.mark.parametrize("change, error, name", BAD_PROBLEMS, ids=bad_id)
def test_raw_forward_refuses(change, error, name):
    arguments = {**good_forward(), **change}
    assert_refused(FORWARD, {name: arguments[name] for name in FORWARD_NAMES}, error, name)


@pytest.mark.parametrize("change, error, name", BAD_PROBLEMS + BAD_RESULTS, ids=bad_id)
def test_raw_backward_refuses(change, error, name):
    assert_refused(BACKWARD, {**good_backward(), **change}, error, name)


GOOD_TERMS = good_terms(2, 4, 45, 70)


def test_every_pattern_has_a_good_term():
    """raw_problems.good_terms, which the tests below go through."""
    assert set(GOOD_TERMS) == set(PATTERN_NAMES)


@pytest.mark.parametrize("name", GOOD_TERMS)
def test_raw_operators_take_every_pattern(name):
    """What the two tests below break is right to begin with."""
    ints, tensors = GOOD_TERMS[name]
    changed = {"pattern": name, "pattern_ints": ints, "pattern_tensors": tensors}
    out, *_ = FORWARD(**{**good_forward(), **changed})
    assert out.shape == Q.shape and out.isfinite().all()


@pytest.mark.parametrize("name, ints", [(name, ints) for name, several in BAD_INTS.items() for ints in several])
def test_raw_operators_refuse_numbers(name, ints):
    changed = {"pattern": f"causal&{name}", "pattern_ints": ints, "pattern_tensors": GOOD_TERMS[name][1]}
    for operator, arguments in ((FORWARD, good_forward()), (BACKWARD, good_backward())):
        assert_refused(operator, {**arguments, **changed}, "ValueError", name)


@pytest.mark.parametrize("name", [name for name, (_, tensors) in GOOD_TERMS.items() if tensors])
def test_raw_operators_refuse_tensors(name):
    ints, tensors = GOOD_TERMS[name]
    arguments = good_forward(), good_backward()
    for number, good in enumerate(tensors):
        for bad in bad_tensors(name, number, good).values():
            changed = {"pattern": name, "pattern_ints": ints}
            changed["pattern_tensors"] = [*tensors[:number], bad, *tensors[number + 1 :]]
            for operator, kept in zip((FORWARD, BACKWARD), arguments, strict=True):
                assert_refused(operator, {**kept, **changed}, "ValueError", name)


@pytest.mark.parametrize("block", range(8))
def test_raw_operators_survive_anything(block):
    """Any arguments end in a result or in an error of ours; results of the wrong forward are arguments too."""
    ran = 0
    for seed in range(200 * block, 200 * (block + 1)):
        problem = Draw(seed).problem()
        for operator, names in ((FORWARD, FORWARD_NAMES), (BACKWARD, BACKWARD_NAMES)):
            try:
                operator(**{name: problem[name] for name in names})
            except RuntimeError as error:
                assert str(error).startswith("splash."), (seed, error)
            else:
                ran += 1
    assert ran > 100  # most draws make sense, so kernels met the values in them


def on_tensors(changes):
    """Those that change tensors alone, where shapes, dtypes and layouts say that they are wrong."""
    names = {"q", "k", "v", "lengths", "kv_lengths", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k"}
    names |= {"out", "statistic", "grad_out", "grad_statistic"}
    return [entry for entry in changes if set(entry[0]) <= names]


@pytest.mark.parametrize("change, error, name", on_tensors(BAD_PROBLEMS + BAD_RESULTS), ids=bad_id)
def test_fakes_refuse_what_the_kernels_refuse(change, error, name):
    arguments = {**good_backward(), **change}
    with FakeTensorMode() as mode:
        arguments = tree_map(lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x, arguments)
        assert_refused(BACKWARD, arguments, error, name)
        if not set(change) - set(FORWARD_NAMES):
            assert_refused(FORWARD, {name: arguments[name] for name in FORWARD_NAMES}, error, name)
