"""README.md, docs/ and CONTRIBUTING.md: their code runs, links lead somewhere, and generated parts are current."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import splash_attention  # noqa: F401  registers the operators

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "pyproject.toml").exists())
EXAMPLE = ROOT / "tests" / "cpp" / "outside" / "headers_alone.cpp"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL_PAGES = [*PAGES, ROOT / "benchmarks" / "RESULTS.md", *sorted((ROOT / "benchmarks" / "notes").glob("*.md"))]
FOLDERS = "include|kernels|python|tests|tools|benchmarks|docs"


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def code_blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


PYTHON = [(page, number) for page in PAGES for number in range(len(code_blocks(page, "python")))]


@pytest.mark.parametrize("page, number", PYTHON, ids=[f"{name_of(page)}-{number}" for page, number in PYTHON])
def test_python_runs_as_typed(page, number, one_thread):
    block = code_blocks(page, "python")[number]
    for package in re.findall(r"^(?:import|from) (\w+)", block, re.MULTILINE):
        pytest.importorskip(package, reason="the block needs the extra `test`")
    exec(compile(block, f"{name_of(page)}, Python block {number}", "exec"), {})


def test_every_block_has_a_language_that_is_tried_or_not_code():
    found = {
        language
        for page in PAGES
        for language in re.findall(r"^```(\w*)\n.*?^```$", page.read_text(), re.M | re.DOTALL)
    }
    assert found <= {"python", "cpp", "text", "sh", "cmake"}


def test_operator_schema():
    (block,) = code_blocks(ROOT / "docs" / "operators.md", "text")
    assert str(torch.ops.splash.attention_forward.default._schema) == " ".join(block.split())


def test_every_operator_is_named():
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "operators.md").read_text(), re.MULTILINE)
    registered = {name.removeprefix("splash::") for name in torch._C._dispatch_get_all_op_names() if "splash::" in name}
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == registered


def test_cpp_example(tmp_path):
    assert [block for page in PAGES for block in code_blocks(page, "cpp")] == [EXAMPLE.read_text()]
    program = tmp_path / "example"
    subprocess.run(["g++", "-std=c++20", "-O2", "-I", ROOT / "include", EXAMPLE, "-o", program], check=True)
    assert "sum to 1.00000" in subprocess.run([program], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("script", ["support_matrix.py", "results_table.py"])
def test_generated_parts_are_current(script):
    subprocess.run([sys.executable, ROOT / "tools" / script, "--check"], check=True)


def test_targets_stay_in_their_files():
    shown = (ROOT / "README.md").read_text() + (ROOT / "benchmarks" / "RESULTS.md").read_text()
    for header in re.findall(r"^\| problem .*$", shown, re.MULTILINE):
        assert not {"must", "aim", "met", "wanted"} & {cell.strip() for cell in header.split("|")}


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page):
    """Whole paths in backticks; NAME and the like stand for many."""
    for path in re.findall(rf"`((?:{FOLDERS})/[\w./-]+)`", page.read_text()):
        assert re.search("NAME|OP_ARCH", path) or (ROOT / path).exists(), path


def test_entries_of_the_notes_are_numbered_once():
    notes = (ROOT / "benchmarks" / "notes").glob("*.md")
    numbers = [int(n) for page in notes for n in re.findall(r"^- \[(\d+)\] \*\*", page.read_text(), re.MULTILINE)]
    assert sorted(numbers) == list(range(1, len(numbers) + 1)) and len(numbers) >= 126


def test_readme_is_two_pages():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
