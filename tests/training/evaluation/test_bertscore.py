"""BERTScore with a real encoder, small and random, against the paper's formula written out."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import BertModel, BertTokenizer

from support.encoders import save_encoder
from training.errors import TrainingError
from training.evaluation.bertscore import BertScore

PREDICTIONS = ["the council will build .", "the chip maker had profits", "a bridge", "", "record"]
REFERENCES = ["the council will build a new bridge .", "record profits", "a bridge", "the council", " "]


def by_hand(folder: Path, prediction: str, reference: str) -> float:
    tokenizer, model = BertTokenizer.from_pretrained(folder), BertModel.from_pretrained(folder).eval()

    def vectors(text: str) -> torch.Tensor:
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        return torch.nn.functional.normalize(hidden, dim=-1)

    similar = vectors(prediction) @ vectors(reference).T
    # [CLS] and [SEP] may be matched but do not count.
    precision, recall = similar.max(1).values[1:-1].mean(), similar.max(0).values[1:-1].mean()
    return float(2 * precision * recall / (precision + recall))


def test_score_is_the_formula_of_the_paper(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    scorer = BertScore(folder, "cpu")
    rows = scorer(PREDICTIONS, REFERENCES).rows[:, 0]
    pairs = zip(PREDICTIONS[:3], REFERENCES[:3], strict=True)
    assert rows[:3] == pytest.approx([by_hand(folder, *pair) for pair in pairs], abs=1e-5)  # float32 sums
    assert rows[2] == pytest.approx(1.0, abs=1e-5)
    assert (rows[3:] == 0).all()  # an empty side
    assert scorer.facts == {"model": "encoder", "layer": 3}


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_a_text_beyond_the_positions_is_cut(kind: str, tmp_path: Path) -> None:
    scorer = BertScore(save_encoder(tmp_path / "encoder", kind), "cpu")
    assert 0 < scorer(["the council will build a bridge . " * 9], ["a bridge"]).value < 1


def test_a_known_model_is_read_at_its_published_layer(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no model that BERTScore can use"):  # its layer 9 is not there
        BertScore(save_encoder(tmp_path / "bert-base-uncased"), "cpu")


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"config\.json: no such file; give the folder of a model"):
        BertScore(tmp_path, "cpu")


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    folder = save_encoder(tmp_path / "encoder")
    (folder / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="no model that BERTScore can use"):
        BertScore(folder, "cpu")


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(TrainingError, match=r"pip install 'leximind\[bertscore\]'"):
        BertScore(tmp_path, "cpu")
