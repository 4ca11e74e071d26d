import io
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ingest.errors import UnreadableImageError
from ingest.limits import Limits
from ingest.preprocess import Preprocessing, Probe, decode, misnamed, preview, probe, to_array
from tests.ingest.samples import encoded, huge_png, noise, picture, zip_of

RGB = Preprocessing(32, 3)
GRAY = Preprocessing(32, 1)
LIMITS = Limits()
EXIF_ORIENTATION = 0x0112


def far(a: Any, b: Any) -> float:
    """Mean difference of two pictures, 0 to 255."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).mean())


def halves() -> Image.Image:
    """Black left, white right, 40×20."""
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (20, 0, 40, 20))
    return image


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_every_format_gives_nearly_the_same_pixels(kind: str) -> None:
    data = encoded(noise(1), kind)
    assert probe(data, LIMITS) == Probe(kind, 32, 32, True, ())
    array = to_array(data, RGB)
    assert (array.shape, array.dtype) == ((32, 32, 3), np.uint8)
    assert far(array, noise(1)) < 12  # a GIF has 256 colours
    assert far(to_array(data, GRAY)[..., 0], noise(1).convert("L")) < 12


@pytest.mark.parametrize(("kind", "mode"), [("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")] + [
    ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("BMP", "1"), ("BMP", "L"),
    ("BMP", "P"), ("BMP", "RGB"), ("BMP", "RGBA"), ("GIF", "L"), ("GIF", "P"),
])  # fmt: skip
def test_every_mode_becomes_rgb_or_gray(kind: str, mode: str) -> None:
    image = noise(2).convert(mode)
    data = encoded(image, kind)
    gray = image.convert("L") if mode == "1" else noise(2).convert("L")
    colour = gray.convert("RGB") if mode in ("1", "L", "LA") else noise(2)
    assert far(to_array(data, RGB), colour) < 20
    assert far(to_array(data, GRAY)[..., 0], gray) < 20
    assert decode(data, 3).mode == "RGB"
    assert decode(data, 1).mode == "L"


def test_sixteen_bits_become_their_upper_eight() -> None:
    wide = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    data = encoded(Image.fromarray(wide), "PNG")
    assert probe(data, LIMITS) == Probe("PNG", 32, 32, False, ("has 16 bits a channel: reduced to 8",))
    np.testing.assert_array_equal(to_array(data, GRAY)[..., 0], wide >> 8)
    np.testing.assert_array_equal(to_array(data, RGB)[..., 2], wide >> 8)


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (32, 32), (10, 20, 30, 0))
    clear.paste((10, 20, 30, 255), (0, 0, 32, 16))
    palette = clear.quantize(8)
    for data in (
        encoded(clear, "PNG"),
        encoded(clear, "WEBP", lossless=True),
        encoded(palette, "PNG"),
        encoded(clear.convert("LA"), "PNG"),
    ):
        array = to_array(data, RGB)
        assert (array[20:] == 255).all()
        assert array[:12].max() < 40
    keyed = Image.new("RGB", (32, 32), (255, 0, 255))
    assert (to_array(encoded(keyed, "PNG", transparency=(255, 0, 255)), RGB) == 255).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_obeyed_and_the_same_by_both_ways(orientation: int) -> None:
    upright = {1: "left", 2: "right", 3: "right", 4: "left", 5: "top", 6: "top", 7: "bottom", 8: "bottom"}[orientation]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    data = encoded(halves(), "JPEG", exif=exif, quality=95)
    turned = orientation >= 5
    assert (probe(data, LIMITS).width, probe(data, LIMITS).height) == ((20, 40) if turned else (40, 20))
    assert decode(data, 3).size == ((20, 40) if turned else (40, 20))
    assert preview(data, 20).size == ((10, 20) if turned else (20, 10))
    ways = (to_array(data, GRAY)[..., 0], np.asarray(decode(data, 1).resize((32, 32))),
            np.asarray(preview(data, 20).convert("L").resize((32, 32))))  # fmt: skip
    for gray in ways:
        dark = {"left": gray[:, :12], "right": gray[:, 20:], "top": gray[:12], "bottom": gray[20:]}
        assert {side: bool(part.mean() < 60) for side, part in dark.items()} == {side: side == upright for side in dark}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow says so while it opens the file
def test_a_damaged_exif_block_does_not_cost_the_picture() -> None:
    assert to_array(encoded(halves(), "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"), RGB).shape == (32, 32, 3)


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert probe(data, LIMITS).mends == ("is an animation: its first frame taken",)
        assert far(to_array(data, RGB), frames[0]) < 5


@pytest.mark.parametrize("side", [28, 32, 64, 128])
def test_squashing_a_large_picture_strip_by_strip_is_squashing_it_whole(side: int) -> None:
    image = noise(3, 1777, 1234)
    array = to_array(encoded(image, "PNG"), Preprocessing(side, 3))
    assert far(array, image.resize((side, side), Image.Resampling.BICUBIC)) < 1


def test_a_jpeg_read_at_a_fraction_of_its_size_is_the_same_picture() -> None:
    image = noise(4, 1600, 1200)
    assert far(to_array(encoded(image, "JPEG", quality=95), RGB), image.resize((32, 32), Image.Resampling.BICUBIC)) < 2


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 2000), (2000, 1), (3, 5), (129, 31)])
def test_pictures_of_odd_shapes_are_squashed(width: int, height: int) -> None:
    assert to_array(picture(5, "PNG", width, height), RGB).shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("data", "reason", "mend"),
    [
        (b"", "is empty (0 bytes)", "upload it again"),
        (b"hello, I am a text", "is not a picture but a text file", "accepted are JPEG, PNG, WebP, BMP or GIF"),
        (b"<html><body>404</body></html>", "is not a picture but a web page", "accepted are"),
        (b"%PDF-1.7", "is not a picture but a PDF document", "accepted are"),
        (b"BM is how this text begins, but it is none", "is not a picture but a text file", "accepted are"),
        (b"\x00\x01\x02\x03" * 9, "is not a picture but no known format", "accepted are"),
        (encoded(noise(1), "TIFF"), "is a TIFF picture", "convert it to"),
        (encoded(noise(1), "AVIF"), "is an AVIF picture", "convert it to"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "is an SVG drawing", "convert it to"),
    ],
)
def test_what_is_no_picture_is_refused_with_what_it_is(data: bytes, reason: str, mend: str) -> None:
    for read in (lambda: probe(data, LIMITS), lambda: to_array(data, RGB), lambda: decode(data, 3)):
        with pytest.raises(UnreadableImageError) as refusal:
            read()
        assert refusal.value.reason == reason
        assert refusal.value.mend.startswith(mend)


def test_an_archive_is_refused_as_a_picture(tmp_path: Any) -> None:
    with pytest.raises(UnreadableImageError, match="is a zip archive inside the archive; unpack it"):
        probe(zip_of(tmp_path / "a.zip", {"a": b"b"}).read_bytes(), LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_pictures_are_refused(kind: str, share: float) -> None:
    data = picture(6, kind, 120, 90)
    with pytest.raises(UnreadableImageError, match="is damaged or cut short"):
        to_array(data[: int(len(data) * share)], RGB)


def test_too_many_pixels_are_refused_before_anything_is_decoded() -> None:
    data = huge_png(30_000, 30_000)
    assert len(data) < 20_000
    for read in (lambda: probe(data, LIMITS), lambda: to_array(data, RGB)):
        with pytest.raises(
            UnreadableImageError, match="has 900,000,000 pixels, the limit is 50,000,000; scale it down"
        ):
            read()
    with pytest.raises(UnreadableImageError, match="has 100×60 = 6,000 pixels, the limit is 5,999"):
        to_array(picture(1, "PNG", 100, 60), RGB, Limits(max_pixels=5_999))


def test_pixels_between_the_limit_and_pillows_own_are_refused_whatever_warnings_do() -> None:
    for action in ("error", "ignore"):
        with warnings.catch_warnings():
            warnings.simplefilter(action)  # type: ignore[arg-type]
            with pytest.raises(UnreadableImageError, match="pixels, the limit is"):
                to_array(huge_png(10_000, 10_000), RGB)


SEEDS = [picture(7, kind, 20, 14) for kind in ("JPEG", "PNG", "WEBP", "BMP", "GIF")] + [
    encoded(noise(8, 20, 14).convert("P"), "PNG"), encoded(noise(8, 20, 14).convert("RGBA"), "PNG"),
    encoded(noise(8, 20, 14), "JPEG", progressive=True), encoded(noise(8, 20, 14).convert("CMYK"), "JPEG"),
]  # fmt: skip


@given(data=st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_pictures_become_an_array_or_a_refusal_and_nothing_else(data: st.DataObject) -> None:
    damaged = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    del damaged[data.draw(st.integers(len(damaged) // 2, len(damaged))) :]
    limits = Limits(max_pixels=1_000_000)
    for read in (lambda: probe(bytes(damaged), limits), lambda: to_array(bytes(damaged), RGB, limits)):
        try:
            read()
        except UnreadableImageError:
            continue


def test_the_same_bytes_give_the_same_array_in_any_thread_and_any_order() -> None:
    files = [picture(n, kind, 300, 200) for n in range(6) for kind in ("JPEG", "PNG")]
    with ThreadPoolExecutor(4) as pool:
        there = list(pool.map(lambda data: to_array(data, RGB).tobytes(), files))
        back = list(pool.map(lambda data: to_array(data, RGB).tobytes(), reversed(files)))
    assert there == back[::-1] == [to_array(data, RGB).tobytes() for data in files]


def test_names_that_promise_another_format_are_told() -> None:
    assert misnamed("cat/1.JPG", "PNG") == "JPG"
    assert misnamed("cat/1.jpeg", "JPEG") is None
    assert misnamed("cat/1", "PNG") is None
    assert misnamed("cat/1.dat", "PNG") is None


def test_preprocessing_is_json_and_back_and_knows_its_version() -> None:
    assert Preprocessing.from_json(RGB.to_json()) == RGB
    with pytest.raises(ValueError, match="version 99"):
        Preprocessing.from_json({**RGB.to_json(), "version": 99})
    with pytest.raises(ValueError, match="side must be"):
        Preprocessing(0, 3)


def test_a_picture_written_and_read_by_hand_is_exactly_itself() -> None:
    pixels = np.random.RandomState(0).randint(0, 256, (32, 32, 3)).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, "PNG")
    np.testing.assert_array_equal(to_array(sink.getvalue(), RGB), pixels)
