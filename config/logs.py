"""Logs: one JSON object a line on stderr, each with an event name, the request's id bound everywhere, no secrets."""

import logging.config
import re

import structlog
from structlog.typing import EventDict, Processor

# The link of an invitation lets its reader in, and so do that of a new password and what a sign-in provider hands back:
# all are struck out. A slash may be encoded, as in the way back that a sign-in page's address holds.
_TOKEN = re.compile(
    r"((?:/|%2F)(?:invitations|password(?:/|%2F)reset(?:/|%2F)key)(?:/|%2F)"
    r"|[?&](?:code|state|nonce|(?:access_|id_|refresh_)?token|assertion|key|password|secret)=)[^/\s?&\"']+",
    re.IGNORECASE,
)


def configure() -> None:
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
            "filters": {"our_own_faults": {"()": OurOwnFaults}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
            "root": {"handlers": ["stderr"], "level": "WARNING"},
            "loggers": {
                "taskruns": {"level": "INFO"},
                "django_structlog": {"level": "INFO"},
                # A refused request is no fault and has its line above; a broken one keeps its traceback.
                "django.request": {"level": "ERROR", "filters": ["our_own_faults"]},
                # With a handler of its own Huey's consumer does not add a second one.
                "huey": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
            },
        }
    )


class OurOwnFaults(logging.Filter):
    """Leaves out 502 and 503: they tell of Arize or of the database, and were logged where they were met."""

    def filter(self, record: logging.LogRecord) -> bool:
        return getattr(record, "status_code", 500) not in {502, 503}


def _formatter() -> dict[str, object]:
    return {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": [
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            strike_out_tokens,
            structlog.processors.JSONRenderer(),
        ],
        "foreign_pre_chain": _common(),
    }


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]


def strike_out_tokens(_logger: object, _name: str, event: EventDict) -> EventDict:
    return {key: _TOKEN.sub(r"\1...", value) if isinstance(value, str) else value for key, value in event.items()}
