"""splash's reading of transformers' masks against the dense masks that transformers itself makes of them."""

import sys

import pytest
import torch
from torch import nn

if sys.version_info < (3, 11):
    pytest.skip("transformers 5.23 needs Python 3.11", allow_module_level=True)

from transformers import MistralConfig, masking_utils

from splash_attention import BlockMask, Elastic, Entmax, Softmax, TopK
from splash_attention.integrations.transformers import Layer, splash_attention_forward
from splash_attention.integrations.transformers_masks import Mask, describe
from splash_attention.patterns import (
    BlockDiagonal,
    Causal,
    Dilated,
    ElementMask,
    Full,
    SlidingWindow,
    Streaming,
)
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH, TOKENS = 4, 13
PADDING = {
    "none": [(0, TOKENS)] * BATCH,
    "right": [(0, 13), (0, 9), (0, 1), (0, 0)],
    "ends": [(0, 13), (0, 9), (0, 12), (0, 11)],
    "left": [(0, 13), (4, 13), (12, 13), (0, 13)],
    "little": [(0, 13), (3, 13), (1, 13), (4, 13)],
    "both": [(2, 11), (0, 13), (5, 6), (3, 13)],
}


def real_tokens(name):
    index = torch.arange(TOKENS)
    return torch.stack([(index >= first) & (index < end) for first, end in PADDING[name]])


def left_padding(real):
    return (real.cumsum(1) == 0).sum(1)


def functions(real=None):
    """Name: (mask function, whether it is bidirectional)."""
    segments = torch.tensor([[0] * 5 + [1] * 8, [0] * 13, [0] + [1] * 11 + [2], [0, 1, 2, 3, 4] + [5] * 8])
    real = torch.ones(BATCH, TOKENS, dtype=torch.bool) if real is None else real
    first = torch.stack([torch.searchsorted(row, row) for row in segments])
    positions = torch.arange(TOKENS) - first
    packed = masking_utils.packed_sequence_compatibility_function
    sliding = masking_utils.sliding_window_causal_mask_function
    return {
        "causal": (masking_utils.causal_mask_function, False),
        "sliding": (sliding(4), False),
        "sliding 1": (sliding(1), False),
        "chunked": (masking_utils.chunked_causal_mask_function(5, left_padding(real)), False),
        "packed": (packed(masking_utils.causal_mask_function, positions, segments), False),
        "packed sliding": (packed(sliding(3), positions, segments), False),
        "full": (masking_utils.bidirectional_mask_function, True),
        "near": (masking_utils.sliding_window_bidirectional_mask_function(3), True),
        "union": (masking_utils.or_masks(sliding(3), lambda b, h, i, j: j < 2), False),
    }


def arguments(name, real, rows, keys, q_offset, kv_offset):
    function, bidirectional = functions(real)[name]
    given = {
        "batch_size": BATCH,
        "q_length": rows,
        "kv_length": keys,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": function,
        "attention_mask": None if name.startswith("packed") else real,
        "allow_is_causal_skip": False,
        "use_vmap": name == "union",
    }
    return given | ({"allow_is_bidirectional_skip": False} if bidirectional else {})


def dense(mask: Mask, packing):
    """(B, Nq, Nk) bool: what the kernels will keep."""
    batch, _, rows, keys = mask.shape
    if packing is None:
        if mask.kv_lengths is not None:
            assert (mask.kv_lengths == mask.kv_lengths[0]).all()
            held = int(mask.kv_lengths[0])
            kept = mask.pattern.to_dense(rows, keys, batch=batch, q_start=held - rows + mask.k_start)
            kept = kept & (torch.arange(keys) < held)
        else:
            kept = mask.pattern.to_dense(rows, keys, batch=batch, q_start=mask.q_start, k_start=mask.k_start)
        return kept.expand(batch, 1, rows, keys)[:, 0]
    kept = torch.zeros(batch * rows, batch * keys, dtype=torch.bool)
    ends = torch.stack(packing[:2], 1)
    for (row, key), (end_row, end_key) in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        assert end_row - row <= packing.max_seqlen_q and end_key - key <= packing.max_seqlen_k
        kept[row:end_row, key:end_key] = mask.pattern.to_dense(end_row - row, end_key - key)
    kept = kept.view(batch, rows, batch, keys)
    assert ends[-1].tolist() == [batch * rows, batch * keys]
    assert not any(kept[a, :, b].any() for a in range(batch) for b in range(batch) if a != b)
    return torch.stack([kept[b, :, b] for b in range(batch)])


def kept_scores():
    """Name, padding, rows, keys, offsets: transformers packs without caches and padding only."""
    sizes = [
        (13, 13, 0, 0),
        (1, 13, 12, 0),
        (4, 13, 9, 0),
        (4, 9, 9, 4),
        (6, 13, torch.tensor(3), 0),
        (4, 7, 2, 0),
        (6, 16, 3, 0),
    ]
    for name, (_, bidirectional) in functions().items():
        if name.startswith("packed"):
            yield name, "none", *sizes[0]
            continue
        for padding in PADDING:
            yield from ((name, padding, *size) for size in sizes if not (bidirectional and torch.is_tensor(size[2])))


@pytest.mark.parametrize(("name", "padding", "rows", "keys", "q_offset", "kv_offset"), list(kept_scores()))
def test_kept_scores(name, padding, rows, keys, q_offset, kv_offset):
    real = real_tokens(padding)
    given = arguments(name, real, rows, keys, q_offset, kv_offset)
    wanted = masking_utils.sdpa_mask(**given)[:, 0]
    mask = describe(**given)
    assert mask.shape == (BATCH, 1, rows, keys)
    if name not in ("chunked", "near"):
        assert isinstance(mask.pattern, ElementMask) == (name == "union")
    real_rows = real[:, int(q_offset) : int(q_offset) + rows]
    if mask.packing is not None:
        assert torch.equal(dense(mask, mask.packing), wanted & real_rows[..., None])
    elif mask.key_packing is None:
        assert torch.equal(dense(mask, None), wanted)
    if mask.key_packing is not None:
        assert torch.equal(dense(mask, mask.key_packing), wanted)


def test_padding_between_real_tokens():
    real = real_tokens("both")
    real[1, 6] = False
    given = arguments("sliding", real, TOKENS, TOKENS, 0, 0)
    mask = describe(**given)
    assert isinstance(mask.pattern, ElementMask) and not mask.origin
    assert torch.equal(dense(mask, None), masking_utils.sdpa_mask(**given)[:, 0])


def test_padding_among_packed_sequences():
    """transformers never says both; if it did, neither would be ignored."""
    given = arguments("packed", None, TOKENS, TOKENS, 0, 0)
    given |= {"attention_mask": real_tokens("left"), "config": MistralConfig()}
    assert torch.equal(dense(describe(**given), None), masking_utils.sdpa_mask(**given)[:, 0])

    def layer(q, k, v):
        return splash_attention_forward(Attention(), q, k, v, describe(**given))[0]

    with pytest.raises(RuntimeError, match="not what its arguments say"):
        torch.compile(layer, backend="eager", fullgraph=True)(*inputs())


def test_a_mask_moves_between_devices():
    mask = describe(**arguments("causal", real_tokens("left"), TOKENS, TOKENS, 0, 0))
    moved = mask.to("meta")
    assert {t.device.type for t in moved.packing[:2]} == {"meta"} and moved.packing[2:] == mask.packing[2:]
    assert mask.contiguous() is mask and describe(1, 1, 1, attention_mask=mask) is mask


class Attention(nn.Module):
    is_causal = True

    def __init__(self, layer=None):
        super().__init__()
        if layer is not None:
            self.splash = layer


def inputs(rows=TOKENS, keys=TOKENS, heads=4, kv_heads=2, dim=16, grad=False):
    generator = torch.Generator().manual_seed(rows * 100 + keys)
    sizes = [(BATCH, rows, heads, dim), (BATCH, keys, kv_heads, dim), (BATCH, keys, kv_heads, dim)]
    tensors = [torch.randn(size, generator=generator, dtype=torch.float64).transpose(1, 2) for size in sizes]
    return [tensor.requires_grad_() for tensor in tensors] if grad else tensors


LAYERS = [
    Layer(),
    Layer(Streaming(2, 3), 1.5),
    Layer(BlockDiagonal(4, causal=True), TopK(3)),
    Layer(Dilated(3, (1, 2, 1, 3)), Entmax(1.25)),
    Layer(SlidingWindow(3, 2), Elastic(torch.linspace(-1, 0, 4), torch.linspace(-1, 1, 20).view(4, 5))),
    Layer("causal", TopK(4, Entmax(2.0))),
]


@pytest.mark.parametrize("layer", LAYERS, ids=[f"layer{n}" for n in range(len(LAYERS))])
@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("rows", [TOKENS, 5, 1])
def test_attention_of_each_sequence(layer, padding, rows):
    """Each row of the batch is what the reference makes of its real tokens alone; NaN in padding reaches nothing."""
    real, skipped = real_tokens(padding), TOKENS - rows
    mask = describe(**arguments("causal", real, rows, TOKENS, skipped, 0))
    q, k, v = inputs(rows)
    real_rows = real[:, skipped:]
    here = (real_rows, real, real)
    tensors = [
        t.masked_fill(~at[:, None, :, None], torch.nan).requires_grad_() for t, at in zip((q, k, v), here, strict=True)
    ]
    out, weights = splash_attention_forward(Attention(layer), *tensors, mask, scaling=0.3)
    assert weights is None and out.shape == (BATCH, rows, 4, 16) and out.is_contiguous()
    generator = torch.Generator().manual_seed(1)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    gradients = torch.autograd.grad(out, tensors, grad)
    assert not out[~real_rows].any()

    pattern = Causal() if layer.pattern is None else Causal() & layer.pattern
    for b in range(BATCH):
        alone = [t[b : b + 1, :, at[b]].detach().requires_grad_() for t, at in zip(tensors, here, strict=True)]
        if 0 in (alone[0].shape[2], alone[1].shape[2]):
            continue
        wanted, _ = reference_attention(*alone, pattern, layer.normalizer or Softmax(), scale=0.3)
        torch.testing.assert_close(out[b, real_rows[b]], wanted[0].transpose(0, 1), rtol=1e-9, atol=1e-9)
        wanted_gradients = torch.autograd.grad(wanted, alone, grad[b : b + 1, real_rows[b]].transpose(1, 2))
        for got, want, at in zip(gradients, wanted_gradients, here, strict=True):
            torch.testing.assert_close(got[b][:, at[b]], want[0], rtol=1e-8, atol=1e-8)
    for got, at in zip(gradients, here, strict=True):
        assert not got.transpose(1, 2)[~at].any()


@pytest.mark.parametrize("padding", PADDING)
def test_cross_attention_keeps_all_rows(padding):
    """Rows of a bidirectional mask may belong to another sequence: all of them see all real keys."""
    real = real_tokens(padding)
    for rows in (TOKENS, 6):
        mask = describe(**arguments("full", real, rows, TOKENS, 0, 0))
        q, k, v = inputs(rows)
        out, _ = splash_attention_forward(Attention(), q, k, v, mask)
        wanted, _ = reference_attention(q, k, v, ElementMask(real[:, None, None].expand(-1, 1, rows, -1)))
        torch.testing.assert_close(out, wanted.transpose(1, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.bfloat16])
def test_complete_masks_of_four_dimensions(dtype):
    kept = torch.rand(BATCH, 1, TOKENS, TOKENS, generator=torch.Generator().manual_seed(0)) < 0.4
    kept[..., 0] = True
    mask = (
        kept if dtype is torch.bool else torch.zeros(kept.shape, dtype=dtype).masked_fill(~kept, torch.finfo(dtype).min)
    )
    q, k, v = inputs()
    out, _ = splash_attention_forward(Attention(Layer(SlidingWindow.causal(6))), q, k, v, mask)
    wanted, _ = reference_attention(q, k, v, ElementMask(kept) & SlidingWindow.causal(6))
    torch.testing.assert_close(out, wanted.transpose(1, 2), rtol=1e-9, atol=1e-9)


def test_without_a_mask():
    """What sdpa makes of None: causal as the module or the argument says; a window keeps that many keys."""
    q, k, v = inputs()
    for pattern, given in (
        (Causal(), {}),
        (Full(), {"is_causal": False}),
        (SlidingWindow.causal(3), {"sliding_window": 3}),
    ):
        out, _ = splash_attention_forward(Attention(), q, k, v, None, **given)
        wanted, _ = reference_attention(q, k, v, pattern)
        torch.testing.assert_close(out, wanted.transpose(1, 2), rtol=1e-9, atol=1e-9)
    out, _ = splash_attention_forward(Attention(), q[:, :, :1], k, v, None, sliding_window=3)
    wanted, _ = reference_attention(q[:, :, :1], k[:, :, -3:], v[:, :, -3:], "full")
    torch.testing.assert_close(out, wanted.transpose(1, 2), rtol=1e-9, atol=1e-9)


def test_sequences_that_a_collator_flattened():
    q, k, v = (t[:1] for t in inputs())
    cu = torch.tensor([0, 4, 5, 13], dtype=torch.int32)
    given = {"cu_seq_lens_q": cu, "cu_seq_lens_k": cu, "max_length_q": torch.tensor(8), "max_length_k": 8}
    out, _ = splash_attention_forward(Attention(), q, k, v, None, sliding_window=3, **given)
    for begin, end in zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True):
        wanted, _ = reference_attention(*(t[:, :, begin:end] for t in (q, k, v)), SlidingWindow.causal(3))
        torch.testing.assert_close(out[:, begin:end], wanted.transpose(1, 2), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("given", ["nothing", "positions", "padding"])
def test_compiled(window, given):
    """torch.compile sees no values and no closures, and yet finds pattern and sequences without dense masks."""
    config = MistralConfig(sliding_window=window)
    config._attn_implementation = "splash"
    create = masking_utils.create_causal_mask if window is None else masking_utils.create_sliding_window_causal_mask
    positions = torch.arange(TOKENS).expand(BATCH, -1)
    if given == "positions":
        positions = torch.cat([torch.arange(6), torch.arange(TOKENS - 6)]).expand(BATCH, -1)
    real = real_tokens("both") if given == "padding" else None

    def layer(q, k, v, positions, real):
        embeddings = q.new_zeros(BATCH, TOKENS, 1)
        mask = create(config, embeddings, real, None, positions)
        assert not isinstance(mask.pattern, ElementMask)
        return splash_attention_forward(Attention(), q, k, v, mask)[0]

    q, k, v = inputs(grad=True)
    out = torch.compile(layer, backend="aot_eager", fullgraph=True)(q, k, v, positions, real)
    config._attn_implementation = "sdpa"
    kept = create(config, torch.zeros(BATCH, TOKENS, 1), real, None, positions, allow_is_causal_skip=False)
    if real is not None:
        kept = kept & real[:, None, :, None]
    wanted, _ = reference_attention(q, k, v, ElementMask(kept))
    torch.testing.assert_close(out, wanted.transpose(1, 2), rtol=1e-9, atol=1e-9)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = torch.autograd.grad(out, (q, k, v), grad)
    for a, b in zip(got, torch.autograd.grad(wanted, (q, k, v), grad.transpose(1, 2)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


PLAIN = {"mask": None, "layer": None}
REFUSED = {
    "dropout": {"dropout": 0.1},
    "softcap": {"softcap": 30.0},
    "output_attentions": {"output_attentions": True},
    "position_bias": {"position_bias": torch.zeros(1, 4, TOKENS, TOKENS)},
    "cache": {"cache": object()},
    "s_aux": {"s_aux": torch.zeros(4), "layer": Layer(normalizer=1.5)},
    "attention_mask: None": {"rows": 5},
    "attention_mask: expected 4": {"mask": torch.ones(BATCH, TOKENS)},
    "attention_mask: a 4D mask": {"mask": torch.linspace(-1, 0, TOKENS).expand(BATCH, 1, TOKENS, TOKENS)},
    "attention_mask: made for": {"mask": Mask((BATCH, 1, 3, 4), Causal(), 0)},
    "counts from the first real token": {
        "mask": torch.ones(BATCH, 1, TOKENS, TOKENS, dtype=torch.bool),
        "layer": Layer(Streaming(2, 3)),
    },
    "normalizer: Elastic": {
        "mask": describe(**arguments("causal", real_tokens("little"), 4, 9, 9, 4)),
        "layer": Layer(normalizer=Elastic(torch.zeros(4))),
        "rows": 4,
        "keys": 9,
    },
    "cu_seq_lens_q": {"cu_seq_lens_q": torch.tensor([0, TOKENS])},
    "BlockMask": {
        "mask": describe(**arguments("causal", real_tokens("left"), TOKENS, TOKENS, 0, 0)),
        "layer": Layer(BlockMask(torch.ones(1, 1, dtype=torch.bool), 64)),
    },
    "rows that stand at the keys": {
        "mask": describe(**arguments("full", real_tokens("left"), 5, TOKENS, 0, 0)),
        "layer": Layer(SlidingWindow(2, 2)),
        "rows": 5,
    },
}


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text):
    given = PLAIN | REFUSED[text]
    module = Attention(given.pop("layer"))
    q, k, v = inputs(given.pop("rows", TOKENS), given.pop("keys", TOKENS))
    with pytest.raises(ValueError, match=text):
        splash_attention_forward(module, q, k, v, given.pop("mask"), **given)


def test_wrong_types():
    q, k, v = inputs()
    for mask in ("causal", torch.ones(BATCH, 1, TOKENS, TOKENS, dtype=torch.int64)):
        with pytest.raises(TypeError, match="attention_mask"):
            splash_attention_forward(Attention(), q, k, v, mask)
    with pytest.raises(TypeError, match="pattern"):
        Layer(pattern=3)
    with pytest.raises(ValueError, match="alpha"):
        Layer(normalizer=3)
