import asyncio
import logging
import math
import shutil
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from app.engine.request import EngineError
from app.service import NotReady, Reloading, Service
from app.settings import Settings
from app.text_request import TextRequest
from model.choices import Precision
from model.errors import CheckpointError
from model.inference.backend import Backend
from model.inference.native_backend import NativeBackend
from model.inference.torch_backend import TorchBackend
from model.kernels.library import has_bfloat16
from model.storage.checkpoint import ServedCheckpoint, load_served
from support.waiting import until


async def test_service_loads_answers_and_drains(checkpoint_folder: Path) -> None:
    service = Service(Settings(checkpoint=checkpoint_folder))
    assert service.state == "loading"
    with pytest.raises(NotReady, match="loading"):
        _ = service.deployment
    await service.load()
    assert service.state == "ready"
    precision = "bfloat16" if has_bfloat16() else "float32"
    assert service.deployment.checkpoint.backend.precision == precision
    await service.drain(1.0)
    assert service.state == "draining"
    with pytest.raises(NotReady, match="draining"):
        _ = service.deployment


async def test_drain_may_come_twice_and_before_loading(checkpoint_folder: Path) -> None:
    service = Service(Settings(checkpoint=checkpoint_folder))
    await service.drain(0.0)
    await service.load()
    await service.drain(0.0)
    await service.drain(0.0)
    assert service.state == "draining"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
async def test_dtype_and_threads_are_those_of_the_settings(
    checkpoint_folder: Path, dtype: Literal["float32", "bfloat16", "int8"]
) -> None:
    threads = torch.get_num_threads()
    try:
        service = Service(Settings(checkpoint=checkpoint_folder, device="cpu", dtype=dtype, threads=1))
        await service.load()  # answers a minimal request of each kind
        assert service.deployment.checkpoint.backend.precision == dtype
        with ThreadPoolExecutor(1) as fresh:  # the count is a thread's own: the model's thread is one that comes later
            assert fresh.submit(torch.get_num_threads).result() == 1
        await service.drain(1.0)
    finally:
        torch.set_num_threads(threads)


async def test_threads_above_the_cores_are_capped_with_a_warning(
    checkpoint_folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    monkeypatch.setattr("app.service.usable_cores", lambda: 1)
    try:
        for asked, num_warnings in ((64, 1), (0, 0), (1, 0)):
            caplog.clear()
            torch.set_num_threads(2)
            service = Service(Settings(checkpoint=checkpoint_folder, device="cpu", threads=asked))
            await service.load()
            await service.drain(1.0)
            with ThreadPoolExecutor(1) as fresh:
                assert fresh.submit(torch.get_num_threads).result() == 1
            warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
            assert len(warnings) == num_warnings
            assert all("threads is 64, this process may use 1 cores" in message for message in warnings)
    finally:
        torch.set_num_threads(threads)


async def test_without_kernels_a_processor_computes_in_float32(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch in bfloat16 an answer would depend on what it is batched with."""
    monkeypatch.setattr("model.storage.checkpoint.has_bfloat16", lambda: False)
    service = Service(Settings(checkpoint=checkpoint_folder))
    await service.load()
    assert service.deployment.checkpoint.backend.precision == "float32"
    await service.drain(0.0)


async def test_reload_swaps_the_checkpoint_and_frees_the_old_one(checkpoint_folder: Path) -> None:
    service = Service(Settings(checkpoint=checkpoint_folder, dtype="float32", device="cpu"))
    await service.load()
    old = service.deployment.acquire()  # a request that has begun
    plans = await old.documents.plan(["rain"], TextRequest(("topic",)), math.inf)
    new = await service.reload()
    assert service.deployment is new is not old
    with pytest.raises(Reloading, match="still being answered"):
        await service.reload()
    assert (await old.documents.run(plans))[0].scores["topic"]  # ends where it began
    gone = weakref.ref(old.checkpoint.backend)
    old.release()
    del old, plans
    await until(lambda: gone() is None)
    labels = {"checkpoint": checkpoint_folder.name, "dtype": "float32", "device": "cpu"}
    assert service.metrics.registry.get_sample_value("leximind_model_info", labels) == 1
    assert (await service.reload()).id == new.id
    await service.drain(1.0)


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many models the service still holds at the beginning of each load; those of a folder `spoiled` fail."""
    backends: list[weakref.ref[Backend]] = []
    counts: list[int] = []

    def broken(*_: object) -> None:
        raise RuntimeError("secret internals")

    def load(folder: Path, device: torch.device, precision: Precision) -> ServedCheckpoint:
        counts.append(sum(one() is not None for one in backends))
        loaded = load_served(folder, device, precision)
        backends.append(weakref.ref(loaded.backend))
        if folder.name == "spoiled":
            loaded.backend.encode = broken  # type: ignore[method-assign, assignment]
        return loaded

    monkeypatch.setattr("app.service.load_served", load)
    # What pytest keeps of a log has the frames of exceptions, and with them the weights.
    monkeypatch.setattr(logging.getLogger("app.engine.engine"), "disabled", True)
    monkeypatch.setattr(logging.getLogger("app.service"), "disabled", True)
    return counts


@pytest.fixture
def spoiled_folder(checkpoint_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoint_folder, tmp_path / "spoiled"))


async def test_reload_after_a_drain_holds_one_checkpoint_at_a_time(
    checkpoint_folder: Path, in_memory: list[int]
) -> None:
    service = Service(Settings(checkpoint=checkpoint_folder, dtype="float32", device="cpu", reload="drain"))
    await service.load()
    old = service.deployment.acquire()  # a request that has begun
    plans = await old.documents.plan(["rain"], TextRequest(("topic",)), math.inf)
    reloading = asyncio.create_task(service.reload())
    await until(lambda: service.state == "loading")
    with pytest.raises(NotReady, match="the service is loading") as refused:
        _ = service.deployment
    assert 1 <= refused.value.retry_after_s < 60
    with pytest.raises(Reloading):
        await service.reload()
    assert (await old.documents.run(plans))[0].scores["topic"]  # ends where it began
    assert not reloading.done()
    old.release()
    del old, plans
    new = await reloading
    assert in_memory == [0, 0]
    assert service.deployment is new
    assert service.is_ready
    await service.drain(1.0)


async def test_reload_after_a_drain_loads_the_old_again_where_the_new_cannot_answer(
    checkpoint_folder: Path, spoiled_folder: Path, in_memory: list[int]
) -> None:
    service = Service(Settings(checkpoint=checkpoint_folder, dtype="float32", device="cpu", reload="drain"))
    await service.load()
    before = service.checkpoint_id
    with pytest.raises(CheckpointError):  # which is seen before the old one goes
        await service.reload(spoiled_folder.parent)
    assert in_memory == [0]
    with pytest.raises(EngineError, match="fails at a minimal request"):
        await service.reload(spoiled_folder)
    assert in_memory == [0, 0, 0]  # what failed is gone before the old one comes back
    assert service.checkpoint_id == before
    plans = await service.deployment.documents.plan(["rain"], TextRequest(("topic",)), math.inf)
    assert (await service.deployment.documents.run(plans))[0].scores["topic"]
    assert service.metrics.registry.get_sample_value("leximind_reloads_total", {"outcome": "failed"}) == 2
    await service.drain(1.0)


async def test_reload_that_finds_neither_checkpoint_ends_the_service(
    checkpoint_folder: Path, spoiled_folder: Path, in_memory: list[int], tmp_path: Path
) -> None:
    served = tmp_path / "served"
    shutil.copytree(checkpoint_folder, served)
    ended: list[None] = []
    service = Service(Settings(checkpoint=served, device="cpu", reload="drain"), lambda: ended.append(None))
    await service.load()
    shutil.rmtree(served)
    with pytest.raises(NotReady, match=r"fails at a minimal request.* cannot be loaded again: served: no such folder"):
        await service.reload(spoiled_folder)
    assert ended == [None]
    assert in_memory == [0, 0, 0]
    assert service.state == "failed"
    await service.drain(1.0)


async def test_drain_of_the_service_ends_a_reload_after_a_drain(checkpoint_folder: Path) -> None:
    service = Service(Settings(checkpoint=checkpoint_folder, device="cpu", reload="drain"))
    await service.load()
    request = service.deployment.acquire()
    reloading = asyncio.create_task(service.reload())
    await until(lambda: service.state == "loading")
    service.begin_drain()
    request.release()
    with pytest.raises(NotReady, match="the service is draining"):
        await reloading
    await service.drain(1.0)


async def test_model_that_fails_for_good_ends_the_service(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[None] = []
    service = Service(Settings(checkpoint=checkpoint_folder), lambda: ended.append(None))
    await service.load()
    documents = service.deployment.documents
    plans = await documents.plan(["rain"], TextRequest(("topic",)), math.inf)

    def broken(*_: object) -> None:
        raise RuntimeError("secret internals")

    for backend in (TorchBackend, NativeBackend):
        monkeypatch.setattr(backend, "encode", broken)
    with pytest.raises(EngineError):
        await documents.run(plans)
    await until(lambda: bool(ended))
    assert service.failure == "the model failed, and the service must be restarted; the log has the traceback"
    with pytest.raises(NotReady, match="must be restarted"):
        _ = service.deployment
    await service.drain(0.0)


@pytest.mark.parametrize("settings", [{"checkpoint": "/no/such/folder"}, {"device": "cuda:99"}])
async def test_failed_load_is_a_state_with_a_reason(checkpoint_folder: Path, settings: dict[str, Any]) -> None:
    service = Service(Settings(**{"checkpoint": checkpoint_folder, **settings}))
    await service.load()
    assert service.state == "failed"
    assert service.failure
    with pytest.raises(NotReady) as refused:
        _ = service.deployment
    assert "/no/such/" not in str(refused.value)
    await service.drain(0.0)


async def test_model_that_cannot_answer_is_a_failed_load(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret internals")

    for backend in (TorchBackend, NativeBackend):
        monkeypatch.setattr(backend, "encode", broken)
    service = Service(Settings(checkpoint=checkpoint_folder))
    await service.load()
    assert service.state == "failed"
    assert "secret" not in (service.failure or "")


async def test_unexpected_failure_is_reported_without_internals(
    checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret internals")

    monkeypatch.setattr("app.service.load_served", broken)
    service = Service(Settings(checkpoint=checkpoint_folder))
    await service.load()
    assert service.failure == "loading failed in an unforeseen way; the log has the traceback"
    assert "secret internals" in caplog.text
