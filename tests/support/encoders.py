"""A small random encoder in a folder, as transformers saves one."""

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizer, RobertaConfig, RobertaModel

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the council will build a new bridge . chip maker had record profits".split()


def save_encoder(folder: Path, kind: str = "bert") -> Path:
    """A folder as transformers writes it."""
    torch.manual_seed(0)
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    shape = {"vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "max_position_embeddings": 24}
    model = BertModel(BertConfig(**shape)) if kind == "bert" else RobertaModel(RobertaConfig(**shape))
    model.save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder
