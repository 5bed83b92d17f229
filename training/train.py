"""`python -m training.train`: compose the configuration, build the run, train, write a checkpoint folder."""

import json
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from model.errors import ModelError
from training.config import flat, parse_config
from training.distributed.processes import join, leave
from training.errors import Interrupted, TrainingError
from training.loop.allocator import keep_freed_memory
from training.loop.output_folder import make_output
from training.loop.trainer import Trainer
from training.overrides import check_overrides, shown_overrides, typed_output
from training.run import PLOTS, build_run, finish_run


def train(config: DictConfig, command: list[str]) -> None:
    """One whole run; `command` is what its card says that repeats it.

    Raises:
        TrainingError, ModelError: a mistake of the user, before or during the run.
    """
    parsed = parse_config(config)
    keep_freed_memory()
    processes, device = join(parsed.loop.device)
    try:
        if processes.is_first:
            _say(f"reading {parsed.data.root}")
        trainer = build_run(parsed, command, processes, device)
        if parsed.resume_from:
            trainer.resume(Path(parsed.resume_from))
        if processes.is_first:
            whole: Any = OmegaConf.to_container(config, resolve=True)
            parameters = flat({**whole, "model": trainer.config.model})  # as it is, not null
            name = Path(parsed.output).name
            trainer.run_id = trainer.tracker.start(name, parameters, trainer.step, trainer.run_id)
            trainer.tracker.text("config.yaml", OmegaConf.to_yaml(config, resolve=True))
            trainer.tracker.text("data.json", json.dumps(trainer.validation.facts["data"], indent=2))
            _say(_beginning(trainer))
        status = "FAILED"
        try:
            trainer.run()
            status = "FINISHED"
        except Interrupted:
            status = "KILLED"
            raise
        finally:
            if processes.is_first:
                finish_run(trainer, status)
        if processes.is_first:
            _say(_end(trainer))
    finally:
        leave()


def _beginning(trainer: Trainer) -> str:
    parameters = sum(p.numel() for p in trainer.objective.model.parameters()) / 1e6
    rows = ", ".join(f"{name} {len(stream.rows):,}" for name, (stream, _) in trainer.mixture.streams.items())
    steps = trainer.config.loop.steps
    compiles = "; compiling, so that the first batches take minutes" if trainer.config.loop.compile else ""
    return f"{parameters:.1f} M parameters on {trainer.device}; rows: {rows}; steps {trainer.step} to {steps}{compiles}"


def _end(trainer: Trainer) -> str:
    best, metric, place = trainer.best, trainer.config.loop.metric, trainer.folder / "checkpoint"
    if not place.is_dir():  # resumed into another folder, and no better since
        place = Path(str(trainer.config.resume_from), "checkpoint")
    return f"best on dev: {metric} {best.value:.4f} at step {best.step}, in {place}; curves in {trainer.folder / PLOTS}"


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


@hydra.main(version_base=None, config_path="configs", config_name="train")
def _composed(config: DictConfig) -> None:
    chosen = HydraConfig.get()
    overrides: Any = chosen.overrides.task
    if chosen.mode is RunMode.MULTIRUN:
        config.output = f"{config.output}/{chosen.sweep.subdir}"
    try:
        train(config, ["python -m training.train", *shown_overrides(list(overrides))])
    except Interrupted as stop:
        again = f"the same command with resume_from={config.output} goes on from there"
        print(f"stopped by signal {stop.number}; {again}", file=sys.stderr)  # noqa: T201
        sys.exit(128 + stop.number)
    except (TrainingError, ModelError) as error:
        sys.exit(f"error: {error}")


def main() -> None:
    """The command."""
    try:
        check_overrides(sys.argv[1:])
        if (output := typed_output(sys.argv[1:])) is not None:  # Hydra makes it, and ends with a trace where it cannot
            make_output(output)
    except TrainingError as error:
        sys.exit(f"error: {error}")
    _composed()


if __name__ == "__main__":
    main()
