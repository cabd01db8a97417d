"""The table that slow machines compile shows what the whole one does."""

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_nothing_is_left_out():
    import covering_instances as tool

    table = json.loads((ROOT / "kernels" / "instances.json").read_text())
    covering = tool.cover(table)
    of_gpu = [row for row in table["instances"] if row["arch"] not in tool.PLAIN and not isinstance(row["arch"], list)]
    whole = [instance for row in of_gpu for instance in tool.expand(row)]
    chosen = [instance for row in covering["instances"] for instance in tool.expand(row) if instance["arch"] == "sm90"]
    assert len(chosen) < len(whole) / 3
    for instance in whole:
        for field in ("pattern", "normalizer", "dtype", "head_dim", "span"):
            alike = [other for other in chosen if other["pass"] == instance["pass"]]
            assert any(other[field] == instance[field] for other in alike), (field, instance)
    for instance in chosen:
        assert instance in whole
    assert {key: covering[key] for key in ("patterns", "normalizers")} == {
        key: table[key] for key in ("patterns", "normalizers")
    }
