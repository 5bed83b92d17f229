"""A checked configuration to a trainer: vocabulary, network, streams of batches, validation, tracking; and its end."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from model.config import ModelConfig
from model.network.leximind import LexiMind
from model.storage.checkpoint import LoadedCheckpoint, load_checkpoint
from model.tasks import Head, Tasks
from model.tokenizer import Tokenizer
from training.config import DataConfig, TrainConfig, suggestion
from training.data.batches import Stream, encode_examples
from training.data.examples import Example
from training.data.mixture import Mixture
from training.data.own import own_heads, read_own
from training.data.readers import READERS
from training.data.real_words import common_words
from training.data.sampling import sample
from training.data.terms import terms_of_use
from training.data.vocabulary import train_vocabulary
from training.distributed.processes import Processes
from training.distributed.sharding import check_sharding, shard
from training.errors import DataError, TrainingError
from training.evaluation.result import read_split
from training.loop.mixed_precision import checkpoint_layers, compile_layers
from training.loop.output_folder import check_room, make_output
from training.loop.trainer import BAD_BATCH, Trainer
from training.loop.validation import Validation, check_metric
from training.network.architecture import architecture_of, heads_of_run, learned_tasks
from training.network.initialise import initialise, scale_queries
from training.network.lora import add_lora
from training.optimization.losses import Objective, label_weights
from training.optimization.optimizers import Optimizers
from training.plots.curves import draw_curves
from training.tracking.tracker import Tracker, read_history

Examples = Mapping[str, list[Example]]  # by group
PLOTS = "plots"

_log = logging.getLogger(__name__)


def build_run(config: TrainConfig, command: list[str], processes: Processes, device: torch.device) -> Trainer:
    """All that a run needs, at its first step.

    Raises:
        TrainingError, ModelError: data, checkpoint or configuration that do not fit; nothing has been trained yet.
    """
    loop, data, folder = config.loop, config.data, Path(config.output)
    _check_folder(config, folder)
    make_output(folder)
    if loop.compile and device.type == "cpu":
        if processes.is_first:
            _log.warning("loop.compile is left out: on a CPU it takes minutes before the first step")
        loop = replace(loop, compile=False)
        config = replace(config, loop=loop)
    sharded = loop.parallel == "fsdp" and processes.world_size > 1
    if sharded:
        check_sharding(config)
    source = _source(config)
    architecture = architecture_of(config.model, source)
    if processes.is_first:
        check_room(folder, architecture, config)
    torch.manual_seed(loop.seed)
    own = own_heads(Path(data.root), data.heads, data.prompt, source)
    examples = {name: _read(data, name, own, loop.seed) for name in data.chosen_groups}
    if processes.is_first:
        _make_vocabulary(config, folder, examples, config.data.vocabulary_size or architecture.vocab_size)
    processes.from_first(None)  # the others wait for the vocabulary
    spiece = _vocabulary_path(config, folder)
    tokenizer = Tokenizer(spiece)
    learned = learned_tasks(row for rows in examples.values() for row in rows)
    heads = heads_of_run(learned, own, data.prompt, source)
    model = _model(replace(architecture, heads={one.name: len(one.labels) for one in heads}), tokenizer, source)
    config = replace(config, model={name: getattr(model.config, name) for name in config.model})  # of null: as it is
    words = set(source.tasks.words if source else ())
    if data.words:
        words.update(common_words(_texts(examples), data.words))
    tasks = Tasks(data.prompt, heads, data.max_source_tokens, words=tuple(sorted(words)))
    split = read_split(Path(data.root), "dev", tasks, learned)
    check_metric(loop.metric, split, tasks)
    streams = {
        name: (
            Stream(
                encode_examples(rows, tokenizer, data.prompt, data.max_source_tokens, data.max_target_tokens),
                data.chosen_groups[name].buckets,
                data.chosen_groups[name].tokens,
                heads,
                seed=loop.seed,
                pool=data.pool,
                # A compiled layer meets each shape of a bucket only; a GPU multiplies whole eights.
                multiple=None if loop.compile else 8 if device.type == "cuda" else 1,
            ),
            data.chosen_groups[name].batches_per_step,
        )
        for name, rows in examples.items()
    }
    _prepare(model, config)
    every = [row.labels for stream, _ in streams.values() for row in stream.rows]
    weights = {
        head.name: label_weights(
            [labels[head.name] for labels in every if head.name in labels], head, config.loss.positive_power
        )
        for head in heads
    }
    before = _before(config, source, device)
    objective = Objective(model, heads, config.loss, weights, before).to(device)
    if sharded:
        shard(objective, device)
    torch.manual_seed(loop.seed + processes.rank)  # dropout differs between processes
    return Trainer(
        objective=objective,
        mixture=Mixture(streams, config.mixture, loop.accumulate, loop.seed, processes.rank, processes.world_size),
        optimizers=Optimizers(model, config.optimizer),
        config=config,
        folder=folder,
        validation=Validation(
            tokenizer, spiece, tasks, split, loop.evaluate_rows, folder, _facts(config, command, examples, source)
        ),
        tracker=Tracker(folder, replace(config.tracking, enabled=config.tracking.enabled and processes.is_first)),
        processes=processes,
        device=device,
    )


def finish_run(trainer: Trainer, status: str) -> None:
    """Draw the curves and close the tracking, which keeps them, what stopped a failed run, and the best checkpoint."""
    folder = trainer.folder
    with suppress(OSError):  # a full disk, which may be what ended the run: its error is reported, not this one
        draw_curves(read_history(folder), folder / PLOTS / "training.png", folder.resolve().name)
    artefacts = [folder / PLOTS]
    if status == "FINISHED":
        artefacts.append(folder / "checkpoint")
    elif status == "FAILED":
        artefacts.append(folder / BAD_BATCH)
    trainer.tracker.finish(status, artefacts)


def _check_folder(config: TrainConfig, folder: Path) -> None:
    # A fresh run would put its first, worse model where the best of another one stands.
    resumed = config.resume_from and Path(config.resume_from).resolve() == folder.resolve()
    if not resumed and any((folder / name).exists() for name in ("checkpoint", "state.pt")):
        raise TrainingError(
            f"{folder}: holds a run already; go on with it by resume_from={folder}, or choose another output"
        )


def _read(data: DataConfig, name: str, own: Sequence[Head], seed: int) -> list[Example]:
    root, heads = Path(data.root), {head.name: head for head in own}
    examples = []
    for reader in data.chosen_groups[name].readers:
        known = [*READERS, *heads]
        if reader not in known:
            raise TrainingError(f"data.groups.{name}.readers: no reader {reader}{suggestion(reader, known)}")
        found = read_own(root, heads[reader], "train") if reader in heads else READERS[reader](root, "train")
        if not found:
            raise DataError(f"{data.root}: the reader {reader} finds no train rows; leave it out or correct the data")
        examples += sample(found, data.max_rows, seed)
    return examples


def _vocabulary_path(config: TrainConfig, folder: Path) -> Path:
    if config.data.tokenizer:
        return Path(config.data.tokenizer)
    return (Path(config.init_from) if config.init_from else folder) / "spiece.model"


def _make_vocabulary(config: TrainConfig, folder: Path, examples: Examples, size: int) -> None:
    path = _vocabulary_path(config, folder)
    if path.parent == folder and not config.data.tokenizer and not path.is_file():
        train_vocabulary((text.replace("\n", " ") for text in _texts(examples)), path, size)


def _texts(examples: Examples) -> Iterator[str]:
    return (text for rows in examples.values() for one in rows for text in (one.source, one.summary) if text)


def _source(config: TrainConfig) -> LoadedCheckpoint | None:
    return load_checkpoint(Path(config.init_from), torch.device("cpu")) if config.init_from else None


def _model(architecture: ModelConfig, tokenizer: Tokenizer, source: LoadedCheckpoint | None) -> LexiMind:
    if tokenizer.num_pieces > architecture.num_tokens:
        raise TrainingError(
            f"the vocabulary has {tokenizer.num_pieces} pieces, model.num_tokens is {architecture.num_tokens}"
        )
    model = LexiMind(architecture)
    initialise(model)
    if source:
        model.load_state_dict(source.model.state_dict(), strict=False)  # heads that it lacks start fresh
    return model


def _before(config: TrainConfig, source: LoadedCheckpoint | None, device: torch.device) -> LexiMind | None:
    known = source.model.config.heads if source else {}
    kept = [name for name, share in config.loss.keep.items() if share]
    for name in kept:
        if name not in known:
            raise TrainingError(f"loss.keep: init_from has no head {name}{suggestion(name, list(known))}")
    return source.model.eval().to(device) if source and kept else None


def _prepare(model: LexiMind, config: TrainConfig) -> None:
    loop = config.loop
    if loop.scale_queries:
        scale_queries(model)
    if config.lora.rank:
        add_lora(model, config.lora)
    names = [name for name, _ in (*model.named_modules(), *model.named_parameters()) if name]
    for frozen in loop.freeze:
        if frozen not in names:
            raise TrainingError(f"loop.freeze: the model has no {frozen}{suggestion(frozen, names)}")
        for name, parameter in model.named_parameters():
            if name == frozen or name.startswith(f"{frozen}."):
                parameter.requires_grad_(False)
    if loop.checkpoint_layers:
        checkpoint_layers(model)
    if loop.compile:
        compile_layers(model)


def _facts(
    config: TrainConfig, command: list[str], examples: Examples, source: LoadedCheckpoint | None
) -> dict[str, Any]:
    root = Path(config.data.root)
    origins = Counter(example.origin for rows in examples.values() for example in rows)
    files = {
        str(path.relative_to(root)): sha256(path.read_bytes()).hexdigest() for path in sorted(root.rglob("*.jsonl.gz"))
    }
    training: dict[str, Any] = {"command": command, "config": config.must_match()}
    if source:
        known = {key: source.manifest[key] for key in ("training", "imported_from", "terms") if key in source.manifest}
        training["started_from"] = {"checkpoint": source.name, **known}
    facts = {"training": training, "data": {"origins": dict(origins.most_common()), "files": files}}
    return {**facts, "terms": terms_of_use(facts)}
