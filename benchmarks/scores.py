"""What decoding has measured so far, kept on disk, and the table of it: medians, and ratios to the best peer."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.contenders import CONTENDERS, OURS

Key = tuple[int, int]  # batch, beams
REFERENCE = "transformers fp32"


@dataclass
class Scores:
    """Measurements by contender and row. `notes` say what each contender is, or why it is not there."""

    name: str
    folder: Path
    num_new_tokens: int
    rows: tuple[Key, ...]
    facts: dict[str, Any]
    measurements: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    agreement: dict[str, list[float | None]] = field(default_factory=dict)
    _tokens: dict[tuple[str, Key], list[list[int]]] = field(default_factory=dict)

    @classmethod
    def begin(cls, name: str, folder: Path, num_new_tokens: int, rows: tuple[Key, ...], *, resume: bool) -> "Scores":
        """Empty, or what an earlier run left in `folder`."""
        scores = cls(name, folder, num_new_tokens, rows, report.facts())
        if resume and (left := report.load(name, folder)):
            scores.measurements, scores.notes, scores.agreement = (
                left[key] for key in ("measurements", "notes", "agreement")
            )
        return scores

    def note(self, contender: str, text: str) -> None:
        """Remember what a contender is, or why it is not there."""
        self.notes[contender] = text
        self._save()

    def add(self, contender: str, row: Key, seconds: float, tokens: list[list[int]]) -> None:
        """One measurement, which counts only if every answer has its full length."""
        if [len(one) for one in tokens] != [self.num_new_tokens] * row[0]:
            self.note(contender, f"gave {sorted({len(one) for one in tokens})} tokens, not {self.num_new_tokens}")
            return
        batch, beams = row
        self.measurements.append({"contender": contender, "batch": batch, "beams": beams, "seconds": seconds})
        self._tokens[contender, row] = tokens
        self._compare(contender)
        self._save()
        print(f"{contender:28} batch {batch:3} beams {beams}: {seconds:7.2f} s", flush=True)

    def count(self, contender: str, row: Key) -> int:
        """Measurements that there are."""
        return len(self._seconds(contender, row))

    def rate(self, contender: str, row: Key) -> float | None:
        """New tokens a second, by the median of the repetitions."""
        seconds = self._seconds(contender, row)
        return row[0] * self.num_new_tokens / median(seconds) if seconds else None

    def markdown(self) -> str:
        """The table, with what is needed to believe it."""
        header = [
            "tokens/s at batch × beams",
            *(f"{batch} × {beams}" for batch, beams in self.rows),
            "same ids, greedy / beams",
        ]
        names = [name for name in CONTENDERS if any(self._seconds(name, row) for row in self.rows)]
        lines = [[name, *(_rounded(self.rate(name, row)) for row in self.rows), self._agrees(name)] for name in names]
        lines += [["**ours ÷ best peer**", *(self._ratio(names, row) for row in self.rows), ""]]
        for precision in ("fp32", "bf16", "int8"):
            same = [name for name in names if precision in name.split()]
            if any(name.startswith(OURS) for name in same):
                lines.append([f"the same, {precision} alone", *(self._ratio(same, row) for row in self.rows), ""])
        repetitions = {self.count(name, row) for name, row in itertools.product(names, self.rows)} - {0} or {0}
        notes = "\n".join(f"- {name}: {text}" for name, text in self.notes.items())
        return (
            f"{report.caption(self.facts)}\n{report.table(header, lines)}\n\n"
            f"Medians of {min(repetitions)} to {max(repetitions)} interleaved repetitions. Ids are compared with "
            f"{REFERENCE} in the first repetition.\n\n{notes}\n"
        )

    def _seconds(self, contender: str, row: Key) -> list[float]:
        wanted = (contender, *row)
        return [one["seconds"] for one in self.measurements if (one["contender"], one["batch"], one["beams"]) == wanted]

    def _ratio(self, names: Sequence[str], row: Key) -> str:
        rates = {name: rate for name in names if (rate := self.rate(name, row))}
        ours = [rate for name, rate in rates.items() if name.startswith(OURS)]
        peers = [rate for name, rate in rates.items() if not name.startswith(OURS)]
        return f"{max(ours) / max(peers):.2f}" if ours and peers else "–"

    def _compare(self, newest: str) -> None:
        for name in [newest] if newest != REFERENCE else CONTENDERS:
            self.agreement[name] = [
                self._equal(name, [r for r in self.rows if (r[1] > 1) == beams]) for beams in (False, True)
            ]

    def _equal(self, name: str, rows: Sequence[Key]) -> float | None:
        """The share of ids that are the reference's, of the first repetition in this run."""
        pairs = [
            pair
            for row in rows
            if (name, row) in self._tokens and (REFERENCE, row) in self._tokens
            for answers in zip(self._tokens[name, row], self._tokens[REFERENCE, row], strict=True)
            for pair in zip(*answers, strict=True)
        ]
        return sum(one == other for one, other in pairs) / len(pairs) if pairs else None

    def _agrees(self, name: str) -> str:
        shares = self.agreement.get(name, [None, None])
        return " / ".join("–" if share is None else f"{share:.0%}" for share in shares)

    def _save(self) -> None:
        kept = ("facts", "num_new_tokens", "measurements", "notes", "agreement")
        report.save(self.name, {key: getattr(self, key) for key in kept}, self.markdown(), self.folder)


def _rounded(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.0f}" if rate >= 10 else f"{rate:.1f}"
