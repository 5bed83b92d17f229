"""`data.max_rows` keeps a seeded sample of all sources and labels, not the first rows."""

from collections import Counter
from pathlib import Path

from support.training_runs import trainer, write_data, write_jsonl
from training.data.examples import Example
from training.data.sampling import sample


def summaries(**sources: int) -> list[Example]:
    return [Example(f"{source} {n}", source, summary="s") for source, count in sources.items() for n in range(count)]


def test_every_source_keeps_its_share_and_none_is_lost() -> None:
    kept = sample(summaries(large=8000, middle=1990, small=10), 100, seed=0)
    counts = Counter(example.origin for example in kept)
    assert len(kept) == 100
    assert 78 <= counts["large"] <= 80
    assert 19 <= counts["middle"] <= 21
    assert counts["small"] == 1


def test_every_label_keeps_its_share_and_the_rare_ones_stay() -> None:
    rows = [Example(f"t{n}", "goemotions", labels={"emotions": (27,)}) for n in range(900)]
    rows += [Example(f"r{n}", "goemotions", labels={"emotions": (16, 27)}) for n in range(5)]  # grief, beside neutral
    rows += [Example(f"n{n}", "ag_news", labels={"topic": (n % 4,)}) for n in range(400)]
    kept = sample(rows, 130, seed=0)
    assert any(example.labels.get("emotions") == (16, 27) for example in kept)
    topics = Counter(example.labels["topic"][0] for example in kept if "topic" in example.labels)
    assert all(9 <= topics[topic] <= 12 for topic in range(4))


def test_the_seed_decides_and_the_order_stays() -> None:
    rows = summaries(a=500, b=500)
    one = sample(rows, 50, seed=1)
    assert one == sample(rows, 50, seed=1)
    assert one != sample(rows, 50, seed=2)
    assert one == [row for row in rows if row in one]


def test_fewer_rows_than_the_limit_stay_as_they_are() -> None:
    rows = summaries(a=3)
    assert sample(rows, 3, seed=0) == sample(rows, None, seed=0) == rows


def test_a_run_samples_over_the_whole_file(tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    rows = [
        {"document": f"The council spoke about a bridge on day {n}.", "summary": f"A bridge, {n}.", "source": source}
        for source in ("dialogsum", "scitldr_abstract", "cnn_dailymail")
        for n in range(20)
    ]
    write_jsonl(data / "summarization" / "train.jsonl.gz", rows)
    run = trainer(data, tmp_path / "run", "data.max_rows=12", "data.vocabulary_size=330")
    origins = run.validation.facts["data"]["origins"]
    assert {name: origins[name] for name in ("dialogsum", "scitldr_abstract", "cnn_dailymail")} == {
        "dialogsum": 4,
        "scitldr_abstract": 4,
        "cnn_dailymail": 4,
    }
