"""Fetched files → the splits of a data folder, without the rows of train and dev that repeat what is held out.

Test is written as published, then dev without what is in test, then train without what is in either, across all tasks
of the folder; a row of train that comes twice stays once. Everything left out is listed, with its place and why.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from training.acquisition.disk import JsonLines, disk_errors
from training.acquisition.duplicates import SIMILARITY, WORDS, Duplicate, HeldOut
from training.acquisition.progress import DownloadProgress
from training.acquisition.records import records
from training.acquisition.rows import Row, Unusable
from training.acquisition.sources import Source
from training.errors import DataError

LEFT_OUT = "left_out.jsonl.gz"
PARTIAL = ".partial"
# A changed rule makes another folder of the same files: raise `version`.
RULES = {"version": 1, "shingle_words": WORDS, "similarity": SIMILARITY, "dev_share": 0.05}
_HELD_OUT_BEFORE = {"test": (), "dev": ("test",), "train": ("test", "dev")}
_MOST_BAD = 0.25  # of a split: more is another format, not some bad rows


@dataclass
class Built:
    """Rows written by file, and of every split how many were read, written and left out by reason."""

    rows: dict[str, int] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)


def build(sources: Sequence[Source], raw: Path, output: Path, progress: DownloadProgress) -> Built:
    """Write every split of every task as `FILE.partial` under `output`.

    Raises:
        DataError: a file is damaged, has too many bad rows, or a split would be empty.
        DownloadError: the disk is full.
    """
    built, held_out = Built(), HeldOut()
    with ExitStack() as stack:
        stack.enter_context(disk_errors(output, "--output"))
        report = stack.enter_context(JsonLines(output / (LEFT_OUT + PARTIAL)))
        for split in _HELD_OUT_BEFORE:
            for task in dict.fromkeys(source.task for source in sources):
                having = [source for source in sources if source.task == task and _has(source, split)]
                if having:
                    _Split(having, task, split, raw, held_out, report, built).write(output, progress)
        built.rows[LEFT_OUT] = report.num_rows
    return built


@dataclass
class _Split:
    sources: Sequence[Source]
    task: str
    split: str
    raw: Path
    held_out: HeldOut
    report: JsonLines
    built: Built
    seen: set[bytes] = field(default_factory=set)  # hashes of text and target, in train
    first_bad: str = ""

    def write(self, output: Path, progress: DownloadProgress) -> None:
        name = f"{self.task}/{self.split}"
        count = self.built.counts[name] = Counter(read=0, written=0)
        with JsonLines(output / f"{name}.jsonl.gz{PARTIAL}") as out, progress.writing(name) as advance:
            for row, where in self._rows():
                count["read"] += 1
                advance(count["read"])
                if isinstance(row, Unusable):
                    self._leave_out(count, where, "bad", why=str(row))
                elif found := self._duplicate_of(row):
                    similarity = round(found.similarity, 3)
                    self._leave_out(count, where, found.reason, duplicate_of=found.where, similarity=similarity)
                else:
                    out.write(row.columns)
                    if self.split != "train":
                        self.held_out.add(row, self.split, where)
        count["written"] = self.built.rows[f"{name}.jsonl.gz"] = out.num_rows
        progress.say(f"{name}: " + ", ".join(f"{number:,} {what}" for what, number in count.items()))
        if count["bad"] > max(10, _MOST_BAD * count["read"]) or not out.num_rows:
            example = f"; the first: {self.first_bad}" if count["bad"] else ""
            raise DataError(
                f"{name}: {count['bad']:,} of {count['read']:,} rows are bad and {out.num_rows:,} would be written; "
                f"at most {_MOST_BAD:.0%} may be, and one row must be left{example}"
            )

    def _rows(self) -> Iterator[tuple[Row | Unusable, str]]:
        for source in self.sources:
            yield from split_rows(source, self.split, self.raw / source.name)

    def _duplicate_of(self, row: Row) -> Duplicate | None:
        if self.split == "train":
            key = hashlib.blake2b(f"{row.text}\0{row.target}".encode(), digest_size=16).digest()
            if key in self.seen:
                return Duplicate("repeated", f"{self.task}/train", 1.0)
            self.seen.add(key)
        before = _HELD_OUT_BEFORE[self.split]
        return self.held_out.duplicate_of(row, before) if before else None

    def _leave_out(self, count: Counter[str], where: str, reason: str, **more: str | float) -> None:
        count[reason] += 1
        if reason == "bad" and not self.first_bad:
            self.first_bad = f"{where}: {more['why']}"
        self.report.write({"split": f"{self.task}/{self.split}", "where": where, "reason": reason, **more})


def split_rows(source: Source, split: str, folder: Path) -> Iterator[tuple[Row | Unusable, str]]:
    """The rows of an official split, or of the part of train that is cut off as dev, with their places."""
    cut = source.cut_key if "dev" not in source.files and split != "test" else None
    for path in source.files["train" if cut else split]:
        for number, record in records(folder / path, source.columns):
            where = f"{source.name}/{path}:{number}"
            if isinstance(record, Unusable):
                if not cut or split == "train":  # once, not in both passes
                    yield record, where
                continue
            if cut and _is_dev(str(record[cut])) != (split == "dev"):
                continue
            try:
                for row in source.convert(record):
                    yield row, where
            except Unusable as error:
                yield error, where


def _has(source: Source, split: str) -> bool:
    return split in source.files or (split == "dev" and source.cut_key is not None)


def _is_dev(key: str) -> bool:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest) < RULES["dev_share"] * 2**64
