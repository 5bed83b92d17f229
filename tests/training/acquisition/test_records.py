"""Records of fetched files: numbered from 1, a bad line alone is unusable, a damaged file is an error."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from support.hub import csv_file, json_lines_file, parquet_file
from training.acquisition.records import records
from training.acquisition.rows import Unusable
from training.errors import DataError

ROWS: list[dict[str, Any]] = [{"text": f"text {number}", "label": str(number)} for number in range(600)]
FILES = {"rows.parquet": parquet_file, "rows.csv": csv_file, "rows.json.gz": json_lines_file}


@pytest.mark.parametrize("name", FILES)
def test_every_row_comes_with_its_number(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(FILES[name](ROWS))
    assert list(records(path, ["text", "label"])) == list(enumerate(ROWS, 1))


@pytest.mark.parametrize("name", ["rows.parquet", "rows.csv"])
def test_a_column_that_a_file_lacks_is_an_error_that_names_those_there(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name](ROWS))
    with pytest.raises(DataError, match=r"no column title among text, label; delete the file"):
        list(records(tmp_path / name, ["text", "title"]))


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_an_error(name: str, tmp_path: Path) -> None:
    whole = FILES[name](ROWS)
    damage = whole[:-9] if name != "rows.csv" else whole[:100] + b"\xff\xfe" + whole[100:]
    (tmp_path / name).write_bytes(damage)
    with pytest.raises(DataError, match=r"cannot be read .*; delete it and run the command again"):
        list(records(tmp_path / name, ["text"]))


def test_a_line_with_another_number_of_fields_is_unusable_and_the_next_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('text,label\none,1\ntwo\nthree,3,more\n"four\nlines",4\n')
    found = dict(records(path, ["text"]))
    assert found[1] == {"text": "one", "label": "1"}
    assert all(isinstance(found[number], Unusable) for number in (2, 3))
    assert found[4] == {"text": "four\nlines", "label": "4"}


def test_a_field_longer_than_csv_s_own_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f'text\n"{"x" * 200_000}"\n')
    [(number, record)] = records(path, ["text"])
    assert not isinstance(record, Unusable)
    assert (number, len(record["text"])) == (1, 200_000)


def test_lines_that_are_no_json_or_lack_a_column_are_unusable(tmp_path: Path) -> None:
    path = tmp_path / "rows.json.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\nnot json\n{"other": 1}\n[1]\n{"text": "b"}\n'))
    found = dict(records(path, ["text"]))
    assert [number for number, record in found.items() if isinstance(record, Unusable)] == [2, 3, 4]
    assert str(found[2]).startswith("not JSON")
    assert str(found[3]) == "the row lacks one of the columns ['text']"
