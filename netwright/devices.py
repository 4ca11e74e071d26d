"""The accelerators of this machine, found without loading torch."""

import os
import shutil
import subprocess
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """`index` is what CUDA_VISIBLE_DEVICES calls it."""

    index: int
    name: str


def gpus() -> list[Gpu]:
    """The NVIDIA GPUs that this process may use; empty when there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip(" -1"):
        return []
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        said = subprocess.run([program, "--list-gpus"], capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []  # a driver that does not answer runs no training either
    lines = [line for line in said.splitlines() if line.startswith("GPU ")]
    found = [Gpu(index, line.split(":", 1)[1].split("(UUID")[0].strip()) for index, line in enumerate(lines)]
    if visible is None:
        return found
    chosen = [word.strip() for word in visible.split(",")]
    return [found[int(word)] for word in chosen if word.isdigit() and int(word) < len(found)]
