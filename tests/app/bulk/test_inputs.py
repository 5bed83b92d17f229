"""Texts by arguments, files, lines and JSON Lines, as the command line answers them."""

import json
import os
import pty
import re
import signal
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app
from support.commands import local_flags, read_terminal, run, started

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
THANKS = "Thank you for the flowers!"


@pytest.fixture
def ask(checkpoint_folder: Path, root_logger: Any) -> Any:  # noqa: ARG001 (every command configures the logger)
    """The rows that a command prints, its exit code and what it says on standard error."""

    def ask(*arguments: str, stdin: bytes = b"") -> tuple[list[dict[str, Any]], int, str]:
        result = CliRunner().invoke(app, [*arguments, *local_flags(checkpoint_folder)], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return [json.loads(line) for line in result.stdout.splitlines()], result.exit_code, result.stderr

    return ask


def without(row: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in names}


def test_each_line_is_a_text_and_bad_ones_are_kept_with_their_reason(ask: Any, same: Any, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    content = ["\ufeff" + NEWS, "", "  \t", "caf\xe9".encode("latin-1"), THANKS + "\r", "\u200b"]
    file.write_bytes(b"\n".join(one if isinstance(one, bytes) else one.encode() for one in content))
    rows, code, said = ask("topic", "--lines", str(file))
    assert [row["line"] for row in rows] == [1, 4, 5, 6]
    assert {row["file"] for row in rows} == {str(file)}
    [[news], [thanks]] = [ask("topic", text)[0] for text in (NEWS, THANKS)]
    assert same(without(rows[0], "file", "line"), news)
    assert same(without(rows[2], "file", "line"), thanks)
    offset = file.read_bytes().index(b"\xe9")
    assert rows[1]["error"] == f"{file}:4: byte {offset} (0xe9) is not UTF-8; convert the text to UTF-8"
    assert "has only control or invisible characters" in rows[3]["error"]
    assert (code, said) == (4, "leximind: 2 rows have no answer; each says why under error\n")


def test_lines_of_standard_input_have_no_file(ask: Any) -> None:
    rows, code, _ = ask("topic", "--lines", "-", stdin=f"{NEWS}\n\n{THANKS}".encode())
    assert ([without(row, "score", "scores", "model", "topic") for row in rows], code) == (
        [{"line": 1}, {"line": 3}],
        0,
    )


def test_objects_keep_what_they_hold_and_come_back_in_order(ask: Any) -> None:
    objects: list[Any] = [
        {"id": "a", "text": NEWS, "other": [1, None]},
        {"id": "b", "text": 5},
        {"id": "c"},
        [NEWS],
        {"text": THANKS, "score": 1},
        {"id": "d", "text": "\ud800"},
        {"id": 6, "text": THANKS},
    ]
    lines = [json.dumps(one) for one in objects]
    rows, code, _ = ask("emotions", "--top-k", "1", "--jsonl", "-", stdin="\n".join([*lines, "{nonsense"]).encode())
    assert code == 4
    assert [row.get("id") for row in rows] == ["a", "b", "c", None, None, "d", 6, None]
    assert without(rows[0], "emotions", "model") == objects[0]
    assert len(rows[0]["emotions"]) == len(rows[6]["emotions"]) == 1
    reasons = [row.get("error", "") for row in rows]
    assert "standard input:2: text is 5, not a text" in reasons[1]
    assert "has no field text, but id; name it: --text-column" in reasons[2]
    assert (rows[3]["input"], "is no object" in reasons[3]) == (objects[3], True)
    assert "lone surrogate" in reasons[5]
    assert rows[5]["text"] == "\ud800"
    assert (rows[7]["input"], "is no JSON" in reasons[7]) == ("{nonsense", True)
    assert [reasons[0], reasons[4], reasons[6]] == ["", "", ""]


def test_field_that_the_answer_would_replace_is_refused_and_a_prefix_helps(ask: Any) -> None:
    line = json.dumps({"body": NEWS, "topic": "given"}).encode()
    [row], code, _ = ask("topic", "--jsonl", "-", "--text-column", "body", stdin=line)
    assert (code, row["input"]) == (4, {"body": NEWS, "topic": "given"})
    assert "has a field topic, as the answer has; name the answer's otherwise: --prefix model_" in row["error"]
    [row], code, _ = ask("topic", "--jsonl", "-", "--text-column", "body", "--prefix", "model_", stdin=line)
    assert (code, row["topic"], row["model_model"]) == (0, "given", "random")


def test_files_folders_and_patterns_are_texts_by_name(ask: Any, tmp_path: Path) -> None:
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "deep/c.md", "deep/.hidden/d.txt", ".e.txt", "[x].txt"):
        (tmp_path / name).write_text(NEWS)
    (tmp_path / "deep" / "bad.txt").write_bytes(b"ab\x80")
    names = lambda rows: [str(Path(row["file"]).relative_to(tmp_path)) for row in rows]  # noqa: E731
    rows, code, _ = ask("topic", "--file", str(tmp_path))
    assert (names(rows), code) == (["[x].txt", "a.txt", "b.txt", "deep/bad.txt", "deep/c.md"], 4)
    assert rows[3]["error"] == f"{tmp_path}/deep/bad.txt: byte 2 (0x80) is not UTF-8; convert the text to UTF-8"
    assert names(ask("topic", "--file", f"{tmp_path}/**/*.md")[0]) == ["deep/c.md"]
    both = ask("topic", "--file", f"{tmp_path}/[x].txt", "--file", f"{tmp_path}/?.txt")[0]
    assert names(both) == ["[x].txt", "a.txt", "b.txt"]


def test_many_texts_share_their_batches(ask: Any, num_encodes: list[int]) -> None:
    rows, code, _ = ask("topic", "--lines", "-", stdin="".join(f"{NEWS} {n}\n" for n in range(300)).encode())
    assert (len(rows), code) == (300, 0)
    assert len(num_encodes) < 30, "the engine had few at once"


@pytest.mark.slow
def test_answers_of_a_slow_pipe_come_at_once_and_interrupting_says_how_to_go_on(checkpoint_folder: Path) -> None:
    with started("topic", "--lines", "-", *local_flags(checkpoint_folder)) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(f"{NEWS}\n".encode())
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["line"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        [said] = process.stderr.read().decode().splitlines()
        assert said == "leximind: stopped; with --output FOLDER the same command goes on where it stopped"


@pytest.mark.slow
def test_reader_that_leaves_ends_the_command_quietly(checkpoint_folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text(f"{NEWS}\n" * 20_000)
    with started("topic", "--lines", str(lines), *local_flags(checkpoint_folder)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(60)
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_command_in_a_process_answers_like_the_one_in_the_tests(ask: Any, checkpoint_folder: Path) -> None:
    done = run("topic", NEWS, *local_flags(checkpoint_folder))
    assert ([json.loads(done.stdout)], done.returncode, done.stderr) == (ask("topic", NEWS)[0], 0, b"")


@pytest.mark.slow
def test_people_at_a_terminal_get_a_table(checkpoint_folder: Path) -> None:
    terminal, its_side = pty.openpty()
    with started("topic", NEWS, *local_flags(checkpoint_folder), stdout=its_side) as process:
        os.close(its_side)
        assert process.wait(120) == 0
        shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    assert "topic" in shown
    assert "│" in shown
    assert "{" not in shown


@pytest.mark.slow
def test_a_long_text_shows_its_chunks_and_rounds_at_a_terminal(checkpoint_folder: Path, tmp_path: Path) -> None:
    novel = tmp_path / "novel.txt"
    novel.write_text("".join(f"On day {day} {NEWS.lower()} " for day in range(4000)))
    flags = ["--on-long", "reduce", "--target-tokens", "8", "--max-new-tokens", "8", *local_flags(checkpoint_folder)]
    terminal, its_side = pty.openpty()
    with started("summarize", "--file", str(novel), *flags, stderr=its_side) as process:
        os.close(its_side)
        shown = b"".join(iter(lambda: read_terminal(terminal), b""))
        assert process.wait(60) == 0
    os.close(terminal)
    first = re.findall(rb"answering: (\d+) of (\d+) chunks", shown)
    assert len({total for _, total in first}) == 1
    assert [int(done) for done, _ in first] == sorted(int(done) for done, _ in first)
    assert re.search(rb"answering, round 2: \d+ of \d+ chunks", shown)
