"""The files of a data set from the Hugging Face hub: listed at the pinned commit, fetched, checked, kept.

`huggingface_hub.hf_hub_download` begins a file again after a killed process (its partial files are private to the
process), so the part is kept here and the library's `http_get` goes on from its end.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
from huggingface_hub import HfApi, RepoFile, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]  # documented

from training.acquisition.disk import disk_errors, read_json, require_free, write_json
from training.acquisition.progress import DownloadProgress
from training.acquisition.sources import Source
from training.errors import DataError, DownloadError

_LISTING = "listing.json"


@dataclass(frozen=True)
class Remote:
    """A file as the hub announces it: `checksum` is a sha256 of its bytes, or git's hash where `algorithm` is git."""

    size: int
    algorithm: str
    checksum: str


def fetch(source: Source, raw: Path, endpoint: str | None, progress: DownloadProgress) -> dict[str, Remote]:
    """Make `raw/NAME/` hold every file of `source`; what is there and whole is not asked for again.

    Raises:
        DownloadError: the hub cannot be reached or does not have the files; the disk is full.
        DataError: a file that is there is not the announced one.
    """
    folder = raw / source.name
    with disk_errors(raw, "--raw"):
        folder.mkdir(parents=True, exist_ok=True)
        announced = _listing(source, folder, endpoint)
        missing = []
        for path, remote in announced.items():
            if not (folder / path).exists():
                missing.append(path)
            elif (found := _checksum(folder / path, remote)) != remote.checksum:
                raise DataError(
                    f"{folder / path}: damaged (its hash is {found}, the hub announces {remote.checksum}); "
                    "delete it and run the command again"
                )
        parts = {path: _part(folder, path, announced[path]) for path in missing}
        left = sum(announced[path].size - (part.stat().st_size if part.exists() else 0) for path, part in parts.items())
        require_free(folder, left, source.name)
        for path, part in parts.items():
            with progress.fetching(f"{source.name}/{path}", announced[path].size) as advance:
                _download(source, path, announced[path], part, endpoint, advance)
            part.replace(folder / path)
    return announced


def _listing(source: Source, folder: Path, endpoint: str | None) -> dict[str, Remote]:
    known = read_json(folder / _LISTING)
    if known and known["revision"] == source.revision and known["files"].keys() == set(source.paths):
        return {path: Remote(**fields) for path, fields in known["files"].items()}
    with _hub_errors(source):
        found = HfApi(endpoint=endpoint).get_paths_info(
            source.repo, list(source.paths), revision=source.revision, repo_type="dataset"
        )
    files = {file.path: _remote(file) for file in found if isinstance(file, RepoFile)}
    if missing := [path for path in source.paths if path not in files]:
        raise DownloadError(
            f"{source.repo} at {source.revision} has no {', '.join(missing)}; "
            "if --endpoint or HF_ENDPOINT names a mirror, it is not complete: name another"
        )
    listing = {"revision": source.revision, "files": {path: asdict(files[path]) for path in source.paths}}
    write_json(folder / _LISTING, listing)
    return {path: files[path] for path in source.paths}


def _remote(file: RepoFile) -> Remote:
    if file.lfs is not None:
        return Remote(file.size, "sha256", file.lfs.sha256)
    return Remote(file.size, "git", file.blob_id)


def _part(folder: Path, path: str, remote: Remote) -> Path:
    part = (folder / path).with_name(f"{Path(path).name}.{remote.checksum[:12]}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    if part.exists() and part.stat().st_size > remote.size:
        part.unlink()
    return part


def _download(
    source: Source, path: str, remote: Remote, part: Path, endpoint: str | None, advance: Callable[[int], None]
) -> None:
    url = hf_hub_url(source.repo, path, repo_type="dataset", revision=source.revision, endpoint=endpoint)
    disable_progress_bars()  # ours is the one to be seen
    with _Counted(part, advance) as out, _hub_errors(source):
        http_get(
            url,
            out,
            resume_size=out.tell(),
            headers=build_hf_headers(library_name="leximind"),
            expected_size=remote.size,
        )
    if (found := _checksum(part, remote)) != remote.checksum:
        part.unlink()
        raise DownloadError(
            f"{source.repo}/{path}: what came has the hash {found}, the hub announces {remote.checksum}; "
            "it was thrown away: run the command again"
        )


class _Counted(io.BufferedWriter):
    """A file that is appended to and reports how many bytes it has."""

    def __init__(self, path: Path, advance: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "a"))
        self._advance = advance
        advance(self.tell())

    def write(self, chunk: Any) -> int:
        written = super().write(chunk)
        self.flush()  # a killed process loses nothing that came
        self._advance(self.tell())
        return written


def _checksum(path: Path, remote: Remote) -> str:
    with path.open("rb") as file:
        if remote.algorithm == "sha256":
            return hashlib.file_digest(file, "sha256").hexdigest()
        return hashlib.sha1(b"blob %d\0" % path.stat().st_size + file.read()).hexdigest()


@contextmanager
def _hub_errors(source: Source) -> Iterator[None]:
    try:
        yield
    except HfHubHTTPError as error:
        raise DownloadError(
            f"{source.repo} at {source.revision}: the hub answers {error.response.status_code} to {error.request.url}; "
            "try again later, or name another hub with --endpoint or HF_ENDPOINT"
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled) as error:
        raise DownloadError(
            f"{source.repo}: the hub cannot be reached ({error or type(error).__name__}); check the network, "
            "HF_ENDPOINT and HF_HUB_OFFLINE; what has come is kept: run the command again"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(
            f"{source.repo}: the answer is not that of a hub ({error}); check the network, --endpoint and HF_ENDPOINT"
        ) from error
