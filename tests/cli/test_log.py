"""What the commands log, and in which form."""

from __future__ import annotations

import json
import logging

import pytest

from shoal.cli.shared.log import announce, dated_log, plain_log
from shoal.errors import ConfigError

replicas, access = logging.getLogger("shoal.replicas"), logging.getLogger("shoal.access")


def test_lines_for_people_have_time_level_and_logger(capsys: pytest.CaptureFixture[str]) -> None:
    dated_log("info", as_json=False)
    announce("serving tiny at http://x")
    replicas.warning("replica %d is lost", 1)
    replicas.debug("too much")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "serving tiny at http://x"
    date, _, rest = second.partition(" ")
    assert rest == "WARNING shoal.replicas: replica 1 is lost"
    assert (len(date), date[10], date[-1]) == (24, "T", "Z")


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    dated_log("info", as_json=True)
    announce("serving\ntiny")
    replicas.warning("replica %d is lost", 1, extra={"replica": 1})
    try:
        raise ValueError("of the test")
    except ValueError:
        replicas.exception("failed")
    first, second, third = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["message"], first["level"]) == ("serving\ntiny", "info")
    assert second.keys() == {"time", "level", "logger", "message", "replica"}
    assert (second["message"], second["replica"]) == ("replica 1 is lost", 1)
    assert "ValueError: of the test" in third["exception"]


@pytest.mark.parametrize("name", ["opentelemetry.exporter", "asyncio"])
def test_what_libraries_warn_of_has_the_same_form(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    dated_log("info", as_json=True)
    logging.getLogger(name).warning("not sent")
    logging.getLogger(name).info("sent")
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["logger"], line["message"]) == (name, "not sent")


def test_a_level_leaves_out_what_is_below_but_never_the_address(capsys: pytest.CaptureFixture[str]) -> None:
    dated_log("error", as_json=False)
    announce("serving")
    replicas.warning("is lost")
    replicas.error("is given up")
    assert [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()] == ["serving", "is given up"]
    with pytest.raises(ConfigError, match="--log-level is 'loud', but it must be one of debug, info, warning, error"):
        dated_log("loud", as_json=False)


def test_the_access_log_can_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    dated_log("info", as_json=False, access=False)
    access.info("GET /")
    assert capsys.readouterr().err == ""
    dated_log("info", as_json=False)
    access.info("GET /")
    assert "GET /" in capsys.readouterr().err


def test_other_commands_print_messages_alone(capsys: pytest.CaptureFixture[str]) -> None:
    plain_log()
    replicas.info("replica 0 has joined")
    plain_log("warning")
    replicas.info("replica 1 has joined")
    assert capsys.readouterr().err == "replica 0 has joined\n"
    with pytest.raises(ConfigError, match="--log-level is 'loud'"):
        plain_log("loud")
