"""Odd files: each picture is read as it is meant, or refused by what is wrong with it; nothing else is run or skipped.

The files are made here, by Pillow or byte by byte.
"""

import contextlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset as Table, Features, Image as Pictures, Value
from helpers.refusals import refused
from PIL import Image

import scorefp as sfp
from scorefp.data import HuggingFace, ImageFolder

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("unchecked")]

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    held = io.BytesIO()
    image.save(held, format, **options)
    return held.getvalue()


def grey(format: str = "PNG", **options: Any) -> bytes:
    return saved(Image.fromarray(GREY), format, **options)


def colour(format: str = "PNG", **options: Any) -> bytes:
    return saved(Image.fromarray(COLOUR), format, **options)


def lying(format: str, orientation: int) -> bytes:
    """A picture that says how the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return grey(format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(colour_type: int, bits: int, rows: bytes, width: int = 4, height: int = 3, before: bytes = b"") -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def lines(channels: int, bits: int) -> bytes:
    """Rows of a PNG file without filters."""
    return (b"\x00" + bytes(4 * channels * bits // 8)) * 3


def tiff(bits: int, channels: int) -> bytes:
    """A TIFF file of zeros."""
    size = 12 * channels * bits // 8
    tags = [
        (256, 4, 1, 4),
        (257, 4, 1, 3),
        (258, 3, channels, bits if channels == 1 else 8),
        (259, 3, 1, 1),
        (262, 3, 1, 2 if channels == 3 else 1),
        (273, 4, 1, 14),
        (277, 3, 1, channels),
        (278, 4, 1, 3),
        (279, 4, 1, size),
    ]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = 14 + size
    return (
        b"II*\x00" + struct.pack("<I", start) + struct.pack("<3H", *[bits] * 3) + bytes(size)
        + struct.pack("<H", len(tags)) + entries + bytes(4)
    )  # fmt: skip


def frames(format: str) -> bytes:
    others = [Image.fromarray(255 - GREY), Image.fromarray(GREY // 2)]
    return grey(format, save_all=True, append_images=others)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"

# The name, the bytes, and what is said of them.
REFUSED: dict[str, tuple[str, bytes, str]] = {
    "PostScript as PNG": ("cat.png", POSTSCRIPT, r"cat\.png cannot be read: it holds PostScript, and is read as PNG"),
    "PostScript of DOS": ("cat.jpg", b"\xc5\xd0\xd3\xc6" + bytes(40), "it holds PostScript, and is read as JPEG"),
    "PDF": ("cat.tif", b"%PDF-1.4\n", "it holds PDF, and is read as TIFF"),
    "SVG": ("cat.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "it holds HTML, XML or SVG, and is read as PNG"),
    "HEIF": ("cat.jpg", b"\x00\x00\x00\x18ftypheic" + bytes(20), "it holds HEIF, AVIF or a video"),
    "a pointer": ("cat.png", b"version https://git-lfs.github.com/spec/v1\n", "it holds a pointer of Git LFS"),
    "text": ("cat.png", b"a cat", "it holds something else, and is read as PNG"),
    "JPEG as PNG": ("cat.png", grey("JPEG"), "it holds JPEG, and is read as PNG"),
    "PNG as JPEG": ("cat.jpeg", grey(), "it holds PNG, and is read as JPEG"),
    "GIF as WEBP": ("cat.webp", grey("GIF"), "it holds GIF, and is read as WEBP"),
    "nothing": ("cat.png", b"", "it is empty"),
    "a head alone": ("cat.png", grey()[:20], r"cat\.png cannot be read: .*[Tt]runcated"),
    "half a PNG": ("cat.png", grey()[:50], r"cat\.png cannot be read: .*truncated"),
    "half a JPEG": ("cat.jpg", grey("JPEG")[:-20], r"cat\.jpg cannot be read: .*[Tt]runcated"),
    "half a BMP": ("cat.bmp", grey("BMP")[:-4], r"cat\.bmp cannot be read: .*truncated"),
    "half a PGM": ("cat.pgm", grey("PPM")[:-4], r"cat\.pgm cannot be read: .*truncated"),
    "half a TIFF": ("cat.tif", tiff(8, 3)[:40], r"cat\.tif cannot be read: "),
    "half a WEBP": ("cat.webp", colour("WEBP")[:30], r"cat\.webp cannot be read: "),
    "half a GIF": ("cat.gif", grey("GIF")[:-8], r"cat\.gif cannot be read: "),
    "a damaged checksum": ("cat.png", grey()[:40] + b"\x00" + grey()[41:], r"cat\.png cannot be read: "),
    "a bomb": ("cat.png", png(0, 8, b"", 20_000, 20_000), r"cat\.png cannot be read: .* pixels.*bomb"),
    "a small bomb": ("cat.png", png(0, 8, b"", 10_000, 10_000), r"it has 100000000 pixels, more than PIL\.Image\.MAX"),
    "16 bits, grey": ("cat.png", png(0, 16, lines(1, 16)), r"cat\.png has 16 bits a channel; .*Pillow would drop"),
    "16 bits, coloured": ("cat.png", png(2, 16, lines(3, 16)), r"cat\.png has 16 bits a channel; .*Convert it first"),
    "16 bits, transparent": ("cat.png", png(6, 16, lines(4, 16)), "has 16 bits a channel"),
    "16 bits, TIFF": ("cat.tif", tiff(16, 3), r"cat\.tif has 16 bits a channel"),
    "16 bits, grey TIFF": ("cat.tif", tiff(16, 1), r"cat\.tif has 16 bits a channel"),
    "16 bits, PPM": ("cat.ppm", b"P6 4 3 65535\n" + bytes(72), r"cat\.ppm has 16 bits a channel"),
    "10 bits, PGM": ("cat.pgm", b"P5 4 3 1023\n" + bytes(24), r"cat\.pgm has 10 bits a channel"),
    "floats, TIFF": ("cat.tif", saved(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "has 32 bits a channel"),
    "floats, PFM": ("cat.pnm", b"Pf 4 3\n-1.0\n" + bytes(48), "has the mode F of Pillow"),
    "animated GIF": ("cat.gif", frames("GIF"), r"cat\.gif holds several pictures, of an animation or of pages"),
    "animated PNG": ("cat.png", frames("PNG"), r"cat\.png holds several pictures"),
    "animated WEBP": ("cat.webp", frames("WEBP"), r"cat\.webp holds several pictures"),
    "pages": ("cat.tiff", frames("TIFF"), r"cat\.tiff holds several pictures.*Save each in a file of its own"),
    "CMYK": ("cat.jpg", saved(Image.new("CMYK", (4, 3)), "JPEG"), "has the mode CMYK of Pillow; colours depend on the"),
    "LAB": ("cat.tif", saved(Image.new("LAB", (4, 3)), "TIFF"), "has the mode LAB of Pillow"),
    "alpha": ("cat.png", saved(Image.new("RGBA", (4, 3)), "PNG"), "cat.png is transparent, .* Flatten it first"),
    "grey and alpha": ("cat.png", saved(Image.new("LA", (4, 3)), "PNG"), "cat.png is transparent"),
    "a transparent colour": ("cat.png", png(2, 8, lines(3, 8), before=chunk(b"tRNS", bytes(6))), "is transparent"),
    "a transparent palette": ("cat.gif", grey("GIF", transparency=0), "cat.gif is transparent"),
}  # fmt: skip


def decoded(content: bytes) -> np.ndarray:
    """What Pillow makes of a grey picture that loses."""
    return np.asarray(Image.open(io.BytesIO(content)))[None]


PALETTE = Image.fromarray(COLOUR).quantize(12)
UPRIGHT = np.rot90(GREY, -1)[None]

# The name, the bytes, and the array.
READ: dict[str, tuple[str, bytes, np.ndarray]] = {
    "PNG": ("cat.png", grey(), GREY[None]),
    "capitals": ("cat.PNG", grey(), GREY[None]),
    "mixed": ("cat.Jpg", grey("JPEG"), decoded(grey("JPEG"))),
    "JFIF": ("cat.jfif", grey("JPEG"), decoded(grey("JPEG"))),
    "BMP": ("cat.bmp", colour("BMP"), np.moveaxis(COLOUR, -1, 0)),
    "TIFF": ("cat.tif", colour("TIFF"), np.moveaxis(COLOUR, -1, 0)),
    "TIFF by hand": ("cat.tif", tiff(8, 3), np.zeros((3, 3, 4), np.uint8)),
    "WEBP": ("cat.webp", colour("WEBP", lossless=True), np.moveaxis(COLOUR, -1, 0)),
    "PGM": ("cat.pgm", grey("PPM"), GREY[None]),
    "GIF": ("cat.gif", grey("GIF"), np.tile(GREY[None], (3, 1, 1))),
    "a palette": ("cat.png", saved(PALETTE, "PNG"), np.moveaxis(np.asarray(PALETTE.convert("RGB")), -1, 0)),
    "one bit": ("cat.png", png(0, 1, (b"\x00\xa0") * 3), np.tile([255, 0, 255, 0], (1, 3, 1)).astype(np.uint8)),
    "four bits": ("cat.png", png(0, 4, b"\x00\x0f\x0f" * 3), np.tile([0, 255, 0, 255], (1, 3, 1)).astype(np.uint8)),
    "upside down": ("cat.jpg", lying("JPEG", 3), decoded(lying("JPEG", 3))[:, ::-1, ::-1]),
    "on its side": ("cat.png", lying("PNG", 6), UPRIGHT),
    "on its side, TIFF": ("cat.tif", lying("TIFF", 6), UPRIGHT),
    "on its side, WEBP": ("cat.webp", lying("WEBP", 6), np.tile(UPRIGHT, (3, 1, 1))),
    "a preview within": ("cat.jpg", frames("MPO"), decoded(grey("JPEG"))),
    "no ASCII": ("котёнок 猫.png", grey(), GREY[None]),
    "what comes after": ("cat.png", grey() + b"more", GREY[None]),
}  # fmt: skip


def test_there_are_enough() -> None:
    assert len(REFUSED) + len(READ) >= 60


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", REFUSED)
def test_odd_pictures_are_refused_by_name(name: str, tmp_path: Path) -> None:
    """When the folder is looked at, or where only the whole file tells, when it is read."""
    file, content, message = REFUSED[name]
    (tmp_path / file).write_bytes(content)
    refused(message, lambda: ImageFolder(tmp_path).read(np.arange(1)))


@pytest.mark.parametrize("name", READ)
def test_good_pictures_are_read_as_they_are_meant(name: str, tmp_path: Path) -> None:
    file, content, array = READ[name]
    (tmp_path / file).write_bytes(content)
    source = ImageFolder(tmp_path)
    assert source.shape == array.shape
    np.testing.assert_array_equal(source.read(np.arange(1))[0][0], array)


def test_transparency_is_dropped_if_asked(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(saved(Image.new("RGBA", (4, 3), (1, 2, 3, 0)), "PNG"))
    for channels, pixel in ((3, [1, 2, 3]), (1, [2])):
        values = ImageFolder(tmp_path, channels=channels).read(np.arange(1))[0]
        np.testing.assert_array_equal(values[0, :, 0, 0], pixel)


def test_odd_pictures_in_a_table() -> None:
    """The same by the rows, of what their content is: names in tables are often wrong."""
    of = lambda content: HuggingFace(
        Table.from_dict({"image": [{"bytes": content, "path": None}]}, features=Features({"image": Pictures()})),
        "image",
    )
    refused(r"row 0 of the table cannot be read: it holds PostScript, and is read as .* column 'image'", of, POSTSCRIPT)
    refused("row 0 has 16 bits a channel", of, png(2, 16, lines(3, 16)))
    refused("row 0 holds several pictures", of, frames("GIF"))
    refused("row 0 is transparent", of, saved(Image.new("RGBA", (4, 3)), "PNG"))
    np.testing.assert_array_equal(of(lying("PNG", 6)).read(np.arange(1))[0][0], UPRIGHT)
    np.testing.assert_array_equal(of(colour("WEBP", lossless=True)).read(np.arange(1))[0][0], READ["WEBP"][2])


@pytest.mark.parametrize("where", ["folder", "table", "conditioning"])
def test_no_other_program_is_started(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither Ghostscript nor what stands in its place."""
    tools, pictures = tmp_path / "tools", tmp_path / "pictures"
    tools.mkdir(), pictures.mkdir()
    (tools / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 0\n")
    (tools / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools) + os.pathsep + os.environ["PATH"])
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    (pictures / "cat.png").write_bytes(POSTSCRIPT)
    cell = {"bytes": POSTSCRIPT, "path": "cat.eps"}
    features = Features({"image": Pictures(), "x": Value("float32")})
    table = Table.from_dict({"image": [cell], "x": [1.0]}, features=features)
    calls: dict[str, Callable[[], Any]] = {
        "folder": lambda: ImageFolder(pictures).read(np.arange(1)),
        "table": lambda: HuggingFace(table, "image"),
        "conditioning": lambda: HuggingFace(table, "x", args="image"),
    }
    # What is caught is not caught by chance: Pillow itself runs it.
    with contextlib.suppress(Exception):
        Image.open(io.BytesIO(POSTSCRIPT)).load()
    assert (tmp_path / "ran").exists()
    (tmp_path / "ran").unlink()
    refused("it holds PostScript", calls[where])
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------------- folders and links


def written(*files: Path) -> None:
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(grey())


def test_links_are_followed(tmp_path: Path) -> None:
    """Of files and of folders, also to places that are hidden or that another link shows."""
    outside, folder = tmp_path / ".store", tmp_path / "pictures"
    written(outside / "dogs" / "2.png", outside / "3.png", folder / "cats" / "1.png")
    (folder / "dogs").symlink_to(outside / "dogs")
    (folder / "cats" / "3.png").symlink_to(outside / "3.png")
    source = ImageFolder(folder, labels=True)
    assert source.files == ("cats/1.png", "cats/3.png", "dogs/2.png")
    assert source.classes == ("cats", "dogs")
    assert len(source.read(np.arange(3))[0]) == 3


def test_links_to_nothing_are_named_or_left_out_with_a_word(tmp_path: Path) -> None:
    written(tmp_path / "cats" / "1.png")
    for link, target in (("cats/2.png", "nowhere.png"), ("dogs", "/nowhere"), ("owls", "owls")):
        (tmp_path / link).symlink_to(target)
        message = rf"{link} cannot be read: it is a link to {target}, where there is nothing.*skip_corrupt"
        refused(message, ImageFolder, tmp_path)
        with pytest.warns(UserWarning, match=rf"1 of 2 pictures in .* are left out: {link}\."):
            assert ImageFolder(tmp_path, skip_corrupt=True).files == ("cats/1.png",)
        (tmp_path / link).unlink()
    # One that is hidden is left alone like all that is.
    (tmp_path / ".gone.png").symlink_to("nowhere")
    assert ImageFolder(tmp_path).files == ("cats/1.png",)


@pytest.mark.parametrize("target", [".", "..", "../../..", "cats", "/"])
def test_loops_of_links_are_refused(target: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    written(folder / "cats" / "1.png")
    (folder / "cats" / "again").symlink_to(folder / target)
    refused(r"again is a link back to .*, a folder around it; .* Remove the link", ImageFolder, folder)


def test_loops_over_two_folders_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "a" / "1.png", tmp_path / "b" / "1.png")
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    assert len(ImageFolder(tmp_path)) == 3
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    refused(r"is a link back to .*, a folder around it", ImageFolder, tmp_path)


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    """A pipe would keep a reader waiting."""
    written(tmp_path / "1.png")
    os.mkfifo(tmp_path / "2.png")
    refused(r"2\.png cannot be read: it is no file", ImageFolder, tmp_path)


def test_a_folder_may_be_called_like_a_picture(tmp_path: Path) -> None:
    written(tmp_path / "cat.png" / "1.png", tmp_path / "dog" / "1.png")
    source = ImageFolder(tmp_path, labels=True)
    assert (source.files, source.classes) == (("cat.png/1.png", "dog/1.png"), ("cat.png", "dog"))


def test_a_class_without_pictures_is_refused(tmp_path: Path) -> None:
    """The numbers of the classes after it would be those of another folder's."""
    written(tmp_path / "cat" / "1.png", tmp_path / "owl" / "1.png")
    (tmp_path / "dog").mkdir()
    refused(r"the sub-folders \['dog'\] of .* hold no pictures", ImageFolder, tmp_path, labels=True)
    assert len(ImageFolder(tmp_path)) == 2
    (tmp_path / "dog" / "1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match="left out: dog/1.png"):
        refused(r"the sub-folders \['dog'\] of .* hold no", ImageFolder, tmp_path, labels=True, skip_corrupt=True)


def test_pictures_of_other_formats_are_counted(tmp_path: Path) -> None:
    written(tmp_path / "1.png", tmp_path / "2.heic", tmp_path / "3.HEIC", tmp_path / "4.svg", tmp_path / "notes.txt")
    with pytest.warns(UserWarning, match=r"formats that are not read and are left out: 2 \.heic, 1 \.svg"):
        assert ImageFolder(tmp_path).files == ("1.png",)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "cat" / "1.png", tmp_path / "dog" / "1.png")
    listed = os.scandir

    def scandir(folder: Any) -> Any:
        if Path(folder).name == "dog":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    refused(r"Permission denied: '.*dog'", ImageFolder, tmp_path, error=PermissionError)


def test_a_picture_that_changes_is_named(tmp_path: Path) -> None:
    written(tmp_path / "1.png", tmp_path / "2.png")
    source = ImageFolder(tmp_path)
    Image.new("L", (5, 5)).save(tmp_path / "2.png")
    refused(r"the first picture has shape \(1, 3, 4\), .*2\.png has shape \(1, 5, 5\)", source.read, np.arange(2))
    (tmp_path / "2.png").unlink()
    refused(r"2\.png cannot be read: it is no file", source.read, np.arange(2))
    # A PNG file may say how it lies behind its pixels, where the look at its head does not come.
    late = grey()[:-12] + chunk(b"eXIf", b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, 274, 3, 1, 6, 0, 0)) + grey()[-12:]
    (tmp_path / "2.png").write_bytes(late)
    refused(r"2\.png has shape \(1, 4, 3\)", ImageFolder(tmp_path).read, np.arange(2))


def test_arguments_of_another_kind(tmp_path: Path) -> None:
    written(tmp_path / "1.png")
    for name, value in {
        "path": 3,
        "channels": 3.0,
        "size": 32,
        "labels": "yes",
        "skip_corrupt": 1,
        "threads": 2.0,
        "quantisation": 256,
    }.items():
        given: dict[str, Any] = {"path": tmp_path, name: value}
        refused(rf"{name} (=|is) ", lambda given=given: ImageFolder(**given), error=TypeError)
    refused(r"size = \(4, 4, 3\)", ImageFolder, tmp_path, size=(4, 4, 3))
    refused("size = 4.0", ImageFolder, tmp_path, size=(4.0, 4), error=TypeError)
    refused("threads = -1", ImageFolder, tmp_path, threads=-1)
    assert ImageFolder(tmp_path, quantisation=sfp.Quantisation(256, 0, 1)).quantisation.high == 1.0
