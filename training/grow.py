"""`python -m training.grow FOLDER --output FOLDER`: a checkpoint made deeper, its byte pieces exchanged for characters.

The new network computes what the old one did: a new encoder layer repeats the one before it, but for its two output
projections, which start at zero (as in Net2Net, Chen et al. 2016, and LLaMA Pro, Wu et al. 2024). What it gains it
learns in a run with `init_from=`.
"""

import argparse
import tempfile
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model.errors import ModelError
from model.network.leximind import LexiMind
from model.storage.checkpoint import LoadedCheckpoint, load_checkpoint
from model.storage.saving import save_checkpoint
from model.tokenizer import Tokenizer
from training.data.typography import LINE_BREAK, base_letter
from training.data.vocabulary import with_characters

# Of the row that a new one resembles: the embedding is the output layer too, where the old piece has to win at first.
_SHARE = 0.5
# And a direction of its own, of the norm of other rows: á, ă and ā would be one row, and be copied as one letter.
_OWN_SHARE = 0.8
_WORDS_OF_SYMBOLS = {LINE_BREAK: "."}  # elsewhere the Unicode name


def main(argv: Sequence[str] | None = None) -> None:
    """Grow and save.

    Raises:
        SystemExit: the folder is no checkpoint, the output exists, or the depth is no multiple of the old one.
    """
    parser = argparse.ArgumentParser(prog="python -m training.grow", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the checkpoint")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="where the grown one goes")
    parser.add_argument(
        "--encoder-layers", type=int, metavar="N", help="a multiple of those that it has; default: as many"
    )
    options = parser.parse_args(argv)
    if options.output.exists():
        parser.error(f"{options.output} exists; name a new folder")
    try:
        old = load_checkpoint(options.folder, torch.device("cpu"))
        grow(old, options.output, options.encoder_layers or old.model.config.num_encoder_layers)
    except (ModelError, ValueError) as error:
        parser.error(str(error))
    print(f"the grown checkpoint is in {options.output}")  # noqa: T201


@torch.no_grad()
def grow(old: LoadedCheckpoint, output: Path, encoder_layers: int) -> None:
    """Save `old` with `encoder_layers` layers in its encoder and with `CHARACTERS` in its vocabulary.

    Raises:
        ValueError: `encoder_layers` is no multiple of what `old` has.
    """
    had = old.model.config.num_encoder_layers
    times, rest = divmod(encoder_layers, had)
    if rest or not times:
        raise ValueError(f"--encoder-layers is {encoder_layers}; it must be a multiple of {had}, which the model has")
    model = LexiMind(replace(old.model.config, num_encoder_layers=encoder_layers))
    model.load_state_dict(_deeper(old.model.state_dict(), times))
    with tempfile.TemporaryDirectory() as folder:
        spiece = Path(folder, "spiece.model")
        spiece.write_bytes(with_characters((old.folder / "spiece.model").read_bytes()))
        _fill_new_rows(model.embedding.weight, old, Tokenizer(spiece))
        card = f"# {output.name}\n\n{old.name}, grown: not trained since.\n"
        facts = {key: value for key, value in old.manifest.items() if key in ("data", "training", "terms")}
        save_checkpoint(output, model, spiece, old.tasks, card=card, facts=facts)


def _deeper(weights: dict[str, Tensor], times: int) -> dict[str, Tensor]:
    deeper = {}
    for name, tensor in weights.items():
        if not name.startswith("encoder.layers."):
            deeper[name] = tensor
            continue
        _, _, number, inside = name.split(".", 3)
        for copy in range(times):
            is_output = copy and inside.endswith(("out.weight", "wo.weight"))
            deeper[f"encoder.layers.{int(number) * times + copy}.{inside}"] = (
                torch.zeros_like(tensor) if is_output else tensor.clone()
            )
    return deeper


def _fill_new_rows(rows: Tensor, old: LoadedCheckpoint, tokenizer: Tokenizer) -> None:
    """Letters as the letter without its mark, anything else as the words of its Unicode name."""
    known = old.tokenizer
    typical = rows.norm(dim=1).median()
    torch.manual_seed(0)
    for number in range(tokenizer.num_pieces):
        piece = tokenizer.piece(number)
        if piece != known.piece(number):
            own = torch.randn(rows.shape[1])
            own *= _OWN_SHARE * typical / own.norm()
            rows[number] = _SHARE * rows[known.encode(_spelled_out(piece))].mean(0) + own


def _spelled_out(piece: str) -> str:
    if piece in _WORDS_OF_SYMBOLS:
        return _WORDS_OF_SYMBOLS[piece]
    base = base_letter(piece)
    return base if base.isascii() and base != piece else unicodedata.name(piece).lower()


if __name__ == "__main__":
    main()
