"""The mask that goes through a transformers model, used as the tensor that eager would have had."""

import copy
import sys

import pytest
import torch
from torch import nn

if sys.version_info < (3, 11):
    pytest.skip("transformers 5.23 needs Python 3.11", allow_module_level=True)

from test_transformers_masks import BATCH, PADDING, TOKENS, Attention, arguments, functions, inputs, real_tokens
from transformers import (
    BertConfig,
    BertModel,
    CompileConfig,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    masking_utils,
)
from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter
from transformers.exporters.utils import decompose_for_generation

from splash_attention import ElementMask, Full
from splash_attention.integrations.transformers import Layer, splash_attention_forward
from splash_attention.integrations.transformers_mask import Mask, is_mask
from splash_attention.integrations.transformers_masks import describe
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")
LOWEST = torch.finfo(torch.float32).min


def made(name="causal", padding="left", rows=TOKENS, keys=TOKENS, q_offset=0, kv_offset=0, **changes):
    """A mask and eager's tensor."""
    given = arguments(name, real_tokens(padding), rows, keys, q_offset, kv_offset) | changes
    return describe(**given), masking_utils.eager_mask(**given | {"dtype": torch.float32})


def attend(mask, tensors, layer=None, **given):
    return splash_attention_forward(Attention(layer), *tensors, mask, **given)[0]


def assert_attends(mask, wanted, rows=TOKENS, keys=TOKENS, real=True):
    """What the mask does is what the tensor does, in real rows that keep something."""
    tensors = inputs(rows, keys)
    got, want = attend(mask, tensors), attend(wanted, tensors)
    keeps = (wanted == 0).any(-1).expand(BATCH, 1, rows)[:, 0] & real
    same = got[keeps] - want[keeps]
    assert not same.numel() or same.abs().max() < 1e-9


@pytest.mark.parametrize("name", functions())
@pytest.mark.parametrize("padding", ["none", "left", "both"])
def test_the_tensor_is_that_of_eager(name, padding):
    mask, wanted = made(name, padding)
    assert is_mask(mask) and not is_mask(wanted) and not torch.is_tensor(mask)
    assert eval("isinstance(mask, Tensor)", {"__name__": "transformers.x", "mask": mask, "Tensor": torch.Tensor})
    assert (mask.shape, mask.dtype, mask.device) == (wanted.shape, wanted.dtype, wanted.device)
    assert (mask.dim(), mask.ndim, len(mask), mask.size(-1), mask.numel()) == (4, 4, BATCH, TOKENS, wanted.numel())
    assert torch.equal(mask + 0, wanted) and mask.to("cpu") is mask


def test_operations():
    mask, wanted = made()
    scores = torch.randn(BATCH, 2, TOKENS, TOKENS, generator=torch.Generator().manual_seed(0))
    for call in (
        lambda m: scores + m,
        lambda m: scores.add(m),
        lambda m: m + scores,
        lambda m: 1.0 - m,
        lambda m: -m,
        lambda m: m == 0,
        lambda m: (m < 0) | (m > 0),
        lambda m: ~m.bool(),
        lambda m: m[:, 0],
        lambda m: m[:, :, -1, :].reshape(-1),
        lambda m: m[..., None, :],
        lambda m: m[1:, :, ::2],
        lambda m: m.repeat(1, 2, 1, 1),
        lambda m: m.expand(BATCH, 3, TOKENS, TOKENS),
        lambda m: m.masked_fill(scores[:, :1] > 0, LOWEST),
        lambda m: m.to(torch.bool),
        lambda m: m.to(dtype=torch.float64),
        lambda m: m.type_as(scores),
        lambda m: torch.where(m == 0, scores, 0),
        lambda m: torch.cat([m, m], 2),
        lambda m: torch.nn.functional.pad(m, (0, 3)),
        lambda m: torch.stack(list(m)),
        lambda m: copy.deepcopy(m) + 0,
        lambda m: scores.masked_fill(m != 0, 1.0),
        lambda m: scores.softmax(-1).mul_(m),
    ):
        got, want = call(mask), call(wanted)
        assert type(got) is torch.Tensor and got.dtype == want.dtype and torch.equal(got, want)
    with pytest.raises(AttributeError, match="no attribute 'causal'"):
        mask.causal  # noqa: B018


def test_inverted_it_says_what_is_masked():
    """NemotronAsrStreaming fills what is masked with -inf, by a mask that it inverts: of numbers that would be what is
    kept, and its attention found every key masked."""
    mask, wanted = made()
    for inverted in (mask.logical_not(), ~mask, torch.logical_not(mask)):
        assert inverted.dtype is torch.bool and torch.equal(inverted, wanted != 0)
    scores = torch.zeros(BATCH, 1, TOKENS, TOKENS).masked_fill_(mask.logical_not(), -torch.inf)
    assert_attends(scores, wanted)


def test_a_bias_that_is_zero_so_far_is_refused():
    """Swin's table of biases starts as zeros: taken for a mask, it would never have got a gradient."""
    bias = torch.zeros(BATCH, 4, TOKENS, TOKENS, requires_grad=True)
    with pytest.raises(ValueError, match="a bias is not supported"):
        attend(bias, inputs())
    with torch.no_grad():
        assert torch.equal(attend(bias, inputs()), attend(bias.detach(), inputs()))


def test_dtype_and_its_lowest_number():
    mask, _ = made(dtype=torch.bfloat16)
    assert mask.dtype is torch.bfloat16 and mask.min() == torch.finfo(torch.bfloat16).min


@pytest.mark.parametrize("name", [name for name in functions() if not name.startswith("packed")])
@pytest.mark.parametrize("padding", PADDING)
def test_slices_of_rows_and_keys_stay_masks(name, padding):
    mask, wanted = made(name, padding)
    for index in ((..., slice(-3, None), slice(None)), (slice(None), slice(None), slice(-1, None)), (..., slice(0, 9))):
        part, want = mask[index], wanted[index]
        assert part.shape == want.shape and torch.equal(part + 0, want)
        assert is_mask(part) or (mask.packing is not None and want.shape[3] < TOKENS)
        assert_attends(part, want, *want.shape[2:], real_tokens(padding)[:, -want.shape[2] :])
    assert mask[:, :, :, :99] is mask and mask[...] is mask


def test_a_slice_of_rows_makes_nothing_of_queries_times_keys(monkeypatch):
    """Gemma 4 cuts its last rows off: of a long prompt too."""
    length = 1 << 17
    mask = describe(1, length, length, 0, 0, attention_mask=torch.ones(1, length, dtype=torch.bool))
    monkeypatch.setattr(masking_utils, "eager_mask", None)
    part = mask[:, :, -1:, :]
    assert part.shape == (1, 1, 1, length) and part.q_start == length - 1 and not isinstance(part.pattern, ElementMask)


def test_slices_of_packed_sequences():
    mask, wanted = made("packed")
    part = mask[:, :, -4:, :]
    assert is_mask(part) and torch.equal(part.tensor(), wanted[:, :, -4:, :])
    assert_attends(part, wanted[:, :, -4:, :], 4)


def test_static_caches_count_on_in_the_same_tensor():
    offset = torch.tensor(3)
    mask, wanted = made(rows=6, q_offset=offset)
    wanted = wanted.clone()
    offset += 6
    assert torch.equal(mask + 0, wanted)


def test_what_is_written_counts():
    for write in (lambda m: m.__setitem__((..., slice(4, 9)), LOWEST), lambda m: m.masked_fill_(m < 1, 0.0)):
        mask, wanted = made("causal", "none")
        assert not mask.written()
        write(mask)
        write(wanted)
        assert mask.written() and torch.equal(mask[:, :, :5].contiguous(), wanted[:, :, :5])
        assert_attends(mask, wanted)


def test_a_window_of_no_keys():
    """Qwen2-MoE makes the mask and no layer uses it; one that did would keep nothing."""
    for padding in ("none", "left"):
        given = arguments("sliding", real_tokens(padding), TOKENS, TOKENS, 0, 0)
        given |= {"mask_function": masking_utils.sliding_window_causal_mask_function(0), "local_size": 0}
        mask = describe(**given)
        assert not isinstance(mask.pattern, ElementMask)
        assert torch.equal(mask + 0, masking_utils.eager_mask(**given, dtype=torch.float32))
        assert not attend(mask, inputs()).any() and not attend(mask, inputs(), Layer("causal")).any()
    q, k, v = inputs()
    wanted, _ = reference_attention(q, k, v, "causal")
    torch.testing.assert_close(attend(None, (q, k, v), sliding_window=0), wanted.transpose(1, 2))


def test_without_a_mask_nothing_else_restricts():
    """Where a model's masks come from describe(), None is what eager makes of it, windows or not."""
    q, k, v = inputs(5)
    full, _ = reference_attention(q, k, v, Full())
    module = Attention()
    for given in ({"is_causal": False}, {"is_causal": False, "sliding_window": 2}):
        torch.testing.assert_close(splash_attention_forward(module, q, k, v, None, **given)[0], full.transpose(1, 2))
    module.config = LlamaConfig(attn_implementation="splash")
    torch.testing.assert_close(splash_attention_forward(module, q, k, v, None)[0], full.transpose(1, 2))
    with pytest.raises(ValueError, match="where 5 queries stand"):
        splash_attention_forward(module, q, k, v, None, is_causal=True)


def test_nothing_is_masked():
    given = arguments("full", None, TOKENS, TOKENS, 0, 0)
    assert describe(**given) is not None
    assert describe(**given | {"allow_is_bidirectional_skip": True}) is None
    given = arguments("full", real_tokens("left"), TOKENS, TOKENS, 0, 0)
    assert describe(**given | {"allow_is_bidirectional_skip": True}) is not None


@pytest.mark.parametrize("padding", ["none", "left", "both"])
def test_one_row_serves_all(padding):
    mask, wanted = made("full", padding, 1)
    assert_attends(mask, wanted.expand(-1, -1, TOKENS, -1))
    assert_attends(wanted, wanted.expand(-1, -1, TOKENS, -1))
    assert_attends(wanted == 0, wanted.expand(-1, -1, TOKENS, -1))


def test_one_number_serves_all():
    """What BERT's heads make in generate(): a mask of one key while their cache grows."""
    mask = describe(**arguments("full", None, 1, 1, 0, 0))
    assert_attends(mask, torch.zeros(BATCH, 1, 1, TOKENS), 1)


def test_other_sizes_are_refused():
    mask, wanted = made("causal", "left", 4, 9, 5)
    for given, text in ((mask, "made for 4 queries and 9 keys"), (wanted, "broadcasts to 13 queries and 13 keys")):
        with pytest.raises(ValueError, match=f"attention_mask: .*{text}"):
            attend(given, inputs())


def test_more_rows_than_the_batch():
    """MusicGen has a row a codebook; the first ones count, as in eager."""
    real = real_tokens("left")
    given = arguments("causal", real.repeat(4, 1), TOKENS, TOKENS, 0, 0)
    assert torch.equal(describe(**given) + 0, masking_utils.eager_mask(**given, dtype=torch.float32))
    q, k, v = inputs()
    wanted = attend(describe(**given | {"attention_mask": real}), (q, k, v))
    assert torch.equal(attend(describe(**given), (q, k, v)), wanted)


@pytest.mark.parametrize("padding", ["none", "left"])
def test_any_strides_and_head_dimensions(padding):
    mask, _ = made("causal", padding)
    q, k, v = inputs(grad=True)
    wanted = attend(mask, (q, k, v))
    strided = [t.transpose(-1, -2).contiguous().transpose(-1, -2) for t in (q, k, v)]
    assert strided[0].stride(-1) != 1
    torch.testing.assert_close(attend(mask, strided), wanted)
    narrow = attend(mask, (q, k, v[..., :12]))
    assert narrow.shape[-1] == 12 and narrow.is_contiguous()
    torch.testing.assert_close(narrow, wanted[..., :12])
    torch.testing.assert_close(
        attend(mask, (q[..., :8], k[..., :8], v)), attend(mask, (q[..., :8], k[..., :8], v), scaling=8**-0.5)
    )
    gradients = torch.autograd.grad(attend(mask, strided).square().sum(), (q, k, v))
    for got, want in zip(gradients, torch.autograd.grad(wanted.square().sum(), (q, k, v)), strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("padding", ["none", "left"])
def test_keys_that_the_model_chose(padding):
    """An indexer's keys or blocks of keys, -1 for none, and the mask both restrict."""
    mask, wanted = made("causal", padding)
    q, k, v = inputs()
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randperm(TOKENS, generator=generator)[:6] for _ in range(BATCH * TOKENS)])
    indices = indices.view(BATCH, TOKENS, 6)
    indices[:, :, -1] = -1
    chosen = (indices[..., None] == torch.arange(TOKENS)).any(2)[:, None]
    for given in (mask, None):
        base = wanted == 0 if given is mask else torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
        kept = (chosen & base).expand(BATCH, 4, -1, -1)
        want, _ = reference_attention(q, k, v, ElementMask(kept))
        torch.testing.assert_close(attend(given, (q, k, v), indices=indices.int()), want.transpose(1, 2))

    module = Attention()
    module.indexer = nn.Module()
    module.indexer.block_size = 5
    blocks = torch.randint(-1, 3, (BATCH, 2, TOKENS, 2), generator=generator)
    chosen = (blocks[..., None] == torch.arange(TOKENS) // 5).any(3).repeat_interleave(2, 1)
    want, _ = reference_attention(q, k, v, ElementMask(chosen & (wanted == 0)))
    got, _ = splash_attention_forward(module, q, k, v, mask, block_indices=blocks)
    torch.testing.assert_close(got, want.transpose(1, 2))


def test_a_sink_a_query_is_refused():
    with pytest.raises(ValueError, match="sinks: "):
        attend(None, inputs(), sinks=torch.zeros(BATCH, 4, TOKENS, 1))


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    """Masks go into autograd functions of torch, by position."""
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    torch.manual_seed(0)
    config = BertConfig(num_attention_heads=2, hidden_dropout_prob=0, attention_probs_dropout_prob=0, **sizes)
    model = BertModel(config, add_pooling_layer=False).train()
    gradients = []
    for implementation in ("eager", "splash"):
        model.set_attn_implementation(implementation)
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        model.zero_grad()
        real = prompt()["attention_mask"].bool()
        model(**prompt()).last_hidden_state[real].square().sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 20
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-4)


@pytest.fixture
def llama():
    sizes = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = LlamaConfig(num_attention_heads=2, max_position_embeddings=64, **sizes)
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


def prompt():
    ids = torch.arange(14).view(2, 7) + 3
    return {"input_ids": ids, "attention_mask": (torch.arange(7) >= torch.tensor([[0], [3]])).long()}


def test_generation_is_compiled_once(llama):
    """The compiled step takes a mask from outside, a new one each time."""
    compile_config = CompileConfig(backend="eager", fullgraph=True, mode=None)
    compile_config._compile_all_devices = True
    given = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "cache_implementation": "static"}
    wanted = llama.generate(**prompt(), **given, disable_compile=True)
    llama.set_attn_implementation("splash")
    torch._dynamo.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):
        got = llama.generate(**prompt(), **given, compile_config=compile_config)
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("several", [False, True])
def test_export_with_a_static_cache(llama, several):
    """The exporter cuts masks out of generate() and exports them as tensors."""
    llama.set_attn_implementation("splash")
    generation = GenerationConfig(cache_implementation="static", max_cache_len=16, use_cache=True, disable_compile=True)
    parts = decompose_for_generation(llama, prompt(), generation_config=generation, multi_token_decode=several)
    model, given = parts["decode"]
    with torch.no_grad():
        wanted = model(**copy.deepcopy(given)).logits
        cache = copy.deepcopy(given["past_key_values"])
        exported = DynamoExporter().export(model, given, config=DynamoConfig())
        got = exported(**given | {"past_key_values": cache})
    torch.testing.assert_close(got["logits"], wanted)


def test_a_mask_without_its_maker_has_no_tensor():
    with pytest.raises(TypeError, match="attention_mask"):
        Mask((1, 1, 2, 2), Full(), 0) + 1
