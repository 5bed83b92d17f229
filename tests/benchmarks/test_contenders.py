"""The harness measures what it says: the same ids for the same arithmetic, whole answers, absent peers named so."""

import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks.contenders import CONTENDERS
from benchmarks.decoding import QUICK, chosen, measure, sources, start
from benchmarks.interpreters import Interpreter, choose
from benchmarks.scores import Scores
from benchmarks.weights import SMOKE, Weights, prepare


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    return prepare(SMOKE, tmp_path_factory.mktemp("weights"))


def test_ours_and_transformers_give_the_same_ids_in_float32(weights: Weights) -> None:
    ours, reference = CONTENDERS["ours fp32"], CONTENDERS["transformers fp32"]
    for contender in (ours, reference):
        contender.load(weights, threads=1)
    for batch, beams in QUICK.rows:
        texts = sources(QUICK, batch)
        tokens = ours.generate(texts, QUICK.num_new_tokens, beams)
        assert [len(one) for one in tokens] == [QUICK.num_new_tokens] * batch
        assert tokens == reference.generate(texts, QUICK.num_new_tokens, beams)


def test_llama_cpp_gives_the_same_ids_in_bfloat16(weights: Weights) -> None:
    for name in CONTENDERS["llama.cpp bf16"].requires:
        pytest.importorskip(name.replace("-python", "").replace("-", "_"))
    ours, peer = CONTENDERS["ours fp32"], CONTENDERS["llama.cpp bf16"]
    texts = sources(QUICK, 1)
    for contender in (ours, peer):
        contender.load(weights, threads=1)
    for _ in range(2):  # nothing is left of the source before
        assert peer.generate(texts, 8, 1) == ours.generate(texts, 8, 1)
        texts = [texts[0][::-1]]


def test_rows_that_a_contender_does_not_take_are_left_out(tmp_path: Path) -> None:
    asked = []

    class Recorder:
        name = "llama.cpp bf16"

        def ask(self, **order: Any) -> dict[str, Any]:
            asked.append((len(order["sources"]), order["num_beams"]))
            return {"seconds": 1.0, "tokens": [[7] * order["num_new_tokens"]] * len(order["sources"])}

    scores = Scores.begin("decoding", tmp_path, QUICK.num_new_tokens, QUICK.rows, resume=False)
    measure([Recorder()], QUICK, scores, 2, math.inf)  # type: ignore[list-item]
    assert asked == [(1, 1)] * 3  # a warm-up and two repetitions
    assert "| llama.cpp bf16 | 16 | – | – |" in scores.markdown()
    assert "Medians of 2 to 2" in scores.markdown()


def test_weights_are_written_once(weights: Weights) -> None:
    before = (weights.ours / "manifest.json").stat().st_mtime_ns
    assert prepare(SMOKE, weights.folder.parent) == weights
    assert (weights.ours / "manifest.json").stat().st_mtime_ns == before


def test_a_peer_that_is_not_installed_is_told_and_is_no_crash(tmp_path: Path) -> None:
    notes: dict[str, str] = {}
    bare = Interpreter("python", {"torch": "2"})
    assert start(["OpenVINO int8"], [bare], Weights(SMOKE, tmp_path), 1, notes.__setitem__) == []
    assert notes == {"OpenVINO int8": "not installed: optimum-intel, openvino, nncf, transformers"}


def test_the_first_interpreter_that_has_everything_is_chosen() -> None:
    pythons = [
        Interpreter("a", {"torch": "1"}),
        Interpreter("b", {"torch": "1", "openvino": "2"}),
        Interpreter("c", {}),
    ]
    assert choose(pythons, ("torch", "openvino")) == pythons[1]
    assert choose(pythons, ("litserve",)) is None


def test_slow_starters_take_part_only_when_named() -> None:
    assert "transformers bf16 compiled" not in chosen([])
    assert chosen(["compiled"]) == ["transformers bf16 compiled"]


def test_ratios_are_of_medians_and_to_the_best_peer_of_each_precision(tmp_path: Path) -> None:
    scores = Scores.begin("decoding", tmp_path, 10, ((1, 1),), resume=False)
    for seconds in (1.0, 2.0, 9.0):
        scores.add("ours bf16", (1, 1), seconds, [[7] * 10])
    scores.add("OpenVINO bf16", (1, 1), 4.0, [[7] * 10])
    scores.add("OpenVINO int8", (1, 1), 1.0, [[7] * 10])
    assert "| **ours ÷ best peer** | 0.50 |" in scores.markdown()
    assert "| the same, bf16 alone | 2.00 |" in scores.markdown()


def test_an_answer_that_is_not_whole_does_not_count(tmp_path: Path) -> None:
    scores = Scores.begin("decoding", tmp_path, 10, ((1, 1),), resume=False)
    scores.add("CTranslate2 int8", (1, 1), 1.0, [[7] * 9])
    assert scores.count("CTranslate2 int8", (1, 1)) == 0
    assert "gave [9] tokens, not 10" in scores.notes["CTranslate2 int8"]


def test_an_interrupted_run_goes_on_from_what_it_wrote(tmp_path: Path) -> None:
    Scores.begin("decoding", tmp_path, 10, ((1, 1),), resume=False).add("ours bf16", (1, 1), 1.0, [[7] * 10])
    assert Scores.begin("decoding", tmp_path, 10, ((1, 1),), resume=True).count("ours bf16", (1, 1)) == 1
    assert Scores.begin("decoding", tmp_path, 10, ((1, 1),), resume=False).count("ours bf16", (1, 1)) == 0
