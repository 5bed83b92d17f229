"""`python -m app.demo.extract SUFFIX`: the text of the file on standard input, to standard output.

A process of its own, since parsers of documents are large and their input comes from strangers: `files` starts it with
a time limit, and it limits its own memory and processor time before it reads.
"""

import io
import sys
from collections.abc import Callable, Mapping

MEMORY_BYTES = 1 << 30
CPU_S = 20
UNREADABLE = 3  # the exit code of a file that is no such document; the reason is on standard error


def _plain(content: bytes) -> str:
    return content.decode("utf-8-sig")


def _pdf(content: bytes) -> str:
    from pypdf import PdfReader

    return "\n\n".join(page.extract_text() for page in PdfReader(io.BytesIO(content)).pages)


def _docx(content: bytes) -> str:
    from docx import Document

    return "\n\n".join(paragraph.text for paragraph in Document(io.BytesIO(content)).paragraphs)


PARSERS: Mapping[str, Callable[[bytes], str]] = {".txt": _plain, ".md": _plain, ".pdf": _pdf, ".docx": _docx}


def _limit_resources() -> None:
    try:
        import resource
    except ImportError:  # Windows; the time limit of `files` remains
        return
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))


def main() -> None:
    """Parse, within the limits.

    Raises:
        SystemExit: with `UNREADABLE`, where the parser fails for whatever reason.
    """
    _limit_resources()
    try:
        text = PARSERS[sys.argv[1]](sys.stdin.buffer.read())
    except Exception as error:  # parsers raise what they like
        sys.stderr.write(f"{type(error).__name__}: {error}")
        sys.exit(UNREADABLE)
    sys.stdout.buffer.write(text.encode(errors="replace"))


if __name__ == "__main__":
    main()
