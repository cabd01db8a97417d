"""One small model of each kind that needs more than a causal or padded mask, through the steps of the sweep."""

import subprocess
import sys

import pytest

if sys.version_info < (3, 11):
    pytest.skip("transformers 5.23 needs Python 3.11", allow_module_level=True)


import sweep_transformers as sweep
import transformers

pytestmark = pytest.mark.usefixtures("one_thread")

FORWARD = ("forward", "right", "left", "gradient")
GENERATION = ("forward", "left", "generate", "left static", "uncached")
MODELS = {
    "BertLMHeadModel": GENERATION,  # a mask of one key while its cache grows
    "BigBirdPegasusForConditionalGeneration": ("forward", "right"),  # adds its mask itself
    "BloomForCausalLM": GENERATION,  # attention of its own, and the mask added there
    "BridgeTowerModel": ("forward", "gradient"),  # one row for all queries, and causal layers without a mask
    "DeepseekV32Model": ("forward", "right"),  # slices the mask, and chooses keys itself
    "DeepseekV4ForCausalLM": ("forward",),  # makes the mask longer
    "DiffusionGemmaModel": ("forward", "gradient"),  # a window without a mask and without causality
    "Florence2VisionBackbone": ("forward", "gradient"),  # strides
    "Gemma4ForCausalLM": GENERATION,  # slices rows off the mask
    "GitForCausalLM": ("forward", "left", "generate", "uncached"),  # knows eager's classes alone
    "InformerModel": ("forward", "gradient"),  # sequences that get shorter under one mask
    "MiniMaxM3VLForCausalLM": ("forward", "generate"),  # chooses blocks of keys itself
    "MusicgenForCausalLM": ("forward",),  # rows for codebooks
    "NllbMoeModel": ("forward", "right"),  # reads padding out of the mask
    "Qwen2MoeForCausalLM": GENERATION,  # a window of 0
    "Siglip2VisionModel": ("forward", "gradient"),  # repeats the mask for another attention
    "AXK1Model": ("forward", "gradient"),  # values narrower than keys
}


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_eager(name):
    cls = getattr(transformers, name)
    eager, splash, given = sweep.build(cls)
    for step in MODELS[name]:
        sweep.step(step, cls, eager, splash, given)


def test_refusals_name_the_argument():
    for name, text in (("T5Model", "position_bias"), ("Gemma2Model", "softcap")):
        cls = getattr(transformers, name)
        eager, splash, given = sweep.build(cls)
        with pytest.raises(ValueError, match=text) as error:
            sweep.step("forward", cls, eager, splash, given)
        assert sweep.outcome(error.value)[0] == "refused"


def test_the_sweep_itself(tmp_path, monkeypatch):
    """It limits its process, so it gets one of its own. A complete log gives the same table again."""
    log, table = tmp_path / "log.jsonl", tmp_path / "table.csv"
    command = [sweep.__file__, "--classes", "^BertModel$", "--log", str(log), "--write", str(table)]
    subprocess.run([sys.executable, *command], check=True, capture_output=True, timeout=300)
    lines = table.read_text().splitlines()
    assert lines[0] == "class,step,result,reason"
    assert lines[1:] == [f"BertModel,{step},agrees," for step in sorted(FORWARD)]
    records = log.read_text()
    table.unlink()
    monkeypatch.setattr(sys, "argv", command)
    sweep.main()
    assert (table.read_text().splitlines(), log.read_text()) == (lines, records)
