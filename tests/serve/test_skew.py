"""Training and serving see the same bytes of a picture: what an import packs is what a network is fed."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from ingest.build import ImportOptions, build
from search.data import Images
from tests.ingest.samples import encoded, noise, zip_of
from tests.serve.conftest import Serving, Store
from tests.serve.networks import pixel_network

SIDE = 28


def odd_pictures() -> dict[str, bytes]:
    """Pictures by path: of many sizes, modes and formats, small enough to be decoded in their batch and too large for it."""
    wide = np.random.default_rng(0).integers(0, 65_536, (50, 40)).astype(np.uint16)
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    clear = noise(8, 60, 44).convert("RGBA")
    clear.putalpha(noise(9, 60, 44).convert("L"))
    frames = io.BytesIO()
    noise(10, 50, 50).save(frames, "GIF", save_all=True, append_images=[noise(11, 50, 50)])
    grain = Image.fromarray(np.random.default_rng(1).integers(0, 256, (500, 700, 3), dtype=np.uint8))
    return {
        "a/plain.png": encoded(noise(1, 28, 28)),
        "a/small.jpg": encoded(noise(2, 64, 48), "JPEG"),
        "a/large.jpg": encoded(noise(3, 1500, 900), "JPEG", quality=95),
        "a/grain.png": encoded(grain),
        "a/grain.webp": encoded(grain, "WEBP", quality=90),
        "a/thin.bmp": encoded(noise(4, 3, 200), "BMP"),
        "b/palette.png": encoded(noise(5, 90, 30).quantize(16)),
        "b/gray.jpg": encoded(noise(6, 77, 33).convert("L"), "JPEG"),
        "b/bits.png": encoded(noise(7, 40, 40).convert("1")),
        "b/clear.png": encoded(clear),
        "b/frames.gif": frames.getvalue(),
        "b/deep.png": encoded(Image.fromarray(wide)),
        "b/inks.jpg": encoded(noise(12, 64, 64).convert("CMYK"), "JPEG"),
        "b/turned.jpg": encoded(noise(13, 300, 100), "JPEG", exif=turned),
        "b/turned_large.jpg": encoded(noise(14, 1600, 1200), "JPEG", exif=turned),
    }


@pytest.mark.parametrize("channels", [3, 1])
def test_a_network_is_served_the_very_bytes_that_training_packs(
    store: Store, serving: Serving, tmp_path: Path, channels: int
) -> None:
    pictures = odd_pictures()
    if channels == 1:  # an import of gray pictures alone packs one channel
        pictures = {path: encoded(Image.open(io.BytesIO(data)).convert("L")) for path, data in pictures.items()}
    imported = build(zip_of(tmp_path / "odd.zip", pictures), tmp_path, options=ImportOptions(max_side=SIDE))
    assert (imported.preprocessing.side, imported.preprocessing.channels) == (SIDE, channels)
    trained_on = Images.open(tmp_path, imported.labels)
    paths = [example.path for example in imported.examples]
    assert set(paths) == set(pictures)
    store.deploy(
        "pixels",
        store.model(
            "pixels",
            pixel_network(SIDE, channels),
            side=SIDE,
            channels=channels,
            labels=[str(place) for place in range(SIDE * SIDE * channels)],
        ),
    )

    def fed(scores: list[float]) -> NDArray[np.uint8]:
        return np.array(scores).reshape(-1, SIDE, SIDE, channels).astype(np.uint8)

    with serving() as client:
        for place, path in enumerate(paths):
            packed = trained_on.pixels[place].tobytes()
            body = {"shape": [1], "datatype": "BYTES", "data": [base64.b64encode(pictures[path]).decode()]}
            answer = client.post("/v2/models/pixels/infer", json={"inputs": [{"name": "images", **body}]})
            assert fed(answer.json()["outputs"][0]["data"]).tobytes() == packed, path
            v1 = client.post("/v1/deployments/pixels/predict?top_k=1000", content=pictures[path]).json()
            known = {int(one["label"]): one["score"] for one in v1["predictions"][0]["scores"]}
            told = trained_on.pixels[place].ravel()
            assert all(told[at] == score for at, score in known.items()), path
        together = {
            "name": "images", "shape": list(trained_on.pixels.shape), "datatype": "UINT8",
            "data": trained_on.pixels.ravel().tolist(),
        }  # fmt: skip
        answer = client.post("/v2/models/pixels/infer", json={"inputs": [together]})
        assert fed(answer.json()["outputs"][0]["data"]).tobytes() == trained_on.pixels.tobytes()
