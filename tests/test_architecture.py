"""Rules of the house that import contracts cannot say."""

import ast
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MODULES = sorted(path for package in ("app", "model", "training") for path in (REPOSITORY / package).rglob("*.py"))
ENVIRONMENT = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}


def named(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_only_settings_read_the_environment(path: Path) -> None:
    if named(path) == "app/settings.py":
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert not (isinstance(node.value, ast.Name) and node.value.id == "os" and node.attr in ENVIRONMENT)
        if isinstance(node, ast.ImportFrom) and node.module == "os":
            assert not {name.name for name in node.names} & ENVIRONMENT


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_says_first_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
