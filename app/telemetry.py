"""Logs, their format and the request id they carry; the trace of a request. Never a user's text, key or raw path."""

import json
import logging
import logging.config
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol


class Stages(Protocol):
    """Stages of a request, one after the other, with counts; any thread may call."""

    def enter(self, name: str, **counts: int) -> None:
        """The stage before has ended and `name` begins."""

    def end(self, **counts: int) -> None:
        """The last one has ended; what comes later is ignored."""


class Trace(Protocol):
    """Where the stages of one request are recorded."""

    def begin(self, name: str, **counts: int) -> Stages:
        """The stage `name` begins, beside others."""


request_id_var: ContextVar[str] = ContextVar("request_id", default="-")
trace_var: ContextVar[Trace | None] = ContextVar("trace", default=None)  # None: the request is not traced


@contextmanager
def stage(name: str) -> Iterator[dict[str, int]]:
    """The block is the stage `name` of the request that is being answered; what the dict is given are its counts."""
    trace, counts = trace_var.get(), dict[str, int]()
    stages = None if trace is None else trace.begin(name)
    try:
        yield counts
    finally:
        if stages is not None:
            stages.end(**counts)


# What every LogRecord has; the rest came in through `extra`.
_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "request_id", "color_message", "taskName"}


def configure_logging(level: str, *, as_json: bool) -> None:
    """Send all logs of the process to standard error, one line each."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "filters": {"request_id": {"()": RequestIdFilter}},
            "formatters": {"line": {"()": JsonFormatter if as_json else PlainFormatter}},
            "handlers": {
                "stderr": {"class": "logging.StreamHandler", "formatter": "line", "filters": ["request_id"]},
            },
            "root": {"handlers": ["stderr"], "level": level.upper()},
            # It logs every stage of its start and end; `app.server` logs those that matter.
            "loggers": {"uvicorn": {"level": "WARNING" if level == "info" else level.upper()}},
        }
    )


class RequestIdFilter(logging.Filter):
    """Puts the id of the request being answered on the record; `-` outside of requests."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record."""
        record.request_id = request_id_var.get()
        return True


class PlainFormatter(logging.Formatter):
    """`time level logger [request id] message key=value …`"""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        """The line; `format` puts a traceback below it."""
        request_id = getattr(record, "request_id", "-")
        line = f"{_utc(record)} {record.levelname} {record.name} [{request_id}] {record.message}"
        return " ".join([line, *(f"{key}={value}" for key, value in _extra(record).items())])


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON; a traceback is one string."""
        entry = {
            "time": _utc(record),
            "level": record.levelname,
            "logger": record.name,
            "request_id": getattr(record, "request_id", "-"),
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _utc(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}
