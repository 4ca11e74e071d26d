"""What the machine computes with: the device, the number format and memory layout that are fastest on it, its speed.

Measured in the process that trains and never before a fork: running a torch operation in a parent that forks later
hangs the child.
"""

import ctypes
import json
import math
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor, nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's malloc.h
_PROBE_CHANNELS, _PROBE_SIDE, _PROBE_BATCH = 64, 16, 32
_ROUNDS = 8  # passes of which the best tells the speed
_CHOICE_S = 0.8  # for finding the best format and layout
_GLANCE_BATCH = 4  # enough to see that a processor only emulates a format
_FORMATS = {torch.float32: "float32", torch.bfloat16: "bfloat16"}
_PAYS = 1.1  # what is not the usual choice must be this much faster; bf16 gains more in a whole step than in the probe


@dataclass(frozen=True, slots=True)
class Device:
    """One device as training uses it.

    dtype: what convolutions compute in (weights and statistics stay float32). channels_last: memory layout.
    flops_per_s: multiply-adds per second of a 3×3 convolution, forward and backward together, as measured.
    """

    kind: Literal["cpu", "cuda"]
    index: int
    name: str
    threads: int
    dtype: torch.dtype
    channels_last: bool
    flops_per_s: float

    @staticmethod
    def best(memo: Path | None = None) -> "Device":
        """The fastest device of this machine. The first call in a process measures it (about a second).

        memo: a file that keeps the choice of format and layout. Where two are about equally fast, noise decides, and
        with it the last digits of every training: processes that share the file agree, and repeat each other exactly.
        """
        return _measured("cuda" if torch.cuda.is_available() else "cpu", memo)

    @staticmethod
    def cpu() -> "Device":
        return _measured("cpu", None)

    def measured_again(self) -> "Device":
        """The same device with its speed as it is now, when others may have stopped using the machine."""
        probe = _Probe(self.torch_device, self.dtype, self.channels_last)
        return replace(self, flops_per_s=probe.flops_per_s())

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.kind, self.index) if self.kind == "cuda" else torch.device("cpu")

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> torch.autocast:
        """Forward passes run in this context; it does nothing where float32 is the fastest."""
        return torch.autocast(self.kind, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def place(self, module: nn.Module) -> None:
        """Moves a module here, its filters in the layout that is fastest."""
        module.to(self.torch_device)
        for parameter in module.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=self.memory_format)

    def free_bytes(self) -> int:
        """Memory that a training may still take."""
        if self.kind == "cuda":
            return int(torch.cuda.mem_get_info(self.index)[0])
        return min(psutil.virtual_memory().available, _cgroup_free_bytes())

    def describe(self) -> dict[str, str | int | float]:
        """What the page of workers shows."""
        return {
            "kind": self.kind,
            "name": self.name,
            "threads": self.threads,
            "number_format": str(self.dtype).removeprefix("torch."),
            "memory_layout": "channels_last" if self.channels_last else "contiguous",
            "gflops_per_s": round(2 * self.flops_per_s / 1e9, 1),
            "free_memory_mb": self.free_bytes() // 2**20,
        }


@cache
def _measured(kind: Literal["cpu", "cuda"], memo: Path | None) -> Device:
    if kind == "cuda":
        index, name, threads = torch.cuda.current_device(), torch.cuda.get_device_name(), torch.get_num_threads()
        formats = [torch.bfloat16] if torch.cuda.is_bf16_supported(including_emulation=False) else [torch.float32]
        torch.backends.cudnn.benchmark = True
    else:
        _keep_freed_memory()
        threads = min(torch.get_num_threads(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 64)
        torch.set_num_threads(threads)
        index, name = 0, _cpu_name()
        formats = [torch.float32, torch.bfloat16]
    device = torch.device(kind)
    remembered = _recall(memo, name, threads)
    if remembered is not None:
        return Device(kind, index, name, threads, *remembered, _Probe(device, *remembered).flops_per_s())
    chosen, last, speed = _fastest(device, formats)
    if memo is not None:
        document = _hardware(name, threads) | {"dtype": _FORMATS[chosen], "channels_last": last}
        part = memo.with_name(f"{memo.name}.{os.getpid()}")
        part.write_text(json.dumps(document))
        part.replace(memo)
    return Device(kind, index, name, threads, chosen, last, speed)


def _hardware(name: str, threads: int) -> dict[str, str | int]:
    """What a remembered choice holds for."""
    return {"name": name, "threads": threads, "torch": torch.__version__}


def _recall(memo: Path | None, name: str, threads: int) -> tuple[torch.dtype, bool] | None:
    """The remembered (format, channels_last) of this hardware, if there is one that can be read."""
    if memo is None or not memo.exists():
        return None
    try:
        document = json.loads(memo.read_text())
        if _hardware(name, threads).items() <= document.items():
            return {text: dtype for dtype, text in _FORMATS.items()}[document["dtype"]], bool(document["channels_last"])
    except (ValueError, KeyError, AttributeError):
        pass  # written by another version: measured anew
    return None


def _fastest(device: torch.device, formats: Sequence[torch.dtype]) -> tuple[torch.dtype, bool, float]:
    """Format, channels_last and speed. Probes take turns, so that other work on the machine disturbs them alike; of each
    the best pass counts."""
    glances = [_Probe(device, dtype, True, _GLANCE_BATCH).best_pass_s(rounds=2) for dtype in formats]
    sound = [dtype for dtype, pass_s in zip(formats, glances, strict=True) if pass_s < 4 * glances[0]]
    probes = {(dtype, last): _Probe(device, dtype, last) for dtype in sound for last in (True, False)}
    best_s, started = dict.fromkeys(probes, math.inf), time.perf_counter()
    while time.perf_counter() - started < _CHOICE_S or math.inf in best_s.values():
        for choice, probe in probes.items():
            best_s[choice] = min(best_s[choice], probe.pass_s())
    dtype, last = formats[0], True
    for choice in probes:  # in the order of preference: noise must not decide between equals
        if best_s[choice] * _PAYS < best_s[dtype, last]:
            dtype, last = choice
    return dtype, last, probes[dtype, last].work / best_s[dtype, last]


class _Probe:
    """A small convolutional block in the middle of a typical network, to be run forward and backward.

    On a processor the time that counts is what its threads worked, divided among them: other work on the machine, an
    import beside a search's start say, then does not make the device look slow for the whole search.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, channels_last: bool, batch: int = _PROBE_BATCH
    ) -> None:
        self._device, self._dtype = device, dtype
        self.work = 3 * 2 * batch * _PROBE_CHANNELS**2 * 9 * _PROBE_SIDE**2  # multiply-adds of a pass
        layout = torch.channels_last if channels_last else torch.contiguous_format
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            self._block = nn.Sequential(
                nn.Conv2d(_PROBE_CHANNELS, _PROBE_CHANNELS, 3, padding=1, bias=False),
                nn.BatchNorm2d(_PROBE_CHANNELS),
                nn.ReLU(),
                nn.Conv2d(_PROBE_CHANNELS, _PROBE_CHANNELS, 3, padding=1, bias=False),
            ).to(device)
            images = torch.randn(batch, _PROBE_CHANNELS, _PROBE_SIDE, _PROBE_SIDE, device=device)
        for parameter in self._block.parameters():
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=layout)
        self._images = images.contiguous(memory_format=layout).requires_grad_()

    def pass_s(self) -> float:
        on_cpu = self._device.type == "cpu"
        clock, threads = (time.process_time, torch.get_num_threads()) if on_cpu else (time.perf_counter, 1)
        before = clock()
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            loss: Tensor = self._block(self._images).float().square().mean()
        torch.autograd.backward(loss)
        if not on_cpu:
            torch.cuda.synchronize()
        return (clock() - before) / threads

    def best_pass_s(self, rounds: int) -> float:
        return min(self.pass_s() for _ in range(rounds))

    def flops_per_s(self) -> float:
        """Multiply-adds per second."""
        return self.work / self.best_pass_s(_ROUNDS)


def _keep_freed_memory() -> None:
    """Lets glibc reuse the pages of freed tensors instead of handing them back to the kernel after every layer.

    By default each block over 32 MB is mapped anew, and touching its pages costs more than the arithmetic on them:
    on a 2-core AVX2 machine batch normalisation of (128, 64, 32, 32), forward and backward, took 66 ms before and
    12 ms after; ReLU 29 and 8 ms. Other C libraries lack `mallopt` and are left as they are.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_MMAP_THRESHOLD, 2**30)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cgroup_free_bytes() -> int:
    """What a container's limit leaves; a huge number where there is no limit (cgroup 2 only)."""
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if not limit.exists() or not used.exists() or limit.read_text().strip() == "max":
        return 2**62
    return max(0, int(limit.read_text()) - int(used.read_text()))
