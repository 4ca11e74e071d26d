"""How often different pictures pass for near-copies, and how many real copies are found, on any image archives.

    python -m bench.near_copies ARCHIVE… [--json FILE]

Archives whose names differ in `_train` and `_test` alone are taken together. `found`: of 300 pictures, the share
whose copy (saved again as JPEG, scaled to 70 % and back, dimmed to 80 %, cut by 3 % on each side) is recognised.
"""

import argparse
import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from ingest.build import build
from ingest.duplicates import NEAR_BITS, group, near_pairs, perceptual_hashes

Pictures = NDArray[np.uint8]
SAMPLE = 300


def saved_again(image: Image.Image) -> Image.Image:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=60)
    return Image.open(sink)


def scaled(image: Image.Image) -> Image.Image:
    return image.resize((image.width * 7 // 10,) * 2, Image.Resampling.BICUBIC).resize(
        image.size, Image.Resampling.BICUBIC
    )


def dimmed(image: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(0.8)


def cut(image: Image.Image) -> Image.Image:
    edge = max(1, round(image.width * 0.03))
    return image.crop((edge, edge, image.width - edge, image.height - edge)).resize(
        image.size, Image.Resampling.BICUBIC
    )


CHANGES: tuple[Callable[[Image.Image], Image.Image], ...] = (saved_again, scaled, dimmed, cut)


def pictures_of(archives: list[Path]) -> tuple[Pictures, NDArray[np.int32]]:
    """Packed pictures and labels of several archives of the same classes."""
    arrays, names = [], []
    for archive in archives:
        with tempfile.TemporaryDirectory() as folder:
            imported = build(archive, Path(folder))
            arrays.append(np.load(Path(folder) / "images.npy"))
            names += [imported.labels[row.label] for row in imported.examples]
    return np.concatenate(arrays), np.unique(names, return_inverse=True)[1].astype(np.int32)


def found_copies(pictures: Pictures, hashes: NDArray[np.uint64], change: Callable[[Image.Image], Image.Image]) -> float:
    rows = np.random.RandomState(0).permutation(len(pictures))[:SAMPLE]
    copies = np.stack([np.asarray(change(Image.fromarray(pictures[row].squeeze()))) for row in rows])
    both = np.concatenate([pictures[rows], copies.reshape(pictures[rows].shape)])
    pairs = near_pairs(np.concatenate([hashes[rows], perceptual_hashes(both[len(rows) :])]), lambda some: both[some])
    return float((pairs[:, 1] - pairs[:, 0] == len(rows)).sum() / len(rows))


def figures_of(name: str, archives: list[Path]) -> dict[str, Any]:
    pictures, labels = pictures_of(archives)
    hashes = np.concatenate([perceptual_hashes(pictures[at : at + 64]) for at in range(0, len(pictures), 64)])
    pairs = near_pairs(hashes, lambda rows: pictures[rows])
    sizes = np.bincount(group(pairs, labels), minlength=len(labels))
    return {
        "set": name,
        "pictures": len(pictures),
        "by_hash_alone": by_hash_alone(hashes),
        "in_groups": float(sizes[sizes > 1].sum() / len(pictures)),
        "pairs": len(pairs),
        "pairs_across_labels": int((labels[pairs[:, 0]] != labels[pairs[:, 1]]).sum()),
        "largest_group": int(sizes.max()),
        "found": {change.__name__: found_copies(pictures, hashes, change) for change in CHANGES},
    }


def by_hash_alone(hashes: NDArray[np.uint64]) -> float:
    """The share of 4,000 pictures that have another one among them within NEAR_BITS: what a hash without pixels says."""
    some = hashes[np.random.RandomState(0).permutation(len(hashes))[:4000]]
    near = np.bitwise_count(some[:, None] ^ some[None]) <= NEAR_BITS
    return float((near.sum(axis=1) > 1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("archives", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    sets: dict[str, list[Path]] = {}
    for path in arguments.archives:
        sets.setdefault(re.sub(r"(_(train|test))?\.(zip|tar.*)$", "", path.name), []).append(path)
    results = []
    print(f"{'':22}{'pictures':>9}{'hash alone':>11}{'in groups':>10}{'pairs':>7}{'across':>7}{'largest':>8}   found " + " ".join(
        change.__name__ for change in CHANGES))  # fmt: skip
    for name, archives in sets.items():
        figures = figures_of(name, archives)
        results.append(figures)
        print(
            f"{name:22}{figures['pictures']:9,}{figures['by_hash_alone']:11.1%}{figures['in_groups']:10.2%}{figures['pairs']:7}"
            f"{figures['pairs_across_labels']:7}{figures['largest_group']:8}         "
            + " ".join(f"{share:.0%}" for share in figures["found"].values()),
            flush=True,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
