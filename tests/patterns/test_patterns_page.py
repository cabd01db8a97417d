"""docs/patterns.md: its example runs, its pictures exist, and no pattern is missing."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from splash_attention import patterns
from splash_attention.patterns import Pattern

PAGE = Path(__file__).resolve().parents[2] / "docs" / "patterns.md"
TEXT = PAGE.read_text()
KINDS = [kind for kind in Pattern.__subclasses__() if kind.__module__.startswith("splash_attention.patterns")]
DESCRIBED = [kind for kind in KINDS if kind not in (patterns.And, patterns.Prepared)]


def test_the_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(example, str(PAGE), "exec"), {})
    assert capsys.readouterr().out.startswith("0.123")


def test_every_picture_exists_and_is_shown():
    shown = set(re.findall(r"\((pictures/[^)]*)\)", TEXT))
    there = {str(path.relative_to(PAGE.parent)) for path in (PAGE.parent / "pictures" / "patterns").iterdir()}
    assert shown == there
    assert sum((PAGE.parent / path).stat().st_size for path in there) < 600_000


def test_the_list_is_whole():
    exported = [getattr(patterns, name) for name in patterns.__all__]
    named = [kind for kind in exported if isinstance(kind, type) and issubclass(kind, Pattern) and kind is not Pattern]
    assert set(named) == set(KINDS) and len(DESCRIBED) >= 13


@pytest.mark.parametrize("kind", DESCRIBED, ids=lambda kind: kind.__name__)
def test_every_pattern_is_described(kind):
    assert f"`{kind.__name__}(" in TEXT
    for field in fields(kind):
        if field.name != "csr":  # made by ElementMask.from_csr alone
            assert re.search(rf"`[^`]*\b{field.name}\b[^`]*`", TEXT), field.name
