"""`python -m training.soup FOLDER… --output FOLDER`: a checkpoint with the mean of several runs' weights.

Runs that started from the same weights often do better averaged than the best of them, at no cost in serving
("model soups", Wortsman et al. 2022). Tokenizer and tasks are the first one's; score the result by
`training.evaluate --card`, which also tunes its thresholds.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from model.errors import ModelError
from model.storage.checkpoint import load_checkpoint
from model.storage.saving import save_checkpoint
from training.data.terms import RESEARCH_ONLY, terms_of_use


def main(argv: Sequence[str] | None = None) -> None:
    """Average and save.

    Raises:
        SystemExit: a folder is no checkpoint, two of them differ in shape, or the output exists.
    """
    parser = argparse.ArgumentParser(prog="python -m training.soup", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="checkpoints of one shape")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the average goes")
    options = parser.parse_args(argv)
    if options.output.exists():
        parser.error(f"{options.output} exists; name a new folder")
    try:
        average(options.folders, options.output)
    except ModelError as error:
        parser.error(str(error))
    print(f"the mean of {len(options.folders)} checkpoints is in {options.output}")  # noqa: T201


@torch.no_grad()
def average(folders: Sequence[Path], output: Path) -> None:
    """Save the mean of the weights in `folders` as the checkpoint `output`.

    Raises:
        ModelError: a folder is no checkpoint, or its network has another shape than the first one's.
    """
    first = load_checkpoint(folders[0], torch.device("cpu"))
    sums = {name: tensor.double() for name, tensor in first.model.state_dict().items()}
    runs, terms = [], [terms_of_use(first.manifest)]
    for folder in folders[1:]:
        other = load_checkpoint(folder, torch.device("cpu"))
        if other.model.config != first.model.config:
            raise ModelError(f"{folder} has another shape than {folders[0]}; average checkpoints of one shape")
        for name, tensor in other.model.state_dict().items():
            sums[name] += tensor
        runs.append(other.manifest.get("training", {}))
        terms.append(terms_of_use(other.manifest))
    first.model.load_state_dict({name: (total / len(folders)).float() for name, total in sums.items()})
    names = ", ".join(str(folder) for folder in folders)
    card = f"# {output.name}\n\nThe mean of the weights of {names}; `training.evaluate --card` writes its card.\n"
    facts = {key: value for key, value in first.manifest.items() if key in ("data", "training")}
    facts["terms"] = next((one for one in terms if one == RESEARCH_ONLY), terms[0])
    training = facts.get("training", {})
    facts["training"] = {**training, "averaged_with": [*training.get("averaged_with", []), *runs]}
    spiece = folders[0] / "spiece.model"
    save_checkpoint(output, first.model, spiece, first.tasks, card=card, facts=facts, dtype=torch.bfloat16)


if __name__ == "__main__":
    main()
