"""Small models of every class of Hugging Face transformers, and inputs that they take.

Nothing here knows a class by name where a rule does: a configuration is built from its class's defaults with sizes
divided, and inputs follow from the names that `forward` takes. `shrunk` and `candidates` give several answers, the
richest first; the caller keeps the first that runs.
"""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

BATCH, TOKENS, WINDOW, VOCABULARY = 2, 14, 9, 1200
_HEADS = ("num_attention_heads", "n_heads", "n_head", "num_heads", "encoder_attention_heads", "decoder_attention_heads")
_HEADS += ("attention_heads", "num_key_value_heads", "n_kv_heads", "num_kv_heads", "linear_num_value_heads")
_HEADS += ("linear_num_key_heads",)
_WIDTHS = ("hidden_size", "d_model", "n_embd", "embed_dim", "dim", "hidden_dim", "intermediate_size", "ffn_dim", "d_ff")
_WIDTHS += ("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size", "mlp_dim", "n_inner", "ffn_hidden_size")
_WIDTHS += ("embedding_size", "word_embed_proj_dim", "shared_expert_intermediate_size", "intermediate_size_mlp")
_WIDTHS += ("encoder_hidden_size", "qformer_hidden_size", "dim_ff", "encoder_dim", "decoder_dim", "emb_dim")
_SMALL = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "moe_num_experts": 4, "n_group": 1}
_SMALL |= {"topk_group": 1, "num_experts_per_tok": 2, "moe_k": 2, "moe_topk": 2, "num_queries": 12, "n_fft": 64}
_SMALL |= {"max_source_positions": 24, "num_query_tokens": 4, "image_seq_length": 16, "attention_chunk_size": WINDOW}
_SMALL |= {"sliding_window": WINDOW, "num_frames": 4, "index_topk": 8}
_SMALL |= {"canvas_length": 8}
_SERIES = {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2, 3], "num_time_features": 2}
_SERIES |= {"distribution_output": "student_t", "num_parallel_samples": 2}
_UNSET = _SERIES | {"vocab_size": 64, "topk_group": 1, "n_group": 1, "n_routed_experts": 4, "n_shared_experts": 1}
_EXPERTS = {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
_ZERO = re.compile("drop")
_TOKEN = re.compile(r"_(token_id|token_ids|token_index|id)$")
_LAYERS = re.compile(r"^(num|n|.*_num|.*)_?(hidden_)?_?(layers?|blocks)$|^depth$|^num_.*_layers$")
_KEPT_LAYERS = re.compile(r"feat_extract|conv|feature_layer|feature_levels|skip|select|out_|return|index|per_|adapter")


def classes() -> Iterator[tuple[str, str]]:
    """(module, name) of every exported model class, in a fixed order."""
    for name, module in sorted(transformers._class_to_module.items(), key=lambda item: (item[1], item[0])):
        if ".modeling_" in module and not name.endswith("PreTrainedModel") and not module.startswith("models.auto."):
            yield module, name


def shrunk(cls: type[PreTrainedModel]) -> Iterator[PretrainedConfig]:
    """Small configurations of a model class."""
    pair = _pairs(cls.__name__)
    if pair is not None:
        yield pair
        return
    config_class = cls.config_class
    default = config_class()
    for strategy in ("divide", "fixed", "divide deep", "layers"):
        tokens: dict[int, int] = {}
        try:
            config = config_class(**_overrides(default, strategy, tokens))
        except Exception:
            continue
        for part in vars(config).values():
            if isinstance(getattr(part, "out_hidden_size", None), int):
                part.out_hidden_size = _text(config).hidden_size
        if getattr(_text(config), "pad_token_id", 0) is None:
            _text(config).pad_token_id = 0
        if getattr(config, "pad_token_id", 0) is None:
            config.pad_token_id = 0
        yield config


def _pairs(name: str) -> PretrainedConfig | None:
    """The classes whose configuration has no default: they join an encoder and a decoder of any kind."""

    def small(config_class, **given):
        return config_class(**_overrides(config_class(), "divide", {}), **given)

    if name in ("EncoderDecoderModel", "VisionEncoderDecoderModel", "SpeechEncoderDecoderModel"):
        encoder = {"E": transformers.BertConfig, "V": transformers.ViTConfig, "S": transformers.Wav2Vec2Config}[name[0]]
        decoder = small(transformers.BertConfig, is_decoder=True, add_cross_attention=True)
        config = getattr(transformers, name.replace("Model", "Config"))
        config = config.from_encoder_decoder_configs(small(encoder), decoder)
        config.decoder_start_token_id, config.pad_token_id = 2, 0
        return config
    if name == "VisionTextDualEncoderModel":
        parts = small(transformers.CLIPVisionConfig), small(transformers.BertConfig)
        return transformers.VisionTextDualEncoderConfig.from_vision_text_configs(*parts)
    return None


def _overrides(config: PretrainedConfig, strategy: str, tokens: dict[int, int]) -> dict[str, Any]:
    """Arguments for the configuration's class that make it small."""
    values = {name: value for name, value in vars(config).items() if not name.startswith("_")}
    given: dict[str, Any] = {}
    aliases = getattr(config, "attribute_map", {})
    heads = next((values[name] for name in _HEADS if isinstance(values.get(name), int) and values[name] > 0), 1)
    divisor = max((d for d in range(1, heads + 1) if heads % d == 0 and heads // d >= 4), default=1)
    for name, value in values.items():
        if name in aliases or name in ("id2label", "label2id", "transformers_version", "rope_parameters"):
            continue
        if isinstance(value, PretrainedConfig):
            given[name] = type(value)(**_overrides(value, strategy, tokens))
        elif _ZERO.search(name) and isinstance(value, float):
            given[name] = 0.0
        elif isinstance(value, bool) or value is None:
            if value is None and name in _UNSET:
                given[name] = _UNSET[name]
            elif value is None and strategy == "fixed" and name in _EXPERTS:
                given[name] = _EXPERTS[name]
        elif isinstance(value, int):
            small = _number(name, value, strategy, divisor, values, tokens)
            if small != value:
                given[name] = small
        elif isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
            if re.search(r"depth|num_layers|layers_per|num_blocks|num_encoder_blocks", name):
                given[name] = type(value)(min(v, 1) for v in value)
            elif _TOKEN.search(name):
                given[name] = type(value)(_token(v, tokens) for v in value)
            elif name == "image_size":
                given[name] = type(value)(_image(v, values) for v in value)
            elif name in _SERIES:
                given[name] = _SERIES[name]
    if strategy == "fixed" and isinstance(values.get("head_dim"), int):
        given["head_dim"] = 16
    return given


def _number(name: str, value: int, strategy: str, divisor: int, values: dict, tokens: dict[int, int]) -> int:
    if re.search(r"vocab_size", name) and strategy != "layers":
        return min(value, VOCABULARY)
    if _TOKEN.search(name) and strategy != "layers":
        return _token(value, tokens)
    if _LAYERS.search(name) and not _KEPT_LAYERS.search(name):
        return _layers(name, value, values, 6 if strategy.endswith("deep") else 2)
    if name in _SERIES:
        return _SERIES[name]
    if name in _SMALL:
        return min(value, _SMALL[name]) if value > 0 else value
    if strategy == "layers":
        return value
    if name == "image_size":
        return _image(value, values)
    if strategy.startswith("divide"):
        if name in _HEADS:
            return max(value // divisor, 1) if value % divisor == 0 or value < divisor else value
        if name in _WIDTHS and value % divisor == 0 and value // divisor >= 8:
            return value // divisor
    if strategy == "fixed":
        if name in _HEADS:
            return min(value, 2 if "k" in name.split("_") or "kv" in name or "key" in name else 4)
        if name in _WIDTHS:
            return min(value, 64)
    return value


def _layers(name: str, value: int, values: dict, least: int) -> int:
    """So few layers, or so many that each kind of layer comes."""
    kinds = values.get("layer_types")
    if name == "num_hidden_layers" and isinstance(kinds, list) and kinds:
        seen = [len(set(kinds[: n + 1])) for n in range(len(kinds))]
        return min(max(seen.index(seen[-1]) + 1, least), 8, value)
    return min(value, least)


def _image(value: int, values: dict) -> int:
    patch = values.get("patch_size")
    patch = patch if isinstance(patch, int) else 16
    return min(value, patch * max(4, 64 // patch))


def _token(value: int, tokens: dict[int, int]) -> int:
    """Special tokens past the vocabulary move to its end, equal ones together."""
    if value < VOCABULARY - 100:
        return value
    return tokens.setdefault(value, VOCABULARY - 100 + len(tokens))


def weights(model: torch.nn.Module) -> None:
    """Weights of such a size that attention has something to choose, the same for the same model."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.weight.numel():
            module.weight.data.normal_(0, module.weight.shape[1] ** -0.5, generator=generator)
        elif isinstance(module, torch.nn.Embedding):
            module.weight.data.normal_(0, 0.5, generator=generator)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and re.search(r"sinks?$|gate$", name) and not parameter.any():
            parameter.data.normal_(0, 1, generator=generator)


def _numbers(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _first(config: PretrainedConfig, *names: str, default: Any = None) -> Any:
    """The first of these attributes in the configuration or in one of its parts."""
    queue = [config]
    while queue:
        part = queue.pop(0)
        for name in names:
            value = getattr(part, name, None)
            if value is not None and value != []:
                return value
        queue += [value for value in vars(part).values() if isinstance(value, PretrainedConfig)]
    return default


def _text(config: PretrainedConfig) -> PretrainedConfig:
    try:
        return config.get_text_config()
    except ValueError:  # several of them
        return config


def _ids(config: PretrainedConfig, tokens: int, seed: int = 1) -> torch.Tensor:
    text = _text(config)
    most = _first(text, "vocab_size", "text_vocab_size", "n_positions", default=64)
    most = min(most if isinstance(most, int) else 64, VOCABULARY - 100)
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(min(5, most - 1), most, (BATCH, tokens), generator=generator)
    end = getattr(text, "eos_token_id", None)
    if isinstance(end, int) and 0 <= end < most:
        ids[:, -1] = end
    return ids


def _whole(value: Any, default: int) -> int:
    return value if isinstance(value, int) else default


def _size(config: PretrainedConfig) -> tuple[int, int]:
    size = _first(config, "image_size", "img_size", "input_size", default=64)
    if isinstance(size, (list, tuple)):
        return (size[0], size[-1])
    return (size, size) if isinstance(size, int) else (64, 64)


def candidates(model: PreTrainedModel) -> Iterator[dict[str, Any]]:
    """Inputs for `forward`, the richest first."""
    config, names = model.config, inspect.signature(model.forward).parameters
    required = {n for n, p in names.items() if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD}
    height, width = _size(config)
    channels = _first(config, "num_channels", "in_channels", "in_chans", default=3)
    frames = _first(config, "num_frames", default=4)
    bins = _first(config, "num_mel_bins", "feature_size", "input_feat_per_channel", "feature_projection_input_dim")
    bins = bins if isinstance(bins, int) else 80
    steps = 2 * _first(config, "max_source_positions", default=24)

    common: dict[str, Any] = {}
    if "decoder_input_ids" in names and (config.is_encoder_decoder or "decoder_input_ids" in required):
        common["decoder_input_ids"] = _ids(config, 7, 2)
    if "bbox" in names:
        common["bbox"] = torch.arange(4).expand(BATCH, TOKENS, 4).contiguous()
    if "interpolate_pos_encoding" in required:
        common["interpolate_pos_encoding"] = False

    words = {"input_ids": _ids(config, TOKENS)} if "input_ids" in names else {}
    codebooks = _first(config, "num_codebooks", default=1)
    if codebooks > 1 and words:
        several = {n: ids.repeat(codebooks, 1) for n, ids in (words | common).items() if n.endswith("input_ids")}
        yield words | several if "decoder_input_ids" not in several else several | words
    images: list[dict[str, Any]] = []
    if "pixel_values" in names:
        image = _numbers((BATCH, channels, height, width))
        patch = _first(config, "patch_size", default=16)
        patch = patch if isinstance(patch, int) else 16
        if "spatial_shapes" in names or "pixel_attention_mask" in names:
            side = 4
            flat = {"pixel_values": _numbers((BATCH, side * side, channels * patch**2))}
            flat["pixel_attention_mask"] = (torch.arange(16) < torch.tensor([[16], [12]])).long()
            flat["spatial_shapes"] = torch.tensor([[4, 4], [4, 3]])
            images.append({name: value for name, value in flat.items() if name in names})
        if "image_grid_thw" in names:
            time = _first(config, "temporal_patch_size", default=1)
            flat = {"pixel_values": _numbers((16 * BATCH, channels * time * patch**2))}
            images.append(flat | {"image_grid_thw": torch.tensor([[1, 4, 4]] * BATCH)})
        images += [{"pixel_values": image}]
        images += [{"pixel_values": _numbers((BATCH, count, channels, height, width))} for count in {2, frames, 1}]
        images += [{"pixel_values": _numbers((BATCH, channels, 224, 224))}]
    if "pixel_values_videos" in names and "pixel_values_videos" in required:
        images.append({"pixel_values_videos": _numbers((BATCH, frames, channels, height, width))})
    if "flattened_patches" in names:
        images.append({"flattened_patches": _numbers((BATCH, 10, 2 + 768)).abs()})
    sounds: list[dict[str, Any]] = []
    for name in ("input_features", "input_values", "audio_values", "input_audio", "audio"):
        if name in names:
            shapes = [(BATCH, bins, steps), (BATCH, 40, bins), (BATCH, 4000), (BATCH, 1, 4000), (BATCH, 1024, 128)]
            shapes += [(BATCH, 1, 1001, 64), (BATCH, 1024, bins)]
            if "values" in name:
                shapes.insert(0, shapes.pop(2))
            sounds += [{name: _numbers(shape)} for shape in shapes]
    if "hidden_states" in required:
        yield from _hidden(config, names)
    for name in ("past_values", "inputs_embeds", "input_embeds", "states"):
        if name in required or (name == "past_values" and name in names):
            yield from _series(config, names)
    if words and images and "image_token_id" in _all_names(config):
        token = _first(config, "image_token_id", "image_token_index")
        for pixels, count in itertools.product(images, (None,)):
            yield words | pixels | common | {"_image_token": token, "_count": count}
    for picked in itertools.product(images or [{}], sounds or [{}]):
        if words and (picked[0] or picked[1]):
            yield words | picked[0] | picked[1] | common
    if words:
        yield words | common
        yield words
        yield {"input_ids": words["input_ids"][:, None].expand(-1, 3, -1).contiguous()}
    for given in itertools.chain(images, sounds):
        yield given | common
    if "inputs" in names:
        yield {"inputs": _ids(config, TOKENS)} | common


def _all_names(config: PretrainedConfig) -> set[str]:
    found = set(vars(config))
    for value in vars(config).values():
        if isinstance(value, PretrainedConfig):
            found |= _all_names(value)
    return found


def _hidden(config: PretrainedConfig, names: Any) -> Iterator[dict[str, Any]]:
    """Encoders of patches that a grid orders."""
    patch, time = _whole(_first(config, "patch_size"), 16), _whole(_first(config, "temporal_patch_size"), 1)
    channels = _whole(_first(config, "in_channels", "num_channels", "in_chans"), 3)
    grid = {n: torch.tensor([[1, 4, 4], [1, 4, 8]]) for n in names if n in ("grid_thw", "image_grid_thw")}
    for width in (channels * time * patch**2, _first(config, "hidden_size", default=32)):
        yield {"hidden_states": _numbers((48, width))} | grid
    yield {"hidden_states": _numbers((BATCH, TOKENS, _first(config, "hidden_size", default=32)))}
    yield {"hidden_states": _numbers((BATCH, channels, *_size(config)))}


def _series(config: PretrainedConfig, names: Any) -> Iterator[dict[str, Any]]:
    context, future = (_first(config, n, default=8) for n in ("context_length", "prediction_length"))
    channels = _first(config, "num_input_channels", default=1)
    past = context + max(_first(config, "lags_sequence", default=[0]))
    features = _first(config, "num_time_features", default=1)
    given = {
        "past_values": _numbers((BATCH, past)),
        "past_time_features": _numbers((BATCH, past, features)),
        "past_observed_mask": torch.ones(BATCH, past),
        "future_values": _numbers((BATCH, future), 1),
        "future_time_features": _numbers((BATCH, future, features)),
    }
    if "past_values" in names:
        yield {name: value for name, value in given.items() if name in names}
        yield {"past_values": _numbers((BATCH, context, channels))}
        yield {"past_values": _numbers((BATCH, context))}
    width = _first(config, "hidden_size", "d_model", default=32)
    for name in ("inputs_embeds", "input_embeds"):
        if name in names:
            yield {name: _numbers((BATCH, TOKENS, width))}
