"""A running engine."""

from dataclasses import dataclass

import psutil

from netwright.engines.process import alive, end


@dataclass(frozen=True, slots=True)
class Server:
    """An engine that answers at `url`.

    adopted: it ran already when asked for; ending it is then its starter's business, unless that one is dead.
    """

    name: str
    url: str
    version: str
    process: psutil.Process
    adopted: bool
    stop_signals: tuple[int, ...]
    stop_grace_s: float

    @property
    def is_alive(self) -> bool:
        return alive(self.process)

    def stop(self) -> None:
        """Ends the engine cleanly, by force when it does not. Ending one that has ended is fine."""
        end(self.process, *self.stop_signals, grace_s=self.stop_grace_s)
