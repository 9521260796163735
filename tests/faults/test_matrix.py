"""docs/faults.md promises a test for every row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/faults.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and "`tests/" in line
]


def test_the_matrix_has_rows() -> None:
    assert len(ROWS) >= 13


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_each_row_names_a_test_that_exists(row: list[str]) -> None:
    found = re.fullmatch(r"`(tests/[a-z_/]+\.py)::(test_[a-z0-9_]+)`", row[3])
    assert found is not None, row[3]
    tree = ast.parse((ROOT / found[1]).read_text(encoding="utf-8"))
    tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert found[2] in tests


@pytest.mark.parametrize("path", sorted(Path(__file__).parent.glob("test_*.py")), ids=lambda path: path.name)
def test_each_test_has_a_row(path: Path) -> None:
    if path == Path(__file__):
        return
    named = {row[3].strip("`") for row in ROWS}
    tests = [node.name for node in ast.parse(path.read_text(encoding="utf-8")).body if hasattr(node, "name")]
    where = path.relative_to(ROOT)
    missing = [name for name in tests if name.startswith("test_") and f"{where}::{name}" not in named]
    assert not missing
