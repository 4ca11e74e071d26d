"""An import beside a plain Pillow loop, on the same archive in one run: pictures per second, processor time, peak memory.

    python -m bench.ingest [--archive FILE] [--rounds 3] [--processes 2] [--json FILE]

Without `--archive` (CIFAR-10 as a tar.xz of JPEGs, say), 50,000 JPEGs of 32×32 pixels are made.
The loop is what one writes by hand: walk the tar, open each picture with Pillow, convert, collect in one array, save.
It checks nothing, hashes nothing, keeps no original and no split. Both begin with the archive on disk and end with
finished files on disk; each runs in a process of its own, start of Python included, in turn.
"""

import argparse
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import psutil
from PIL import Image, features

PICTURES, LABELS, SIDE = 50_000, 10, 32
_SAMPLE_S = 0.02


def ours(archive: Path, folder: Path, processes: int) -> int:
    from ingest.build import build

    return len(build(archive, folder, processes=processes).examples)


def plain(archive: Path, folder: Path) -> int:
    arrays, labels = [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isfile() and (file := tar.extractfile(member)) is not None:
                arrays.append(np.asarray(Image.open(file).convert("RGB")))
                labels.append(member.name.split("/")[0])
    np.save(folder / "images.npy", np.stack(arrays))
    np.savez(folder / "index.npz", labels=np.unique(labels, return_inverse=True)[1])
    return len(arrays)


def made(path: Path) -> Path:
    """An archive like CIFAR-10's of blots instead of photographs."""
    random = np.random.RandomState(0)
    with tarfile.open(path, "w:xz", preset=1) as tar:
        for number in range(PICTURES):
            blots = Image.fromarray(random.randint(0, 256, (6, 6, 3)).astype(np.uint8))
            sink = io.BytesIO()
            blots.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(sink, "JPEG", quality=80)
            entry = tarfile.TarInfo(f"class{number * LABELS // PICTURES}/{number:05d}.jpg")
            entry.size = sink.tell()
            sink.seek(0)
            tar.addfile(entry, sink)
    return path


def measured(what: str, archive: Path, processes: int) -> dict[str, Any]:
    """Run `what` in a process of its own and watch the memory of it and its children."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bench.ingest", "--run", what, "--archive", str(archive)]
        began = time.perf_counter()
        process = subprocess.Popen(
            [*command, "--folder", folder, "--processes", str(processes)], stdout=subprocess.PIPE, text=True
        )
        peak = 0
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(_SAMPLE_S)
        wall = time.perf_counter() - began
        assert process.stdout is not None
        answer = json.loads(process.stdout.read())
    return {
        "what": what,
        "seconds": round(wall, 2),
        "pictures_per_s": round(answer["pictures"] / wall),
        "processor_s": round(answer["processor_s"], 2),
        "peak_mib": round(peak / 2**20),
        "pictures": answer["pictures"],
    }


def tree_bytes(pid: int) -> int:
    """Resident bytes of a process and its children; pages that they share count each time."""
    total = 0
    try:
        for process in (root := psutil.Process(pid), *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # it ended while it was being looked at
    return total


def run(what: str, archive: Path, folder: Path, processes: int) -> None:
    count = ours(archive, folder, processes) if what == "ours" else plain(archive, folder)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"pictures": count, "processor_s": sum(usage.ru_utime + usage.ru_stime for usage in used)}))


def machine() -> dict[str, Any]:
    return {
        "processor": next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if "model name" in line
            ),
            platform.processor(),
        ),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "pillow": PIL.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--archive", type=Path, help="instead of the pictures made here")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", choices=["ours", "plain"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run, arguments.archive, arguments.folder, arguments.processes)
        return
    facts = machine()
    with tempfile.TemporaryDirectory() as folder:
        archive = arguments.archive or made(Path(folder) / "made.tar.xz")
        size = archive.stat().st_size
        rounds = [
            measured(what, archive, arguments.processes) for _ in range(arguments.rounds) for what in ("ours", "plain")
        ]
    print(f"{archive.name}, {size:,} bytes; {facts}")
    print(f"{'':8}{'pictures/s':>12}{'best':>8}{'seconds':>9}{'processor s':>13}{'peak MiB':>10}")
    for what in ("ours", "plain"):
        own = [figures for figures in rounds if figures["what"] == what]
        middle = {
            name: statistics.median(figures[name] for figures in own)
            for name in ("seconds", "processor_s", "pictures_per_s")
        }
        print(
            f"{what:8}{middle['pictures_per_s']:12,.0f}{max(figures['pictures_per_s'] for figures in own):8,}"
            f"{middle['seconds']:9.2f}{middle['processor_s']:13.2f}{max(figures['peak_mib'] for figures in own):10}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"archive": archive.name, "machine": facts, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
