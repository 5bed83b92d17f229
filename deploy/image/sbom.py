"""Prints the image's bill of materials (CycloneDX 1.6, JSON): `python3 sbom.py BASE PACKAGES...`.

BASE holds dpkg's `status` and `os-release`; each of PACKAGES the `*.dist-info` of installed Python packages.
"""

import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from importlib.metadata import Distribution, distributions
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = "leximind"


def debian(status: str, distribution: str, release: str) -> Iterator[Component]:
    """What dpkg has installed, such as of `distribution` debian and `release` 13."""
    for paragraph in status.strip().split("\n\n"):
        package = HeaderParser().parsestr(paragraph)
        if not package["Status"].endswith(" installed"):
            continue
        qualifiers = {"arch": package["Architecture"], "distro": f"{distribution}-{release}"}
        purl = PackageURL("deb", distribution, package["Package"], package["Version"], qualifiers)
        yield component(package["Package"], package["Version"], purl)


def python(distribution: Distribution) -> Component:
    """An installed Python package."""
    metadata = distribution.metadata
    name, version = metadata["Name"], distribution.version
    given = metadata["License-Expression"] or metadata["License"] or ""
    license = LicenseFactory().make_from_string(given) if given and "\n" not in given else None
    return component(name, version, PackageURL("pypi", None, name.lower().replace("_", "-"), version), license)


def component(name: str, version: str, purl: PackageURL, license: License | None = None) -> Component:
    """A library that is known by its package URL."""
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        licenses=[license] if license else (),
    )


def bill(base: Path, packages: list[Path]) -> Bom:
    """Everything below the root component, which is this service."""
    release = dict(line.split("=", 1) for line in (base / "os-release").read_text().splitlines() if "=" in line)
    bom = Bom()
    found = {one.name.lower(): one for one in map(python, distributions(path=[str(path) for path in packages]))}
    root = found.pop(ROOT)
    root.type = ComponentType.APPLICATION
    bom.metadata.component = root
    for one in (
        *found.values(),
        *debian((base / "status").read_text(), release["ID"], release["VERSION_ID"].strip('"')),
    ):
        bom.components.add(one)
    bom.register_dependency(root, bom.components)
    return bom


if __name__ == "__main__":
    print(JsonV1Dot6(bill(Path(sys.argv[1]), [Path(path) for path in sys.argv[2:]])).output_as_string(indent=1))
