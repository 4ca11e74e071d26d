"""How every process logs: one JSON object a line on stderr, events with ids, tracebacks without the values of locals.

Locals hold keys and pictures of strangers; structlog's pretty tracebacks would print them.
"""

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Set structlog up for this process. `level` is a name of `logging`'s, in any case; raises ValueError for others."""
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        known = ", ".join(logging.getLevelNamesMapping())
        raise ValueError(f"log level {level!r} is none; accepted: {known}")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
