"""How processes log: lines for people, or one JSON object per line for machines. To stderr; never a payload."""

from __future__ import annotations

import argparse
import logging
import sys
import time

import orjson

_LINE = "%(asctime)s %(levelname)s %(name)s %(message)s"


def add_log_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare `--log-format`."""
    parser.add_argument(
        "--log-format", choices=("text", "json"), default="text",
        help="lines for people (default), or one JSON object per line: time, level, logger, message, exception",
    )  # fmt: skip


def start_logging(form: str) -> None:
    """Log from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else logging.Formatter(_LINE))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


class JsonFormatter(logging.Formatter):
    """One JSON object per record, times in UTC."""

    def format(self, record: logging.LogRecord) -> str:
        """Give the line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()
