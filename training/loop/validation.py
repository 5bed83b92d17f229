"""What a run does on dev now and then: score the model as it will be served, and write folders that a server can load.

`FOLDER/last` is the newest model, `FOLDER/checkpoint` the best so far; neither is written by halves.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from model.inference.decoding.options import DecodingOptions
from model.inference.spelling import Spelling
from model.inference.torch_backend import TorchBackend
from model.network.leximind import LexiMind
from model.storage.saving import save_checkpoint
from model.tasks import Tasks
from model.tokenizer import Tokenizer
from training.config import suggestion
from training.errors import TrainingError
from training.evaluation.card import model_card, samples
from training.evaluation.heads import MAIN_SCORE, SCORES
from training.evaluation.predict import Predictor
from training.evaluation.report import is_baseline
from training.evaluation.result import Result, Split, evaluate, fitted
from training.evaluation.scores import ROUGE
from training.network.initialise import fold_queries

DECODING = DecodingOptions(max_new_tokens=64)


@dataclass
class Validation:
    """Scores on dev of `data` and the checkpoints of a run. `facts` go into every manifest."""

    tokenizer: Tokenizer
    spiece: Path
    tasks: Tasks
    split: Split
    rows: int  # summaries of each source
    folder: Path
    facts: Mapping[str, Any]
    _newest: "_Scored | None" = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._spelling = Spelling.of(self.tokenizer, self.tasks.words)

    def __call__(self, model: LexiMind, step: int) -> Result:
        """Score `model` and write it to `last`; no random number is drawn."""
        served = fold_queries(model)
        predictor = Predictor(TorchBackend(served, self._spelling), self.tokenizer, self.tasks)
        result = evaluate(predictor, self.split, self.rows, DECODING)
        training = {**self.facts.get("training", {}), "step": step}
        facts = {**self.facts, "training": training, "dev": figures(result)}
        tasks = fitted(self.tasks, result)
        card = model_card(self.folder.resolve().name, served, facts, result)
        self._newest = _Scored(served, tasks, card, facts)
        self._save("last")
        return result

    def commands(self) -> list[dict[str, Any]]:
        """Every command that took part, with the step from which on it did."""
        training = self.facts.get("training", {})
        return [{"from_step": 0, "command": training.get("command", [])}, *training.get("resumed", [])]

    def resume_from(self, commands: list[dict[str, Any]], step: int) -> None:
        """Record that `commands` took the run to `step`, where this one resumes; what was lost is left out."""
        first, *others = [one for one in commands if one["from_step"] < step]
        now = {"from_step": step, "command": self.facts["training"]["command"]}
        commands_of_run = {"command": first["command"], "resumed": [*others, now]}
        self.facts = {**self.facts, "training": {**self.facts["training"], **commands_of_run}}

    def keep(self) -> None:
        """Write what was scored last to `checkpoint`."""
        self._save("checkpoint")

    def _save(self, name: str) -> None:
        assert self._newest is not None
        new = self._newest
        save_checkpoint(self.folder / name, new.model, self.spiece, new.tasks, card=new.card, facts=new.facts)


@dataclass(frozen=True)
class _Scored:
    model: LexiMind
    tasks: Tasks
    card: str
    facts: Mapping[str, Any]


def check_metric(name: str, split: Split, tasks: Tasks) -> None:
    """Refuse a metric that no validation on `split` will give, before hours are spent.

    Raises:
        TrainingError: suggests the nearest that there is.
    """
    known = [f"summaries.{source}.{score}" for source in split.summaries for score in (*ROUGE, "bleu")]
    known += [f"{head.name}.{score}" for head in tasks.heads if head.name in split.heads for score in SCORES[head.kind]]
    if name not in (known := ["overall", *known]):
        raise TrainingError(f"loop.metric is {name}, which no validation gives{suggestion(name, known)}")


def figures(result: Result) -> dict[str, float]:
    """The scores of a result without intervals, single labels and baselines; `overall` is the mean of its tasks."""
    chosen = {n: s.value for n, s in result.scores.items() if ".label." not in n and not is_baseline(n)}
    lists = (
        [v for n, v in chosen.items() if n.startswith("summaries.") and n.endswith(".rougeL")],
        *([chosen[f"{head.name}.{MAIN_SCORE[head.kind]}"]] for head in result.heads),
    )
    return {"overall": float(np.mean([np.mean(values) for values in lists if values])), **chosen}


def shown(result: Result) -> list[tuple[str, str]]:
    """Row and output of the samples that a card shows."""
    return [(sample.row, sample.output) for sample in samples(result)]
