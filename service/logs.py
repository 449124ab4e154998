"""Logs: one line of text or of JSON per record, to stderr, with the id of the request that it belongs to."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Literal

from service.context import current


class TextFormatter(logging.Formatter):
    """`INFO: text`, and the request's id in front of the text where there is one."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s: %(request)s%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        request = current().id
        record.request = "" if request == "-" else f"[{request}] "
        return super().format(record)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, request_id, exception, and a record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request := current().id) != "-":
            entry["request_id"] = request
        entry.update(getattr(record, "fields", {}))
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def configure(form: Literal["text", "json"], level: str) -> None:
    """Send everything to stderr in one form."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # It warns of every broken form, which anyone may send in any number; the client gets the reason.
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
