"""Keys as they are kept: an id, a digest and a class each, from settings and from a file; never a key itself."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

KeyClass = Literal["interactive", "batch", "admin"]
_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MAX_FILE_BYTES = 2**20
_SHOWN_DIGITS = 8


class KeysError(Exception):
    """A file of keys that cannot be used; the message says where and why, never a key."""


@dataclass(frozen=True)
class Key:
    """A key that is valid: `id` is what logs name, `digest` is `sha256:<hex>`, `key_class` what it opens.

    `interactive` and `batch` keys are for work, `admin` keys for `/metrics`.
    """

    id: str
    digest: str
    key_class: KeyClass = "interactive"


def key_digest(key: str) -> str:
    """A key as it is kept: `sha256:<hex>`. What already has that form stays.

    Raises:
        ValueError: `sha256:` and something that is no such digest, or a key that no header can hold.
    """
    if not (key.isascii() and key.isprintable()):
        raise ValueError("a key must be of printable ASCII characters: clients send others in ways of their own")
    if not key.startswith("sha256:"):
        return presented_digest(key)
    if not re.fullmatch("sha256:[0-9a-fA-F]{64}", key):
        raise ValueError("a key that starts with sha256: must go on with 64 hexadecimal digits")
    return key.lower()


def presented_digest(key: str) -> str:
    """The digest of what a client sent. Always hashed: who reads a digest in a configuration has no key."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def keys_of(digests: Sequence[str], key_class: KeyClass) -> list[Key]:
    """Keys that a setting gives, which have no name: their ids are the first digits of their digests."""
    unique = dict.fromkeys(digests)
    return [Key(digest.removeprefix("sha256:")[:_SHOWN_DIGITS], digest, key_class) for digest in unique]


def read_keys_file(path: Path) -> list[Key]:
    """The keys in `path`: a line each, `id key-or-digest [class]`; blank lines and lines that start with # are none.

    Raises:
        KeysError: the file cannot be read or holds no key, or a line is wrong; the message has its number, never a key.
    """
    try:
        if path.exists() and not path.is_file():
            raise KeysError(f"{path}: is no regular file, such as can be read again; check --api-keys-file")
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise KeysError(f"{path}: has more than {_MAX_FILE_BYTES} bytes; is it the right file?")
        lines = content.decode("utf-8-sig").splitlines()
    except OSError as error:
        raise KeysError(f"{path}: cannot be read ({error.strerror or error}); check --api-keys-file") from None
    except UnicodeDecodeError as error:
        raise KeysError(f"{path}: byte {error.start} is not UTF-8; write the file as plain text") from None
    keys: dict[str, Key] = {}
    digests: set[str] = set()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            key = _key_of(line.split())
            if key.id in keys:
                raise ValueError(f"the id {key.id} stands above already; give each key its own")
            if key.digest in digests:
                raise ValueError("the key stands above already under another id; remove one of the two lines")
        except ValueError as error:
            raise KeysError(f"{path}, line {number}: {error}") from None
        keys[key.id] = key
        digests.add(key.digest)
    if not keys:
        raise KeysError(f"{path}: holds no key; write a line `id key-or-digest [class]` for each")
    return list(keys.values())


def _key_of(fields: Sequence[str]) -> Key:
    if len(fields) not in (2, 3):
        raise ValueError(f"has {len(fields)} fields; a line is `id key-or-digest [class]`")
    name, key, key_class = (*fields, "interactive")[:3]
    if not _ID.fullmatch(name):
        raise ValueError("the id, which comes first, must be of 1 to 64 letters, digits, dots, dashes and underscores")
    for known in get_args(KeyClass):
        if key_class == known:
            return Key(name, key_digest(key), known)
    raise ValueError(f"the class, which comes last, must be one of {', '.join(get_args(KeyClass))}")
