"""BERTScore (Zhang et al. 2020) as its authors' package computes it, with a model from a local folder. Optional."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.errors import TrainingError
from training.evaluation.scores import Score, mean


class BertScore:
    """F1 of tokens matched by the cosine of their hidden states; neither rescaled nor weighted by rarity.

    `facts` says which model and layer: figures of two are not comparable.

    Raises:
        TrainingError: the package is not installed, or the folder holds no encoder that it can use.
    """

    def __init__(self, folder: Path, device: str) -> None:
        try:
            from bert_score import BERTScorer
            from bert_score.utils import model2layers
            from transformers import AutoConfig
        except ImportError as error:
            raise TrainingError(f"--bertscore: {error}; pip install 'leximind[bertscore]'") from error
        if not (folder / "config.json").is_file():
            raise TrainingError(
                f"--bertscore: {folder / 'config.json'}: no such file; give the folder of a model such as "
                "roberta-large, with its weights and tokenizer"
            )
        try:
            config = AutoConfig.from_pretrained(folder)
            published = {name.rpartition("/")[2]: layer for name, layer in model2layers.items()}
            layer: int = published.get(folder.resolve().name, config.num_hidden_layers)
            self._scorer: Any = BERTScorer(model_type=str(folder), num_layers=layer, device=device)
        except Exception as error:  # each kind of model has its own
            raise TrainingError(f"--bertscore: {folder}: no model that BERTScore can use ({error})") from error
        # Unset in some folders, which the tokenizer cannot take; RoBERTa's positions begin after its pad id.
        tokenizer = self._scorer._tokenizer
        longest = getattr(config, "max_position_embeddings", 514) - 2
        tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        self.facts = {"model": folder.resolve().name, "layer": layer}

    def __call__(self, predictions: Sequence[str], references: Sequence[str]) -> Score:
        """The mean over rows; an empty text scores 0."""
        values = np.zeros(len(predictions))
        pairs = zip(predictions, references, strict=True)
        full = [n for n, (one, other) in enumerate(pairs) if one.strip() and other.strip()]
        if full:
            *_, f1 = self._scorer.score([predictions[n] for n in full], [references[n] for n in full])
            values[full] = f1.numpy()
        return mean(values)
