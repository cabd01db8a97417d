"""The demo as a whole: train, compare, survey patterns and normalizers, draw, and say whether everything agreed."""

from __future__ import annotations

import time
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from splash_attention import NoKernelError

from .. import corpus, measure
from . import cuda, figures, maps, survey, survey_figures, survey_table
from .training import Pair, train
from .variants import VARIANTS

BATCH, LENGTH = 4, 256
MAP_LENGTH = 96

# Both models start equal, so their first losses differ by rounding alone. Later every rounding difference has gone
# through all steps before it.
FIRST_TOLERANCE = 1e-5
TOLERANCE = 0.02


def run(text: Path | None, steps: int, seed: int, length: int | None, output: Path, console: Console) -> bool:
    """Runs the demo and prints what it found; True where all losses and checks lie within their tolerances.

    length: of the sequences in the table of patterns and normalizers, None for one that suits the device.
    """
    begin = time.perf_counter()
    source = corpus.load(text, at_least=2 * LENGTH)
    batches = source.batches(steps, BATCH, LENGTH, seed)
    console.print(f"Text: {source.name} ({len(source.data):,} bytes)", highlight=False)
    console.print(
        f"Model: 2 layers, 2 heads of 64, {LENGTH} bytes of context, {steps} steps of {BATCH} sequences, seed {seed}. "
        "Each kind of attention is trained twice from equal weights: on splash (float32) and on the dense float64 "
        "reference.",
        highlight=False,
    )
    device = torch.device("cuda") if torch.cuda.is_available() else None
    console.print(_training_device(device), highlight=False)

    pairs = _train(batches, seed, console)
    found, calls = {}, {}
    for variant in VARIANTS:
        model = pairs[variant.name].splash.model
        kept = variant.pattern.to_dense(MAP_LENGTH, MAP_LENGTH)[0, 0]
        found[variant.name] = maps.collect(model, variant.splash, batches[0, :1, :MAP_LENGTH], kept)
        calls[variant.name] = maps.record_calls(model, variant.splash, batches[0, :, :-1])[0]
    agreed = _print_losses(pairs, found, console)
    if device is not None:
        try:
            agreed &= _print_cuda(cuda.check_forward(calls, device), console)
        except NoKernelError as error:
            console.print(f"No forward on {torch.cuda.get_device_name(device)}: {error}", highlight=False)

    device = measure.pick_device("auto")
    sizes = survey.sizes_for(device, length)
    entries = survey_table.run(survey.problems(sizes, seed), device, "patterns and normalizers", console)
    windows = survey_table.run(survey.windows(sizes, seed), device, "causal windows", console)
    agreed &= survey_table.show(entries, windows, device, console)

    output.mkdir(parents=True, exist_ok=True)
    figures.draw_losses(pairs, TOLERANCE, output / "losses.png")
    figures.draw_maps(found, output / "attention_maps.png")
    survey_figures.draw_patterns(output / "patterns.png")
    survey_figures.draw_speedups(entries, windows, output / "speedup.png")
    for name in ("losses.png", "attention_maps.png", "patterns.png", "speedup.png"):
        console.print(f"Wrote {output / name}", highlight=False, soft_wrap=True)
    console.print(f"{time.perf_counter() - begin:.0f} s in all", highlight=False)
    return agreed


def _training_device(device: torch.device | None) -> str:
    threads = "CPU, one thread"
    if device is None:
        return (
            f"Device: {threads} for the training, {torch.get_num_threads()} for the table. No CUDA device is visible."
        )
    name = torch.cuda.get_device_name(device)
    reason = cuda.missing_backward(device)
    if reason is None:
        return f"Device: training on the {threads}, in float32; the forward is checked on {name} afterwards."
    return (
        f"Device: {name}, but its backward is not compiled into this build ({reason}). "
        f"So training runs on the {threads}, and the forward is checked on {name} afterwards."
    )


def _train(batches: torch.Tensor, seed: int, console: Console) -> dict[str, Pair]:
    columns = (
        TextColumn("{task.description:15}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}, difference {task.fields[difference]:.1e}"),
        TimeElapsedColumn(),
    )
    pairs = {}
    with Progress(*columns, console=console) as progress:
        for variant in VARIANTS:
            task = progress.add_task(variant.name, total=len(batches), loss=float("nan"), difference=0.0)

            def advance(pair: Pair, task=task):
                loss = pair.splash.losses[-1]
                progress.update(task, advance=1, loss=loss, difference=abs(loss - pair.reference.losses[-1]))

            pairs[variant.name] = train(batches, variant.splash, variant.reference, seed, advance)
    return pairs


def _print_losses(pairs: dict[str, Pair], found: dict[str, maps.Weights], console: Console) -> bool:
    steps = len(next(iter(pairs.values())).splash.losses)
    table = Table(title="Losses (nats a byte): splash / reference")
    table.add_column("step", justify="right")
    for name in pairs:
        table.add_column(name, justify="right")
    for step in sorted({round(n * (steps - 1) / 5) for n in range(6)}):
        cells = (f"{pair.splash.losses[step]:.4f} / {pair.reference.losses[step]:.4f}" for pair in pairs.values())
        table.add_row(str(step), *cells)
    table.add_section()
    table.add_row("max |difference|", *(f"{max(pair.differences()):.1e}" for pair in pairs.values()))
    table.add_row("exact zeros", *(f"{weights.zero_share():.1%} of kept" for weights in found.values()))
    table.add_row("seconds", *(f"{pair.splash.seconds:.1f} / {pair.reference.seconds:.1f}" for pair in pairs.values()))
    console.print(table)

    # `not <=` rather than `>`: a NaN must count as a deviation.
    deviating = [
        name
        for name, pair in pairs.items()
        if not (pair.differences()[0] <= FIRST_TOLERANCE and all(d <= TOLERANCE for d in pair.differences()))
    ]
    limits = f"{FIRST_TOLERANCE:g} at the first step, {TOLERANCE:g} at the others"
    if deviating:
        console.print(f"[red]Losses deviate beyond the tolerance ({limits}): {', '.join(deviating)}[/red]")
    else:
        console.print(f"[green]The losses agree[/green] within the tolerance ({limits}).")
    return not deviating


def _print_cuda(checks: list[cuda.Check], console: Console) -> bool:
    table = Table(title="Forward on the CUDA device against the float64 reference, on the trained model's q, k, v")
    for header in ("attention", "dtype", "largest error", "allowed", ""):
        table.add_column(header, justify="left" if header == "attention" else "right")
    for check in checks:
        verdict = "[green]ok[/green]" if check.passed else "[red]deviates[/red]"
        dtype = str(check.dtype).removeprefix("torch.")
        table.add_row(check.variant.name, dtype, f"{check.error:.1e}", f"{check.allowed:.1e}", verdict)
    console.print(table)
    return all(check.passed for check in checks)
