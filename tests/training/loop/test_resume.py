"""A run that is cut anywhere and taken up again ends as the one that never stopped, to the last bit."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.depth import only_in_full
from support.training_runs import SMALL, equal, state, trainer, write_data
from training.errors import Interrupted, ResumeError, TrainingError
from training.loop.state import STATE_FILE, save_state

# What a run can have that a resumed one could lose.
RICH = ("loop.accumulate=2", "loop.ema=0.9", "model.dropout=0.2", "loop.precision=fp32")
VARIANTS = {
    "plain": (),
    "rich": RICH,
    "muon_mixed": (
        "optimizer.name=muon",
        "optimizer.matrix_lr=0.01",
        "mixture.temperature=2",
        "loop.scale_queries=true",
    ),
    "adafactor_lora": ("optimizer.name=adafactor", "lora.rank=2", "schedule.name=inverse_sqrt"),
}


class Killed(BaseException):
    """As SIGKILL: nothing runs after it."""


def cut(run, at: int) -> None:  # type: ignore[no-untyped-def]
    step = run.one_step

    def one_step() -> None:
        if run.step == at:
            raise Killed
        step()

    run.one_step = one_step
    with pytest.raises(Killed):
        run.run()


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_run_is_bit_identical(variant: str, data: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    trainer(data, whole, *VARIANTS[variant]).run()
    cut(trainer(data, parts, *VARIANTS[variant]), at=3)
    resumed = (*VARIANTS[variant], f"resume_from={parts}")
    cut(trainer(data, parts, *resumed), at=5)  # past a validation
    trainer(data, parts, *resumed).run()
    assert equal(state(parts), state(whole))
    assert (parts / "history.jsonl").read_text().count('"step": 4') == 2  # a line of train, one of dev
    weights = [(folder / "checkpoint" / "model.safetensors").read_bytes() for folder in (whole, parts)]
    assert weights[0] == weights[1]


def test_saving_seldom_loses_steps_but_no_bit(data: Path, tmp_path: Path) -> None:
    trainer(data, tmp_path / "whole", *RICH).run()
    cut(trainer(data, tmp_path / "parts", *RICH, "loop.save_every=2"), at=3)
    assert state(tmp_path / "parts")["step"] == 2
    trainer(data, tmp_path / "parts", *RICH, f"resume_from={tmp_path / 'parts'}").run()
    assert equal(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_a_signal_is_granted_between_two_steps(data: Path, tmp_path: Path) -> None:
    run = trainer(data, tmp_path / "run")
    step = run.one_step

    def one_step() -> None:
        step()
        if run.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run.one_step = one_step  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as stop:
        run.run()
    assert stop.value.number == signal.SIGTERM
    assert state(tmp_path / "run")["step"] == 2
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("at", [0, 2])
def test_a_signal_within_a_step_ends_it_at_once_and_loses_no_bit(at: int, data: Path, tmp_path: Path) -> None:
    trainer(data, tmp_path / "whole", *RICH).run()
    run = trainer(data, tmp_path / "parts", *RICH)
    batches = 0

    def send(*_: object) -> None:
        nonlocal batches
        if run.step == at:
            batches += 1
        if batches == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    run.objective.model.encoder.register_forward_hook(send)
    with pytest.raises(Interrupted):
        run.run()
    assert batches == 2  # of six
    assert state(tmp_path / "parts")["step"] == at
    trainer(data, tmp_path / "parts", *RICH, f"resume_from={tmp_path / 'parts'}").run()
    assert equal(state(tmp_path / "parts"), state(tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=only_in_full)])
def test_killed_process_is_taken_up_again(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "training.train", *SMALL, f"data.root={data}", f"output={output}"]
    command += ["model.num_encoder_layers=2", "loop.steps=400", "loop.evaluate_every=1000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        while not (output / STATE_FILE).is_file():
            assert process.poll() is None, process.stderr and process.stderr.read()
            time.sleep(0.05)
        process.send_signal(number)
        code = process.wait(60)
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    saved = state(output)["step"]
    assert 0 < saved < 400
    rest = [*command, f"resume_from={output}", f"loop.steps={saved + 2}"]
    done = subprocess.run(rest, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert state(output)["step"] == saved + 2


def test_missing_state_is_an_error(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match=r"nowhere/state\.pt: no such file"):
        trainer(data, tmp_path / "run", f"resume_from={tmp_path / 'nowhere'}")


@pytest.fixture(scope="module")
def saved(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has saved its first step."""
    folder = tmp_path_factory.mktemp("saved") / "run"
    cut(trainer(data, folder), at=1)
    return folder


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.d_model=48", "model.d_model was 32, now 48"),
        ("optimizer.name=adafactor", "optimizer.name was 'adamw', now 'adafactor'"),
        ("data.groups.topics.tokens=1024", "data.groups.topics.tokens was 512, now 1024"),
        ("loop.accumulate=2", "loop.accumulate was 1, now 2"),
    ],
)
def test_state_of_another_run_is_refused(override: str, expected: str, saved: Path, data: Path) -> None:
    with pytest.raises(ResumeError, match=re.escape(expected)):
        trainer(data, saved, f"resume_from={saved}", override)


def test_more_steps_and_another_schedule_are_allowed(saved: Path, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "run"))
    run = trainer(data, copy, f"resume_from={copy}", "loop.steps=2", "schedule.name=trapezoid")
    run.run()
    assert run.step == 2


def test_state_on_other_rows_is_refused(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="saved on other rows of summaries"):
        trainer(write_data(tmp_path / "data", 23), saved, f"resume_from={saved}")


@pytest.mark.parametrize("task", ["summarization", "emotion", "topic"])
def test_state_on_another_dev_is_refused(task: str, saved: Path, data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(data, tmp_path / "data"))
    write_data(tmp_path / "longer", 25)
    shutil.copyfile(tmp_path / "longer" / task / "dev.jsonl.gz", other / task / "dev.jsonl.gz")
    with pytest.raises(ResumeError, match=r"validated on another dev.*restore the data"):
        trainer(other, saved, f"resume_from={saved}")


def test_the_card_of_a_resumed_run_tells_every_command(data: Path, tmp_path: Path) -> None:
    run, resumed = tmp_path / "run", f"resume_from={tmp_path / 'run'}"
    cut(trainer(data, run, "loop.save_every=2", command="first"), at=3)  # saved at 2
    trainer(data, run, resumed, "loop.save_every=2", command="came to nothing").close()
    cut(trainer(data, run, resumed, "loop.save_every=2", command="second"), at=5)  # saved at 4
    trainer(data, run, resumed, command="third").run()
    expected = "Trained with `first`; resumed at step 2 with `second`; resumed at step 4 with `third`, 6 steps."
    assert expected in (run / "last" / "MODEL_CARD.md").read_text()
    training = json.loads((run / "last" / "manifest.json").read_text())["training"]
    assert training["command"] == ["first"]
    assert training["resumed"][-1] == {"from_step": 4, "command": ["third"]}


def test_truncated_state_is_refused(saved: Path, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "run"))
    content = (copy / STATE_FILE).read_bytes()
    (copy / STATE_FILE).write_bytes(content[: len(content) // 2])
    with pytest.raises(ResumeError, match="cannot be read"):
        trainer(data, copy, f"resume_from={copy}")


def test_full_disk_leaves_the_old_state(saved: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(saved, tmp_path / "run"))
    before = (copy / STATE_FILE).read_bytes()
    (copy / f"{STATE_FILE}.partial").symlink_to("/dev/full")  # every write to it finds no space
    with pytest.raises(TrainingError, match="cannot be written"):
        save_state(copy, state(copy))
    assert (copy / STATE_FILE).read_bytes() == before
    assert not (copy / f"{STATE_FILE}.partial").exists()


def test_fresh_run_does_not_write_over_another(saved: Path, data: Path) -> None:
    with pytest.raises(TrainingError, match="holds a run already"):
        trainer(data, saved)


def test_worse_model_does_not_replace_the_best(data: Path, tmp_path: Path) -> None:
    from training.loop.trainer import Best

    run = trainer(data, tmp_path / "run", "loop.steps=4")
    run.best = Best(value=2.0, step=1)  # no validation reaches it
    run.run()
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "checkpoint").exists()
    assert run.best == Best(2.0, 1, worse=1)


def test_patience_ends_the_run(data: Path, tmp_path: Path) -> None:
    from training.loop.trainer import Best

    run = trainer(data, tmp_path / "run", "loop.evaluate_every=1", "loop.patience=2")
    run.best = Best(value=2.0, step=0)
    run.run()
    assert run.step == 2
