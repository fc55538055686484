"""Pictures as arrays of bytes: the formats that are read, the modes that count as grey, as coloured or are refused."""

import importlib
import io
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, final

import numpy as np
from jaxtyping import UInt8

from .._checks import count, kind, needs, require
from ..dataset import Quantisation

if TYPE_CHECKING:
    from PIL.Image import Image

BYTES = Quantisation(256, -1.0, 1.0)
"""The default meaning of the 256 levels of a picture."""

_GREY, _COLOUR = ("1", "L", "LA", "La"), ("RGB", "P", "PA", "RGBA", "RGBa", "YCbCr")

FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jfif": "JPEG",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""The format of Pillow in which a file is opened, by the ending of its name. None of them runs another program."""

_NAMES = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"RIFF": "WEBP or another RIFF file",
    b"P5": "PPM",
    b"P6": "PPM",
    b"II*\x00": "TIFF",
    b"MM\x00*": "TIFF",
    b"%!PS": "PostScript",
    b"\xc5\xd0\xd3\xc6": "PostScript",
    b"%PDF": "PDF",
    b"PK": "a zip file",
    b"\x1f\x8b": "a gzip file",
    b"version https://git-lfs": "a pointer of Git LFS",
    b"<": "HTML, XML or SVG",
}
"""What files hold, by their first bytes."""


# No module: the methods of one cost more than decoding a small picture.
@final
@dataclass(frozen=True)
class Layout:
    """The array `(channels, height, width)` of a picture: its own channels and size, unless others are given."""

    channels: int | None
    size: tuple[int, int] | None

    def __post_init__(self) -> None:
        require(
            self.channels is None or count("channels", self.channels) in (1, 3),
            f"channels = {self.channels}; give 1 for grey, 3 for colour, or None to take pictures as they are.",
        )
        if self.size is None:
            return
        told = "it is (height, width), both at least one, or None to take pictures as they are."
        kind("size", self.size, tuple, f"Here {told}")
        require(
            len(self.size) == 2 and all(count("size", side) >= 1 for side in self.size), f"size = {self.size}; {told}"
        )

    def shape(self, image: "Image", name: str) -> tuple[int, int, int]:
        """The shape of the array of a picture that stands upright, from its head alone.

        Args:
            image: The picture.
            name: Its name in messages.

        Raises:
            ValueError: if it has another mode or format than those that are read, or is transparent and `channels` is
                `None`.
        """
        if image.format not in (None, "MPO", *FORMATS.values()):
            raise ValueError(f"{name} is a picture in the format {image.format}, which is not read here. Convert it.")
        if image.mode not in (*_GREY, *_COLOUR):
            why = "colours depend on the inks" if image.mode == "CMYK" else "pictures have 8 bits a channel here"
            raise ValueError(
                f"{name} has the mode {image.mode} of Pillow; {why}. Convert it first, or read arrays by read_arrays."
            )
        if self.channels is None and image.has_transparency_data:
            raise ValueError(
                f"{name} is transparent, and what lies behind it is not known. Flatten it first, or give channels=1 or "
                "channels=3 to drop the transparency."
            )
        channels = self.channels or (1 if image.mode in _GREY else 3)
        width, height = image.size[::-1] if _orientation(image) > 4 else image.size
        return channels, *(self.size or (height, width))

    def pixels(self, image: "Image", name: str) -> UInt8[np.ndarray, "channels height width"]:
        """The array of a picture, upright, resized to cover the size and cut around the middle where there is one.

        Args:
            image: The picture.
            name: Its name in messages.

        Raises:
            ValueError: where `shape` does.
        """
        from PIL import ImageOps

        channels, height, width = self.shape(image, name)
        if _orientation(image) > 1:
            image = ImageOps.exif_transpose(image)
        image = image.convert("L" if channels == 1 else "RGB")
        if (image.height, image.width) != (height, width):
            image = ImageOps.fit(image, (width, height))
        return np.moveaxis(np.asarray(image).reshape(height, width, channels), -1, 0)


class UnreadableError(ValueError):
    """What is no picture of its format, or only the start of one."""


def opened(file: IO[bytes] | io.BytesIO, name: str, ending: str, *, head: bool = False) -> "Image":
    """The picture in a file, decoded, or its head alone.

    Args:
        file: The file, open for reading.
        name: Its name in messages.
        ending: The ending of its name, which says the format; with another it may have any of `FORMATS`.
        head: Whether the pixels are left out.

    Raises:
        UnreadableError: if it holds something else, only the start of a picture, or more pixels than Pillow opens.
        ValueError: if it has more than 8 bits a channel, or several pictures.
    """
    from PIL import Image, UnidentifiedImageError

    format = FORMATS.get(ending.lower())
    formats = tuple(dict.fromkeys(FORMATS.values())) if format is None else (format,)
    start = file.read(32)
    try:
        file.seek(0)
        with Image.open(file, formats=formats) as image:
            most, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
            # The first picture of an MPO file is that of the JPEG file; the others are previews of it.
            bits, several = _bits(image, start), image.format != "MPO" and getattr(image, "is_animated", False)
            if not head and (most is None or pixels <= most):
                image.load()
            _orientation(image)  # reads it while the file is open
    except UnidentifiedImageError as error:
        raise UnreadableError(_content(start, formats)) from error
    except Exception as error:  # Pillow raises many kinds: OSError, SyntaxError, ValueError, struct.error, …
        raise UnreadableError(str(error).removesuffix(".") or type(error).__name__) from error
    if most is not None and pixels > most:
        raise UnreadableError(f"it has {pixels} pixels, more than PIL.Image.MAX_IMAGE_PIXELS = {most}")
    require(
        bits <= 8,
        f"{name} has {bits} bits a channel; pictures have 8 bits a channel here, and Pillow would drop the others. "
        "Convert it first, or read arrays by read_arrays.",
    )
    require(
        not several,
        f"{name} holds several pictures, of an animation or of pages. Save each in a file of its own.",
    )
    return image


def _content(start: bytes, formats: tuple[str, ...]) -> str:
    """Why a file is no picture of these formats, by its first bytes."""
    if not start:
        return "it is empty"
    known = {**_NAMES, start[:4] + b"ftyp": "HEIF, AVIF or a video"}
    held = next((name for first, name in known.items() if start.startswith(first)), "something else")
    if held in formats:
        return f"the head of the {held} in it is damaged"
    return f"it holds {held}, and is read as {' or '.join(formats)}"


def _orientation(image: "Image") -> int:
    """How the picture lies, by EXIF: 1 is upright, beyond 4 it lies on its side. Pillow turns TIFF files by itself."""
    from PIL import Image

    # By the base class: the method of PNG files decodes them.
    return 1 if image.format == "TIFF" else Image.Image.getexif(image).get(0x0112, 1)


def _bits(image: Any, start: bytes) -> int:
    """The bits of a channel in a file, of which Pillow keeps 8 where there are several channels."""
    if image.format == "PNG":
        return start[24]
    if image.format == "TIFF":
        return max(image.tag_v2.get(258, (1,)))
    if image.format == "PPM" and isinstance(image.tile[0].args, tuple):
        return int(image.tile[0].args[1]).bit_length()
    return 8


def agree(shape: tuple[int, ...], name: str, first: tuple[int, ...], first_name: str, remedy: str) -> None:
    """Refuses two samples of different shapes."""
    if shape != first:
        raise ValueError(f"{first_name} has shape {first}, {name} has shape {shape}; all samples have one. {remedy}")


def needs_pillow(what: str) -> None:
    """Refuses to go on without Pillow."""
    with needs(what, "Pillow", "images"):
        importlib.import_module("PIL.Image")
