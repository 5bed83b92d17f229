"""`leximind bulk` and `--output`: the same rows with answers, whatever stops the process."""

import csv
import fcntl
import io
import json
import os
import pty
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.dataset
import pyarrow.parquet
import pytest
from typer.testing import CliRunner, Result

from app.cli import app
from support.commands import COMMAND, environment, local_flags, read_terminal, started

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."


@pytest.fixture
def bulk(checkpoint_folder: Path, root_logger: Any) -> Any:  # noqa: ARG001 (every command configures the logger)
    """Runs `leximind bulk`."""

    def bulk(*arguments: object, command: str = "bulk") -> Result:
        result = CliRunner().invoke(app, [command, *map(str, arguments), *local_flags(checkpoint_folder)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return bulk


def rows_of(folder: Path) -> list[dict[str, Any]]:
    parts = sorted(folder.glob("part-*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def objects(number: int) -> list[dict[str, Any]]:
    return [{"id": index, "text": f"{NEWS} {index}"} for index in range(number)]


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_json_lines_get_what_the_server_answers_and_keep_bad_rows(bulk: Any, same: Any, tmp_path: Path) -> None:
    rows = objects(7)
    source = write_lines(tmp_path / "rows.jsonl", [*rows[:3], "", "{", {"id": 8, "text": " "}, *rows[3:]])
    flags = ("--tasks", "topic, emotions", "--shard-rows", 4)
    result = bulk(source, tmp_path / "out", *flags)
    assert result.exit_code == 4
    assert result.stderr.splitlines()[0] == f"leximind: {tmp_path}/out has 3 files with 9 rows"
    answered = rows_of(tmp_path / "out")
    assert [row.get("id") for row in answered] == [0, 1, 2, None, 8, 3, 4, 5, 6]
    assert "is no JSON" in answered[3]["error"]
    assert answered[4]["error"] == f"{source}:6 is blank (1 characters); give it words"
    whole = bulk("--json", rows[0]["text"], command="analyze")
    expected = json.loads(whole.stdout)
    assert same(answered[0], {**rows[0], "topic": expected["topic"], "emotions": expected["emotions"]})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {*(f"part-0000{n}.jsonl" for n in range(3)), "_SUCCESS", "_job.json", ".lock"}


def test_csv_keeps_its_columns_and_every_row_even_those_that_are_none(bulk: Any, tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    lines = [
        b"\xef\xbb\xbfid,text\r\n",
        b'1,"Two\nlines, ""quoted"""\r\n',
        b"2,one,too many\r\n",
        b"\r\n",
        b"3,caf\xe9\r\n",
        b'4,"open "quote"\r\n',
        f"5,{NEWS}\r\n".encode(),
        b'6,"never closed\r\n',
    ]
    source.write_bytes(b"".join(lines))
    assert bulk(source, tmp_path / "out", "--shard-rows", 2, "--max-new-tokens", 4).exit_code == 4
    parts = sorted((tmp_path / "out").glob("part-*.csv"))
    rows = [row for part in parts for row in csv.DictReader(io.StringIO(part.read_bytes().decode()))]
    assert len(parts) == 3
    assert [row["id"] for row in rows] == ["1", "", "", "", "5", ""]
    assert (rows[0]["text"], rows[4]["text"]) == ('Two\nlines, "quoted"', NEWS)
    assert rows[1]["error"] == f"{source}:4 has 3 fields, the header has 2: 2,one,too many"
    offset = source.read_bytes().index(0xE9)
    reason = f"{source}:6: byte {offset} (0xe9) is not UTF-8; convert the text to UTF-8: 3,caf\\xe9"
    assert rows[2]["error"] == reason
    assert "is no CSV" in rows[3]["error"]
    assert '4,"open "quote"' in rows[3]["error"]
    assert '6,"never closed' in rows[5]["error"]
    for row in (rows[0], rows[4]):
        assert row["error"] == ""
        assert row["summary.finish_reason"] in ("stop", "length")
        assert json.loads(row["topic.scores"])[0]["score"] == float(row["topic.score"])
        assert row["topic"] == json.loads(row["topic.scores"])[0]["label"]


def test_parquet_keeps_its_types(bulk: Any, tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "id": pyarrow.array(range(10), pyarrow.int16()),
            "body": [f"{NEWS} {n}" if n != 4 else None for n in range(10)],
            "when": pyarrow.array(range(10), pyarrow.timestamp("ns")),
            "kind": pyarrow.array(["a", "b"] * 5).dictionary_encode(),
        },
        metadata={"origin": "here"},
    )
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=7)
    source, target = tmp_path / "rows.parquet", tmp_path / "out"
    assert bulk(source, target, "--text-column", "body", "--tasks", "topic,emotions", "--shard-rows", 3).exit_code == 4
    found = pyarrow.dataset.dataset(target).to_table()
    assert found.select(table.column_names).equals(table)
    assert found.schema.metadata[b"origin"] == b"here"
    assert found.schema.field("topic.score").type == pyarrow.float64()
    errors = found.column("error").to_pylist()
    assert errors[4] == f"{source}: row 5 of row group 1: body is None, not a text"
    assert [error for error in errors if error is not None] == [errors[4]]
    assert found.column("topic").to_pylist()[4] is None
    assert sum(one["score"] for one in found.column("topic.scores").to_pylist()[0]) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("id,body\n1,a\n", (), "rows.csv has no column text, but id, body; name it: --text-column"),
        ("text,topic\na,b\n", (), "rows.csv has a column topic, as the answer has; name the answer's otherwise: --pre"),
        ("text,text\na,b\n", (), "rows.csv has a column twice: text, text; rename one"),
        ("", (), "rows.csv is empty; give it a header and rows"),
        ("text\n\n", (), "there are no rows; give an input that has some"),
        ("text\na\n", ("--tasks", "moods"), "moods: the checkpoint random has no head of that name"),
        ("text\na\n", ("--num-beams", "9"), "--num-beams: 9 is not allowed"),
    ],
)
def test_table_that_cannot_be_answered_is_refused(
    bulk: Any, tmp_path: Path, content: str, flags: tuple[str, ...], message: str
) -> None:
    (tmp_path / "rows.csv").write_text(content)
    result = bulk(tmp_path / "rows.csv", tmp_path / "out", *flags)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "out").exists()


def test_name_without_a_known_format_is_refused(bulk: Any, tmp_path: Path) -> None:
    for name, message in (
        ("rows.xlsx", "it must end in one of .jsonl, .ndjson, .csv, .parquet"),
        ("none.jsonl", "none.jsonl: No such file or directory; give a file that can be read"),
        ("none.csv", "none.csv: No such file or directory; give a file that can be read"),
        ("rows.gz.jsonl", "is compressed by gzip; unpack it (gunzip -k)"),
        ("*.tsv", "*.tsv: no file that ends in .jsonl or .ndjson or .csv or .parquet is there"),
    ):
        if "rows" in name:
            (tmp_path / name).write_bytes(b"\x1f\x8b\x08\x00")
        result = bulk(tmp_path / name, tmp_path / "out")
        assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_folder_of_another_job_is_kept_unless_it_is_overwritten(bulk: Any, tmp_path: Path) -> None:
    source, target = write_lines(tmp_path / "rows.jsonl", objects(3)), tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    assert "out holds something that is no job; name a new or an empty folder" in bulk(source, target).stderr
    (target / "mine.txt").unlink()
    topic = ("--tasks", "topic")
    assert bulk(source, target, *topic).exit_code == 0
    before = {path.name: path.stat().st_mtime_ns for path in target.glob("part-*")}
    again = bulk(source, target, *topic)
    assert (again.exit_code, again.stderr) == (0, f"leximind: {target} has all 1 files; there is nothing to do\n")
    assert {path.name: path.stat().st_mtime_ns for path in target.glob("part-*")} == before
    other = bulk(source, target, "--tasks", "emotions")
    assert 'holds another job: its tasks was ["topic"], now it is ["emotions"]; name another folder' in other.stderr
    assert bulk(source, target, "--tasks", "emotions", "--overwrite").exit_code == 0
    assert {*rows_of(target)[0]} == {"id", "text", "emotions"}
    write_lines(source, objects(4))
    assert "holds another job: its inputs was" in bulk(source, target, "--tasks", "emotions").stderr


def test_two_processes_do_not_fill_one_folder(bulk: Any, tmp_path: Path) -> None:
    source, target = write_lines(tmp_path / "rows.jsonl", objects(3)), tmp_path / "out"
    target.mkdir()
    with (target / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert f"another process is filling {target}; let it end, or stop it" in bulk(source, target).stderr
    assert bulk(source, target, "--tasks", "topic").exit_code == 0


def test_lines_of_several_files_go_into_one_folder(bulk: Any, tmp_path: Path) -> None:
    for name, number in (("a.txt", 5), ("b.txt", 2)):
        (tmp_path / name).write_text(f"{NEWS}\n\n" * number)
    done = bulk("--lines", tmp_path, "--output", tmp_path / "out", command="topic")
    assert (done.exit_code, done.stdout) == (0, "")
    places = [(Path(row["file"]).name, row["line"]) for row in rows_of(tmp_path / "out")]
    assert places == [("a.txt", n) for n in (1, 3, 5, 7, 9)] + [("b.txt", n) for n in (1, 3)]


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on_without_a_lost_or_doubled_row(
    bulk: Any, same: Any, checkpoint_folder: Path, tmp_path: Path
) -> None:
    num_rows, shard_rows = 12_000, 200
    rows: list[Any] = objects(num_rows)
    rows[1234] = {"id": 1234, "text": ""}
    source, target = write_lines(tmp_path / "rows.jsonl", rows), tmp_path / "out"
    flags = ["--tasks", "topic", "--shard-rows", str(shard_rows), *local_flags(checkpoint_folder)]
    chance = random.Random(1)
    counts = [0]
    while not (target / "_SUCCESS").exists():
        with started("bulk", str(source), str(target), *flags) as process:
            if len(counts) == 4:  # three kills are enough; then it may end
                assert process.wait(240) == 4
                break
            while len(list(target.glob("part-*"))) == counts[-1]:
                assert process.poll() is None, process.communicate()[1].decode()
                time.sleep(0.01)
            time.sleep(chance.uniform(0, 0.1))
            process.kill()
            process.wait(60)
        counts.append(len(list(target.glob("part-*"))))
        for part in target.glob("part-*"):
            assert len(part.read_bytes().splitlines()) == shard_rows, "what has its name is whole"
    assert 0 < counts[1] < counts[2] < counts[3] < num_rows // shard_rows, counts
    found = rows_of(target)
    assert [row["id"] for row in found] == list(range(num_rows))
    assert "is blank" in found[1234]["error"]
    assert bulk(source, tmp_path / "whole", "--tasks", "topic", "--shard-rows", shard_rows).exit_code == 4
    assert all(same(one, other) for one, other in zip(found, rows_of(tmp_path / "whole"), strict=True))


@pytest.mark.slow
def test_disk_that_takes_no_more_is_one_line_and_the_job_goes_on_later(
    bulk: Any, checkpoint_folder: Path, tmp_path: Path
) -> None:
    source, target = write_lines(tmp_path / "rows.jsonl", objects(400)), tmp_path / "out"
    command = [*COMMAND, "bulk", str(source), str(target), "--tasks", "topic", *local_flags(checkpoint_folder)]
    limited = ["bash", "-c", 'ulimit -f 4 && exec "$@"', "bash", *command]  # KiB that a file may have
    done = subprocess.run(limited, capture_output=True, text=True, timeout=240, env=environment())
    assert (done.returncode, done.stderr) == (3, "leximind: File too large; mend it and run the same command again\n")
    assert not list(target.glob("part-*"))
    assert bulk(source, target, "--tasks", "topic").exit_code == 0
    assert [row["id"] for row in rows_of(target)] == list(range(400))


@pytest.mark.slow
def test_interrupted_at_a_terminal_it_shows_its_progress_and_how_to_go_on(
    checkpoint_folder: Path, tmp_path: Path
) -> None:
    source, target = write_lines(tmp_path / "rows.jsonl", objects(40_000)), tmp_path / "out"
    terminal, its_side = pty.openpty()
    flags = ["--tasks", "topic", "--shard-rows", "200", *local_flags(checkpoint_folder)]
    with started("bulk", str(source), str(target), *flags, stderr=its_side) as process:
        os.close(its_side)
        shown = b""
        while b"answering" not in shown or not list(target.glob("part-*")):
            shown += os.read(terminal, 4096)
        process.send_signal(signal.SIGINT)
        shown += b"".join(iter(lambda: read_terminal(terminal), b""))
        assert process.wait(60) == 130
    os.close(terminal)
    assert b"/40000" in shown
    assert b"leximind: stopped; the same command goes on where it stopped" in shown
    assert 0 < len(list(target.glob("part-*"))) < 200
    assert not (target / "_SUCCESS").exists()
