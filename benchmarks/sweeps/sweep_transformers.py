"""Runs small models of every class of Hugging Face transformers on splash and compares with eager.

    python benchmarks/sweeps/sweep_transformers.py [--classes REGEX] [--write benchmarks/sweeps/transformers.csv]

Each class is built twice with the same weights, attn_implementation "eager" and "splash", in float32 on the CPU, and
goes through the steps of `STEPS`. A line a class and step says: agrees; refused, with splash's reason; or breaks, with
the error. What eager cannot do, and classes without a small configuration, are left out and counted at the end.

Each module of transformers runs in a process of its own. Lines are added to LOG as they come, and a second run with the
same LOG goes on where the first one ended.
"""

from __future__ import annotations

import argparse
import copy
import csv
import inspect
import json
import logging
import os
import random
import re
import resource
import signal
import sys
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
import transformers
import transformers.generation
from transformers_models import BATCH, candidates, classes, shrunk, weights

import splash_attention
import splash_attention.integrations.transformers

MOST_PARAMETERS, MOST_BYTES = 70_000_000, 8 << 30
SECONDS_A_STEP, SECONDS_A_MODULE = 8, 300  # of processor time
TOLERANCE = 2e-4
STEPS = ("forward", "right", "left", "gradient", "generate", "static", "uncached", "left generate", "left static")
REASONS = r"dropout|softcap|position_bias|output_attentions|head_mask|cache|attention_mask: a 4D mask that is added"
PACKAGE = str(Path(splash_attention.__file__).parent)


class Unfit(Exception):
    """What eager cannot do either."""


class TooLong(BaseException):
    pass


def build(cls: type) -> tuple[Any, Any, dict[str, Any]]:
    """The class on eager and on splash, and inputs that eager takes."""
    failures = []
    for config in shrunk(cls):
        try:
            with torch.device("meta"):
                size = sum(p.numel() for p in make(cls, config, "eager").parameters())
        except Exception as error:
            failures.append(line(error))
            continue
        if size > MOST_PARAMETERS:
            failures.append(f"{size} parameters")
            continue
        try:
            eager = make(cls, config, "eager")
        except Exception as error:
            failures.append(line(error))
            continue
        weights(eager)
        for given in candidates(eager):
            try:
                given, _ = with_images(eager, given)
            except Exception as error:
                failures.append(line(error))
                continue
            splash = make(cls, config, "splash")
            splash.load_state_dict(eager.state_dict(), strict=False)
            return eager.eval(), splash.eval(), given
    raise Unfit(" | ".join(dict.fromkeys(failures)) or "no configuration")


def make(cls: type, config: Any, implementation: str) -> Any:
    seed()
    config = type(config).from_dict(config.to_dict())
    try:
        return cls._from_config(config, attn_implementation=implementation)
    except KeyError as error:  # some modules know the classes of two or three implementations
        if error.args != ("splash",):
            raise
    model = cls._from_config(config, attn_implementation="eager")
    model.set_attn_implementation(implementation)
    return model


def seed() -> None:
    """Of all that models draw from: SpecAugment masks by numpy."""
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def with_images(model: Any, given: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """The inputs with as many image tokens as the model says it wants."""
    given = dict(given)
    token, _ = given.pop("_image_token", None), given.pop("_count", None)
    if token is None:
        return given, run(model.eval(), given)
    words, count = given["input_ids"], 4
    for _ in range(3):
        image = torch.full((BATCH, count), token)
        given["input_ids"] = torch.cat((words[:, :5], image, words[:, 5:]), 1)
        try:
            return given, run(model.eval(), given)
        except Exception as error:
            found = re.search(r"tokens?:? ?(\d+).{0,40}features:? ?(\d+)", str(error))
            if found is None or int(found[2]) % BATCH or int(found[2]) > 1000 or int(found[2]) == 0:
                raise
            count = int(found[2]) // BATCH
    raise Unfit("image tokens")


def run(model: Any, given: dict[str, Any]) -> dict[str, torch.Tensor]:
    seed()
    with torch.no_grad():
        return tensors(model(**clone(given, model)))


def clone(given: dict[str, Any], model: Any) -> dict[str, Any]:
    """Inputs that the model may write into, in its dtype."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    copied = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in given.items()}
    return {
        name: v.to(dtype) if isinstance(v, torch.Tensor) and v.is_floating_point() else v for name, v in copied.items()
    }


def tensors(out: Any, name: str = "", depth: int = 0) -> dict[str, torch.Tensor]:
    """All floating-point tensors of an output by their names; caches left out."""
    if isinstance(out, torch.Tensor):
        return {name: out} if out.is_floating_point() else {}
    if hasattr(out, "items"):
        pairs = [(str(key), value) for key, value in out.items()]
    elif isinstance(out, (tuple, list)):
        pairs = [(str(n), value) for n, value in enumerate(out)]
    else:
        return {}
    found: dict[str, torch.Tensor] = {}
    for key, value in pairs:
        if depth < 3 and "past_key_values" not in key and "attentions" not in key:
            found |= tensors(value, f"{name}.{key}" if name else key, depth + 1)
    return found


def compare(wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor], fixed: dict | None = None) -> None:
    """fixed: for each output, which vectors count."""
    if wanted.keys() != got.keys():
        raise AssertionError(f"outputs {sorted(got)} where eager has {sorted(wanted)}")
    for name, tensor in wanted.items():
        other = got[name]
        if tensor.shape != other.shape:
            raise AssertionError(f"{name}: shape {tuple(other.shape)} where eager has {tuple(tensor.shape)}")
        tensor, other = tensor.double(), other.double()
        if fixed is not None:
            keep = fixed[name]
            tensor, other = tensor[keep], other[keep]
        if not tensor.numel():
            continue
        same = (tensor == other) | (tensor.isnan() & other.isnan())
        finite = tensor[tensor.isfinite() & (tensor.abs() < 1e30)]
        most = finite.abs().max().item() if finite.numel() else 1.0
        error = torch.where(same, 0, tensor - other).abs().max().item()
        if not error <= TOLERANCE * max(most, 1e-3):
            raise AssertionError(f"{name}: error {error:.1e} where values reach {most:.1e}")


def padded(given: dict[str, Any], names: Any, side: str) -> tuple[dict, dict, torch.Tensor]:
    """The inputs with the second sequence padded, the same with other tokens in the padding, and which are real."""
    for name in ("input_ids", "input_values", "input_features"):
        if name in given:
            break
    else:
        raise Unfit("nothing to pad")
    if "attention_mask" not in names:
        raise Unfit("takes no attention_mask")
    tokens = given[name]
    length = tokens.shape[1] if name != "input_features" else tokens.shape[-1]
    if name == "input_ids" and tokens.dim() != 2:
        raise Unfit("nothing to pad")
    cut = 4 if name == "input_ids" else length // 3
    if name != "input_ids" and side == "left":
        raise Unfit("sounds are padded on the right")
    real = torch.ones(BATCH, length, dtype=torch.long)
    real[1, slice(0, cut) if side == "left" else slice(length - cut, None)] = 0
    other = tokens.clone()
    if name == "input_ids":
        kept = real.repeat_interleave(tokens.shape[0] // BATCH, 0).bool()
        other = torch.where(kept, tokens, torch.where(tokens > 7, tokens - 1, tokens + 1))
    elif tokens.dim() == 2:
        other = torch.where(real.bool(), tokens, -tokens)
    given = given | {"attention_mask": real}
    return given, given | {name: other}, real


def step(name: str, cls: type, eager: Any, splash: Any, given: dict[str, Any]) -> str:
    names = inspect.signature(eager.forward).parameters
    if name in ("forward", "right", "left"):
        fixed = None
        if name == "forward":
            wanted = attempt(lambda: run(eager, given))
        else:
            given, other, real = padded(given, names, name)
            wanted, again = attempt(lambda: (run(eager, given), run(eager, other)))
            fixed = {key: unchanged(tensor, again[key], real) for key, tensor in wanted.items()}
        return settle(eager, lambda m: run(m, given), wanted, splash, lambda a, b: compare(a, b, fixed))
    elif name == "gradient":
        wanted = attempt(lambda: gradients(eager, given))
        return settle(eager, lambda m: gradients(m, given), wanted, splash, compare_gradients)
    else:
        if not eager.can_generate():
            raise Unfit("does not generate")
        if name.startswith("left"):
            given, _, _ = padded(given, names, "left")
        wanted = attempt(lambda: generated(eager, given, name))
        return settle(eager, lambda m: generated(m, given, name), wanted, splash, compare)


def settle(eager: Any, call: Any, wanted: Any, splash: Any, compare: Any) -> str:
    """Compares; where float32 differs, float64 decides, or whether rounding of its weights changes eager as much.

    Where eager itself is at odds with sdpa (it adds bool masks as numbers), sdpa decides, and the result says so.
    """
    try:
        compare(wanted, call(splash))
    except AssertionError:
        try:
            compare(call(eager.double()), call(splash.double()))
            return ""
        except Exception as error:  # models that want float32 say so
            logging.debug(error)
        finally:
            eager.float(), splash.float()
        generator = torch.Generator().manual_seed(1)
        before = {name: p.data.clone() for name, p in eager.named_parameters()}
        for parameter in eager.parameters():
            if parameter.is_floating_point():
                parameter.data *= 1 + 1e-6 * torch.randn(parameter.shape, generator=generator)
        try:
            compare(wanted, attempt(lambda: call(eager)))
        except AssertionError as error:
            raise Unfit("rounding alone changes what eager gives") from error
        finally:
            for name, parameter in eager.named_parameters():
                parameter.data.copy_(before[name])
        sdpa = copy.deepcopy(splash)
        sdpa.config._attn_implementation = "sdpa"
        compare(call(sdpa), call(splash))
        return "with sdpa, which differs from eager"
    return ""


def unchanged(first: torch.Tensor, second: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Which vectors of an output do not depend on what the padded tokens are."""
    close = torch.isclose(first, second, rtol=1e-4, atol=1e-5, equal_nan=True)
    if first.dim() > 2:
        close = close & close.all(-1, keepdim=True)
    if first.shape[:2] == real.shape:
        close = close & real.bool().view(*real.shape, *[1] * (first.dim() - 2))
    elif first.dim() > 2 and first.shape[0] == BATCH:
        close = close & close.flatten(1).all(1).view(BATCH, *[1] * (first.dim() - 1)) | (close & (first.dim() > 3))
    return close


def attempt(call: Any) -> Any:
    try:
        return call()
    except Unfit:
        raise
    except Exception as error:
        raise Unfit(f"eager: {line(error)}") from error


def gradients(model: Any, given: dict[str, Any]) -> dict[str, torch.Tensor]:
    """In training mode, of a sum of all outputs with changing signs."""
    model.zero_grad()
    model.train()
    seed()
    try:
        out = tensors(model(**clone(given, model)))
    finally:
        model.eval()
    total = 0.0
    for tensor in out.values():
        if tensor.requires_grad:
            finite = torch.where(tensor.isfinite() & (tensor.abs() < 1e9), tensor, 0)
            total = total + (finite * torch.linspace(-1, 1, finite.numel()).view(finite.shape)).mean()
    if isinstance(total, float):
        raise Unfit("no output with a gradient")
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def compare_gradients(wanted: dict[str, torch.Tensor], got: dict[str, torch.Tensor]) -> None:
    most = max(tensor.abs().max().item() for tensor in wanted.values() if tensor.numel())
    for name in wanted.keys() | got.keys():
        first = wanted.get(name)
        second = got.get(name)
        first = torch.zeros_like(second) if first is None else first
        second = torch.zeros_like(first) if second is None else second
        if not first.numel():
            continue
        error = (first - second).abs().max().item()
        bar = 2e-3 * first.abs().max().item() + 2e-5 * most
        if not error <= bar and not (first.isnan().any() and second.isnan().any()):
            raise AssertionError(f"gradient of {name}: error {error:.1e} where values reach {first.abs().max():.1e}")


def generated(model: Any, given: dict[str, Any], name: str) -> dict[str, torch.Tensor]:
    options: dict[str, Any] = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 1}
    options |= {"disable_compile": True, "output_logits": True, "return_dict_in_generate": True}
    if "static" in name:
        options["cache_implementation"] = "static"
    if name == "uncached":
        options["use_cache"] = False
    given = {key: value for key, value in clone(given, model).items() if key != "decoder_input_ids"}
    seed()
    with torch.no_grad():
        out = model.generate(**given, **options)
    if isinstance(out, torch.Tensor):
        return {"sequences": out.double()}
    logits = getattr(out, "logits", None) or ()
    found = {f"logits.{n}": tensor for n, tensor in enumerate(logits) if isinstance(tensor, torch.Tensor)}
    sequences = out.sequences if hasattr(out, "sequences") else out[0]
    return {"sequences": sequences.double()} | found


def line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def outcome(error: Exception) -> tuple[str, str]:
    inside = traceback.extract_tb(error.__traceback__)[-1].filename.startswith(PACKAGE)
    if inside and isinstance(error, (ValueError, TypeError, NotImplementedError)) and re.match(REASONS, str(error)):
        return "refused", " ".join(str(error).split())
    return "breaks", line(error)


def raise_too_long(*_: Any) -> None:
    raise TooLong


def in_a_process(module: str, names: list[str], log: Path, done: set[tuple[str, str]]) -> None:
    """sweep() where its limits of memory and time hold for nobody else."""
    child = os.fork()
    if child == 0:
        with open(os.devnull, "w") as null:
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        try:
            sweep(module, names, log, done)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def sweep(module: str, names: list[str], log: Path, done: set[tuple[str, str]]) -> None:
    """Every class of one module of transformers. The process is bound by limits from here on."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGPROF, raise_too_long)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS_A_MODULE, SECONDS_A_MODULE))

    def write(name: str, part: str, result: str, text: str = "", trace: str = "") -> None:
        with log.open("a") as file:
            record = {"class": name, "step": part, "result": result, "text": text, "trace": trace}
            file.write(json.dumps(record) + "\n")

    for name in names:
        if (name, "built") in done:
            continue
        write(name, "started", "started")
        signal.setitimer(signal.ITIMER_PROF, SECONDS_A_STEP)
        try:
            cls = getattr(transformers, name)
            if not (inspect.isclass(cls) and issubclass(cls, transformers.PreTrainedModel) and cls.config_class):
                write(name, "built", "no model")
                continue
            eager, splash, given = build(cls)
        except TooLong:
            write(name, "built", "too long")
            continue
        except BaseException as error:
            write(name, "built", "unfit", line(error))
            continue
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        for part in STEPS:
            signal.setitimer(signal.ITIMER_PROF, SECONDS_A_STEP)
            try:
                result = ("agrees", step(part, cls, eager, splash, given), "")
            except TooLong:
                result = ("too long", "", "")
            except Unfit as error:
                result = ("unfit", str(error), "")
            except Exception as error:
                frames = traceback.extract_tb(error.__traceback__)[-4:]
                trace = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames))
                result = (*outcome(error), trace)
            finally:
                signal.setitimer(signal.ITIMER_PROF, 0)
            write(name, part, *result)
        write(name, "built", "built", ",".join(given))


def read(log: Path) -> list[dict[str, str]]:
    return [json.loads(text) for text in log.read_text().splitlines()] if log.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default="", help="a regular expression that class names match")
    parser.add_argument("--log", type=Path, default=Path("build/transformers_sweep.jsonl"))
    parser.add_argument("--shard", type=int, default=0, help="which part of the modules, of --shards of them")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--again", action="store_true", help="run classes that break once more")
    parser.add_argument("--write", type=Path, help="the CSV file with the results")
    given = parser.parse_args()
    given.log.parent.mkdir(parents=True, exist_ok=True)
    if given.again:
        forget(given.log)
    by_module: dict[str, list[str]] = {}
    for module, name in classes():
        if re.search(given.classes, name):
            by_module.setdefault(module, []).append(name)
    modules = list(by_module.items())[given.shard :: given.shards]
    firsts = [(module, sorted(names, key=_rank)[:count]) for count in (1, 2) for module, names in modules]
    for module, names in firsts + modules:
        for _ in range(len(names) + 1):  # again without a class that ended its process
            records = read(given.log)
            done = {(r["class"], r["step"]) for r in records}
            started = {name for name, part in done if part == "started"}
            left = [name for name in names if name not in started]
            if not left:
                break
            in_a_process(module, left, given.log, done)
    report(read(given.log), given.write)


def _rank(name: str) -> int:
    """Models that generate, then models without a head."""
    kinds = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "Model")
    return next((n for n, kind in enumerate(kinds) if name.endswith(kind)), len(kinds))


def forget(log: Path) -> None:
    """Takes out of LOG what breaks or ended early."""
    records = read(log)
    built = {r["class"] for r in records if r["step"] == "built" and r["result"] != "too long"}
    broken = {r["class"] for r in records if r["result"] in ("breaks", "too long") or r["class"] not in built}
    log.write_text("".join(json.dumps(r) + "\n" for r in records if r["class"] not in broken))


def report(records: list[dict[str, str]], write: Path | None) -> None:
    lines = [r for r in records if r["step"] in STEPS and r["result"] in ("agrees", "refused", "breaks")]
    lines = sorted({(r["class"], r["step"]): r for r in lines}.values(), key=lambda r: (r["class"], r["step"]))
    counts = Counter(r["result"] for r in lines)
    print(f"{len({r['class'] for r in lines})} classes, {len(lines)} steps: {dict(counts)}")
    for result in ("refused", "breaks"):
        for text, count in Counter(r["text"] for r in lines if r["result"] == result).most_common(40):
            print(f"  {count:5} {result}: {text}")
    built = {r["class"]: r for r in records if r["step"] == "built"}
    print(dict(Counter(r["result"] for r in built.values())))
    if write:
        with write.open("w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            table.writerow(("class", "step", "result", "reason"))
            table.writerows((r["class"], r["step"], r["result"], r["text"]) for r in lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    transformers.logging.set_verbosity(transformers.logging.CRITICAL)
    sys.exit(main())
