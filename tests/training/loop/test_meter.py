"""What a run reports of its speed: operations as torch's own counter finds them, sums over batches and processes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model.network.leximind import LexiMind
from support.models import CONFIG
from training.data.batches import EncodedExample, collate
from training.distributed.processes import Processes
from training.loop import meter
from training.loop.meter import Meter, forward_operations, peak_operations

CPU = torch.device("cpu")


class TwoProcesses(Processes):
    """As if a second process had measured the same as this one."""

    def gather(self, value: Any) -> list[Any]:
        return [value, value]


def batch(source: int, target: int, rows: int = 2) -> Any:
    row = EncodedExample((5,) * (source - 1) + (1,), (6,) * (target - 1) + (1,) if target else (), {})
    return collate([row] * rows, range(rows), (), (source, target))


@pytest.mark.parametrize(("source", "target"), [(16, 8), (7, 15), (16, 0)])
def test_operations_are_those_that_torch_counts(source: int, target: int) -> None:
    model = LexiMind(CONFIG).eval()
    ids, mask = torch.full((1, source), 5), torch.ones(1, source, dtype=torch.bool)
    # The fused attention of a CPU is not among the operations that the counter knows.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        states = model.encode(ids, mask)
        if target:
            model.decode(states, mask, torch.zeros(1, target, dtype=torch.int64))
    # Both know products of matrices alone.
    assert forward_operations(CONFIG, source, target) == pytest.approx(counter.get_total_flops(), rel=1e-9)


def test_a_mean_is_over_the_batches_that_had_the_task() -> None:
    one = Meter(CONFIG, CPU)
    one.add({"topic": torch.tensor(1.0), "summarize": torch.tensor(8.0)}, batch(4, 3))
    one.add({"topic": torch.tensor(2.0)}, batch(4, 0))
    found = one.summary(Processes())
    assert (found["topic"], found["summarize"]) == (1.5, 8.0)


def test_speed_counts_tokens_of_source_and_target_of_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    one = Meter(CONFIG, CPU)
    one.add({"summarize": torch.tensor(1.0)}, batch(10, 5))
    one.add({"topic": torch.tensor(1.0)}, batch(10, 0))
    now[0] += 2.0
    assert one.summary(Processes())["tokens_per_s"] == (2 * 15 + 2 * 10) / 2.0
    assert one.summary(TwoProcesses())["tokens_per_s"] == 2 * (2 * 15 + 2 * 10) / 2.0


def test_use_of_the_hardware_is_per_process_and_counts_backward_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(meter, "peak_operations", lambda _: 1e9)
    one = Meter(CONFIG, CPU)
    one.add({"summarize": torch.tensor(1.0)}, batch(10, 5))
    now[0] = 0.5
    expected = 3 * 2 * forward_operations(CONFIG, 10, 5) / 0.5 / 1e9
    assert one.summary(Processes())["mfu"] == pytest.approx(expected)
    assert one.summary(TwoProcesses())["mfu"] == pytest.approx(expected)


def test_a_processor_without_a_known_peak_has_no_figure_of_its_use() -> None:
    assert peak_operations(CPU) is None
    assert "mfu" not in Meter(CONFIG, CPU).summary(Processes())


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA H100 80GB HBM3", 989e12), ("Some other GPU", None)])
def test_a_peak_is_known_by_the_card_s_name(name: str, peak: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_operations(torch.device("cuda")) == peak
