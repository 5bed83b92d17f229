"""Which sources the kernels are compiled from. Imports nothing of the project: the build runs it, too."""

from pathlib import Path
from zlib import crc32


def digest() -> int | None:
    """A checksum of the C++ files beside this one; None where they are left out, as in an image."""
    files = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".cpp", ".h"))
    return crc32(b"\0".join(path.read_bytes() for path in files)) if files else None
