"""Raw operators with arguments that make no sense: refused with a text that names the argument, never a crash."""

import re

import pytest
import torch
from cases import PATTERNS, Case, Shape
from hypothesis import event, given, settings
from hypothesis import strategies as st
from operators import BACKWARD, BACKWARD_NAMES, FORWARD, FORWARD_NAMES, backward_arguments, forward_arguments


def int32(*shape):
    return torch.zeros(shape, dtype=torch.int32)


PLAIN = Case("full", PATTERNS["full"], 1, torch.float32, Shape(2, 4, 2, 45, 70, 16))
BITS = [int32(1, 1, 1, 1), int32(1, 1, 2, 1)]  # for 45 queries and 70 keys in blocks of 64
BLOCKS = {"pattern": "block_mask", "pattern_ints": [64, 64]}
Q = torch.zeros(2, 4, 45, 16)
K = torch.zeros(2, 2, 70, 16)
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
    assert_refused(FORWARD, {**good_forward(), **change}, error, name)


@pytest.mark.parametrize("change, error, name", BAD_PROBLEMS + BAD_RESULTS, ids=bad_id)
def test_raw_backward_refuses(change, error, name):
    assert_refused(BACKWARD, {**good_backward(), **change}, error, name)


SIZES = st.sampled_from((0, 1, 2, 3, 16, 33, 70))
NUMBERS = st.sampled_from((-(2**63), -64, -1, 0, 1, 16, 64, 2**31, 2**63 - 1))
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
INTS = (torch.int32, torch.int64)


def rarely(data):
    return data.draw(st.integers(0, 19)) == 0


def tensor(data, shape, dtype):
    """Usually what was asked for, with any values; now and then of another rank, shape, dtype or layout."""
    if rarely(data):
        shape = data.draw(st.lists(SIZES, max_size=5))
    if rarely(data):
        dtype = data.draw(st.sampled_from(FLOATS + INTS + (torch.bool,)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    if dtype in INTS:
        made = torch.randint(-(2**31), 2**31, shape, generator=generator).to(dtype)
    else:
        made = torch.randn(shape, generator=generator).to(dtype)
    return made.transpose(0, -1) if made.dim() and rarely(data) else made


def draw_problem(data):
    """The arguments of both operators, drawn with little regard to each other."""
    batch, kv_heads, group = (data.draw(st.integers(0, 2)), data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)))
    queries, keys, dim = (data.draw(SIZES) for _ in range(3))
    dtype = data.draw(st.sampled_from(FLOATS))
    statistic = torch.float64 if dtype == torch.float64 else torch.float32
    heads = kv_heads * group
    names = data.draw(st.lists(st.sampled_from(("full", "causal", "sliding_window", "block_mask")), max_size=5))
    ints, tensors = [], []
    for name in names:
        if name == "sliding_window":
            ints += [data.draw(NUMBERS), data.draw(NUMBERS)]
        elif name == "block_mask":
            block = [data.draw(st.sampled_from((16, 64, 128, 32))) for _ in range(2)]
            rows, columns = -(-queries // block[0]), -(-keys // block[1])
            ints += block
            tensors.append(
                tensor(data, (1, data.draw(st.sampled_from((1, heads))), rows, -(-columns // 32)), torch.int32)
            )
            tensors.append(tensor(data, (batch, 1, columns, -(-rows // 32)), torch.int32))
    alpha = data.draw(st.none() | st.sampled_from((1.5, 2.0, 1.3)) | st.floats())
    shapes = {"q": (batch, heads, queries, dim), "k": (batch, kv_heads, keys, dim), "row": (batch, heads, queries)}
    packed = batch == 1 and data.draw(st.booleans())
    like_q = {name: tensor(data, shapes["q"], dtype) for name in ("q", "out", "grad_out")}
    return {
        **like_q,
        "k": tensor(data, shapes["k"], dtype),
        "v": tensor(data, shapes["k"], dtype),
        "statistic": tensor(data, shapes["row"], statistic),
        "saved": tensor(data, (0 if alpha is None else 2, *shapes["row"]), statistic),
        "grad_statistic": tensor(data, shapes["row"], statistic) if data.draw(st.booleans()) else None,
        "pattern": "&".join(names or ["full"]) + ("&x" if rarely(data) else ""),
        "pattern_ints": ints + ([data.draw(NUMBERS)] if rarely(data) else []),
        "pattern_tensors": tensors[1:] if rarely(data) else tensors,
        "normalizer": "softmax" if alpha is None else "entmax",
        "normalizer_floats": [] if alpha is None else [alpha],
        "normalizer_parameters": [tensor(data, (heads,), statistic)] if rarely(data) else [],
        "cu_seqlens_q": tensor(data, (3,), torch.int32) if packed else None,
        "cu_seqlens_k": tensor(data, (3,), torch.int32) if packed else None,
        "max_seqlen_q": data.draw(NUMBERS),
        "max_seqlen_k": data.draw(NUMBERS),
        "lengths": tensor(data, (batch,), torch.int32) if queries == keys and data.draw(st.booleans()) else None,
        "kv_lengths": tensor(data, (batch,), torch.int32) if data.draw(st.booleans()) else None,
        "q_start": data.draw(NUMBERS if rarely(data) else st.integers(-100, 100)),
        "k_start": data.draw(NUMBERS if rarely(data) else st.integers(-100, 100)),
        "scale": data.draw(st.floats(-2, 2) if not rarely(data) else st.floats()),
        "deterministic": data.draw(st.booleans()),
    }


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_raw_operators_survive_anything(data):
    """Any arguments end in a result or in a RuntimeError of ours; results of the wrong forward are arguments too."""
    problem = draw_problem(data)
    for operator, names in ((FORWARD, FORWARD_NAMES), (BACKWARD, BACKWARD_NAMES)):
        try:
            operator(**{name: problem[name] for name in names})
        except RuntimeError as error:
            assert str(error).startswith("splash.")
        else:
            event(f"{operator} ran")
