"""What a run does on dev now and then: score the model as it will be served, and leave folders that a server can load.

`FOLDER/last` is the newest model, `FOLDER/checkpoint` the best so far; neither is written by halves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from model.checkpoint import save_checkpoint
from model.decoding.options import DecodingOptions
from model.leximind import LexiMind
from model.tasks import Tasks
from model.tokenizer import Tokenizer
from training.evaluation.card import model_card
from training.evaluation.predict import Predictor
from training.evaluation.result import Result, evaluate
from training.initialise import fold_queries

DECODING = DecodingOptions(max_new_tokens=64)


@dataclass
class Validation:
    """Scores on dev of `data` and the checkpoints of a run. `facts` go into every manifest."""

    tokenizer: Tokenizer
    spiece: Path
    tasks: Tasks
    data: Path
    rows: int  # summaries of each source
    folder: Path
    facts: Mapping[str, Any]
    _newest: tuple[LexiMind, Result, int] | None = field(default=None, repr=False)

    def __call__(self, model: LexiMind, step: int) -> Result:
        """Score `model` and write it to `last`."""
        served = fold_queries(model).eval().requires_grad_(False)
        result = evaluate(Predictor(served, self.tokenizer, self.tasks), self.data, "dev", self.rows, DECODING)
        self._newest = served, result, step
        self._save("last")
        return result

    def keep(self) -> None:
        """Write what was scored last to `checkpoint`."""
        self._save("checkpoint")

    def _save(self, name: str) -> None:
        assert self._newest is not None
        model, result, step = self._newest
        tasks = replace(self.tasks, emotion_thresholds=result.thresholds or self.tasks.emotion_thresholds)
        training = {**self.facts.get("training", {}), "step": step}
        facts = {**self.facts, "training": training, "dev": figures(result)}
        card = model_card(self.folder.resolve().name, model, facts, result)
        save_checkpoint(self.folder / name, model, self.spiece, tasks, card=card, facts=facts)


def figures(result: Result) -> dict[str, float]:
    """The scores of a result without intervals, single labels and baselines; `overall` is the mean of its tasks."""
    chosen = {n: s.value for n, s in result.scores.items() if ".label." not in n and ".lead." not in n}
    lists = (
        [v for n, v in chosen.items() if n.startswith("summaries.") and n.endswith(".rougeL")],
        [v for n, v in chosen.items() if n in ("emotions.macro_f1",)],
        [v for n, v in chosen.items() if n in ("topic.accuracy",)],
    )
    return {"overall": float(np.mean([np.mean(values) for values in lists if values])), **chosen}
