"""Prints what pyproject.toml requires, with the extras named: `python3 requirements.py serve,training`."""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: str, extras: list[str]) -> list[str]:
    """The requirements of the project and of these extras, each once.

    Raises:
        SystemExit: an extra that the project has not.
    """
    project = tomllib.loads(pyproject)["project"]
    optional = project["optional-dependencies"]
    if unknown := [extra for extra in extras if extra not in optional]:
        raise SystemExit(f"no extra is named {', '.join(unknown)}; EXTRAS is some of {','.join(optional)}")
    return sorted({*project["dependencies"], *(one for extra in extras for one in optional[extra])})


if __name__ == "__main__":
    names = [name.strip() for name in sys.argv[1].split(",") if name.strip()]
    print("\n".join(requirements(Path("pyproject.toml").read_text(encoding="utf-8"), names)))
