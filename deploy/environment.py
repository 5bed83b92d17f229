"""Writes leximind.env.example, every setting with its default: `python -m deploy.environment`."""

import textwrap

from app.settings import Settings
from deploy.queries import FOLDER
from model.choices import BUNDLED

TARGET = FOLDER.parent / "leximind.env.example"
_HEAD = """\
# Every setting of the service. Copy it to leximind.env, which docker compose reads, and take the # from the lines that
# you change: what is commented out is the default, or nothing. docker-compose.yml sets host, port and device itself.
# Made by python -m deploy.environment.
"""
_EXAMPLES = {"api_keys": "sha256:<hex>", "admin_keys": "sha256:<hex>", "api_keys_file": "/runs/keys"}


def example() -> str:
    """The text of the file."""
    parts = [_HEAD]
    for name, field in Settings.model_fields.items():
        comment = textwrap.fill(field.description or "", 118, initial_indent="# ", subsequent_indent="# ")
        default = "" if field.default in (None, (), BUNDLED) else field.default
        value = str(default).lower() if isinstance(default, bool) else default
        parts.append(f"{comment}\n#LEXIMIND_{name.upper()}={_EXAMPLES.get(name, value)}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    TARGET.write_text(example(), encoding="utf-8")
