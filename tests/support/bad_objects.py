"""Patterns, normalizers and modules with one mistake, in the terms of bad_calls."""

import torch
from bad_calls import (
    NAN,
    NO_INT,
    NO_NUMBER,
    NO_TENSOR,
    NOT_FINITE,
    SQUARE,
    Bad,
    Sizes,
    flags,
    good_attention,
    inputs,
    int32,
    ints,
    longer,
    mask,
    of_entmax,
    tensors,
    values,
)

import splash_attention as sa
from splash_attention.compat import adasplash

MOST = 2**30


def constructors():
    """{name: (function, good arguments, mistakes)} of patterns and normalizers."""
    crow, col = int32(0, 1, 2), int32(0, 3)
    csr = [
        *values("crow", [None, [0, 1, 2], crow.float(), crow.bool()], TypeError),
        *values("col", [None, [0, 3], col.float(), col.bool()], TypeError),
        *values("crow", [crow[:2], crow[0], crow - 1, crow + 1, crow.flip(0), int32(0, 3, 2), crow[None, None, None]]),
        *values("col", [col - 1, col + 1, col[0], col[None], int32(0, 2**31 - 1), col[:1]]),
        Bad("col", col.to("meta")),
    ]
    q, k = Sizes().q(), Sizes().k()
    learned = lambda name, shape: [*tensors(name, torch.zeros(shape))]  # noqa: E731
    blocks = [*values("block", [None, "64", 64.0, (64.0, 64), True, torch.tensor(64)], TypeError)]
    blocks += values("block", [0, -16, 8, 24, (16,), (16, 16, 16), (16, 24), (), 2**31])
    optional = [*values("left", NO_INT, TypeError), *values("right", [*NO_INT, True], TypeError)]
    bool_mask = mask(2, 2)
    no_mask = [
        *values("mask", [1, "m", [[True]], *(bool_mask.to(d) for d in (torch.float32, torch.uint8))], TypeError),
        *values("mask", [mask(2), mask(1, 1, 1, 2, 2), mask(())]),
    ]
    index = int32(1, 2, 3)
    return {
        "SlidingWindow": (
            sa.SlidingWindow,
            {"left": 3, "right": 0},
            [*optional, *values("left", [-1]), *values("right", [-1])],
        ),
        "SlidingWindow.causal": (sa.SlidingWindow.causal, {"window": 3}, [*ints("window", 1)]),
        "SlidingWindow.symmetric": (sa.SlidingWindow.symmetric, {"window": 3}, [*ints("window", 0)]),
        "Streaming": (sa.Streaming, {}, [*ints("sink", 0), *ints("window", 1)]),
        "BlockDiagonal": (sa.BlockDiagonal, {"block": 4}, [*ints("block", 1, MOST), *flags("causal")]),
        "Dilated": (
            sa.Dilated,
            {"window": 3, "dilation": 2},
            [
                *ints("window", 1),
                *(bad for bad in ints("dilation", 1, MOST) if not isinstance(bad.value, list)),
                *flags("causal"),
                *values("dilation", [(), (1, 0), (1, 2**31), []]),
                *values("dilation", [(1, 1.5), (1, None), (True,), "12"], TypeError),
                Bad("window", -1, others=(("causal", False),)),
            ],
        ),
        "Strided": (sa.Strided, {"local": 3, "stride": 4}, [*ints("local", 1), *ints("stride", 1, MOST)]),
        "Fixed": (sa.Fixed, {"stride": 4, "summary": 1}, [*ints("stride", 1, MOST), *ints("summary", 0, 4)]),
        "Longformer": (
            sa.Longformer,
            {"window": 3, "global_tokens": 2},
            [
                *ints("window", 0),
                *(bad for bad in ints("global_tokens", 0) if not isinstance(bad.value, list)),
                *ints("dilation", 1, MOST),
                *flags("causal"),
                *values("global_tokens", [(1, -1), (2**29,), (0, 2**40)]),
                *values("global_tokens", [(1.5,), ("1",), (None,), {1, 2}], TypeError),
            ],
        ),
        "BigBird": (
            sa.BigBird,
            {},
            [
                *ints("block", 1, MOST),
                *ints("window", 1, MOST),
                *values("window", [2, 4, MOST]),
                *(bad for name in ("first", "last", "random") for bad in ints(name, 0, MOST)),
                *ints("seed", 0, 2**64 - 1),
                *flags("per_head"),
                *flags("causal"),
                *(bad for bad in ints("length", 0, 2**29) if bad.value is not None),
            ],
        ),
        "BlockMask": (
            sa.BlockMask,
            {"mask": bool_mask, "block": 16},
            [*no_mask, *blocks, Bad("mask", None, TypeError)],
        ),
        "BlockMask.from_csr": (
            sa.BlockMask.from_csr,
            {"crow": crow, "col": col, "shape": (2, 4), "block": 16},
            [
                *csr,
                *blocks,
                *values("shape", [(2,), (2, 4, 1), (), (-1, 4), (2, -1), (2**40, 4)]),
                *values("shape", [None, 2, "24", (2.0, 4), (2, None)], TypeError),
            ],
        ),
        "BlockMask.from_flex": (sa.BlockMask.from_flex, {}, values("block_mask", [None, mask(2, 2), 5], TypeError)),
        "ElementMask": (sa.ElementMask, {"mask": bool_mask}, [*no_mask, Bad("mask", None)]),
        "ElementMask.from_csr": (
            sa.ElementMask.from_csr,
            {"crow": crow, "col": col, "Nq": 2, "Nk": 4},
            [*csr, *(Bad(b.argument, b.value, b.error) for n in ("Nq", "Nk") for b in ints(n, 0))],
        ),
        "IndexCausal": (
            sa.IndexCausal,
            {"q_idx": index, "k_idx": index},
            [
                bad
                for name in ("q_idx", "k_idx")
                for bad in (
                    *values(name, [None, [1, 2], 1, index.float(), index.bool(), index.to(torch.complex64)], TypeError),
                    *values(name, [index[0], index[None, None, None]]),
                    Bad(name, index.to("meta"), text="k_idx"),
                )
            ],
        ),
        "Softmax": (sa.Softmax, {}, [bad for bad in learned("sink_logit", 4) if bad.value is not None]),
        "Entmax": (sa.Entmax, {}, [bad for bad in of_entmax() if bad.argument == "alpha"]),
        "Elastic": (
            sa.Elastic,
            {"tau": torch.zeros(4)},
            [*learned("tau", 4), *(bad for bad in learned("bias", (4, 3)) if bad.value is not None)],
        ),
        "TopK": (
            sa.TopK,
            {"k": 3},
            [
                *ints("k", 1),
                *(Bad("then", value, TypeError, text="then|normalizer") for value in (None, True, [1.5], sa.Causal())),
                *(Bad("then", value, text="then|normalizer|alpha") for value in ("relu", 0.5, 3, NAN)),
                Bad("then", sa.Softmax(torch.zeros(4))),
                Bad("then", sa.Elastic(torch.zeros(4))),
                Bad("then", sa.TopK(3)),
            ],
        ),
        "top_k_blocks": (
            sa.top_k_blocks,
            {"q": q, "k": k, "block": 16, "top": 2},
            [
                *tensors("q", q),
                *tensors("k", k),
                *blocks,
                *ints("top", 1),
                *flags("share_group"),
                *flags("causal"),
                *(Bad("k", longer(k, dim)) for dim in (0, 1, 3)),
                Bad("k", k[:, :0]),
                Bad("k", k.double(), TypeError),
                Bad("k", k.to("meta")),
                *values("q_start", NO_INT, TypeError),
                *values("k_start", [None, *NO_INT], TypeError),
                *(
                    Bad(name, number, text="q_start|k_start")
                    for name in ("q_start", "k_start")
                    for number in (2**30, 2**63)
                ),
            ],
        ),
        "SplashAttention": (
            sa.SplashAttention,
            {"head_dim": 16},
            [
                *ints("head_dim", 1),
                *ints("k_keep", 1),
                *(bad for bad in of_entmax() if bad.argument == "alpha"),
                *values("sm_scale", NO_NUMBER, TypeError),
                *values("sm_scale", NOT_FINITE),
            ],
        ),
        "LazyAttention": (
            sa.LazyAttention,
            {"dim": 16, "num_heads": 2},
            [
                *ints("dim", 1),
                *values("dim", [15, 14]),
                *ints("num_heads", 1),
                *ints("window_size", 0),
                *values("rope_base", [None, *NO_NUMBER], TypeError),
                *values("rope_base", [0, -1.0, *NOT_FINITE]),
            ],
        ),
    }


def of_modules():
    """{name: (call, good arguments, mistakes)} of forward() and of the functions that AdaSplash's users call."""
    index = int32(*range(8))
    q_k_v = [bad for bad in inputs(SQUARE) if not bad.others]
    indices = [
        bad
        for name in ("q_idx", "k_idx")
        for bad in (
            *values(name, [[1, 2], 1, index.float(), index.bool()], TypeError),
            *values(name, [None, index[0], longer(index, 0), index[None, None, None]]),
            Bad(name, index.to("meta"), text="q_idx|k_idx"),
        )
    ]
    x, good = torch.zeros(2, 5, 16), good_attention(SQUARE)
    lazy = {"bias": torch.zeros(4, 3), "tau": torch.zeros(4), "window_size": 3}
    splash = sa.SplashAttention(16).forward
    of_alpha = [bad for bad in of_entmax() if bad.argument == "alpha"]
    of_x = [bad for bad in of_entmax() if bad.argument == "x"]
    bias_and_tau = [
        *(bad for name, t in lazy.items() if name != "window_size" for bad in tensors(name, t)),
        *values("bias", [longer(lazy["bias"], 0), longer(lazy["bias"], 1, 2), lazy["bias"][:, :2]]),
        *values("tau", [longer(lazy["tau"], 0), lazy["tau"][:1]]),
    ]
    return {
        "SplashAttention": (splash, {**good, "q_idx": index, "k_idx": index}, [*q_k_v, *indices]),
        "LazyAttention": (
            sa.LazyAttention(16, 2),
            {"x": x},
            [*values("x", NO_TENSOR, TypeError), *values("x", [x[0], x[None], longer(x, 2), x.sum()])],
        ),
        "FlashAttention": (sa.FlashAttention(), good, [*q_k_v, *flags("causal")]),
        "StandardAttention": (sa.StandardAttention(), good, [*q_k_v, *flags("causal")]),
        "adasplash": (adasplash.adasplash, good, [*q_k_v, *of_alpha]),
        "lazy_attention_triton": (adasplash.lazy_attention_triton, {**good, **lazy}, [*q_k_v, *bias_and_tau]),
        "triton_entmax": (adasplash.triton_entmax, {"x": torch.zeros(3, 5)}, [*of_x, *of_alpha]),
    }
