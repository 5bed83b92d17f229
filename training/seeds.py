"""`python -m training.seeds REPORT REPORT …`: how much a score moves when only the seed does, as mean ± sd."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from training.errors import TrainingError
from training.evaluation.report import table

Report = Mapping[str, Any]

_SAME = ("split", "data", "rows", "decoding", "bertscore")  # what else could make two runs differ


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m training.seeds", description=__doc__)
    parser.add_argument(
        "reports", type=Path, nargs="+", metavar="REPORT", help="folder that training.evaluate wrote, one a run"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="write seeds.json and seeds.md there as well")
    options = parser.parse_args(arguments)
    try:
        reports = [_read(path) for path in options.reports]
        study = compare_runs(reports)
    except TrainingError as error:
        sys.exit(f"error: {error}")
    page = to_markdown(study, reports)
    print(page)  # noqa: T201
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "seeds.json").write_text(json.dumps(study, indent=2) + "\n", encoding="utf-8")
        (options.output / "seeds.md").write_text(page, encoding="utf-8")


def compare_runs(reports: Sequence[Report]) -> dict[str, dict[str, Any]]:
    """For each score its mean, sample standard deviation and the value of each run.

    Raises:
        TrainingError: fewer than two reports, two of one checkpoint, or of other data, rows or decoding.
    """
    if len(reports) < 2:
        raise TrainingError(f"{len(reports)} report: a spread needs two or more")
    first = reports[0]
    for number, report in enumerate(reports):
        for key in _SAME:
            if report.get(key) != first.get(key):
                raise TrainingError(
                    f"{report['checkpoint']} and {first['checkpoint']} were scored with another {key}: "
                    f"{report.get(key)} and {first.get(key)}; evaluate them alike"
                )
        for other in reports[:number]:
            if report["weights"] == other["weights"]:
                raise TrainingError(f"{report['checkpoint']} and {other['checkpoint']} hold the same weights")
    values = {name: [report["scores"][name]["value"] for report in reports] for name in first["scores"]}
    return {name: {"mean": mean(each), "sd": stdev(each), "runs": each} for name, each in values.items()}


def to_markdown(study: Mapping[str, Mapping[str, Any]], reports: Sequence[Report]) -> str:
    """The table of a study; single labels and leads are in its JSON."""
    rows = [
        (name, f"{found['mean']:.4f} ± {found['sd']:.4f}", *(f"{value:.4f}" for value in found["runs"]))
        for name, found in study.items()
        if ".label." not in name and ".lead." not in name
    ]
    names = [report["checkpoint"] for report in reports]
    return f"# {len(reports)} runs on {reports[0]['split']}\n\n" + table(("score", "mean ± sd", *names), rows) + "\n"


def _read(path: Path) -> Report:
    file = path / "report.json" if path.is_dir() else path
    try:
        report: Report = json.loads(file.read_text(encoding="utf-8"))
        _ = report["scores"], report["weights"], report["checkpoint"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{file}: no report of training.evaluate ({error})") from error
    return report


if __name__ == "__main__":
    main()
