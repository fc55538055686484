"""Samples of a score to a file: batch by batch, and on from where it stopped."""

import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import time as clock
from os import PathLike
from pathlib import Path
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from .._checks import count, flag, is_concrete, path_of, require
from .._console import Bar
from .._describe import JSON, digest, settings, unequal
from .._devices import everywhere, from_first
from .._types import Key
from ..sampling import AbstractSampler, EulerMaruyama
from ..sampling._failures import failures, tell_of_failures
from ..sampling.draw import Draws, draws_of
from ..sampling.sampler import require_sampler
from ..score import AbstractScore
from ..score.score import conditioned

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_BUSY = (errno.EAGAIN, errno.EACCES)
_CLOSE = 0.01
"""How far values of one score may be apart on two machines, as a share of their size."""


def sample_to(
    path: str | PathLike[str],
    score: AbstractScore,
    n: int,
    *,
    key: Key,
    method: AbstractSampler = EulerMaruyama(),
    shape: tuple[int, ...] | None = None,
    args: Any = None,
    batch_size: int = 1024,
    dtype: DTypeLike | None = None,
    mesh: Mesh | None = None,
    progress: bool = True,
    throw: bool = False,
) -> Path:
    """Draws the samples of `sample(score, n, key=key, …)` to a `.npy` file, in the memory of one batch [G1].

    After each batch its samples are on the disk. **Called again, it resumes** where it stopped, whatever stopped it: no
    sample is drawn twice, and the file is that of one go. Until the last sample is there, the file is called
    `{path}.partial`; a file called `path` is whole. `{path}.json` says how the samples are made, and how many of them
    are finished: other settings under the same path are refused by name. `batch_size` and `mesh` may change, which
    change samples up to rounding, and those of an adaptive solver up to its tolerance. What functions close over is not
    compared; their score at one point is.

    All batches are of one size, so that one program is compiled. With several processes each makes the call, with the
    same arguments, and the first one writes. `read_arrays` reads the file, as `numpy.load` does.

    Args:
        path: The file, whose name ends with `.npy`.
        score: Any score on any SDE.
        n: How many samples.
        key: A random key; the same key gives the same samples.
        method: The sampler, as in `sample`, of single samples.
        shape: The event shape, where the score does not know it.
        args: Conditioning, a pytree of arrays with `n` as leading axis, given to the model. On the device there are
            the rows of one batch.
        batch_size: At most how many samples at once, over all devices.
        dtype: The precision of the state and of the samples, as in `sample`; one that `.npy` files have.
        mesh: The devices that share a batch, as `data_mesh` returns them; `None` is one device.
        progress: Whether to show a progress bar; where the console is no terminal, a line now and then.
        throw: Whether samples that failed raise, when all are written. If not, a warning names how many of them there
            are.

    Returns:
        The path.

    Raises:
        TypeError: if an argument is of another kind, as in `sample`.
        ValueError: if the path does not end with `.npy`, its samples are made with other settings, the file under way
            or its record is damaged, or by `sample`.
        FileExistsError: if another file has the name of this one or of its parts.
        BlockingIOError: if another process writes the file.
        RuntimeError: if samples failed and `throw` is true.

    Warns:
        UserWarning: if samples failed.

    Example:
        >>> import pathlib, tempfile, jax, numpy as np, scorefp as sfp
        >>> from scorefp import data
        >>> standard = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
        >>> settings = {"key": jax.random.key(0), "method": sfp.DPMSolver(10)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "samples.npy"
        ...     x = np.load(data.sample_to(path, standard, 300, batch_size=100, progress=False, **settings))
        >>> x.shape, bool(abs(x - sfp.sample(standard, 300, **settings)).max() < 1e-5)
        ((300, 2), True)
    """
    path = path_of("path", path)
    require(path.suffix == ".npy", f"path = {str(path)!r}; samples are written to a file whose name ends with .npy.")
    flag("progress", progress)
    flag("throw", throw)
    require_sampler("method", method, "scorefp.Heun(steps=20)")
    batch_size = count("batch_size", batch_size, 1)
    draws = draws_of(
        score, n, key=key, method=method, shape=shape, args=args, batch_size=batch_size, dtype=dtype, mesh=mesh
    )
    n = draws.n
    require(
        all(map(is_concrete, jax.tree.leaves((score, key, args)))),
        "sample_to is called inside jit, vmap or grad, where there are no samples to write. Call it outside of them.",
    )
    size = math.ceil(n / math.ceil(n / batch_size))
    draws = dataclasses.replace(draws, args=_rows(args, 0, size, n))
    like = _form(draws, size)
    require(
        np.dtype(like.dtype).kind == "f",
        f"dtype = {like.dtype}, which .npy files do not have; give dtype=jnp.float32, for example.",
    )
    made = {
        "n": n,
        "key": settings(draws.key, digest),
        "method": settings(method, digest),
        "shape": list(draws.shape),
        "dtype": str(like.dtype),
        "args": settings(args, digest),
        "score": settings(score, digest),
    }
    known = np.asarray(_values(score, draws.shape, _rows(args, 0, 1, n)), np.float64).tolist()
    file = _File(path, made, known, np.dtype(like.dtype), (n, *draws.shape))
    draws = everywhere(draws, mesh)
    with file:
        done, broken, far = from_first(file.begin)
        begun, start = done, clock.perf_counter()
        with Bar(done, n, shown=progress and jax.process_index() == 0 and done < n) as bar:
            while done < n:
                rows = min(size, n - done)
                x = dataclasses.replace(draws, args=_rows(args, done, size, n)).rows(jnp.asarray(done), size)
                failed = failures(x, rows, score.sde)
                done, broken, far = from_first(lambda x=x, rows=rows, f=failed: file.write(np.asarray(x)[:rows], *f))
                bar(done, f"{(done - begun) / (clock.perf_counter() - start):.3g} samples/s")
        from_first(file.end)
    tell_of_failures(broken, far, n, score.sde, mesh=mesh, throw=throw)
    return path


def _rows(args: Any, first: int, size: int, n: int) -> Any:
    """The conditioning of so many samples; beyond the last one that of the last one."""
    rows = np.minimum(np.arange(first, first + size), n - 1)
    return jax.tree.map(lambda leaf: leaf[rows], args)


def _form(draws: Draws, size: int) -> jax.ShapeDtypeStruct:
    """The shape and dtype of a batch, without drawing it."""
    return eqx.filter_eval_shape(dataclasses.replace(draws, mesh=None).rows, 0, size)


@eqx.filter_jit
def _values(score: AbstractScore, shape: tuple[int, ...], args: Any) -> Float[Array, " 2"]:
    """The mean of a score at one point, and its root mean square there."""
    sde = score.sde
    found = conditioned(score, args, jnp.asarray(0))(jnp.asarray((sde.t0 + sde.t1) / 2), jr.normal(jr.key(0), shape))
    return jnp.stack([jnp.mean(found), jnp.sqrt(jnp.mean(found**2))])


class _File:
    """The file under way with its record, on the first process.

    A batch counts as finished once the record says so, and the record is replaced after the batch is on the disk.

    Args:
        path: The file when it is whole.
        made: How its samples are made.
        values: What the score has at one point.
        dtype: The dtype of the samples.
        shape: The shape of all.
    """

    def __init__(
        self, path: Path, made: dict[str, JSON], values: list[float], dtype: np.dtype[Any], shape: tuple[int, ...]
    ) -> None:
        self._path = path
        self._partial, self._record = (path.with_name(path.name + end) for end in (".partial", ".json"))
        self._state: dict[str, Any] = {"format": "samples of scorefp", "made": made, "values": values}
        self._state |= {"finished": 0, "not_finite": 0, "exploded": 0}
        head = io.BytesIO()
        form = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(head, form)
        self._head, self._each, self._n = head.getvalue(), dtype.itemsize * math.prod(shape[1:]), shape[0]
        self._stream: io.BufferedRandom | None = None
        self._alone = False

    def __enter__(self) -> "_File":
        return self

    def __exit__(self, *error: object) -> None:
        if self._stream is None:
            return
        with contextlib.suppress(OSError):  # of what a full disk did not take, said a second time
            self._stream.flush()
        if self._alone and os.fstat(self._stream.fileno()).st_size == 0:
            self._partial.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._stream.close()

    def begin(self) -> tuple[int, int, int]:
        """Opens the file, and finds what is finished of it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
        self._lock()
        self._alone = True
        held, whole = os.fstat(self._stream.fileno()).st_size, self._path.exists()
        if self._record.exists() and (whole or held > 0):
            self._state = self._read()
        elif not self._record.exists():
            for file, there in ((self._path, whole), (self._partial, held > 0)):
                if there:
                    raise FileExistsError(
                        f"{file} exists, and no {self._record.name} says how it was made. Give another path, or move "
                        "it away."
                    )
        finished = self._state["finished"]
        if whole and finished < self._n:
            raise FileExistsError(
                f"{self._path} exists, though only {finished} of {self._n} of its samples are drawn so far: it is "
                "another file. Move it away."
            )
        require(
            whole or finished == 0 or held >= len(self._head) + finished * self._each,
            f"{self._partial} is damaged: it holds {held} bytes, too few for the {finished} samples that "
            f"{self._record.name} has as finished. Remove both to begin anew.",
        )
        if finished == 0:
            self._save()
            self._stream.write(self._head)
            self._stream.flush()
        return self._counts()

    def write(self, x: np.ndarray, broken: int, far: int) -> tuple[int, int, int]:
        """Adds samples, and says then that they are finished."""
        assert self._stream is not None
        self._stream.seek(len(self._head) + self._state["finished"] * self._each)
        self._stream.write(np.ascontiguousarray(x).tobytes())
        self._stream.flush()
        os.fsync(self._stream.fileno())
        for name, more in (("finished", len(x)), ("not_finite", broken), ("exploded", far)):
            self._state[name] += more
        self._save()
        return self._counts()

    def end(self) -> tuple[int, int, int]:
        """Gives the file its name."""
        assert self._stream is not None
        if not self._path.exists():
            self._stream.truncate(len(self._head) + self._n * self._each)
            os.replace(self._partial, self._path)
        return self._counts()

    def _counts(self) -> tuple[int, int, int]:
        return self._state["finished"], self._state["not_finite"], self._state["exploded"]

    def _save(self) -> None:
        """Replaces the record, in one step."""
        fresh = self._record.with_name(self._record.name + ".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(self._state, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, self._record)

    def _read(self) -> dict[str, Any]:
        """The record, refused unless it is of the same samples."""
        try:
            found = cast(dict[str, Any], json.loads(self._record.read_bytes()))
            old, values = found["made"], np.asarray(found["values"], np.float64)
            counts = [found[name] for name in ("finished", "not_finite", "exploded")]
            fine = values.shape == (2,) and all(type(number) is int and 0 <= number <= self._n for number in counts)
        except (ValueError, TypeError, KeyError):
            fine, found, old, values = False, {}, {}, np.zeros(2)
        require(fine, f"{self._record} is damaged, and with it what is known of {self._path.name}. Remove both.")
        remedy = "Give those settings, another path, or remove the file and its record to begin anew."
        differences = unequal(old, self._state["made"])
        require(not differences, f"the samples of {self._path} are made with other settings: {differences}. {remedy}")
        now = np.asarray(self._state["values"])
        require(
            np.allclose(now, values, rtol=0, atol=_CLOSE * np.nan_to_num(abs(values)).max(), equal_nan=True),
            f"the samples of {self._path} are made with another score: at one point its mean and its root mean square "
            f"were {values}, they are {now}. {remedy}",
        )
        return found

    def _lock(self) -> None:
        """Refuses a second process that writes the same file; a process that ends lets go of the lock."""
        assert self._stream is not None
        if fcntl is None:
            return
        try:
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _BUSY:  # else the file system has no locks
                raise BlockingIOError(
                    f"{self._path} is taken: another process writes it. Wait for it to end."
                ) from None
