"""What is in the image, how large it is, and what of it a change of the source pushes."""

import json
import logging
import shutil
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from support.images import REPOSITORY, REVISION, TAG, Builder, BuildFailed

logger = logging.getLogger(__name__)

LARGEST_IMAGE = 350_000_000  # bytes, compressed
LARGEST_CHANGE = 5_000_000
INSTALLED = "opt/leximind"


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A copy of what the image is built from, to be changed."""
    for folder in ("app", "model", "training", "deploy/image"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for path in REPOSITORY.iterdir():
        if path.is_file():
            shutil.copy2(path, tmp_path)
    return tmp_path


def test_labels_say_what_it_is(build: Builder, version: str) -> None:
    labels = build.config(TAG)["Labels"]
    prefix = "org.opencontainers.image."
    assert labels[f"{prefix}title"] == "LexiMind"
    assert labels[f"{prefix}version"] == version
    assert labels[f"{prefix}revision"] == REVISION
    assert labels[f"{prefix}licenses"] == "MIT AND LicenseRef-LexiMind-Weights"


def test_a_change_of_app_is_a_small_push_of_a_lean_image(build: Builder, root: Path, context: Path) -> None:
    layers = build.layers(TAG)
    compressed = sum(layer.size for layer in layers)
    unpacked = sum(path.lstat().st_size for path in root.rglob("*") if not path.is_dir())
    logger.info("%.1f MB compressed, %.1f MB unpacked", compressed / 1e6, unpacked / 1e6)
    assert compressed <= LARGEST_IMAGE
    with (context / "app" / "answers.py").open("a") as source:
        source.write('\n\nCHANGED = "by a test"\n')
    build.build(context, "changed")
    known = {layer.digest for layer in layers}
    pushed = [layer.size for layer in build.layers("changed") if layer.digest not in known]
    logger.info("a change of app/ pushes %.2f MB", sum(pushed) / 1e6)
    assert 0 < sum(pushed) <= LARGEST_CHANGE
    with build.mounted("changed") as changed:
        assert "CHANGED" in (changed / INSTALLED / "application/app/answers.py").read_text()


def test_nothing_is_in_it_that_serving_never_reads(root: Path) -> None:
    installed = root / INSTALLED
    assert not (installed / "application/training").exists()
    dependencies = installed / "dependencies"
    names = {path.name.lower() for path in dependencies.iterdir()}
    assert {"torch", "fastapi", "sentencepiece"} <= names
    assert not {"pip", "wheel", "hydra", "mlflow", "sklearn", "pytest", "transformers"} & names
    assert [path.name for path in (dependencies / "torch/bin").iterdir()] == ["torch_shm_manager"]
    unwanted = (".a", ".h", ".hpp", ".pyi")
    assert not [path for path in dependencies.rglob("*") if path.suffix in unwanted and "triton" not in path.parts]
    assert not [path for path in dependencies.rglob("tests") if path.is_dir() and "triton" not in path.parts]
    assert not (dependencies / "torch/test").exists()
    assert not [path for path in (root / "usr/bin").iterdir() if path.name.startswith(("g++", "gcc", "pip"))]
    # Byte code of a part of the sources: of what serving imports (tests/image/test_container.py has the other half).
    compiled, sources = (sum(1 for _ in dependencies.rglob(pattern)) for pattern in ("*.pyc", "*.py"))
    assert 500 < compiled < sources / 2


def test_bill_of_materials_has_what_is_there(root: Path, version: str) -> None:
    text = (root / INSTALLED / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    assert bill["metadata"]["component"]["purl"] == f"pkg:pypi/leximind@{version}"
    purls = {component["purl"].partition("@")[0] for component in bill["components"]}
    assert {"pkg:pypi/torch", "pkg:pypi/fastapi", "pkg:pypi/numpy"} <= purls
    assert {"pkg:deb/debian/libc6", "pkg:deb/debian/ca-certificates"} <= purls
    assert "pkg:deb/debian/g++" not in purls
    installed = list((root / INSTALLED / "dependencies").glob("*.dist-info"))
    assert len([purl for purl in purls if purl.startswith("pkg:pypi/")]) == len(installed)


def test_build_fails_without_the_kernels_unless_told_otherwise(build: Builder, context: Path) -> None:
    for source in (context / "model" / "kernels").glob("*.cpp"):
        source.unlink()
    (context / "model" / "kernels" / "broken.cpp").write_text("#error on purpose\n")
    with pytest.raises(BuildFailed, match="the native kernels were not compiled") as failed:
        build.build(context, "none", "--target", "application")
    assert "--build-arg KERNELS=optional" in str(failed.value)
    build.build(context, "none", "--target", "application", KERNELS="optional")
    with build.mounted("none") as root:
        assert not list((root / INSTALLED / "application/model/kernels").glob("*.so"))
        assert (root / INSTALLED / "application/app/cli.py").exists()
