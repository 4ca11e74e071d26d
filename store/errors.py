"""What can go wrong between a caller and the rows. `api/errors.py` turns each into its HTTP answer."""


class StoreError(Exception):
    """Base of the refusals below; the message is written for the caller."""


class NotFoundError(StoreError):
    """No row has that id or name."""

    def __init__(self, noun: str, reference: str) -> None:
        super().__init__(f"there is no {noun} {reference!r}")
        self.noun = noun
        self.reference = reference


class ConflictError(StoreError):
    """The row exists, but not in a state that allows this."""


class RefusedError(StoreError):
    """The request is well-formed and cannot be granted; names the field, the value and what is accepted."""

    def __init__(self, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class StaleError(StoreError):
    """A write from an attempt that no longer holds the lease."""


class CorruptBlobError(StoreError):
    """Stored bytes are missing or do not have the digest they are named by."""
