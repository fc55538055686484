"""Lossless codecs that Pillow and Python bring, and what they make of images."""

import bz2
import io
import lzma
import math
from collections.abc import Callable
from typing import Any

import _cells
import numpy as np

Codec = tuple[Callable[[np.ndarray], bytes], Callable[[bytes, tuple[int, ...]], np.ndarray]]


def codecs(images: np.ndarray, columns: int, using: dict[str, Codec]) -> dict[str, Any]:
    """Bits a value of each codec: of the images by themselves, and of one mosaic of them.

    Images are grey, `(n, side, side)`, or have their three colours last.
    """
    count, side, _, *colours = images.shape
    tiles = images.reshape(count // columns, columns, side, side, *colours)
    mosaic = tiles.swapaxes(1, 2).reshape(-1, columns * side, *colours)
    found = dict[str, Any]()
    for name, (written, read) in using.items():
        sizes = list[int]()
        for picture in (*images, mosaic):
            code = written(picture)
            if not np.array_equal(read(code, picture.shape), picture):
                raise RuntimeError(f"{name} is not lossless here.")
            sizes.append(len(code))
        found[name] = _cells.rounded([8 * sum(sizes[:-1]) / images.size, 8 * sizes[-1] / images.size])
    return found


def of_pillow(format: str, *, mode: str = "L", settings: Callable[[np.ndarray], dict[str, Any]]) -> Codec:
    """A codec that Pillow brings; grey images are written in `mode`."""

    def written(picture: np.ndarray) -> bytes:
        from PIL import Image

        file = io.BytesIO()
        image = Image.fromarray(picture)
        (image.convert(mode) if image.mode == "L" else image).save(file, format, **settings(picture))
        return file.getvalue()

    def read(code: bytes, shape: tuple[int, ...]) -> np.ndarray:
        from PIL import Image

        return np.asarray(Image.open(io.BytesIO(code)).convert("L" if len(shape) == 2 else "RGB"))

    return written, read


def of_bytes(written: Callable[[bytes], bytes], read: Callable[[bytes], bytes]) -> Codec:
    """A compressor of the bytes, row by row."""
    return (
        lambda picture: written(picture.tobytes()),
        lambda code, shape: np.frombuffer(read(code), np.uint8).reshape(shape),
    )


def wavelet(picture: np.ndarray) -> dict[str, Any]:
    """The code stream alone, with the reversible transform, and as many halvings as the picture allows up to five."""
    return {
        "no_jp2": True,
        "irreversible": False,
        "num_resolutions": min(6, int(math.log2(min(picture.shape[:2]))) - 1),
    }


ALONE = {"format": lzma.FORMAT_ALONE, "preset": 9 | lzma.PRESET_EXTREME}
CODECS: dict[str, Codec] = {
    "PNG": of_pillow("PNG", settings=lambda picture: {"optimize": True}),
    "WebP, lossless": of_pillow(
        "WEBP", mode="RGB", settings=lambda picture: {"lossless": True, "quality": 100, "method": 6, "exact": True}
    ),
    "JPEG 2000, reversible": of_pillow("JPEG2000", settings=wavelet),
    "AVIF, lossless": of_pillow(
        "AVIF", settings=lambda picture: {"quality": 100, "subsampling": "4:4:4", "speed": 4, "max_threads": 1}
    ),
    "bz2 of the bytes": of_bytes(bz2.compress, bz2.decompress),
    "LZMA of the bytes": of_bytes(lambda raw: lzma.compress(raw, **ALONE), lzma.decompress),
}
