"""Files to texts: each kind that people bring, and those that must do no harm."""

import io
import zipfile
from pathlib import Path

import pytest

from app.demo.files import MAX_FILE_BYTES, FileError, text_of
from support.documents import docx, pdf

TEXT = "The bridge will be closed until May."


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", TEXT.encode()),
        ("a.md", b"\xef\xbb\xbf" + TEXT.encode()),
        ("a.PDF", pdf(TEXT)),
        ("a.docx", docx(TEXT)),
    ],
)
async def test_texts_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert await text_of(path) == TEXT


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.png", b"\x89PNG", "a.png is no txt, md, pdf or docx file; save it as one of these"),
        ("a.txt", "Grüße".encode("latin-1"), "a.txt cannot be read as txt (UnicodeDecodeError"),
        ("a.pdf", b"no pdf", "a.pdf cannot be read as pdf"),
        ("a.docx", b"no zip", "a.docx cannot be read as docx"),
        ("a.txt", b" \n", "a.txt has no text"),
        ("a.txt", b"a" * (MAX_FILE_BYTES + 1), "a.txt has 10,485,761 bytes; at most 10,485,760 are read"),
    ],
)
async def test_what_has_no_text_is_refused_in_words(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FileError) as refused:
        await text_of(path)
    assert str(refused.value).startswith(message)


async def test_a_file_that_unpacks_to_gigabytes_is_given_up(tmp_path: Path) -> None:
    inside = zipfile.ZipFile(io.BytesIO(docx(TEXT)))
    path = tmp_path / "bomb.docx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in inside.namelist():
            if name != "word/document.xml":
                bomb.writestr(name, inside.read(name))
        with bomb.open("word/document.xml", "w", force_zip64=True) as document:
            for _ in range(1200):
                document.write(b" " * (1 << 20))
    assert path.stat().st_size < MAX_FILE_BYTES
    with pytest.raises(FileError, match=r"bomb\.docx (cannot be read|takes more memory or time)"):
        await text_of(path)


async def test_a_parser_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "a.docx"
    path.write_bytes(docx(TEXT))
    with pytest.raises(FileError, match=r"a\.docx took longer than 0\.001 s to read"):
        await text_of(path, timeout_s=0.001)
