"""`python -m training.train`: compose the configuration, build the run, train, leave a checkpoint folder."""

import sys
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig

from model.checkpoint import load_checkpoint
from model.config import ModelConfig
from model.errors import ModelError
from model.leximind import LexiMind
from model.tasks import EMOTIONS, TASKS, TOPICS, Tasks
from model.tokenizer import Tokenizer
from training.config import DataConfig, TrainConfig, parse_config
from training.data.batches import Stream, encode_examples
from training.data.examples import Example
from training.data.readers import READERS
from training.errors import TrainingError
from training.initialise import initialise, scale_queries
from training.optim import Optimizers
from training.trainer import Trainer
from training.validation import Validation
from training.vocabulary import train_vocabulary


def train(config: TrainConfig) -> None:
    """One whole run.

    Raises:
        TrainingError, ModelError: a mistake of the user, before or during the run.
    """
    torch.manual_seed(config.loop.seed)
    folder = Path(config.output)
    spiece = _vocabulary(config, folder)
    tokenizer = Tokenizer(spiece)
    model, tasks = _model(config, tokenizer)
    if config.loop.scale_queries:
        scale_queries(model)
    trainer = Trainer(
        model=model,
        streams=_streams(config, tokenizer),
        optimizers=Optimizers(model, config.optimizer),
        schedule=config.schedule,
        weights=config.loss,
        loop=config.loop,
        folder=folder,
        validate=Validation(
            tokenizer, spiece, tasks, Path(config.data.root), config.loop.evaluate_rows, folder, facts={}
        ),
    )
    if config.resume_from:
        trainer.resume(Path(config.resume_from))
    trainer.run()


def _vocabulary(config: TrainConfig, folder: Path) -> Path:
    if config.data.tokenizer:
        return Path(config.data.tokenizer)
    if config.init_from:
        return Path(config.init_from) / "spiece.model"
    path = folder / "spiece.model"
    if not path.is_file():
        examples = [e for group in config.data.groups for e in _read(config.data, group)]
        texts = [text for e in examples for text in (e.source.replace("\n", " "), e.summary) if text]
        train_vocabulary(texts, path, config.data.vocabulary_size)
    return path


def _model(config: TrainConfig, tokenizer: Tokenizer) -> tuple[LexiMind, Tasks]:
    fields: dict[str, Any] = {**ModelConfig().to_json(), **config.model}
    architecture = ModelConfig.from_json(fields)
    if tokenizer.num_pieces > architecture.num_tokens:
        raise TrainingError(
            f"the vocabulary has {tokenizer.num_pieces} pieces, model.num_tokens is {architecture.num_tokens}"
        )
    model = LexiMind(architecture)
    initialise(model)
    if config.init_from:
        source = load_checkpoint(Path(config.init_from), torch.device("cpu")).model
        missing, unexpected = model.load_state_dict(source.state_dict(), strict=False)
        if unexpected or any("_head" not in name for name in missing):
            raise TrainingError(f"{config.init_from}: another architecture; missing {missing}, unexpected {unexpected}")
    tasks = Tasks(
        prompts=dict.fromkeys(TASKS, config.data.prompt),
        emotion_labels=EMOTIONS if architecture.num_emotions else (),
        emotion_thresholds=(0.5,) * architecture.num_emotions,
        topic_labels=TOPICS if architecture.num_topics else (),
        max_source_tokens=config.data.max_source_tokens,
    )
    return model, tasks


def _streams(config: TrainConfig, tokenizer: Tokenizer) -> dict[str, tuple[Stream, int]]:
    data = config.data
    streams = {}
    for name, group in data.groups.items():
        rows = encode_examples(
            _read(data, name), tokenizer, data.prompt, data.max_source_tokens, data.max_target_tokens
        )
        stream = Stream(rows, group.buckets, group.tokens, len(EMOTIONS), seed=config.loop.seed)
        streams[name] = (stream, group.batches_per_step)
    return streams


def _read(data: DataConfig, group: str) -> list[Example]:
    if unknown := set(data.groups[group].readers) - READERS.keys():
        raise TrainingError(f"data.groups.{group}.readers: {sorted(unknown)}; known are {sorted(READERS)}")
    return [example for reader in data.groups[group].readers for example in READERS[reader](Path(data.root), "train")]


@hydra.main(version_base=None, config_path="configs", config_name="train")
def main(config: DictConfig) -> None:
    """The command."""
    try:
        train(parse_config(config))
    except (TrainingError, ModelError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
