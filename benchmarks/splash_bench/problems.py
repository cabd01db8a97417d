"""What is measured: a family with its numbers, sizes, a normalizer."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .choices import Choice
from .families import Family
from .sizes import Sizes

INPUTS = ("iid1", "iid4", "local")


@dataclass(frozen=True)
class Problem:
    """inputs: of INPUTS. name: what rows call it. named: whether `bench run` knows that name."""

    family: Family
    numbers: dict[str, object]
    sizes: Sizes
    normalizer: Choice
    inputs: str = "iid1"
    seed: int = 0
    name: str = field(default="")
    named: bool = False

    def __post_init__(self):
        if self.inputs not in INPUTS:
            raise ValueError(f"inputs: expected one of {', '.join(INPUTS)}, got {self.inputs!r}")
        if not self.name:
            object.__setattr__(self, "name", f"{self.label} {self.sizes}")

    @property
    def label(self) -> str:
        """The name without sizes."""
        numbers = (f"{name.replace('_', '-')}={_text(value)}" for name, value in self.numbers.items())
        normalizer = [] if self.normalizer.name == "softmax" else [self.normalizer.label]
        return " ".join([self.family.name, *numbers, *normalizer])

    def with_sizes(self, **sizes: int) -> Problem:
        """The same at other sizes, without the name."""
        return replace(self, sizes=replace(self.sizes, **sizes), name="", named=False)

    def words(self) -> list[str]:
        """The words of the command line that ask for this problem."""
        if self.named:
            seed = ["--seed", str(self.seed)] if self.seed else []
            return ["run", self.name, "--dtype", self.sizes.dtype, *seed]
        return [self.family.name, *self.options()]

    def options(self) -> list[str]:
        """All of its options, without the family."""
        words = self.sizes.words()
        for name, value in self.numbers.items():
            words += option_words(name, value)
        words += self.normalizer.words()
        if self.inputs != "iid1":
            words += ["--inputs", self.inputs]
        return [*words, "--seed", str(self.seed)]


def option_words(name: str, value: object) -> list[str]:
    """An option with its value, as the command line takes it."""
    option = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{option}" if value else f"--no-{option}"]
    if isinstance(value, (list, tuple)):
        return [word for item in value for word in (f"--{option}", str(item))]
    return [f"--{option}", str(value)]


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
