"""One run a folder: the lock that a run holds on the folder of its checkpoints.

It is a lock of the operating system on a file, which a process that ends in whatever way lets go of: none is stale. The
file says who holds it, for the message to the second one.
"""

import contextlib
import errno
import json
import os
import platform
import warnings
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path

import jax

from .._devices import all_agree
from ._record import reason
from .store import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_FILE = ".lock"
_NONE = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""What a file system without locks answers."""
_BUSY = (errno.EAGAIN, errno.EACCES)

_held = set[int]()


def _let_go_in_child() -> None:
    """A forked process, such as a worker that reads data, may outlive the run: the lock is not its own."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)


@contextlib.contextmanager
def alone(folder: Path) -> Generator[None, None, None]:
    """The folder for one run: inside, every other call of this is refused. Of several processes the first one holds it.

    Args:
        folder: The folder; it is made where there is none.

    Raises:
        CheckpointError: if another run holds it, or the folder cannot be written to.
    """
    descriptor, failure = None, None
    if jax.process_index() == 0:
        try:
            descriptor = _acquired(folder)
        except CheckpointError as error:
            failure = error
    try:
        if not all_agree(failure is None):
            raise failure or CheckpointError(f"the first process cannot train in {folder}; its own error says why.")
        yield
    finally:
        if descriptor is not None:
            _held.discard(descriptor)
            # While it is held: nobody else can have the file.
            with contextlib.suppress(OSError):
                (folder / _FILE).unlink()
            os.close(descriptor)


def _acquired(folder: Path) -> int:
    """The descriptor of the file, locked."""
    file = folder / _FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _locked(file)
    except OSError as error:
        raise CheckpointError(
            f"{folder} cannot be written to: {reason(error)}. No step was taken, and nothing was changed. Give a "
            "folder that can be written to; load reads the models in this one."
        ) from None
    _held.add(descriptor)
    holder = {"pid": os.getpid(), "host": platform.node(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}
    with contextlib.suppress(OSError):  # a full disk: the lock is there, only its holder has no name
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    return descriptor


def _locked(file: Path) -> int:
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is None:
                raise OSError(errno.ENOTSUP, "no locks")
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The holder before may have deleted the file between the two calls above: then it is nobody's.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), file.stat()):
                    return descriptor
            os.close(descriptor)
        except OSError as error:
            if error.errno in _NONE:
                warnings.warn(
                    f"the file system of {file.parent} has no locks: see to it that no second run trains in this "
                    "folder.",
                    UserWarning,
                    stacklevel=6,
                )
                return descriptor
            os.close(descriptor)
            if error.errno not in _BUSY:
                raise
            raise _taken(file) from None


def _taken(file: Path) -> CheckpointError:
    """The error that names who holds the folder."""
    try:
        holder = json.loads(file.read_bytes())
        who = f"process {holder['pid']} on {holder['host']} trains in it since {holder['since']}"
    except (OSError, ValueError, KeyError, TypeError):  # it is being written
        who = "another process trains in it"
    return CheckpointError(
        f"{file.parent} is taken: {who}. Two runs in one folder would delete each other's checkpoints. Wait for it to "
        "end, stop it, or give this run a folder of its own. Nothing was changed."
    )
