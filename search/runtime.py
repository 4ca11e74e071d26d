"""How a finished network runs in ONNX Runtime: one set of options for what is served, measured and compared.

Loads no torch, since the serving process reads it, too.
"""

import os
import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
import onnxruntime

INPUT, OUTPUT = "images", "scores"
# Beyond four threads a batch of these small networks gains nothing.
_THREADS_MOST = 4

_WARM_UP_RUNS = 3
_BLOCKS, _BLOCK_RUNS = 5, 9
_MEASURED_FOR_S = 1.0  # at most, once warm; a slower network is measured fewer times, but at least once


def cores() -> int:
    """Of this machine, as far as this process may use them."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> int:
    """Of one batch in the serving process."""
    return min(_THREADS_MOST, cores())


def session_options(threads: int) -> onnxruntime.SessionOptions:
    """Threads that sleep when there is nothing to do, so that a worker on the same machine is not slowed down."""
    options: Any = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors; they reach the caller as exceptions
    return options


def providers() -> list[str]:
    """CUDA before the processor, as far as this build of ONNX Runtime has them."""
    available = onnxruntime.get_available_providers()
    return [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]


def measured_latency_ms(model: bytes) -> float:
    """Milliseconds from one packed picture to its scores on this machine, as the serving process runs `model`.

    model: an ONNX file of `search.export`. The smallest median of a few blocks of runs: what else the machine does can
    only lengthen a run. Takes about a second at most, or three runs of a network that is slower than that.
    """
    session = onnxruntime.InferenceSession(model, session_options(threads()), providers=providers())
    shape: Sequence[Any] = session.get_inputs()[0].shape[1:]
    picture = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)

    def run_s() -> float:
        began = time.perf_counter()
        session.run([OUTPUT], {INPUT: picture})
        return time.perf_counter() - began

    until = time.perf_counter() + _MEASURED_FOR_S
    for _ in range(_WARM_UP_RUNS - 1):
        run_s()
        if time.perf_counter() > until:
            break
    blocks = [[run_s()]]
    while time.perf_counter() < until and len(blocks) <= _BLOCKS:
        if len(blocks[-1]) == _BLOCK_RUNS:
            blocks.append([])
        blocks[-1].append(run_s())
    whole = [block for block in blocks if len(block) == _BLOCK_RUNS] or blocks
    return 1000 * min(median(block) for block in whole)
