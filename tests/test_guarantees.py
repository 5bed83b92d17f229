"""The page of guarantees: every test that it names exists, and every line of its first table has a figure."""

import ast
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGE = (REPOSITORY / "docs" / "guarantees.md").read_text(encoding="utf-8")


def tables() -> list[list[list[str]]]:
    """The cells of each table, without its head."""
    lines = [line if line.startswith("|") else "" for line in PAGE.splitlines()]
    blocks = [block.splitlines()[2:] for block in re.split(r"\n\n+", "\n".join(lines).strip())]
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in block] for block in blocks]


FIGURES, OTHERS = tables()


def functions(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {one.name for one in ast.walk(tree) if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def check_tests(cell: str) -> None:
    """Each is a file or folder of tests, or a function in one."""
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)(?:::(\w+))?`", cell)
    assert named, "no test"
    for path, name in named:
        assert (REPOSITORY / path).exists(), path
        assert not name or (name.startswith("test_") and name in functions(REPOSITORY / path)), name


@pytest.mark.parametrize("row", FIGURES, ids=[row[0][:60] for row in FIGURES])
def test_every_guarantee_names_tests_that_exist_and_has_a_figure(row: list[str]) -> None:
    promise, tests, figure = row
    assert promise
    assert re.search(r"\d", figure), "no figure"
    check_tests(tests)


@pytest.mark.parametrize("row", OTHERS, ids=[row[0][:60] for row in OTHERS])
def test_every_other_promise_names_tests_that_exist(row: list[str]) -> None:
    promise, tests = row
    assert promise
    check_tests(tests)
