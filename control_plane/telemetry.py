"""Logs: JSON lines on standard error, with stable event names.

Nothing secret is logged in the first place; what looks like a secret all the same is blacked out here.
"""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog
from typing_extensions import override

_SECRET_KEYS: Final = re.compile(r"token|secret|password|authorization|private|pem|key$", re.IGNORECASE)
_SECRET_VALUES: Final = re.compile(
    r"eyJ[\w-]{8,}\.[\w-]+\.[\w-]+"  # JSON web tokens
    r"|bulkhead_enrol_[\w-]+"
    r"|-----BEGIN [A-Z0-9 -]*PRIVATE KEY-----.*?-----END [A-Z0-9 -]*PRIVATE KEY-----",
    re.DOTALL,
)


def configure_logging(process: str) -> None:
    """Log as `process` from now on."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            black_out_secrets,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()], force=True)


def black_out_secrets(_logger: Any, _name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Replace values that are secret by their name or by their look."""
    for key, value in event.items():
        if _SECRET_KEYS.search(key):
            event[key] = "[secret]"
        elif isinstance(value, str):
            event[key] = _SECRET_VALUES.sub("[secret]", value)
    return event


class _Forward(logging.Handler):
    """Takes what libraries log through the standard library."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger(record.name).log(record.levelno, record.getMessage(), exc_info=record.exc_info)
