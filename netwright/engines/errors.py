"""What keeps an engine from running."""


class EngineError(RuntimeError):
    """An embedded engine cannot be found, made or started; the message says why and how to mend it."""
