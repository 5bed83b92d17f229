"""What a data folder was made of and what it must contain; how the new files take the place of the old."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.acquisition.build import PARTIAL, RULES, Built
from training.acquisition.disk import disk_errors, read_json, sha256, write_json
from training.acquisition.hub import Remote
from training.acquisition.sources import Source
from training.data.terms import terms_of
from training.errors import DataError

NAME = "manifest.json"


@dataclass(frozen=True)
class Manifest:
    """`sources` by name, `files` by path within the folder, `splits` with what was read and left out."""

    rules: Mapping[str, float]
    sources: Mapping[str, Mapping[str, Any]]
    files: Mapping[str, Mapping[str, Any]]
    splits: Mapping[str, Mapping[str, int]]

    @property
    def tasks(self) -> set[str]:
        """Those that the folder has."""
        return {source["task"] for source in self.sources.values()}

    def agrees_with(self, sources: Sequence[Source]) -> bool:
        """Whether what the folder has of these sources came from the same commits by today's rules."""
        pinned = {source.name: source.revision for source in sources}
        return self.rules == RULES and all(
            facts["revision"] == pinned.get(name) for name, facts in self.sources.items()
        )

    def made_of(self, sources: Sequence[Source]) -> bool:
        """Whether these sources, by today's rules, would give the same folder."""
        return self.agrees_with(sources) and self.sources.keys() == {source.name for source in sources}


def read_manifest(output: Path) -> Manifest | None:
    """The manifest of a folder, None where there is none; a commit that was cut short is completed.

    Raises:
        DataError: the manifest is damaged.
    """
    fields = read_json(output / NAME)
    if fields is None:
        return None
    try:
        manifest = Manifest(**fields)
    except TypeError as error:
        raise DataError(
            f"{output / NAME}: not a manifest of this program ({error}); delete it and use --overwrite"
        ) from error
    _take_places(output, manifest)
    return manifest


def check(output: Path, manifest: Manifest | None, tasks: Collection[str]) -> None:
    """Refuse to replace what this command did not write, or what was changed since.

    Raises:
        DataError: names the file.
    """
    files = manifest.files if manifest else {}
    for name, facts in files.items():
        path = output / name
        if not path.exists() or (found := sha256(path)) != facts["sha256"]:
            state = f"has the sha256 {found}" if path.exists() else "is missing"
            raise DataError(f"{path} {state}; the manifest says {facts['sha256']}; --overwrite makes it again")
    for task in tasks:
        for path in sorted((output / task).glob("*.jsonl.gz")):
            if f"{task}/{path.name}" not in files:
                raise DataError(f"{path} is not of this command; name another --output, or --overwrite replaces it")


def commit(output: Path, sources: Sequence[Source], fetched: Mapping[str, Mapping[str, Remote]], built: Built) -> None:
    """Write the manifest and put every `FILE.partial` in its place.

    The manifest comes first: with the hashes in it, a commit that is cut short is completed by the next run.

    Raises:
        DownloadError: the disk is full.
    """
    with disk_errors(output, "--output"):
        files = {}
        for name, num_rows in sorted(built.rows.items()):
            partial = output / (name + PARTIAL)
            files[name] = {"rows": num_rows, "bytes": partial.stat().st_size, "sha256": sha256(partial)}
        manifest = Manifest(
            rules=RULES,
            sources={source.name: _facts(source, fetched[source.name]) for source in sources},
            files=files,
            splits={name: dict(count) for name, count in built.counts.items()},
        )
        write_json(output / NAME, asdict(manifest))
        _take_places(output, manifest)


def _facts(source: Source, files: Mapping[str, Remote]) -> dict[str, Any]:
    title, terms = terms_of(source.name)
    return {
        "title": title,
        "terms": terms,
        "task": source.task,
        "repo": source.repo,
        "revision": source.revision,
        "files": {path: asdict(remote) for path, remote in files.items()},
    }


def _take_places(output: Path, manifest: Manifest) -> None:
    for name, facts in manifest.files.items():
        partial = output / (name + PARTIAL)
        if partial.exists() and sha256(partial) == facts["sha256"]:
            partial.replace(output / name)
