"""The shards of a bulk job over an actor pool of Ray Data: the same files, by many processes or machines. Needs ray.

What a shard's file holds is decided by its rows alone, hence by nothing that is decided here. Files lie where all
machines reach them by the same path.
"""

import asyncio
import importlib.util
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.bulk.rows import InputError, Shard
from app.engine.request import EngineError
from app.local import Asker, FillElsewhere, Output, Query, Resolved, fill
from app.service import Service
from app.settings import Settings, prepare_ray
from app.telemetry import configure_logging

# Two shards at once in an actor: the rows of the second fill up the batches in which the first has its last ones.
_SHARDS_AT_ONCE = 2
_OBJECT_STORE_BYTES = 80 * 2**20  # numbers of shards and of rows; texts and answers never pass through it
_STARTS = 3
_END = object()


def filling_by_ray(num_actors: int | None) -> FillElsewhere:
    """Fills a job with `num_actors` actors, by default as many as the cluster has room for.

    The cluster is that of `RAY_ADDRESS`; without it one of this machine's is started, for the job.

    Raises:
        InputError: ray is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("--ray needs Ray: pip install 'leximind[ray]'")

    async def fill_by_ray(
        resolved: Resolved, output: Output, shards: Sequence[Shard], advance: Callable[[int], None]
    ) -> int:
        done = await asyncio.to_thread(_begin, shards, resolved, output, num_actors)
        num_refused = 0
        try:
            while (one := await asyncio.to_thread(_next, done)) is not _END:
                advance(int(one["num_rows"]))
                num_refused += int(one["num_refused"])
        finally:
            await asyncio.shield(asyncio.to_thread(_end))
        return num_refused

    return fill_by_ray


class _Answerer:
    """An actor: loads the checkpoint, then answers the shards that it is given the numbers of."""

    def __init__(
        self, settings: Settings, checkpoint_id: str, query: Query, shards: Sequence[Shard], output: Output, place: str
    ) -> None:
        os.chdir(place)  # relative paths mean what they mean where the command was given
        configure_logging("critical", as_json=False)
        self._service = Service(settings)
        self._checkpoint_id = checkpoint_id
        self._query, self._output = query, output
        self._shards = {shard.number: shard for shard in shards}
        self._asker: Asker | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[int]]:
        """How many rows a shard has, and of them without an answer, once its file is there."""
        [number] = batch["number"]
        shard = self._shards[int(number)]
        async with self._lock:
            if self._asker is None:
                self._asker = await self._load()
        assert self._output.folder is not None
        num_refused = await fill(self._output.folder, [shard], self._asker, self._output.prefix)
        return {"num_rows": [shard.num_rows], "num_refused": [num_refused]}

    async def _load(self) -> Asker:
        await self._service.load()
        if self._service.failure is not None:
            raise EngineError(f"an actor: {self._service.failure}")
        if (found := self._service.checkpoint_id) != self._checkpoint_id:
            folder = self._service.settings.checkpoint
            raise InputError(
                f"an actor has {found} in {folder}, the job {self._checkpoint_id}; copy one to all machines"
            )
        return Asker(self._service, self._query)


def _begin(shards: Sequence[Shard], resolved: Resolved, output: Output, num_actors: int | None) -> Iterator[Any]:
    """What is done of `shards`, as it is done."""
    has_cluster = prepare_ray()
    import ray
    import ray.data

    _connect(ray, has_cluster=has_cluster)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    threads = resolved.settings.threads or 1
    needed = {"CPU": threads} if resolved.device.type == "cpu" else {"CPU": threads, "GPU": 1}
    num_fitting = min(int(ray.cluster_resources().get(name, 0) // amount) for name, amount in needed.items())
    if num_fitting < 1 or (num_actors or 1) > num_fitting:
        wanted = " and ".join(f"{amount} {name}" for name, amount in needed.items())
        raise InputError(
            f"--ray: an actor takes {wanted}, and the cluster has room for {num_fitting} of them, not "
            f"{num_actors or 1}; give a lower --ray-actors or --threads"
        )
    settings = resolved.settings.model_copy(
        update={
            "checkpoint": resolved.checkpoint.folder.resolve(),
            "device": resolved.device.type,  # its number is Ray's to give
            "dtype": resolved.precision,
            "threads": threads,
        }
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    context.raise_original_map_exception = True
    size = min(num_actors or num_fitting, len(shards))
    made = ray.data.from_items(
        [{"number": shard.number} for shard in shards], override_num_blocks=len(shards)
    ).map_batches(
        _Answerer,
        fn_constructor_args=(settings, resolved.checkpoint.id, resolved.query, shards, output, str(Path.cwd())),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(
            size=size,
            max_tasks_in_flight_per_actor=2 * _SHARDS_AT_ONCE,
            max_concurrent_calls_per_actor=_SHARDS_AT_ONCE,
        ),
        num_cpus=needed["CPU"],
        num_gpus=needed.get("GPU", 0),
    )
    return iter(made.iter_rows())


def _connect(ray: Any, *, has_cluster: bool) -> None:
    """To a cluster that is there, or to one that is started here.

    Raises:
        EngineError: it does not start.
    """
    if has_cluster:
        ray.init(log_to_driver=False, logging_level="error")
        return
    for attempt in range(1, _STARTS + 1):
        try:
            ray.init(
                "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=_OBJECT_STORE_BYTES,
            )
        except Exception as error:  # a plain one, where its agents have not begun within its 15 s: the machine is busy
            ray.shutdown()
            if attempt == _STARTS:
                message = f"Ray did not start on this machine in {_STARTS} attempts: {error}"
                raise EngineError(f"{message}; run the same command again once it has less to do") from error
        else:
            return


def _next(done: Iterator[Any]) -> Any:
    import ray

    try:
        return next(done, _END)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, InputError | EngineError | OSError) else error) from None


def _end() -> None:
    import ray

    ray.shutdown()
