"""splash as an attention implementation of Hugging Face transformers (5 or later).

Importing this module registers it: `AutoModel.from_pretrained(..., attn_implementation="splash")` or
`model.set_attn_implementation("splash")` then runs a model's attention here, with the model's own masks, sliding
windows and sink logits; `configure` chooses patterns and normalizers on top of them, for all layers or for some.

Padding on either side is unpacked: no query sees a padded key. Padded rows are 0 where rows stand at keys; the eager
implementation fills them with numbers that mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from ..attention import attention, attention_varlen
from ..normalizers import Elastic, Normalizer, Softmax, as_normalizer
from ..patterns import And, Causal, Dilated, ElementMask, Full, Pattern, SlidingWindow, Strided, as_pattern
from .transformers_mask import Mask, Packing, is_mask
from .transformers_masks import describe, require

NAME = "splash"
_REFUSED = {
    "softcap": "splash has no soft cap of scores",
    "position_bias": "splash adds no bias to scores here",
    "output_attentions": "the weights are never stored",
    "head_mask": "the weights are never stored",
    "cache": "paged caches are not supported",
    "sinks": "splash knows one sink logit a head, as s_aux",
}
_FULLY_MASKED = torch.finfo(torch.float16).min


@dataclass(frozen=True)
class Layer:
    """What one attention layer does: `pattern` restricts the model's own mask, `normalizer` replaces its softmax.

    None leaves the model's. Both take the short forms of attention().
    """

    pattern: Pattern | str | None = None
    normalizer: Normalizer | str | float | None = None

    def __post_init__(self):
        if self.pattern is not None:
            object.__setattr__(self, "pattern", as_pattern(self.pattern))
        if self.normalizer is not None:
            object.__setattr__(self, "normalizer", as_normalizer(self.normalizer))


_PLAIN = Layer()


def configure(
    model: PreTrainedModel,
    pattern: Pattern | str | None = None,
    normalizer: Normalizer | str | float | None = None,
    layers: Mapping[int | str, Layer] | None = None,
) -> PreTrainedModel:
    """Runs the model's attention on splash, with a pattern and a normalizer for all layers or for some.

    pattern: keeps, of the scores that the model's own mask keeps, those that it keeps too; a causal model stays causal.
        Positions count from a sequence's first real token. None: all that the model keeps.
    normalizer: takes the place of softmax. None: softmax, with the model's sink logits where it has them.
    layers: exceptions from both, a Layer each; keys are a layer's index (`layer_idx` of the attention module) or the
        name of an attention module, with * and ? as wildcards ("encoder.layer.*.attention.self").

    Returns the model. Parameters that a normalizer holds are not registered with the model. A second call replaces the
    choices of the first. ValueError where the model cannot change its attention or where a key names no layer.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"model: expected a transformers.PreTrainedModel, got {type(model).__name__}")
    model.set_attn_implementation(NAME)
    if model.config._attn_implementation != NAME:
        raise ValueError(f"model: {type(model).__name__} does not let its attention implementation be changed")
    modules = {name: module for name, module in model.named_modules() if _is_attention(module)}
    everywhere = Layer(pattern, normalizer)
    chosen = dict.fromkeys(modules, everywhere)
    for key, layer in (layers or {}).items():
        if not isinstance(layer, Layer):
            raise TypeError(f"layers[{key!r}]: expected a Layer, got {type(layer).__name__}")
        names = [name for name, module in modules.items() if _is_named(key, name, module)]
        if not names:
            raise ValueError(f"layers: {key!r} names no attention layer; there are {', '.join(modules)}")
        chosen.update(dict.fromkeys(names, layer))
    for name, module in modules.items():
        module.splash = chosen[name]
    return model


def _is_attention(module: nn.Module) -> bool:
    """The innermost modules with attention in their class name, which are those that call an attention function."""
    inner = (type(child).__name__ for child in module.modules() if child is not module)
    return "Attention" in type(module).__name__ and not any("Attention" in name for name in inner)


def _is_named(key: int | str, name: str, module: nn.Module) -> bool:
    if isinstance(key, str):
        return fnmatchcase(name, key)
    return getattr(module, "layer_idx", None) == key


def splash_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask | Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls; the arguments are transformers' own.

    query (B, Hq, Nq, D), key (B, Hkv, Nk, D) and value (B, Hkv, Nk, Dv) of any strides; the smaller of D and Dv is
    filled with zeros. attention_mask: what the mask function made, or a 4D mask that broadcasts to (B, Hq, Nq, Nk):
    bool, True where a score is kept, or added to the scores, with 0 and very low numbers only. None: is_causal and
    sliding_window say what is kept; without causality a window is what the mask would have said, so none is none.
    indices (B, Nq, n), block_indices (B, Hkv, Nq, n): the keys, or blocks of keys, that a query keeps of those; -1 is
    none. Returns (B, Nq, Hq, Dv), and None in place of the weights.
    """
    if dropout:
        raise ValueError(f"dropout: splash has none; expected 0, got {dropout}; set the model's attention dropout to 0")
    for name, reason in _REFUSED.items():
        if kwargs.get(name) is not None and kwargs[name] is not False:
            raise ValueError(f"{name}: {reason}; use another attn_implementation where the model needs it")
    layer = getattr(module, "splash", _PLAIN)
    mask = _mask(module, query, key, attention_mask, sliding_window, is_causal)
    selected = _selected(module, query, key, kwargs)
    if selected is not None:
        mask = _restricted(mask, selected)
    normalizer = _normalizer(layer.normalizer, s_aux)
    if not mask.origin:
        _check_relative(layer.pattern, normalizer)
    packing, pattern = _combine(mask, layer.pattern, kwargs)
    dim = value.shape[-1]
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = _laid_out(query, key, value)
    if packing is None:
        positions = {"q_start": mask.q_start, "k_start": mask.k_start, "kv_lengths": mask.kv_lengths}
        out = attention(query, key, value, pattern, normalizer, scale=scaling, **positions)
        return out[..., :dim].transpose(1, 2).contiguous(), None
    rows = [tensor.transpose(1, 2).flatten(0, 1) for tensor in (query, key, value)]
    out = attention_varlen(*rows, *packing, pattern, normalizer, scale=scaling)
    return out[..., :dim].unflatten(0, (query.shape[0], query.shape[2])).contiguous(), None


def _laid_out(query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
    """The three with one head dimension and unit strides there, which a model's user could not change."""
    width = max(query.shape[-1], value.shape[-1])
    width += -width % 8 if query.is_cuda else 0
    wide = [pad(t, (0, width - t.shape[-1])) if t.shape[-1] < width else t for t in (query, key, value)]
    return [t if t.stride(-1) == 1 else t.contiguous() for t in wide]


def _selected(module: nn.Module, query: Tensor, key: Tensor, kwargs: dict[str, Any]) -> Tensor | None:
    """(B, 1 or Hq, Nq, Nk) bool: what an indexer of the model has chosen."""
    chosen, size = kwargs.get("indices"), 1
    if chosen is not None:
        chosen = chosen[:, None]
    else:
        chosen = kwargs.get("block_indices")
        if chosen is None:
            return None
        size = module.indexer.block_size
    keys = key.shape[2]
    blocks = -(-keys // size)
    chosen = torch.where((chosen < 0) | (chosen >= blocks), blocks, chosen.long())
    kept = torch.zeros((*chosen.shape[:3], blocks + 1), dtype=torch.bool, device=chosen.device)
    kept = kept.scatter(-1, chosen, True)[..., :blocks].repeat_interleave(size, -1)[..., :keys]
    return kept if kept.shape[1] == 1 else kept.repeat_interleave(query.shape[1] // kept.shape[1], 1)


def _restricted(mask: Mask, selected: Tensor) -> Mask:
    if mask.packing is None and mask.key_packing is None:
        return mask.replace(pattern=mask.pattern & ElementMask(selected))
    return Mask(tuple(mask.shape), ElementMask(selected & (mask.tensor() == 0)), origin=False)


def _mask(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    attention_mask: Mask | Tensor | None,
    sliding_window: int | None,
    is_causal: bool | None,
) -> Mask:
    rows, columns = query.shape[2], key.shape[2]
    shape = (query.shape[0], 1, rows, columns)
    if is_mask(attention_mask):
        attention_mask = _fitting(attention_mask, shape)
        if is_mask(attention_mask):
            return attention_mask
    if isinstance(attention_mask, Tensor):
        return Mask(shape, ElementMask(_kept(attention_mask, shape)), origin=False)
    if attention_mask is not None:
        raise TypeError(f"attention_mask: expected a tensor or None, got {type(attention_mask).__name__}")
    if is_causal is None:
        is_causal = not _is_of_splash(module) and getattr(module, "is_causal", True)
    if not is_causal:
        return Mask(shape, Full(), 0)
    if rows not in (1, columns):
        raise ValueError(
            f"attention_mask: None does not say where {rows} queries stand among {columns} keys of a causal layer"
        )
    return Mask(shape, SlidingWindow.causal(sliding_window) if sliding_window else Causal(), columns - rows)


def _is_of_splash(module: nn.Module) -> bool:
    """Whether the module's model asks describe() for its masks, which answers None where everything is kept only."""
    return getattr(getattr(module, "config", None), "_attn_implementation", None) == NAME


def _fitting(mask: Mask, shape: tuple[int, int, int, int]) -> Mask | Tensor:
    """A mask for these rows and keys: itself, one row for all, or its tensor, which broadcasts."""
    if mask.written():
        return mask.tensor()
    everything = isinstance(mask.pattern, Full) and mask.kv_lengths is None
    if mask.shape[2:] == shape[2:] and mask.shape[0] == shape[0]:
        return mask
    if any(had not in (1, wanted) for had, wanted in zip(mask.shape[2:], shape[2:], strict=True)):
        raise ValueError(
            f"attention_mask: made for {mask.shape[2]} queries and {mask.shape[3]} keys, "
            f"used with {shape[2]} and {shape[3]}"
        )
    if everything and mask.packing is None and mask.key_packing is None:
        return Mask(shape, Full(), 0)
    return mask.tensor()


def _kept(mask: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """A complete 4D mask as bool."""
    if mask.dim() != 4:
        raise ValueError(f"attention_mask: expected 4 dimensions at this point, got shape {tuple(mask.shape)}")
    if any(had not in (1, wanted) for had, wanted in zip(mask.shape[2:], shape[2:], strict=True)):
        raise ValueError(
            f"attention_mask: expected a shape that broadcasts to {shape[2]} queries and {shape[3]} keys, "
            f"got {tuple(mask.shape)}"
        )
    if mask.dtype is torch.bool:
        return mask
    if not mask.is_floating_point():
        raise TypeError(f"attention_mask: expected a bool or floating-point 4D mask, got {mask.dtype}")
    kept = mask == 0
    text = "attention_mask: a 4D mask that is added must hold 0 and very low numbers only; a bias is not supported"
    if mask.requires_grad and torch.is_grad_enabled():  # a bias that is 0 so far, which would never learn
        raise ValueError(text)
    if not require((kept | (mask <= _FULLY_MASKED)).all(), text):
        raise ValueError(text)
    return kept


def _combine(mask: Mask, chosen: Pattern | None, kwargs: dict[str, Any]) -> tuple[Packing | None, Pattern]:
    """How the rows are packed and what they keep: what the mask and the chosen pattern do."""
    packing = mask.packing
    if packing is None and kwargs.get("cu_seq_lens_q") is not None and not isinstance(mask.pattern, ElementMask):
        packing = _given_packing(mask, kwargs)
    if chosen is None:
        return mask.key_packing or packing, mask.pattern
    if mask.key_packing is not None and packing is None:
        raise ValueError(
            f"pattern: {chosen!r} needs rows that stand at the keys; {mask.shape[2]} queries of a layer that is not "
            f"causal and {mask.shape[3]} padded keys do not"
        )
    if isinstance(mask.pattern, Full) or (isinstance(mask.pattern, Causal) and chosen.is_causal()):
        return packing, chosen
    return packing, mask.pattern & chosen


def _given_packing(mask: Mask, kwargs: dict[str, Any]) -> Packing:
    """The sequences that a collator without padding passes beside a batch of one."""
    if mask.shape[0] != 1 or mask.q_start != mask.k_start:
        raise ValueError(
            f"cu_seq_lens_q: expected a batch of 1 without cached keys, got a mask of shape {mask.shape} with queries "
            f"from {mask.q_start} and keys from {mask.k_start} on"
        )
    cu_seqlens = [kwargs[f"cu_seq_lens_{side}"] for side in "qk"]
    return Packing(*cu_seqlens, *(int(kwargs[f"max_length_{side}"]) for side in "qk"))


def _check_relative(pattern: Pattern | None, normalizer: Normalizer) -> None:
    for name, chosen, relative in (
        ("pattern", pattern, pattern is None or _is_relative(pattern)),
        ("normalizer", normalizer, not isinstance(normalizer, Elastic)),
    ):
        if not relative:
            raise ValueError(
                f"{name}: {chosen!r} counts from the first real token, which a 4D mask, padding between real tokens, "
                "or a sliding cache of padded sequences do not tell"
            )


def _is_relative(pattern: Pattern) -> bool:
    """Whether only i - j matters."""
    if isinstance(pattern, And):
        return all(map(_is_relative, pattern.terms))
    return pattern.band() is not None or isinstance(pattern, (Dilated, Strided))


def _normalizer(chosen: Normalizer | None, s_aux: Tensor | None) -> Normalizer:
    if s_aux is None:
        return Softmax() if chosen is None else chosen
    if chosen is None or (type(chosen) is Softmax and chosen.sink_logit is None):
        return Softmax(sink_logit=s_aux)
    raise ValueError(f"s_aux: the model's sink logits need Softmax() as normalizer, got {chosen!r}")


AttentionInterface.register(NAME, splash_attention_forward)
AttentionMaskInterface.register(NAME, describe)
