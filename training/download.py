"""`python -m training.download [TASK …]`: public data, checked and without what is held out, as a data folder."""

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from training.errors import DataError, DownloadError, TrainingError

_STOPPED = 130  # what a shell gives a command that Ctrl-C ended


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = _parser().parse_args(arguments)
    try:
        if missing := [name for name in ("datasketch", "pyarrow", "httpx2") if find_spec(name) is None]:
            raise DownloadError(f"{', '.join(missing)} cannot be imported; pip install 'leximind[training,data]'")
        download(options.tasks, options.output, options.raw, options.endpoint, overwrite=options.overwrite)
    except TrainingError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)  # noqa: T201
        sys.exit(_STOPPED)


def download(
    tasks: Sequence[str], output: Path, raw: Path, endpoint: str | None = None, *, overwrite: bool = False
) -> None:
    """Make `output` hold `tasks` (all of them if empty) and those that it has, checked against one another.

    Raises:
        TrainingError: whatever stands in the way, with the remedy.
    """
    from training.acquisition.build import build
    from training.acquisition.disk import disk_errors
    from training.acquisition.hub import fetch
    from training.acquisition.manifest import check, commit, read_manifest
    from training.acquisition.progress import DownloadProgress
    from training.acquisition.sources import SOURCE_TASKS, SOURCES

    if unknown := [task for task in tasks if task not in SOURCE_TASKS]:
        near = "".join(f"; did you mean {name}?" for name in get_close_matches(unknown[0], SOURCE_TASKS, n=1))
        raise DownloadError(f"no task {unknown[0]}; the tasks are {', '.join(SOURCE_TASKS)}{near}")
    with disk_errors(output, "--output"):
        output.mkdir(parents=True, exist_ok=True)
    manifest = read_manifest(output)
    wanted = set(tasks or SOURCE_TASKS) | (manifest.tasks if manifest else set())
    sources = [source for source in SOURCES if source.task in wanted]
    if not overwrite:
        check(output, manifest, wanted)
    with DownloadProgress() as progress:
        if manifest and not overwrite:
            if not manifest.agrees_with(sources):
                raise DataError(f"{output} was made from other commits or by other rules; --overwrite makes it again")
            if manifest.made_of(sources):
                progress.say(f"{output} has {', '.join(sorted(wanted))}, as its manifest says: nothing to do")
                return
        fetched = {source.name: fetch(source, raw, endpoint, progress) for source in sources}
        commit(output, sources, fetched, build(sources, raw, output, progress))
        progress.say(f"{output} has {', '.join(sorted(wanted))}; what was left out is in left_out.jsonl.gz")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training.download", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="TASK", help="summarization, emotion, topic, prose (all of them)")
    parser.add_argument("--output", type=Path, default=Path("data/processed"), metavar="FOLDER", help="data/processed")
    parser.add_argument("--raw", type=Path, default=Path("data/raw"), metavar="FOLDER", help="fetched files (data/raw)")
    parser.add_argument("--endpoint", metavar="URL", help="another hub or mirror (HF_ENDPOINT, or huggingface.co)")
    parser.add_argument("--overwrite", action="store_true", help="replace the folder, whatever it holds")
    return parser


if __name__ == "__main__":
    main()
