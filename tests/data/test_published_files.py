"""Published sets from files made here: each format gives back what was written, and a bad file is refused by name.

Pickles are compared with what Python's own `pickle` reads, which runs what they name; the reader runs nothing.
"""

import gzip
import os
import pickle
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.refusals import refused

from scorefp.data import read_cifar, read_idx, read_imagenet
from scorefp.data._pickled import read_pickled

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("unchecked")]

RNG = np.random.default_rng(0)
PARTS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


def made(count: int = 4, classes: int = 10, side: int = 32) -> tuple[np.ndarray, np.ndarray]:
    return RNG.integers(0, 256, (count, 3 * side**2), np.uint8), RNG.integers(0, classes, count)


def python2(pixels: np.ndarray, **labels: np.ndarray) -> bytes:
    """The dictionary as Python 2 pickled it, with the instructions that the published files have."""
    word = lambda text: b"U" + bytes([len(text)]) + text.encode()
    number = lambda n: b"M" + struct.pack("<H", n)
    code = b"\x80\x02}q\x01(" + word("batch_label") + b"q\x02" + word("training batch 1 of 5") + b"q\x03"
    for name, values in labels.items():
        code += word(name) + b"](" + b"".join(b"K" + bytes([value]) for value in values) + b"e"
    code += word("data") + b"q\x06cnumpy.core.multiarray\n_reconstruct\nq\x07"
    code += b"cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t"
    code += b"(K\x01" + number(len(pixels)) + number(pixels.shape[1]) + b"\x86"
    code += b"cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
    return code + b"T" + struct.pack("<i", pixels.size) + pixels.tobytes() + b"tbu."


def python3(protocol: int) -> Callable[..., bytes]:
    def written(pixels: np.ndarray, **labels: np.ndarray) -> bytes:
        return pickle.dumps({"data": pixels, **{name: value.tolist() for name, value in labels.items()}}, protocol)

    return written


WRITTEN = {"Python 2": python2, **{f"protocol {i}": python3(i) for i in range(2, 6)}}


def binary(pixels: np.ndarray, *labels: np.ndarray) -> bytes:
    return np.column_stack([*labels, pixels]).astype(np.uint8).tobytes()


# ------------------------------------------------------------------------------------------------ CIFAR


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("version", ["binary", *WRITTEN])
def test_cifar10(version: str, part: str, tmp_path: Path) -> None:
    sets = {name: made() for name in PARTS[part]}
    for name, (pixels, labels) in sets.items():
        if version == "binary":
            (tmp_path / f"{name}.bin").write_bytes(binary(pixels, labels))
        else:
            (tmp_path / name).write_bytes(WRITTEN[version](pixels, labels=labels))
    found = read_cifar(tmp_path, part, labels=True)
    assert (found.shape, found.quantisation.levels, found.quantisation.low) == ((3, 32, 32), 256, -1.0)
    assert found.dataset.values.dtype == np.uint8
    assert isinstance(found.dataset.values, np.ndarray)
    np.testing.assert_array_equal(
        found.dataset.values.reshape(-1, 3072), np.concatenate([pixels for pixels, _ in sets.values()])
    )
    np.testing.assert_array_equal(found.dataset.args, np.concatenate([labels for _, labels in sets.values()]))
    assert read_cifar(str(tmp_path), part).dataset.args is None


@pytest.mark.parametrize("version", ["binary", "Python 2", "protocol 4"])
def test_cifar100(version: str, tmp_path: Path) -> None:
    """The class is the fine label; the other one is checked too."""
    for part in PARTS:
        pixels, fine = made(classes=100)
        coarse = fine // 5

        def write(coarse: np.ndarray, fine: np.ndarray, part: str = part, pixels: np.ndarray = pixels) -> None:
            if version == "binary":
                (tmp_path / f"{part}.bin").write_bytes(binary(pixels, coarse, fine))
            else:
                (tmp_path / part).write_bytes(WRITTEN[version](pixels, fine_labels=fine, coarse_labels=coarse))

        write(coarse, fine)
        found = read_cifar(tmp_path, part, labels=True).dataset
        np.testing.assert_array_equal(found.values.reshape(-1, 3072), pixels)
        np.testing.assert_array_equal(found.args, fine)
        write(np.where(np.arange(4) == 2, 20, coarse), fine)
        refused(rf"coarse_labels in .*{part}.* holds 20 at image 2; classes are 0 to 19", read_cifar, tmp_path, part)
        write(coarse, np.where(np.arange(4) == 1, 100, fine))
        refused("fine_labels in .* holds 100 at image 1; classes are 0 to 99", read_cifar, tmp_path, part)


def test_cifar_refuses_bad_files(tmp_path: Path) -> None:
    refused(
        r"has none of \['test_batch\.bin', 'test_batch', 'test\.bin', 'test'\]\. Unpack the archive",
        read_cifar,
        tmp_path,
        "test",
        error=FileNotFoundError,
    )
    (tmp_path / "test").mkdir()  # a folder of pictures is no file of that name
    refused("has none of", read_cifar, tmp_path, "test", error=FileNotFoundError)
    for name in PARTS["train"][:3]:
        (tmp_path / f"{name}.bin").write_bytes(binary(*made()))
    refused(
        r"has no \['data_batch_4\.bin', 'data_batch_5\.bin'\]", read_cifar, tmp_path, "train", error=FileNotFoundError
    )
    for name in PARTS["train"][3:]:
        (tmp_path / f"{name}.bin").write_bytes(binary(*made(3)))
    refused("different numbers of images, .*'data_batch_4.bin': 3.* truncated", read_cifar, tmp_path, "train")
    whole = tmp_path / "test_batch.bin"
    for content in (binary(*made())[:-1], binary(*made()) + b"\0", b""):
        whole.write_bytes(content)
        refused(
            rf"test_batch\.bin has {len(content)} bytes; the binary version of CIFAR-10 has records of 3073 bytes",
            read_cifar,
            tmp_path,
            "test",
        )
    whole.write_bytes(binary(made()[0], np.array([0, 9, 10, 3])))
    refused(r"labels in .*test_batch\.bin holds 10 at image 2; classes are 0 to 9", read_cifar, tmp_path, "test")
    refused("split = 'valid'; it is 'train' or 'test'", read_cifar, tmp_path, "valid")
    refused("labels is 3; it is True or False", read_cifar, tmp_path, "test", labels=3, error=TypeError)


def test_cifar_refuses_bad_pickles(tmp_path: Path) -> None:
    file, (pixels, labels) = tmp_path / "test_batch", made()
    whole = python2(pixels, labels=labels)
    for end in [*range(0, 300, 7), *range(len(whole) - 5, len(whole))]:
        file.write_bytes(whole[:end])
        refused(r"test_batch cannot be read: .*It is damaged", read_cifar, tmp_path, "test")
    bad = {
        r"has no \['labels'\]; the python version of CIFAR-10 has them": {"data": pixels},
        r"has no \['data'\]": {"labels": [1]},
        r"data in .* has shape \(4, 3071\)": {"data": pixels[:, 1:], "labels": labels.tolist()},
        r"data in .* has shape \(0, 3072\)": {"data": pixels[:0], "labels": []},
        r"data in .* is a int": {"data": 3, "labels": [1]},
        r"labels in .* is a list of 3; it is an integer for each of 4": {
            "data": pixels,
            "labels": [1, 2, 3],
        },
        r"labels in .* is a list of more than integers": {"data": pixels, "labels": [1, [2], [3], 4]},
        "it has the instruction BINFLOAT": {"data": pixels, "labels": [1.0, 2, 3, 4]},
        r"labels in .* holds -1 at image 0": {"data": pixels, "labels": [-1, 2, 3, 4]},
        r"an array in it has the type 'i2'": {"data": pixels.astype(np.int16), "labels": labels.tolist()},
        "it holds a list and no dictionary": [pixels],
    }
    for message, value in bad.items():
        file.write_bytes(pickle.dumps(value, 4))
        refused(message, read_cifar, tmp_path, "test")
    # More bytes than the shape says.
    file.write_bytes(python2(pixels, labels=labels).replace(b"M\x04\x00M\x00\x0c", b"M\x03\x00M\x00\x0c"))
    refused(r"an array in it says the shape \(3, 3072\), and has 12288 bytes", read_cifar, tmp_path, "test")


@pytest.mark.parametrize("version", WRITTEN)
def test_pickles_are_read_as_pickle_reads_them(version: str, tmp_path: Path) -> None:
    for pixels in (made(3)[0], np.asfortranarray(made(3)[0])):
        if version == "Python 2" and not pixels.flags.c_contiguous:
            continue
        code = WRITTEN[version](pixels, labels=np.array([1, 255, 0]))
        (tmp_path / "file").write_bytes(code)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy.core
            wanted = pickle.loads(code, encoding="latin-1")
        found = read_pickled(tmp_path / "file")
        assert found.keys() == wanted.keys()
        np.testing.assert_array_equal(found["data"], wanted["data"])
        np.testing.assert_array_equal(found["data"], pixels)
        assert found["labels"] == wanted["labels"]
    (tmp_path / "file").write_bytes(pickle.dumps({b"labels": [1, -2, 300, 2**40, None, True], "word": ("a", (), [])}))
    assert read_pickled(tmp_path / "file") == {"labels": [1, -2, 300, 2**40, None, True], "word": ("a", (), [])}


class Calls:
    """What calls a function when it is unpickled."""

    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    """By each protocol, and hand-written: what a file names is refused by that name, and its code does not run."""
    file, marker = tmp_path / "test_batch", tmp_path / "ran"
    payload = Calls(os.mkdir, (str(marker),))
    for protocol in range(6):
        file.write_bytes(pickle.dumps({"data": payload, "labels": [1]}, protocol))
        refused(r"test_batch names posix\.mkdir, .*nothing of it was run|the instruction", read_cifar, tmp_path, "test")
        assert not marker.exists()
    pickle.loads(file.read_bytes())  # the file does run where it is unpickled
    assert marker.exists()
    codes = {
        r"names builtins\.eval": b"cbuiltins\neval\n(S'1'\ntR.",
        r"names numpy\.core\.multiarray\._reconstruct\.__globals__": b"\x80\x04\x8c\x15numpy.core.multiarray"
        b"\x8c\x18_reconstruct.__globals__\x93.",
        "the instruction INST": b"(S'true'\nios\nsystem\n.",
        "the instruction EXT1": b"\x82\x01.",
        "the instruction BINPERSID": b"NQ.",
        "the instruction NEWOBJ": b"\x80\x02cnumpy\ndtype\n)\x81.",
        "has a value of numpy.dtype": b"\x80\x02}U\x01acnumpy\ndtype\nU\x02u1\x85Rs.",
        "cannot be read": b"\x80\x02}U\x01aU\x01bU\x02u1\x85Rs.",
    }
    for message, code in codes.items():
        file.write_bytes(code)
        refused(message, read_cifar, tmp_path, "test")


def test_bytes_are_no_word_of_another_code(tmp_path: Path) -> None:
    """What `pickle` takes from a codec of its own is not read as latin-1."""
    code = python3(2)(*made(1)[:1], labels=np.array([1]))
    assert b"latin1" in code
    (tmp_path / "file").write_bytes(code.replace(b"X\x06\x00\x00\x00latin1", b"X\x05\x00\x00\x00rot13"))
    refused("has the content _codecs.encode, and not bytes", read_pickled, tmp_path / "file")


def test_a_pickle_takes_no_memory_that_it_does_not_fill(tmp_path: Path) -> None:
    """Lengths of terabytes and places of four billion: refused at once, and not by a want of memory."""
    for code in (b"\x80\x04\x8e\0\0\0\0\0\x10\0\0ab.", b"\x80\x05\x96\0\0\0\0\0\x10\0\0ab.", b"T\xff\xff\xff\x7fab."):
        (tmp_path / "file").write_bytes(code)
        refused("cannot be read: .*(remain|found)", read_pickled, tmp_path / "file")
    # Ten lists of ten lists, and so on: 10^30 numbers in a few hundred bytes.
    nested: Any = [1] * 10
    for _ in range(29):
        nested = [nested] * 10
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": made()[0], "labels": nested}, 4))
    refused("labels in .* is a list of more than integers", read_cifar, tmp_path, "test")
    (tmp_path / "test_batch").write_bytes(pickle.dumps({"data": nested, "labels": [1]}, 4))
    refused("data in .* is a list", read_cifar, tmp_path, "test")
    (tmp_path / "file").write_bytes(b"\x80\x02}r\xff\xff\xff\xffU\x01aNs.")
    assert read_pickled(tmp_path / "file") == {"a": None}


# ------------------------------------------------------------------------------------------------ ImageNet


def imagenet(folder: Path, part: str, side: int = 32, **changed: Any) -> tuple[np.ndarray, np.ndarray]:
    """Files of a part, the last one with the arrays that are changed; its pixels and labels."""
    names = [f"train_data_batch_{i}" for i in range(1, 11)] if part == "train" else ["val_data"]
    sets = [made(3 + (name == names[-1]), 1000, side) for name in names]
    for name, (pixels, labels) in zip(names, sets, strict=True):
        arrays = {"data": pixels, "labels": labels + 1, "mean": np.zeros(3)}
        np.savez(folder / f"{name}.npz", **(arrays | (changed if name == names[-1] else {})))
    return np.concatenate([pixels for pixels, _ in sets]), np.concatenate([labels for _, labels in sets])


@pytest.mark.parametrize("side", [8, 16, 32, 64])
def test_imagenet(side: int, tmp_path: Path) -> None:
    for part in ("train", "test"):
        pixels, labels = imagenet(tmp_path, part, side)
        found = read_imagenet(tmp_path, part, labels=True)
        assert (found.shape, found.quantisation.levels, found.quantisation.high) == ((3, side, side), 256, 1.0)
        assert isinstance(found.dataset.values, np.ndarray)
        np.testing.assert_array_equal(found.dataset.values.reshape(len(pixels), -1), pixels)
        np.testing.assert_array_equal(found.dataset.args, labels)
        assert read_imagenet(tmp_path, part).dataset.args is None


def test_imagenet_refuses_bad_files(tmp_path: Path) -> None:
    refused(r"has no \['val_data.npz'\]", read_imagenet, tmp_path, "test", error=FileNotFoundError)
    for message, changed in {
        r"labels in .*batch_10.npz holds 0 at image 1; classes are 1 to 1000": {"labels": np.array([1, 0, 2, 3])},
        r"labels in .*batch_10.npz holds 1001 at image 3": {"labels": np.array([1, 1, 2, 1001])},
        r"labels in .*batch_10.npz is an array int64\[3\]": {"labels": np.array([1, 2, 3])},
        r"labels in .*batch_10.npz have shape \(4, 1\)": {"labels": np.ones((4, 1), int)},
        r"data in .*batch_10.npz has images of side 16, and .*batch_1.npz of side 32": {"data": made(4, side=16)[0]},
        r"data in .*batch_10.npz is an array uint8\[4, 3000\]": {"data": np.zeros((4, 3000), np.uint8)},
        r"data in .*batch_10.npz is an array float64\[4, 3072\]": {"data": np.zeros((4, 3072))},
        r"data in .*batch_10.npz is an array uint8\[0, 3072\]": {"data": made(4)[0][:0], "labels": np.zeros(0, int)},
        r"holds Python objects": {"data": np.array([Calls(print, ())])},
    }.items():
        imagenet(tmp_path, "train", **changed)
        refused(message, read_imagenet, tmp_path, "train")
    file = tmp_path / "train_data_batch_10.npz"
    imagenet(tmp_path, "train")
    content = file.read_bytes()
    for end in (0, 10, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:end])
        refused("train_data_batch_10.npz cannot be read", read_imagenet, tmp_path, "train")
    np.savez(file, labels=np.array([1]))
    refused(r"train_data_batch_10.npz has no arrays \['data'\]", read_imagenet, tmp_path, "train")
    file.unlink()
    refused(r"has no \['train_data_batch_10.npz'\]", read_imagenet, tmp_path, "train", error=FileNotFoundError)


# ------------------------------------------------------------------------------------------------ IDX


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


@pytest.mark.parametrize("packed", [False, True])
def test_idx(packed: bool, tmp_path: Path) -> None:
    write = lambda name, code: (tmp_path / name).write_bytes(gzip.compress(code) if packed else code)
    for shape in ((5, 28, 28), (5, 7), (5, 4, 6, 3)):
        pixels, labels = RNG.integers(0, 256, shape, np.uint8), np.array([0, 9, 255, 3, 3], np.uint8)
        write("images", idx(pixels))
        write("labels", idx(labels))
        found = read_idx(tmp_path / "images", tmp_path / "labels")
        assert (found.shape, found.quantisation.levels, found.quantisation.low) == (shape[1:], 256, -1.0)
        np.testing.assert_array_equal(found.dataset.values, pixels)
        np.testing.assert_array_equal(found.dataset.args, labels)
        assert read_idx(str(tmp_path / "images")).dataset.args is None
    write("labels", idx(labels[:4]))
    message = r"the array in .*labels is an array uint8\[4\]; .* each of 5"
    refused(message, read_idx, tmp_path / "images", tmp_path / "labels")
    refused(r"labels has the sizes \(4,\); images have one", read_idx, tmp_path / "labels")
    whole = idx(pixels)
    bad = {
        "starts with (nothing|00.*)": [b"", b"\0", b"\0\0\x08", b"\0\0\x08\0"],
        "starts with 89 50 4e 47": [b"\x89PNG" + whole],
        "starts with 00 00 08 41; .* 32 at most": [b"\0\0\x08\x41" + 65 * b"\0\0\0\1" + b"\0"],
        "has the type 0d; images and labels are unsigned bytes, 08": [whole[:2] + b"\x0d" + whole[3:]],
        "ends in its head, which has 4 sizes": [whole[:5], whole[:19]],
        r"says \(5, 4, 6, 3\), 360 bytes, and fewer follow": [whole[:20], whole[:-1]],
        r"says \(5, 4, 6, 3\), 360 bytes, and more follow": [whole + b"\0"],
        r"says \(4294967295, .*, and fewer follow": [whole[:4] + b"\xff" * 16 + whole[20:]],
        r"has the sizes \(0, 28\); images have .* none of them zero": [idx(np.zeros((0, 28), np.uint8))],
    }
    for message, contents in bad.items():
        for content in contents:
            write("images", content)
            refused(rf"images {message}" if "says" not in message else message, read_idx, tmp_path / "images")


def test_damaged_gzip(tmp_path: Path) -> None:
    code = bytearray(gzip.compress(idx(RNG.integers(0, 256, (3, 28, 28), np.uint8))))
    for end in (2, 12, len(code) // 2, len(code) - 1):
        (tmp_path / "images").write_bytes(code[:end])
        refused("images cannot be unpacked by gzip: .*truncated or damaged", read_idx, tmp_path / "images")
    code[-6] ^= 1  # the checksum
    (tmp_path / "images").write_bytes(code)
    refused("images cannot be unpacked by gzip", read_idx, tmp_path / "images")
    refused("none", read_idx, tmp_path / "none", error=FileNotFoundError)
