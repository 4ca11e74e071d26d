"""The main job, watched: pictures in, a network found, deployed and asked; over HTTP, as any user would."""

from netwright.demo.story import DemoError, run

__all__ = ["DemoError", "run"]
