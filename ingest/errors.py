"""What ingest raises: a whole import that is refused, and one picture that cannot be read."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReportLine:
    """One item that was refused or mended: where it stands, why, and what was done about it."""

    path: str
    reason: str
    action: str


class ImportRefusedError(Exception):
    """The archive cannot become a data set; the message is a full sentence for the person who uploaded it.

    report: the first lines of what was refused on the way, to show beside the message.
    """

    def __init__(self, message: str, report: tuple[ReportLine, ...] = ()) -> None:
        super().__init__(message)
        self.report = report


class DiskFullError(ImportRefusedError):
    """The disk that holds the working folder is full. The caller removes the folder."""


class UnreadableImageError(Exception):
    """These bytes do not become a picture. `reason` completes "this file …", `mend` says what would help."""

    def __init__(self, reason: str, mend: str) -> None:
        super().__init__(f"{reason}; {mend}")
        self.reason = reason
        self.mend = mend
