"""Pictures of examples: their media types, and what the networks see of them."""

import io

import numpy as np
from PIL import Image

from store.objects import Objects
from store.tables import DatasetVersion, Example

MEDIA_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "BMP": "image/bmp",
    "GIF": "image/gif",
}
HEADER_MAX_BYTES = 4096


def media_type(example: Example) -> str:
    """By what the bytes are, never by the file's name; what browsers may not interpret stays opaque."""
    return MEDIA_TYPES.get(example.format.upper(), "application/octet-stream")


def packed(objects: Objects, version: DatasetVersion, example: Example) -> bytes:
    """A PNG of the example's row of images.npy: exactly what training sees. Raises ObjectsError."""
    head = io.BytesIO(objects.read(version.images_key, 0, HEADER_MAX_BYTES))
    np.lib.format.read_magic(head)
    (_, *shape), _, dtype = np.lib.format.read_array_header_1_0(head)
    size = int(np.prod(shape)) * dtype.itemsize
    row = objects.read(version.images_key, head.tell() + example.number * size, size)
    pixels = np.frombuffer(row, dtype).reshape(shape)
    png = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if shape[2] == 1 else pixels).save(png, "PNG")
    return png.getvalue()
