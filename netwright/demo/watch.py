"""A search as its events tell it, and how that looks in a terminal."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

PURPOSES = {
    "floor": "training the floor",
    "supernet": "training weights that all networks share",
    "explore": "trying networks",
    "final": "training the best to the end",
}

DOINGS = {
    "queued": "waiting for a worker",
    "running": "choosing what to train next",
    "finishing": "testing and exporting",
}  # when nothing is being trained


@dataclass(slots=True)
class Watch:
    """What has been told so far. Scores are those on the validation pictures, higher is better."""

    state: str = "queued"
    spent_s: float = 0.0
    budget_s: float = 0.0
    heard: float = field(default_factory=time.monotonic)
    trials: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    points: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    best: Mapping[str, Any] | None = None
    floor_model: Mapping[str, Any] | None = None

    def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """Takes one event in."""
        match kind:
            case "search":
                self.state, self.budget_s = data["state"], data["budget_s"] or 0.0
                self.spent_s, self.heard = data["spent_s"], time.monotonic()
            case "trial":
                self.trials[data["id"]] = data
            case "progress":
                self.points[data["trial"]] = data
                self.spent_s, self.heard = data["spent_s"], time.monotonic()
            case "model":
                if data["purpose"] == "floor":
                    self.floor_model = data
                if self.best is None or data["score"] > self.best["score"]:
                    self.best = data

    @property
    def now_spent_s(self) -> float:
        going_on = time.monotonic() - self.heard if self.state == "running" else 0.0
        return min(self.budget_s, self.spent_s + going_on)

    @property
    def running(self) -> Mapping[str, Any] | None:
        return next((trial for trial in reversed(self.trials.values()) if trial["state"] == "running"), None)

    @property
    def floor(self) -> float | None:
        scores = [t["score"] for t in self.trials.values() if t["purpose"] == "floor" and t["score"] is not None]
        return max(scores, default=None)

    @property
    def done(self) -> int:
        return sum(trial["state"] in ("succeeded", "pruned", "failed") for trial in self.trials.values())

    def counted(self) -> str:
        return "1 trial done" if self.done == 1 else f"{self.done} trials done"

    def standing(self) -> str:
        """Best so far against the floor."""
        if self.best is None or self.floor is None:
            return "no network yet"
        if self.best["purpose"] == "floor":
            return f"best so far: the floor, {self.floor:.2%}"
        return f"best so far {self.best['score']:.2%}, floor {self.floor:.2%}"

    def doing(self) -> str:
        """What is being trained, and how far it is."""
        trial = self.running
        if trial is None:
            return DOINGS.get(self.state, self.state)
        point = self.points.get(trial["id"])
        said = f"trial {trial['number']}, {PURPOSES[trial['purpose']]}"
        return said if point is None else f"{said}: {point['fraction']:.0%} at {point['images_per_s']:,.0f} pictures/s"

    def line(self) -> str:
        left = max(0.0, self.budget_s - self.now_spent_s)
        return f"{clock(self.now_spent_s)} | {self.standing()} | {self.counted()} | {self.doing()} | {clock(left)} left"

    def __rich__(self) -> RenderableType:
        left = max(0.0, self.budget_s - self.now_spent_s)
        grid = Table.grid(padding=(0, 2))
        grid.add_row("", ProgressBar(total=max(self.budget_s, 1.0), completed=self.now_spent_s, width=50))
        for name, value in (
            ("time", f"{clock(self.now_spent_s)} of {clock(self.budget_s)}, {clock(left)} left"),
            ("network", self.standing()),
            ("now", self.doing()),
            ("trials", self.counted()),
        ):
            grid.add_row(Text(name, style="dim"), Text(value))
        return Group(grid)


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
