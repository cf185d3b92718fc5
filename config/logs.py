"""Logs: one JSON object per line on stderr, with an event name and the request's id, without secrets."""

import logging.config
import re

import structlog
from structlog.typing import EventDict, Processor

from taskruns.services.rare_lines import Rarely

# Secrets in URLs, which are redacted: invitation links, password reset links, and what a sign-in provider returns. A
# slash may be encoded, as in the `next` parameter of a sign-in URL.
_TOKEN = re.compile(
    r"((?:/|%2F)(?:invitations|hooks(?:/|%2F)arize|password(?:/|%2F)reset(?:/|%2F)key)(?:/|%2F)"
    r"|[?&](?:code|state|nonce|(?:access_|id_|refresh_)?token|assertion|key|password|secret)=)[^/\s?&\"']+",
    re.IGNORECASE,
)
# A script's token, or most of one, wherever it stands: gunicorn quotes headers that it cannot read.
_OF_SCRIPT = re.compile(r"tr_[0-9A-Za-z]{20,}")


# Values that a client chooses, and the characters kept of them: a request may carry headers of 8 kB each.
_FROM_CLIENT = frozenset({"user_agent", "request", "path", "referer", "method", "host", "length"})
OF_CLIENT = 300
# Messages of libraries quote what clients send, for example a host name that is not allowed. For a traceback, the limit
# is of each line.
OF_MESSAGE = 1_000
_OF_LINES = frozenset({"exception", "stack"})


def configure(level: str = "INFO") -> None:
    """`level` is for the panel's own lines. Those that are evidence come at any level."""
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"json": _formatter()},
            "filters": {
                "unexpected_errors": {"()": UnexpectedErrors},
                "queue_errors": {"()": QueueErrors},
                "job_errors": {"()": JobErrors},
            },
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "loggers": {
                "taskruns": {"level": level},
                "taskruns.audit": {"level": "INFO"},
                "django_structlog": {"level": level},
                # It logs each retry. The panel logs the result of a call itself, without its URL.
                "urllib3": {"level": "CRITICAL"},
                # Refused requests (4xx) are already logged by django_structlog; errors are logged with a traceback.
                "django.request": {"level": "ERROR", "filters": ["unexpected_errors"]},
                # Without this handler, Huey's consumer would add its own.
                "huey": {"handlers": ["stderr"], "level": "WARNING", "propagate": False, "filters": ["job_errors"]},
                # A filter does not see the lines of child loggers.
                "huey.consumer.Scheduler": {"filters": ["queue_errors"]},
                "huey.consumer.Worker": {"filters": ["queue_errors"]},
            },
        }
    )


class UnexpectedErrors(logging.Filter):
    """Drops 502 and 503: they report problems of Arize or the database, which were logged where they occurred."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "status_code", 500) not in {502, 503}


class QueueErrors(logging.Filter):
    """One short line a minute while the queue is down, instead of 20 tracebacks a second. Errors of jobs pass."""

    def __init__(self, name: str = "") -> None:
        super().__init__(name)
        self._complaints = Rarely()

    def filter(self, record: logging.LogRecord) -> bool:
        if not str(record.msg).startswith(("Error reading", "Error enqueueing")):
            return True
        if not self._complaints.is_due():
            return False
        error = record.exc_info[1] if record.exc_info else None
        record.msg = "The queue cannot be used: %s: %s (%d errors since the last line)"
        record.args = (type(error).__name__, error, self._complaints.left_out)
        record.exc_info = None
        return True


class JobErrors(logging.Filter):
    """Drops Huey's line about a job that failed, which has only its ID: `taskruns.jobs` logs one with its name."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Unhandled exception in task")


def _formatter() -> dict[str, object]:
    return {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            redact_tokens,
            cut,
            structlog.processors.JSONRenderer(),
        ],
        "foreign_pre_chain": _common(),
    }


def _common() -> list[Processor]:
    return [
        drop_starts,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]


def drop_starts(_logger: object, _name: str, event: EventDict) -> EventDict:
    """One line a request, when it is finished."""
    if event.get("event") in {"request_started", "streaming_started"}:
        raise structlog.DropEvent
    return event


def redact_tokens(_logger: object, _name: str, event: EventDict) -> EventDict:
    return {key: _redacted(value) if isinstance(value, str) else value for key, value in event.items()}


def _redacted(text: str) -> str:
    return _OF_SCRIPT.sub("tr_...", _TOKEN.sub(r"\1...", text))


def cut(_logger: object, _name: str, event: EventDict) -> EventDict:
    """Keep the start of long values, so that no client fills the log."""
    return {key: _cut(key, value) for key, value in event.items()}


def _cut(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if key in _OF_LINES:
        return "\n".join(_start(line, OF_MESSAGE) for line in value.split("\n"))
    return _start(value, OF_CLIENT if key in _FROM_CLIENT else OF_MESSAGE)


def _start(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
