"""Which batches make up a step: every group in fixed proportion, or draws whose odds follow the groups' sizes.

A step is a list of slots, each a batch of some group; of several processes each takes its share of the slots, so that
a step is the same whatever their number. The draws of a step depend on the seed and the step alone.
"""

import random
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from training.data.batches import Batch, Stream
from training.errors import TrainingError


@dataclass(frozen=True)
class MixtureConfig:
    """`temperature` None: each group's own `batches_per_step`. Otherwise `batches_per_step` draws, p ∝ rows^(1/T).

    T is 1 for proportional draws and grows towards uniform ones (Raffel et al. 2020, section 3.5.2).

    Raises:
        TrainingError: a value outside its range.
    """

    temperature: float | None
    batches_per_step: int

    def __post_init__(self) -> None:
        if self.temperature is not None and self.temperature < 1:
            raise TrainingError(
                f"mixture.temperature is {self.temperature}; it must be 1 (proportional) or more, or null"
            )
        if self.batches_per_step < 1:
            raise TrainingError(f"mixture.batches_per_step is {self.batches_per_step}; it must be at least 1")


@dataclass(frozen=True)
class Slot:
    """One batch of a step: `share` is what its loss counts, `place` the epoch and number it has in its group."""

    group: str
    place: tuple[int, int]
    share: float
    batch: Batch


@dataclass
class Mixture:
    """The batches of every step; `streams` gives each group with its number of batches a round."""

    streams: Mapping[str, tuple[Stream, int]]
    config: MixtureConfig
    accumulate: int  # rounds a step
    seed: int
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        for name, group in self._groups(0):
            if len(group) % self.world_size:
                raise TrainingError(
                    f"{name}: {len(group)} batches a step do not divide among {self.world_size} processes; raise "
                    "loop.accumulate to a multiple of their number"
                )

    def step(self, number: int) -> list[Slot]:
        """The slots of step `number` that are this process's; every stream moves on by all of them."""
        slots = []
        for _, group in self._groups(number):
            for index, (name, share) in enumerate(group):
                stream = self.streams[name][0]
                place = stream.epoch, stream.position
                if index % self.world_size == self.rank:
                    slots.append(Slot(name, place, share * self.world_size, stream.next()))
                else:
                    stream.skip()
        return slots

    def state(self) -> dict[str, list[int]]:
        """Where every stream is."""
        return {name: [stream.epoch, stream.position] for name, (stream, _) in self.streams.items()}

    def load_state(self, state: Mapping[str, list[int]]) -> None:
        """The inverse of `state`."""
        for name, (epoch, position) in state.items():
            self.streams[name][0].seek(epoch, position)

    def _groups(self, number: int) -> list[tuple[str, list[tuple[str, float]]]]:
        # Lists whose slots are dealt out to the processes one after the other.
        if self.config.temperature is None:
            return [
                (name, [(name, 1 / (count * self.accumulate))] * (count * self.accumulate))
                for name, (_, count) in self.streams.items()
                if count
            ]
        names = list(self.streams)
        odds = [len(self.streams[name][0].rows) ** (1 / self.config.temperature) for name in names]
        draws = self.config.batches_per_step * self.accumulate
        drawn = random.Random(f"{self.seed}:{number}").choices(names, odds, k=draws)
        return [("mixture", [(name, 1 / draws) for name in sorted(drawn)])]


class Feed:
    """The steps of a mixture on `device`; each is made by a thread while the one before it is computed."""

    def __init__(self, mixture: Mixture, device: torch.device) -> None:
        self._mixture, self._device = mixture, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ahead: Future[tuple[list[Slot], dict[str, list[int]]]] | None = None
        self._state = mixture.state()

    def slots(self, number: int) -> list[Slot]:
        """Those of step `number`; steps are asked for in order."""
        slots, self._state = (self._ahead or self._thread.submit(self._make, number)).result()
        self._ahead = self._thread.submit(self._make, number + 1)
        return slots

    def state(self) -> dict[str, list[int]]:
        """Where the streams are after the last step that was asked for."""
        return self._state

    def load_state(self, state: Mapping[str, list[int]]) -> None:
        """The inverse of `state`, before the first step is asked for."""
        assert self._ahead is None
        self._mixture.load_state(state)
        self._state = self._mixture.state()

    def rewind(self, state: Mapping[str, list[int]]) -> None:
        """Let `state` be this one, from before the last step that was asked for; no further one can be."""
        self._state = dict(state)

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(cancel_futures=True)

    def _make(self, number: int) -> tuple[list[Slot], dict[str, list[int]]]:
        slots = self._mixture.step(number)
        if self._device.type == "cuda":
            slots = [replace(slot, batch=slot.batch.to(self._device)) for slot in slots]
        return slots, self._mixture.state()
