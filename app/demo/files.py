"""Files to texts, each parsed in a process of its own."""

import asyncio
import sys
from pathlib import Path

from app.demo.extract import PARSERS, UNREADABLE

MAX_FILE_BYTES = 10 << 20
TIMEOUT_S = 30.0
_MAX_REASON = 120


class FileError(Exception):
    """A file whose text cannot be had; the message is for the person who dropped it."""


async def text_of(path: Path, timeout_s: float = TIMEOUT_S) -> str:
    """The text of a txt, md, pdf or docx file.

    Raises:
        FileError: another kind of file, a damaged one, one without text, or one that takes too much time or memory.
    """
    suffix = path.suffix.lower()
    if suffix not in PARSERS:
        raise FileError(f"{path.name} is no {_kinds()} file; save it as one of these, or paste its text.")
    if (size := path.stat().st_size) > MAX_FILE_BYTES:
        raise FileError(
            f"{path.name} has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read. Paste a part of its text."
        )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app.demo.extract", suffix),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            out, errors = await process.communicate(path.read_bytes())
    except TimeoutError:
        raise FileError(f"{path.name} took longer than {timeout_s:g} s to read; paste its text instead.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == UNREADABLE:
        reason = errors.decode(errors="replace")[:_MAX_REASON]
        raise FileError(f"{path.name} cannot be read as {suffix[1:]} ({reason}); paste its text instead.")
    if process.returncode:
        raise FileError(f"{path.name} takes more memory or time to read than is allowed; paste its text instead.")
    text = out.decode().strip()
    if not text:
        raise FileError(f"{path.name} has no text (of pictures none is read); paste its text instead.")
    return text


def _kinds() -> str:
    *most, last = (suffix[1:] for suffix in PARSERS)
    return f"{', '.join(most)} or {last}"
