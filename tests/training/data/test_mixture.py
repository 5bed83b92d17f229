"""Which batches make up a step: shares and odds, the same whatever the number of processes, made one step ahead."""

from collections import Counter

import pytest
import torch

from training.data.batches import EncodedExample, Stream
from training.data.mixture import Feed, Mixture, MixtureConfig, Slot
from training.errors import TrainingError

FIXED = MixtureConfig(None, 1)
CPU = torch.device("cpu")


def stream(num_rows: int, token: int) -> Stream:
    rows = [EncodedExample((token, 10 + number, 1), (), {}) for number in range(num_rows)]
    return Stream(rows, [(3, 1)], 8, (), seed=0)  # two rows a batch


def mixture(config: MixtureConfig = FIXED, *, accumulate: int = 1, rank: int = 0, world_size: int = 1) -> Mixture:
    streams = {"large": (stream(400, 5), 2), "small": (stream(4, 6), 1)}
    return Mixture(streams, config, accumulate, seed=0, rank=rank, world_size=world_size)


def rows_of(slots: list[Slot]) -> list[tuple[str, tuple[int, ...]]]:
    return [(slot.group, slot.batch.numbers) for slot in slots]


def test_each_group_has_its_batches_and_counts_as_one() -> None:
    slots = mixture(accumulate=3).step(0)
    assert Counter(slot.group for slot in slots) == {"large": 6, "small": 3}
    for group in ("large", "small"):
        assert sum(slot.share for slot in slots if slot.group == group) == pytest.approx(1)


def test_a_group_of_no_batches_a_round_is_never_read() -> None:
    one = Mixture({"large": (stream(8, 5), 1), "off": (stream(8, 6), 0)}, FIXED, 1, 0)
    assert {slot.group for number in range(4) for slot in one.step(number)} == {"large"}
    assert one.state()["off"] == [0, 0]


@pytest.mark.parametrize(("temperature", "large"), [(1.0, 100 / 101), (2.0, 10 / 11), (1000.0, 0.5)])
def test_odds_are_the_root_of_the_sizes(temperature: float, large: float) -> None:
    one = mixture(MixtureConfig(temperature, 50))
    groups = Counter(slot.group for number in range(40) for slot in one.step(number))
    assert groups["large"] / 2000 == pytest.approx(large, abs=4 * (large * (1 - large) / 2000) ** 0.5)


def test_shares_of_drawn_batches_are_one_together() -> None:
    slots = mixture(MixtureConfig(1.0, 6), accumulate=2).step(3)
    assert len(slots) == 12
    assert sum(slot.share for slot in slots) == pytest.approx(1)


@pytest.mark.parametrize("config", [FIXED, MixtureConfig(1.0, 6)])
def test_processes_together_have_the_step_of_one(config: MixtureConfig) -> None:
    alone = mixture(config, accumulate=2)
    pair = [mixture(config, accumulate=2, rank=rank, world_size=2) for rank in range(2)]
    for number in range(5):
        parts = [one.step(number) for one in pair]
        assert sorted(rows_of(parts[0] + parts[1])) == sorted(rows_of(alone.step(number)))
        assert len(parts[0]) == len(parts[1])
        assert [one.state() for one in pair] == [alone.state()] * 2


def test_batches_that_do_not_divide_among_processes_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"small: 1 batches a step do not divide among 2 processes; raise loop\."):
        mixture(world_size=2)


@pytest.mark.parametrize(
    ("temperature", "batches", "message"),
    [(0.5, 1, r"temperature is 0\.5; it must be 1"), (None, 0, "batches_per_step is 0; it must be at least 1")],
)
def test_impossible_settings_are_refused(temperature: float | None, batches: int, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        MixtureConfig(temperature, batches)


def test_a_feed_gives_the_steps_of_its_mixture_and_is_one_ahead() -> None:
    plain, ahead = mixture(), mixture()
    feed = Feed(ahead, CPU)
    try:
        for number in range(4):
            assert rows_of(feed.slots(number)) == rows_of(plain.step(number))
            assert feed.state() == plain.state()  # not the place of what is being made already
    finally:
        feed.close()


def test_a_feed_goes_on_from_a_state() -> None:
    plain = mixture()
    for number in range(3):
        plain.step(number)
    feed = Feed(mixture(), CPU)
    try:
        feed.load_state(plain.state())
        assert rows_of(feed.slots(3)) == rows_of(plain.step(3))
    finally:
        feed.close()


def test_a_rewound_feed_has_the_state_of_before_the_step() -> None:
    feed = Feed(mixture(), CPU)
    try:
        before = feed.state()
        feed.slots(0)
        assert feed.state() != before
        feed.rewind(before)
        assert feed.state() == before
    finally:
        feed.close()
