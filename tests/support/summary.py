"""What the test suite says at its end: shares of error bounds, and what did not run. Workers hand in theirs."""

import re
from dataclasses import astuple, dataclass, replace


@dataclass(frozen=True)
class Worst:
    """The largest share of an error bound that a quantity took on a device, and the test that took it."""

    share: float
    error: float
    test: str
    count: int = 1

    def joined(self, other):
        """The worse of both, counted together."""
        return replace(max(self, other, key=lambda worst: worst.share), count=self.count + other.count)


class Summary:
    def __init__(self):
        self.worst = {}  # of (device, quantity)
        self.features = {}  # of (device, feature of the problem)
        self.missing = {}  # packages, by the name of the file that needs them
        self.counts = {}  # tests that were found, that a short run chooses, and that need a GPU which is not there

    def record(self, device, quantity, features, entry):
        keep(self.worst, (device, quantity), entry)
        for feature in features:
            keep(self.features, (device, feature), entry)

    def packed(self):
        """Of built-in types, for the channel between processes."""
        worst, features = ([(*key, *astuple(entry)) for key, entry in t.items()] for t in (self.worst, self.features))
        return {"worst": worst, "features": features, "missing": self.missing, "counts": self.counts}

    def join(self, packed):
        """Takes in what another process found in tests of its own, in the same files."""
        for table, entries in ((self.worst, packed["worst"]), (self.features, packed["features"])):
            for device, name, *entry in entries:
                keep(table, (device, name), Worst(*entry))
        self.missing |= packed["missing"]
        self.counts |= packed["counts"]

    def sections(self):
        """Pairs: a title, or none, and lines."""
        for title, found, width in (
            ("largest share of the error bound", self.worst, 10),
            ("comparisons by feature", self.features, 28),
        ):
            table = sorted(found.items(), key=lambda item: natural(" ".join(item[0])))
            if table:
                yield title, [f"{device:5} {name:{width}} {told(entry)}" for (device, name), entry in table]
        need = "missing, which the extras demo and test bring"
        yield None, [f"{name} not run: {', '.join(packages)} {need}" for name, packages in self.missing.items()]
        if self.counts.get("gpu"):
            yield None, [f"{self.counts['gpu']} GPU tests not run: no CUDA device"]
        if "chosen" in self.counts:
            text = "{chosen} of {found} tests chosen, of every function and value of a parameter; all of them: --all"
            yield None, [text.format(**self.counts)]


def keep(table, key, entry):
    table[key] = table[key].joined(entry) if key in table else entry


def told(entry):
    return f"{entry.count:6} compared, {entry.share:.3f} (error {entry.error:.2e}) {entry.test}"


def natural(text):
    """Sorts numbers inside of texts by their size."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]
