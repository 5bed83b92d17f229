"""Dev scores with the decoding that the server uses, and the checkpoint folder that carries them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from model.checkpoint import save_checkpoint
from model.decoding.batch import decode
from model.decoding.options import DecodingOptions
from model.leximind import LexiMind
from model.tasks import EMOTIONS, TOPICS, Tasks
from model.tokenizer import Tokenizer
from training.config import TrainConfig
from training.data.batches import Batch, collate, encode_examples
from training.data.examples import Example, read_emotions, read_summaries, read_topics
from training.initialise import fold_queries
from training.metrics import macro_f1, rouge, tune_thresholds

_ROWS_A_BATCH = 32


class Evaluation:
    """Scores the model on dev and saves it as `FOLDER/checkpoint`, thresholds included."""

    def __init__(
        self, model: LexiMind, tokenizer: Tokenizer, tasks: Tasks, spiece: Path, config: TrainConfig, folder: Path
    ) -> None:
        self._model, self._tokenizer, self._tasks = model, tokenizer, tasks
        self._spiece, self._config, self._folder = spiece, config, folder
        self.samples: list[tuple[str, str, str]] = []  # source, reference, output

    @torch.inference_mode()
    def __call__(self, step: int) -> None:
        """Evaluate at `step`; emotion thresholds are tuned on one half of dev and scored on the other."""
        model, root = fold_queries(self._model).eval(), Path(self._config.data.root)
        metrics: dict[str, float] = {"step": step}
        tasks = self._tasks
        if model.config.num_emotions:
            thresholds, metrics["emotion_macro_f1"] = self._emotions(model, read_emotions(root, "dev"))
            tasks = replace(tasks, emotion_thresholds=thresholds)
        if model.config.num_topics:
            metrics["topic_accuracy"] = self._topics(model, read_topics(root, "dev"))
        dialogues = [e for e in read_summaries(root, "dev") if e.origin == "dialogsum"]
        metrics |= self._summaries(model, dialogues[: self._config.loop.evaluate_rows])
        print(json.dumps(metrics), flush=True)  # noqa: T201 (the log of the run)
        save_checkpoint(
            self._folder / "checkpoint", model, self._spiece, tasks, card=self._card(metrics), facts={"dev": metrics}
        )

    def _emotions(self, model: LexiMind, examples: Sequence[Example]) -> tuple[tuple[float, ...], float]:
        probabilities, truth = [], []
        for batch in self._batches(examples):
            hidden = model.encode(batch.input_ids, batch.encoder_mask)
            probabilities.append(model.emotion_logits(hidden, batch.encoder_mask).float().sigmoid().numpy())
            truth.append(batch.emotions.numpy() > 0)
        scores, labels = np.concatenate(probabilities), np.concatenate(truth)
        thresholds = tune_thresholds(scores[::2], labels[::2])
        return thresholds, macro_f1(scores[1::2] >= np.array(thresholds), labels[1::2])

    def _topics(self, model: LexiMind, examples: Sequence[Example]) -> float:
        right = 0
        for batch in self._batches(examples):
            hidden = model.encode(batch.input_ids, batch.encoder_mask)
            right += int((model.topic_logits(hidden, batch.encoder_mask).argmax(-1) == batch.topics).sum())
        return right / len(examples)

    def _summaries(self, model: LexiMind, examples: Sequence[Example]) -> dict[str, float]:
        outputs: list[str] = []
        options = DecodingOptions(max_new_tokens=64)
        for batch in self._batches(examples):
            hidden = model.encode(batch.input_ids, batch.encoder_mask)
            results = decode(model, hidden, batch.encoder_mask, [options] * len(hidden))
            outputs += [self._tokenizer.decode(result.token_ids) for result in results]
        references = [example.summary or "" for example in examples]
        self.samples = [(e.source, r, o) for e, r, o in zip(examples, references, outputs, strict=True)][:10]
        return rouge(outputs, references)

    def _batches(self, examples: Sequence[Example]) -> list[Batch]:
        data = self._config.data
        rows = encode_examples(examples, self._tokenizer, data.prompt, data.max_source_tokens, data.max_target_tokens)
        return [collate(rows[i : i + _ROWS_A_BATCH], len(EMOTIONS)) for i in range(0, len(rows), _ROWS_A_BATCH)]

    def _card(self, metrics: dict[str, float]) -> str:
        parameters = sum(p.numel() for p in self._model.parameters()) / 1e6
        figures = "\n".join(f"- {name}: {value:.4g}" for name, value in metrics.items())
        return (
            f"# LexiMind checkpoint\n\n{parameters:.1f} M parameters; summaries, {len(EMOTIONS)} emotions, "
            f"{len(TOPICS)} topics. Trained on GoEmotions (CC BY 4.0), AG News (research and non-commercial use), "
            "DialogSum (CC BY-NC-SA 4.0), SciTLDR (Apache-2.0), CNN/DailyMail and BBC articles (research use): for "
            "research and non-commercial use.\n\n## Dev\n\n"
            f"Emotion thresholds tuned on one half of dev, scored on the other; greedy summaries of "
            f"{self._config.loop.evaluate_rows} DialogSum dialogues.\n\n{figures}\n\n## Not good at\n\n"
            "A very small model: its summaries name the subject but get facts and names wrong; check them against "
            "the source. English only.\n"
        )
