"""Open-loop load and its summary, and where tables go."""

import math
from pathlib import Path

import pytest

from benchmarks import gpu, report
from benchmarks.load import MIXED, poisson
from benchmarks.outcomes import Outcome, summary
from benchmarks.stopwatch import Stopwatch
from benchmarks.texts import Language


def test_a_trace_is_the_same_for_every_server() -> None:
    language = Language(200)
    trace = poisson(MIXED, 5, 20, language)
    assert trace == poisson(MIXED, 5, 20, language)
    assert 60 < len(trace) < 140
    assert all(MIXED.words[0] <= len(one.text.split()) <= MIXED.words[1] for one in trace)
    assert all(MIXED.new_tokens[0] <= one.num_new_tokens <= MIXED.new_tokens[1] for one in trace)


def test_what_is_late_is_no_goodput_and_what_is_lost_is_in_the_tail() -> None:
    outcomes = [Outcome(1.0, 1.0, 200), Outcome(2.0, 11.0, 200), Outcome(3.0, math.inf, 429), Outcome(4.0, math.inf, 0)]
    measured = summary(outcomes, duration_s=10.0)
    assert measured["p50_s"] == 11.0
    assert measured["p95_s"] is None
    assert measured["goodput_per_s"] == pytest.approx(0.1)
    assert (measured["refused"], measured["failed"], measured["unanswered"]) == (1, 0, 1)


def test_a_table_replaces_the_one_between_its_marks_only(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- gpu -->\nold\n<!-- /gpu -->\nafter\n")
    report.update_readme("gpu", "new \\1 table", readme)
    assert readme.read_text() == "before\n<!-- gpu -->\nnew \\1 table\n<!-- /gpu -->\nafter\n"
    with pytest.raises(ValueError, match="no place marked serving"):
        report.update_readme("serving", "table", readme)


@pytest.mark.parametrize("name", ["decoding", "encoder", "serving", "overhead", "gpu"])
def test_the_readme_has_a_place_for_every_table(name: str) -> None:
    assert f"<!-- {name} -->" in report.README.read_text(encoding="utf-8")


def test_a_part_is_not_charged_for_the_parts_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 5.0, 6.0])
    monkeypatch.setattr("benchmarks.stopwatch.time.perf_counter", lambda: next(times))
    watch = Stopwatch(gpu.torch.device("cpu"))
    with watch.part("outer"), watch.part("inner"):
        pass
    assert watch.seconds == {"outer": 2.0, "inner": 4.0}


def test_without_a_gpu_it_is_said_and_nothing_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--everything", "--output", str(tmp_path)])
    assert ended.value.code == gpu.NO_DEVICE
    assert "no CUDA device is present" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
