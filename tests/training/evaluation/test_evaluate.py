"""The command on a real small checkpoint: what it scores, writes, refuses."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from model.inference.decoding.batch import decode
from model.inference.decoding.options import DecodingOptions
from model.inference.torch_backend import TorchBackend
from model.storage.checkpoint import Checkpoint, load_checkpoint
from support.encoders import save_encoder
from support.training_runs import write_jsonl
from training.data.more import CHATS
from training.evaluate import main
from training.evaluation.predict import Predictor


@pytest.fixture
def copy(tmp_path: Path, checkpoint_folder: Path) -> Path:
    """A checkpoint that may be changed."""
    return Path(shutil.copytree(checkpoint_folder, tmp_path / "trained"))


def run(folder: Path, data: Path, output: Path, *options: str) -> dict[str, dict[str, dict[str, float]]]:
    main([str(folder), "--data", str(data), "--output", str(output), "--max-new-tokens", "8", *options])
    report: dict[str, dict[str, dict[str, float]]] = json.loads((output / "report.json").read_text())
    return report


def test_report_scores_every_task_and_source(copy: Path, data: Path, tmp_path: Path) -> None:
    report = run(copy, data, tmp_path / "report")
    scores = report["scores"]
    for name in (
        "summaries.dialogsum.rougeLsum",
        "summaries.cnn_dailymail.bleu",
        "summaries.ag_headline.lead.rouge1",
        "summaries.dialogsum.supported",
        "summaries.dialogsum.real_words",
        "emotions.macro_f1",
        "emotions.label.joy",
        "topic.accuracy",
    ):
        assert scores[name]["low"] <= scores[name]["value"] <= scores[name]["high"]
    assert scores["summaries.dialogsum.lead.rouge1"]["value"] > 0.5  # the first sentence holds the summary
    page = (tmp_path / "report" / "report.md").read_text()
    assert "lead-1" in page
    assert "| supported | real words |" in page
    assert "| joy |" in page
    linked = re.findall(r"!\[.+?\]\((.+?)\)", page)
    assert len(linked) == 4
    assert all((tmp_path / "report" / name).is_file() for name in linked)


def test_card_is_written_into_the_checkpoint_and_its_hashes_hold(copy: Path, data: Path, tmp_path: Path) -> None:
    before = load_checkpoint(copy, torch.device("cpu"))
    run(copy, data, tmp_path / "report", "--card")
    after = load_checkpoint(copy, torch.device("cpu"))  # verifies every hash
    assert after.manifest["files"]["model.safetensors"] == before.manifest["files"]["model.safetensors"]
    thresholds = after.manifest["evaluation"]["facts"]["emotions"]["thresholds"]
    assert after.tasks.head("emotions").thresholds == tuple(thresholds.values())
    unfamiliar = after.manifest["evaluation"]["facts"]["topic"]["unfamiliar"]
    assert after.tasks.head("topic").min_energy == unfamiliar["min_energy"]
    assert {"topic", "dialogsum", "cnn_dailymail", "goemotions"} <= unfamiliar["below"].keys()
    known_words = after.manifest["evaluation"]["facts"]["known_words"]
    assert after.tasks.min_known_words == known_words["min_known_words"] > 0
    card = (copy / "MODEL_CARD.md").read_text()
    assert card.startswith("# LexiMind: trained\n")
    assert card.count(" row ") >= 10
    assert "Nobody had expected it" not in card  # no source text


def test_a_checkpoint_is_no_better_than_itself(copy: Path, data: Path, tmp_path: Path) -> None:
    report = run(copy, data, tmp_path / "report", "--against", str(copy), "--rows", "4")
    differences = report["against"]["differences"]
    assert differences
    assert all(d["value"] == 0 and d["p"] == 1 for d in differences.values())  # type: ignore[index]


def test_held_out_chats_are_a_source_of_dev(copy: Path, data: Path, tmp_path: Path) -> None:
    more = Path(shutil.copytree(data, tmp_path / "data"))
    chats = ({"document": f"Amanda: {n}\nJerry: ok", "summary": f"Amanda says {n}.", "id": str(n)} for n in range(100))
    write_jsonl(more / CHATS, chats)
    report = run(copy, more, tmp_path / "report", "--rows", "2")
    assert report["rows"]["summaries.samsum"] == 2  # type: ignore[comparison-overlap]


def test_missing_split_names_the_file(copy: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"test\.jsonl\.gz: no such file"):
        run(copy, data, tmp_path, "--split", "test")


def test_nothing_is_tuned_on_a_test_split(copy: Path, data: Path, tmp_path: Path) -> None:
    both = Path(shutil.copytree(data, tmp_path / "data"))
    for kind in ("emotion", "summarization", "topic"):
        shutil.copy(both / kind / "dev.jsonl.gz", both / kind / "test.jsonl.gz")
    served = load_checkpoint(copy, torch.device("cpu")).tasks
    plain = run(copy, both, tmp_path / "plain", "--split", "test")
    assert plain["facts"]["topic"]["temperature"] == served.head("topic").temperature
    assert tuple(plain["facts"]["emotions"]["thresholds"].values()) == served.head("emotions").thresholds
    assert plain["rows"]["emotions"] == 24  # type: ignore[comparison-overlap]  # every row
    tuned = run(copy, both, tmp_path / "dev", "--card")
    after = run(copy, both, tmp_path / "test", "--split", "test")
    for task in ("emotions", "topic"):
        assert after["facts"][task]["temperature"] == tuned["facts"][task]["temperature"]
    assert after["facts"]["emotions"]["thresholds"] == tuned["facts"]["emotions"]["thresholds"]
    assert "nothing was tuned on test" in (tmp_path / "test" / "report.md").read_text()


def test_a_run_is_called_by_its_own_name(copy: Path, data: Path, tmp_path: Path) -> None:
    for name, called in (("checkpoint", "first"), ("last", "first-last")):
        folder = Path(shutil.copytree(copy, tmp_path / "first" / name))
        assert run(folder, data, tmp_path / name, "--rows", "2")["checkpoint"] == called  # type: ignore[comparison-overlap]


def test_bertscore_stands_beside_each_source_and_its_lead(copy: Path, data: Path, tmp_path: Path) -> None:
    encoder = save_encoder(tmp_path / "encoder")
    report = run(copy, data, tmp_path / "report", "--rows", "4", "--bertscore", str(encoder))
    assert report["bertscore"] == {"model": "encoder", "layer": 3}  # type: ignore[comparison-overlap]
    for source in ("dialogsum", "cnn_dailymail", "ag_headline"):
        assert 0 <= report["scores"][f"summaries.{source}.bertscore"]["value"] <= 1
        assert 0 < report["scores"][f"summaries.{source}.lead.bertscore"]["value"] <= 1
    assert "BERTScore" in (tmp_path / "report" / "report.md").read_text()


def test_damaged_checkpoint_is_refused(copy: Path, data: Path, tmp_path: Path) -> None:
    (copy / "tasks.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"tasks\.json: differs from its hash"):
        run(copy, data, tmp_path)


def test_predictions_do_not_depend_on_their_batch(checkpoint: Checkpoint) -> None:
    texts = ["The council voted.", "Shares rose twelve percent after the report. " * 3, "They won the final."]
    predictor = Predictor(TorchBackend(checkpoint.model), checkpoint.tokenizer, checkpoint.tasks)
    options = DecodingOptions(max_new_tokens=6)
    together = predictor.summarize(texts, options)
    logits = predictor.classify("topic", texts)
    for text, summary, row in zip(texts, together, logits, strict=True):
        ids = torch.tensor([checkpoint.tokenizer.encode_source(text, checkpoint.tasks.prompts["summarize"], 64)])
        encoder_states = checkpoint.model.encode(ids, ids != 0)
        alone = decode(TorchBackend(checkpoint.model), encoder_states, ids != 0, [options])[0]
        assert checkpoint.tokenizer.decode(alone.token_ids) == summary
        expected = checkpoint.model.classify(encoder_states, ids != 0, ["topic"])["topic"][0]
        assert torch.allclose(expected, torch.from_numpy(row), atol=1e-5)  # float32 sums in another order


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--rows", "0", "0 is no whole number of at least 1"),
        ("--rows", "-1", "-1 is no whole number of at least 1"),
        ("--device", "gpu", "gpu is no device; it must be auto, cpu, cuda or cuda:N"),
        ("--device", "cuda:99", "cuda:99: this machine offers"),
    ],
)
def test_bad_options_are_refused_before_anything_is_loaded(
    option: str, value: str, expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["/no/such/folder", "--data", "/no/such/folder", f"{option}={value}"])
    assert expected in capsys.readouterr().err
