"""Pictures as arrays of bytes: the modes that count as grey, as coloured, and that are refused."""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

import numpy as np
from jaxtyping import UInt8

from .._checks import require
from ..dataset import Quantisation

if TYPE_CHECKING:
    from PIL.Image import Image

BYTES = Quantisation(256, -1.0, 1.0)
"""The default meaning of the 256 levels of a picture."""

_GREY, _COLOUR = ("1", "L", "LA", "La"), ("RGB", "P", "PA", "RGBA", "RGBa", "CMYK", "YCbCr")


# No module: the methods of one cost more than decoding a small picture.
@final
@dataclass(frozen=True)
class Layout:
    """The array `(channels, height, width)` of a picture: its own channels and size, unless others are given."""

    channels: int | None
    size: tuple[int, int] | None

    def __post_init__(self) -> None:
        require(
            self.channels in (None, 1, 3),
            f"channels = {self.channels}; give 1 for grey, 3 for colour, or None to take pictures as they are.",
        )
        require(
            self.size is None or min(self.size) >= 1,
            f"size = {self.size}; it is (height, width), both at least one, or None to take pictures as they are.",
        )

    def shape(self, image: "Image", name: str) -> tuple[int, int, int]:
        """The shape of the array, from the head of the picture alone.

        Args:
            image: The picture.
            name: Its name in messages.

        Raises:
            ValueError: if it has more than 8 bits a channel, or is transparent and `channels` is `None`.
        """
        if image.mode not in (*_GREY, *_COLOUR):
            raise ValueError(
                f"{name} has the mode {image.mode} of Pillow; pictures have 8 bits a channel here. Convert it first, "
                "or read arrays by read_arrays."
            )
        if self.channels is None and image.has_transparency_data:
            raise ValueError(
                f"{name} is transparent, and what lies behind it is not known. Flatten it first, or give channels=1 or "
                "channels=3 to drop the transparency."
            )
        channels = self.channels or (1 if image.mode in _GREY else 3)
        height, width = self.size or (image.height, image.width)
        return channels, height, width

    def pixels(self, image: "Image", name: str) -> UInt8[np.ndarray, "channels height width"]:
        """The array of a picture, resized to cover the size and cut around the middle where there is one.

        Args:
            image: The picture.
            name: Its name in messages.

        Raises:
            ValueError: where `shape` does.
        """
        from PIL import ImageOps

        channels, height, width = self.shape(image, name)
        image = image.convert("L" if channels == 1 else "RGB")
        if (image.height, image.width) != (height, width):
            image = ImageOps.fit(image, (width, height))
        return np.moveaxis(np.asarray(image).reshape(height, width, channels), -1, 0)


def agree(shape: tuple[int, ...], name: str, first: tuple[int, ...], first_name: str, remedy: str) -> None:
    """Refuses two samples of different shapes."""
    if shape != first:
        raise ValueError(f"{first_name} has shape {first}, {name} has shape {shape}; all samples have one. {remedy}")


def needs_pillow(what: str) -> None:
    """Refuses to go on without Pillow."""
    try:
        importlib.import_module("PIL.Image")
    except ImportError as error:
        raise ImportError(f"{what} needs Pillow; install it with: pip install 'scorefp[images]'") from error
