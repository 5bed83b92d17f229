"""A device, a folder or a disk that a run cannot use: refused in one line before data is read."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.training_runs import trainer
from training.distributed.processes import join
from training.errors import TrainingError

NO_DATA = Path("no such data")


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        ("gpu", "loop.device: gpu is no device; it must be auto, cpu, cuda or cuda:N"),
        ("cuda:99", r"loop.device: cuda:99: this machine offers \d+ CUDA devices; use cpu, auto or a lower number"),
    ],
)
def test_absent_device_is_refused(device: str, expected: str) -> None:
    with pytest.raises(TrainingError, match=expected):
        join(device)


@pytest.mark.slow
def test_an_output_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    command = [sys.executable, "-m", "training.train", f"data.root={NO_DATA}", f"output={tmp_path / 'file' / 'run'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: output is {tmp_path}/file/run, which cannot be made (")
    assert done.stderr.count("\n") == 1


def test_a_folder_in_the_way_is_refused_before_data(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(TrainingError, match="which cannot be made"):
        trainer(NO_DATA, tmp_path / "file" / "run")


def test_too_little_room_is_refused_before_data(tmp_path: Path) -> None:
    # 9 times the 200 TB of weights, the largest that a configuration may ask for: nothing of it is allocated.
    largest = (
        "model.d_model=65536",
        "model.d_ff=524288",
        "model.num_encoder_layers=256",
        "model.num_decoder_layers=256",
    )
    with pytest.raises(TrainingError, match=r"GB are free, .* need \d{7}\.\d GB; make room or choose another output"):
        trainer(NO_DATA, tmp_path / "run", *largest)


def test_a_cpu_does_not_compile(data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = trainer(data, tmp_path / "run", "loop.compile=true")
    assert "loop.compile is left out: on a CPU it takes minutes before the first step" in caplog.text
    assert not run.config.loop.compile
    assert run.mixture.streams["topics"][0].multiple == 1
    run.one_step()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0
    run.close()
