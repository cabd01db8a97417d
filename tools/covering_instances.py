"""A table of kernels that a slow machine compiles in the time it has, and that leaves nothing of the whole one untried.

python tools/covering_instances.py FILE    writes it; the rule: for each pass of an architecture every pattern, every
                                           normalizer, every dtype, every head dimension and every span of the whole
                                           table once at least, and every normalizer with each of its spans and
                                           head dimensions
The CPU's instances and those of any GPU stay as they are.
"""

import itertools
import json
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "kernels" / "instances.json"
PLAIN = ("cpu", "cuda")


def listed(value):
    return value if isinstance(value, list) else [value]


def expand(row):
    """The instances that a row of the table stands for."""
    for values in itertools.product(*(listed(value) for value in row.values())):
        yield dict(zip(row, values, strict=True))


def wants(instance):
    """What an instance shows to compile."""
    where = (instance["arch"], instance["pass"])
    fields = ("pattern", "normalizer", "dtype", "head_dim", "span")
    return {(*where, field, instance[field]) for field in fields} | {
        (*where, instance["normalizer"], other, instance[other]) for other in ("head_dim", "span")
    }


def cover(table):
    """The table with as few instances of architectures as a greedy choice takes."""
    kept, instances = [], []
    for row in table["instances"]:
        if set(listed(row["arch"])) <= set(PLAIN):
            kept.append(row)
        else:
            instances.extend(expand(row))
    missing = set().union(*map(wants, instances)) if instances else set()
    while missing:
        best = max(instances, key=lambda instance: len(wants(instance) & missing))
        missing -= wants(best)
        kept.append(best)
    return {**table, "instances": kept}


def main(file: Annotated[Path, typer.Argument(help="Where the table goes.")]):
    table = json.loads(TABLE.read_text())
    covering = cover(table)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(covering, indent=1))
    whole = sum(1 for row in table["instances"] for _ in expand(row))
    print(f"{file}: {sum(1 for row in covering['instances'] for _ in expand(row))} of {whole} instances")


if __name__ == "__main__":
    typer.run(main)
