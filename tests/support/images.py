"""The image as a registry would get it: built by buildah, with Debian by debootstrap where no registry is in reach."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
TAG = "leximind"
REVISION = "0123456789abcdef0123456789abcdef01234567"
MIRROR, SECURITY_MIRROR = "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"
_DEFAULT_BASE = re.search(r"^ARG BASE_IMAGE=(\S+)$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
# What of pip's configuration says where packages come from.
_PIP_SOURCES = {
    *("index-url", "extra-index-url", "find-links", "no-index", "trusted-host", "cert", "client-cert", "constraint"),
    *("proxy", "default-timeout", "timeout", "retries"),
}
_LOCAL_PATH = re.compile(r"(?:(?<=file://)|(?<!\S))/[^\s/]\S*")


class BuildFailed(Exception):
    """The build has not ended well; the message is its output."""


@dataclass(frozen=True)
class Layer:
    """A layer as a registry stores it."""

    digest: str
    size: int  # compressed bytes


@dataclass(frozen=True)
class Builder:
    """buildah with a store of its own in `folder`; builds find packages where this machine's pip and apt do."""

    folder: Path
    base: str
    options: tuple[str, ...]

    def buildah(self, *arguments: str | Path) -> str:
        """What the command prints on standard output."""
        return buildah(self.folder, *arguments)

    def build(self, context: Path, tag: str, *options: str, **build_args: str) -> None:
        """Build the Dockerfile of `context`.

        Raises:
            BuildFailed: with what the build printed.
        """
        given = {"BASE_IMAGE": self.base, "TORCH_INDEX_URL": os.environ.get("TORCH_INDEX_URL", ""), **build_args}
        arguments = [option for name, value in given.items() for option in ("--build-arg", f"{name}={value}")]
        # docker: the format of OCI has no health check.
        command = ["bud", "--layers", "--format", "docker", "--tag", tag, *self.options, *arguments, *options]
        self.buildah(*command, context)

    def config(self, tag: str) -> dict[str, Any]:
        """The image's configuration, by Docker's names."""
        config: dict[str, Any] = json.loads(self.buildah("inspect", "--type", "image", tag))["Docker"]["config"]
        return config

    def layers(self, tag: str) -> list[Layer]:
        """The layers of an image, lowest first, pushed to a registry that is a folder."""
        registry = self.folder / "registry"
        self.buildah("push", "--quiet", tag, f"oci:{registry}:{tag}")
        index = json.loads((registry / "index.json").read_text())["manifests"]
        (digest,) = (one["digest"] for one in index if one["annotations"]["org.opencontainers.image.ref.name"] == tag)
        manifest = json.loads((registry / "blobs" / digest.replace(":", "/")).read_text())
        return [Layer(layer["digest"], layer["size"]) for layer in manifest["layers"]]

    @contextmanager
    def mounted(self, tag: str) -> Iterator[Path]:
        """The root of a container of the image, which has written nothing yet."""
        container = self.buildah("from", "--pull-never", tag).strip()
        try:
            yield Path(self.buildah("mount", container).strip())
        finally:
            self.buildah("rm", container)


def buildah(folder: Path, *arguments: str | Path) -> str:
    """What buildah prints on standard output, with a store in `folder`.

    Raises:
        BuildFailed: it has not ended well.
    """
    command = ["buildah", "--root", folder / "store", "--runroot", folder / "run", *arguments]
    environment = {**os.environ, "BUILDAH_ISOLATION": "chroot"}  # needs no namespaces, which a container may not make
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise BuildFailed(f"{' '.join(map(str, arguments))}\n{ran.stdout[-10_000:]}\n{ran.stderr[-10_000:]}")
    return ran.stdout


@contextmanager
def builder(folder: Path) -> Iterator[Builder]:
    """A builder with a store in `folder`, or in IMAGE_STORE of the environment, which a next run goes on from."""
    kept = os.environ.get("IMAGE_STORE")
    store = Path(kept) if kept else folder
    store.mkdir(exist_ok=True)
    try:
        yield Builder(store, _base(store), (*_pip_options(folder), *_apt_options(folder)))
    finally:
        buildah(store, "rm", "--all")  # nothing is mounted any more
        shutil.rmtree(folder)  # gigabytes, if the store is in it


def _base(folder: Path) -> str:
    """BASE_IMAGE of the environment, else the Dockerfile's, else by debootstrap SUITE or this machine's own Debian."""
    assert _DEFAULT_BASE
    name = os.environ.get("BASE_IMAGE") or f"docker.io/library/{_DEFAULT_BASE[1]}"
    try:
        buildah(folder, "pull", "--quiet", name)
    except BuildFailed:
        if os.environ.get("BASE_IMAGE"):
            raise
        return _debootstrapped(folder)
    return name


def _debootstrapped(folder: Path) -> str:
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    own = release["VERSION_CODENAME"] if release["ID"] == "debian" else "trixie"
    suite = os.environ.get("SUITE", own)
    if f"base:{suite}" in buildah(folder, "images", "--format", "{{.Name}}:{{.Tag}}"):
        return f"localhost/base:{suite}"
    root = folder / suite
    command = ["debootstrap", "--variant=minbase", suite, root, MIRROR]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise BuildFailed(f"{made.stdout[-10_000:]}\n{made.stderr}")
    suites = {suite: MIRROR, f"{suite}-updates": MIRROR, f"{suite}-security": SECURITY_MIRROR}
    lines = [f"deb {mirror} {name} main\n" for name, mirror in suites.items()]
    (root / "etc/apt/sources.list").write_text("".join(lines))
    for used in ("var/lib/apt/lists", "var/cache/apt/archives"):
        shutil.rmtree(root / used)
    container = buildah(folder, "from", "scratch").strip()
    buildah(folder, "copy", "--quiet", container, root, "/")
    buildah(folder, "commit", "--quiet", container, f"base:{suite}")
    shutil.rmtree(root)
    return f"localhost/base:{suite}"


def _pip_options(folder: Path) -> list[str]:
    """Where this machine's pip looks, as a secret of the build; folders that it names are mounted."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    found: dict[str, str] = {}
    for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):  # which wins
        name, _, value = line.partition("=")
        found[name.rpartition(".")[2]] = ast.literal_eval(value)
    volumes: dict[Path, str] = {}

    def mounted(path: re.Match[str]) -> str:
        """The path inside the build. Its parent is mounted: an index may link to files beside it."""
        real = Path(path[0]).resolve()
        if not real.exists():
            return path[0]
        return volumes.setdefault(real.parent, f"/mnt/pip/{len(volumes)}") + f"/{real.name}"

    sources = {name: value for name, value in found.items() if name in _PIP_SOURCES}
    lines = [f"{name} = {_LOCAL_PATH.sub(mounted, value)}\n" for name, value in sources.items()]
    config = folder / "pip.conf"
    config.write_text("[global]\n" + "".join(lines))
    options = [f"--volume={source}:{target}:ro" for source, target in volumes.items()]
    return ["--secret", f"id=pip,src={config}", *options]


def _apt_options(folder: Path) -> list[str]:
    """How this machine's apt reaches mirrors, such as by a proxy."""
    if not shutil.which("apt-config"):
        return []
    config = folder / "apt.conf"
    config.write_text(subprocess.check_output(["apt-config", "dump", "Acquire"], text=True))
    return [f"--volume={config}:/etc/apt/apt.conf.d/99machine:ro"]
