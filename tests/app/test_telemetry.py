import json
import logging
import sys

import pytest

from app.telemetry import JsonFormatter, PlainFormatter, RequestIdFilter, configure_logging, request_id_var


@pytest.fixture
def record() -> logging.LogRecord:
    record = logging.makeLogRecord(
        {"name": "app.x", "levelname": "INFO", "msg": "took %d", "args": (3,), "created": 0.5, "status": 200}
    )
    token = request_id_var.set("abc")
    RequestIdFilter().filter(record)
    request_id_var.reset(token)
    return record


def test_plain_line_has_time_level_logger_id_message_and_extras(record: logging.LogRecord) -> None:
    assert PlainFormatter().format(record) == "1970-01-01T00:00:00.500+00:00 INFO app.x [abc] took 3 status=200"


def test_json_line_has_the_same(record: logging.LogRecord) -> None:
    assert json.loads(JsonFormatter().format(record)) == {
        "time": "1970-01-01T00:00:00.500+00:00",
        "level": "INFO",
        "logger": "app.x",
        "request_id": "abc",
        "message": "took 3",
        "status": 200,
    }


@pytest.mark.parametrize("formatter", [PlainFormatter(), JsonFormatter()])
def test_traceback_is_logged(record: logging.LogRecord, formatter: logging.Formatter) -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record.exc_info = sys.exc_info()
    line = formatter.format(record)
    assert "ValueError: broken" in line
    assert "Traceback" in line


def test_json_of_a_message_of_several_lines_is_one_line() -> None:
    line = JsonFormatter().format(logging.makeLogRecord({"msg": "a\nb\u2028c"}))
    assert len(line.splitlines()) == 1


def test_configured_logs_go_to_standard_error(root_logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("warning", as_json=True)
    logging.getLogger("leximind.test").warning("hello", extra={"ms": 3})
    logging.getLogger("leximind.test").info("not this")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["ms"] == 3
    assert root_logger.level == logging.WARNING
