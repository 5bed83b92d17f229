import asyncio
import json
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from app.cli import app
from app.settings import Settings
from app.version import VERSION
from model.errors import CheckpointError
from model.inference.decoding.options import DecodingOptions
from model.kernels.library import chosen_name, has_bfloat16, is_available
from model.network.leximind import LexiMind
from model.storage.checkpoint import Checkpoint
from model.storage.saving import save_checkpoint
from model.tasks import EMOTIONS, TOPICS, Tasks
from support.commands import completions

AUTO = "bfloat16" if has_bfloat16() else "float32"  # what dtype auto is on a CPU

pytestmark = pytest.mark.usefixtures("root_logger")  # every command configures it

NEWS = "Shares of the chip maker rose twelve percent on Tuesday."
THANKS = "Thank you for the flowers!"


@pytest.fixture
def leximind(checkpoint_folder: Path) -> Any:
    """Runs a command on the checkpoint of the tests."""

    def run(command: str, *arguments: str, stdin: str | bytes = b"") -> Result:
        local = [] if command == "import" else ["--checkpoint", str(checkpoint_folder), "--threads", "1"]
        result = CliRunner().invoke(app, [command, *arguments, *local], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


def lines_of(result: Result) -> list[Any]:
    """Standard output, a JSON value a line."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_arguments_files_and_standard_input_are_texts(leximind: Any, tmp_path: Path) -> None:
    file = tmp_path / "text"
    file.write_text(NEWS)
    [answer] = lines_of(leximind("topic", NEWS))
    assert answer["topic"] in TOPICS
    assert lines_of(leximind("topic", "--file", str(file))) == [{"file": str(file), **answer}]
    assert lines_of(leximind("topic", stdin=NEWS)) == [answer]
    assert lines_of(leximind("topic", "-", stdin="\ufeff" + NEWS)) == [answer]
    assert lines_of(leximind("topic", "--file", "-", stdin=NEWS)) == [{"file": "-", **answer}]
    assert lines_of(leximind("topic", NEWS, "-", "--file", str(file), stdin=NEWS)) == [
        answer,
        answer,
        {"file": str(file), **answer},
    ]


def test_support_says_where_a_summary_comes_from(leximind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = json.loads(leximind("summarize", NEWS, "--support", "--json").stdout)
    assert answer["support"].keys() >= {"sentences", "unsupported"}
    monkeypatch.setattr("app.local._is_terminal", lambda: True)
    table = leximind("summarize", NEWS, "--support").stdout
    assert "of the text (0." in table or "nothing in the text" in table
    assert "support" not in leximind("summarize", NEWS, "--json").stdout


BEAMS: dict[str, Any] = {
    "max_new_tokens": 9,
    "min_new_tokens": 4,
    "num_beams": 3,
    "length_penalty": -0.5,
    "early_stopping": "never",
    "no_repeat_ngram_size": 2,
    "repetition_penalty": 1.3,
    "grounded": True,
}
SAMPLED: dict[str, Any] = {
    "max_new_tokens": 9,
    "do_sample": True,
    "temperature": 1.5,
    "top_k": 40,
    "top_p": 0.9,
    "seed": 7,
    "on_long": "truncate",
}


def arguments_of(options: dict[str, Any]) -> tuple[list[str], dict[str, Any]]:
    """The options as flags, and as they are."""
    arguments: list[str] = []
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return arguments, options


@pytest.mark.parametrize("command", ["summarize", "analyze"])
def test_every_decoding_option_is_a_flag_with_its_default(monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = " ".join(CliRunner().invoke(app, [command, "--help"]).stdout.split())
    assert " --on-long " in text
    for option in fields(DecodingOptions):
        assert f" --{option.name.replace('_', '-')} " in text
        assert f"{option.metadata['description']} [default: {str(option.default).lower()}]" in text
    assert {*BEAMS, *SAMPLED} == {"on_long", *(option.name for option in fields(DecodingOptions))}, "all are run below"


async def test_json_is_what_the_server_gives(leximind: Any, client: Any) -> None:
    for task, arguments, body in (
        ("summarize", ["--max-new-tokens", "5", "--num-beams", "2"], {"max_new_tokens": 5, "num_beams": 2}),
        ("summarize", *arguments_of(BEAMS)),
        ("summarize", *arguments_of(SAMPLED)),
        ("emotions", ["--top-k", "3"], {"top_k": 3}),
        ("emotions", ["--threshold", "0"], {"threshold": 0}),
        ("topic", ["--top-k", "2"], {"top_k": 2}),
        ("classify/emotions", ["--threshold", "0.4"], {"threshold": 0.4}),
        ("classify/topic", ["--top-k", "2"], {"top_k": 2}),
        ("analyze", ["--max-new-tokens", "5"], {"summary": {"max_new_tokens": 5}}),
        ("analyze", arguments_of(SAMPLED)[0], {"summary": SAMPLED}),
    ):
        result = await asyncio.to_thread(leximind, *task.split("/"), NEWS, "--json", *arguments)
        assert json.loads(result.stdout) == (await client.post(f"/{task}", json={"text": NEWS, **body})).json()


def test_table_is_for_people_at_a_terminal(leximind: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("app.local._is_terminal", lambda: True)
    table = leximind("analyze", "[bold]" + NEWS, "--max-new-tokens", "4").stdout
    assert "{" not in table
    assert all(topic in table for topic in TOPICS)
    numbered = leximind("topic", NEWS, THANKS).stdout
    assert "│ text 1 │" in numbered
    assert "│ text 2 │" in numbered
    lines = tmp_path / "lines.txt"
    lines.write_bytes(b"Thank you!\n\nbad \xff")
    kept = leximind("emotions", "--lines", str(lines))
    assert kept.exit_code == 4
    assert "not UTF-8" in " ".join(kept.stdout.split())
    assert lines_of(leximind("topic", NEWS, "--json"))


def test_info_says_what_the_checkpoint_is(leximind: Any, checkpoint_folder: Path) -> None:
    facts = json.loads(leximind("info", "--json").stdout)
    assert facts["checkpoint"] == str(checkpoint_folder)
    assert tuple(facts["emotions"]) == EMOTIONS
    assert facts["heads"][1] == {"name": "topic", "kind": "single_label", "labels": list(TOPICS)}
    assert facts["kernels"] == chosen_name()
    assert (facts["why_no_kernels"] is None) == is_available()
    assert (facts["dtype"], facts["device"], facts["max_source_tokens"]) == (AUTO, "cpu", 64)
    table = leximind("info").stdout
    assert "parameters: " in table
    assert "topics: " + ", ".join(TOPICS) in table
    assert "heads: emotions (multi_label, 28), topic (single_label, 4)" in table


@pytest.mark.parametrize("dtype", ["float32", "auto"])
def test_info_counts_all_parameters_whatever_became_of_them(leximind: Any, checkpoint: Checkpoint, dtype: str) -> None:
    facts = json.loads(leximind("info", "--json", "--dtype", dtype).stdout)
    assert facts["parameters"] == sum(parameter.numel() for parameter in checkpoint.model.parameters())


def test_version_is_the_package_s() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"{VERSION}\n")


def test_analyze_runs_every_task_of_the_checkpoint(checkpoint: Checkpoint, spiece: Path, tmp_path: Path) -> None:
    config = replace(checkpoint.model.config, heads={})
    save_checkpoint(tmp_path / "plain", LexiMind(config), spiece, Tasks(), card="")
    run = CliRunner().invoke(app, ["analyze", NEWS, "--json", "--checkpoint", str(tmp_path / "plain")])
    assert list(json.loads(run.stdout)) == ["summary"]


def test_message_of_several_lines_becomes_one(leximind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise CheckpointError("cannot be downloaded (no route\nto host)")

    monkeypatch.setattr("model.storage.flan_t5.import_flan_t5", fail)
    assert leximind("import", "a/b", "target").stderr == "leximind: cannot be downloaded (no route to host)\n"


def test_import_replaces_a_folder_only_with_overwrite(
    leximind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imported: list[Path] = []
    monkeypatch.setattr("model.storage.flan_t5.import_flan_t5", lambda _, target: imported.append(target))
    refused = leximind("import", "a/b", str(tmp_path))
    assert (refused.exit_code, imported) == (2, [])
    assert f"{tmp_path} is there already" in refused.stderr
    assert leximind("import", "a/b", str(tmp_path), "--overwrite").exit_code == 0
    assert imported == [tmp_path]


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["topic", " "], b"", "text 1 is blank"),
        (["topic", "a", ""], b"", "text 2 is blank"),
        (["topic"], b"", "text 1 is blank (0 characters)"),
        (["topic"], b"caf\xe9 \n", "standard input: byte 3 (0xe9) is not UTF-8; convert the text to UTF-8"),
        (["topic"], b"\xff\xfea\0", "standard input is UTF-16; convert it (iconv -f UTF-16 -t UTF-8)"),
        (["topic", "--file", "/no/such/file"], b"", "/no/such/file: No such file"),
        (["topic", "--file", "/no/such/*.txt"], b"", "/no/such/*.txt: no file is there"),
        (["topic", "tests", "a"], b"", "tests is the name of a file, not a text: --file tests reads it"),
        (["topic", "a", "--lines", "-"], b"", "--lines goes with no other texts"),
        (["topic", "a", "--output", "there"], b"", "--output: what is read once cannot be gone on with"),
        (["summarize", "a", "--num-beams", "9"], b"", "--num-beams: 9 is not allowed; it must be between 1 and 8"),
        (["summarize", "a", "--max-new-tokens", "0"], b"", "--max-new-tokens: 0 is not allowed"),
        (
            ["summarize", "a", "--max-new-tokens", "513"],
            b"",
            "--max-new-tokens: 513 is not allowed; it must be at most",
        ),
        (["summarize", "a", "--temperature", "warm"], b"", "--temperature: 'warm' is not allowed; it must be a number"),
        (["summarize", "a", "--top-k", "1.5"], b"", "--top-k: '1.5' is not allowed; it must be a whole number"),
        (
            ["summarize", "a", "--early-stopping", "soon"],
            b"",
            "--early-stopping: 'soon' is not allowed; it must be",
        ),
        (["analyze", "a", "--do-sample", "--num-beams", "2"], b"", "--do-sample: true with num_beams 2"),
        (["summarize", "word " * 200, "--on-long", "error"], b"", "64 are allowed"),
        (
            ["classify", "moods", "a"],
            b"",
            "moods: the checkpoint random has no head of that name; it has emotions, topic",
        ),
        (["classify", "topic", "a", "--threshold", "0.5"], b"", "--threshold is 0.5 with topic, which has one label"),
        (["topic", "a", "--dtype", "int4"], b"", "--dtype (LEXIMIND_DTYPE) is 'int4'"),
        (["import", "/no/such/folder", "target"], b"", "/no/such/folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(leximind: Any, arguments: list[str], stdin: bytes, message: str) -> None:
    result = leximind(*arguments, stdin=stdin)
    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("leximind: ")
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint", "/no/such/checkpoint"], "/no/such/checkpoint: no such folder"),
        (["--device", "cuda:7"], "CUDA devices"),
    ],
)
def test_failed_load_is_one_line_and_exit_code_1(arguments: list[str], message: str, checkpoint_folder: Path) -> None:
    given = arguments if "--checkpoint" in arguments else ["--checkpoint", str(checkpoint_folder), *arguments]
    result = CliRunner().invoke(app, ["topic", "a", *given])
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("leximind: ")
    assert message in line


def test_help_of_every_command_has_examples_that_are_commands() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name in commands:
        shown = CliRunner().invoke(app, [name, "--help"]).stdout
        examples = shown.partition("Examples:\n")[2].splitlines()
        assert examples, name
        for example in filter(str.strip, examples):
            _, *words = shlex.split(example[example.index("leximind ") :].partition(" < ")[0].partition(" > ")[0])
            with commands[words[0]].make_context(words[0], words[1:]) as context:
                assert context.command.name == name


@pytest.mark.slow
def test_shell_completes_commands_and_flags() -> None:
    assert completions("leximind", "b") == ["bulk", "bench"]
    assert completions("leximind", "summarize", "--num-b") == ["--num-beams"]


def loaded_by(code: str, *modules: str) -> list[str]:
    """Which of `modules` a process has loaded after `code`."""
    code = f"import sys\n{code}\nprint('loaded:', *(name for name in {modules} if name in sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    return run.stdout.rpartition("loaded:")[2].split()


def test_command_line_loads_no_http() -> None:
    code = "import app.bench, app.cli, app.doctor, app.local"  # what its commands load
    assert loaded_by(code, "app.api", "fastapi", "uvicorn", "torch") == ["torch"]


def test_help_loads_nothing_that_takes_long() -> None:
    code = """
from typer.main import get_command
from typer.testing import CliRunner
from app.cli import app
for name in ((), *((name,) for name in get_command(app).commands)):
    assert not CliRunner().invoke(app, [*name, "--help"], catch_exceptions=False).exit_code
"""
    assert loaded_by(code, "torch", "numpy", "fastapi", "gradio", "app.cli") == ["app.cli"]


def test_every_setting_is_a_flag_of_serve_with_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = CliRunner().invoke(app, ["serve", "--help"]).stdout
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in text
        assert f"LEXIMIND_{name.upper()}]" in text


def test_serve_passes_its_flags_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Settings] = []
    monkeypatch.setattr("app.server.serve", given.append)
    flags = ["--port", "1", "--log-json", "--requests-per-second", "2.5", "--api-keys", "a,b", "--max-items", "7"]
    assert CliRunner().invoke(app, ["serve", *flags]).exit_code == 0
    [settings] = given
    assert (settings.port, settings.log_json, settings.requests_per_second, settings.max_items) == (1, True, 2.5, 7)
    assert len(settings.api_keys) == 2
