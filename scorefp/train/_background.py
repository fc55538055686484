"""Work on a thread of its own, one stage after another, while training continues."""

import contextlib
import threading
from collections.abc import Callable, Sequence

import jax

from .._devices import all_agree


class Background:
    """Work in stages beside the training, one piece of it at a time.

    Of one process a stage follows the one before. Of several each begins when that before it is done on all of them,
    which they agree on in `look` and `settle`: a thread of this never waits for another process, as collectives of its
    own would fall between those of the training.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        # Not `Thread.join`: before Python 3.13 one that is interrupted takes the thread for dead, while it works on.
        self._done = threading.Event()
        self._stages: Sequence[Callable[[], None]] = ()
        self._failure: Exception | None = None

    def begin(self, stages: Sequence[Callable[[], None]], refused: Callable[[Exception | None], Exception]) -> None:
        """Begins with the first stage. The work before has to be settled.

        Args:
            stages: The work.
            refused: The error to raise where a stage has failed, made on every process; of `None` where it failed on
                another one.
        """
        self._stages, self._refused = stages, refused
        self._go_on()

    def look(self) -> None:
        """Goes on with the next stage where all processes are ready for it; all of them call this at one place.

        Raises:
            Exception: that of `begin`, if a stage has failed.
        """
        if self._thread is None or not all_agree(self._done.is_set()):
            return
        self._thread = None
        if not all_agree(self._failure is None):
            failure, self._failure = self._failure, None
            raise self._refused(failure)
        if self._stages:
            self._go_on()

    def settle(self) -> None:
        """Waits until all is done; all processes call this at one place.

        Raises:
            Exception: that of `begin`, if a stage has failed.
        """
        while self._thread is not None:
            self._done.wait()
            self.look()

    def left(self) -> Exception | None:
        """Waits for what this process is doing, whatever interrupts, and leaves the rest; why it failed, if it did."""
        while self._thread is not None:
            with contextlib.suppress(KeyboardInterrupt):
                # One that has no number after a second was interrupted before it began.
                if self._done.wait(1.0) or self._thread.ident is None:
                    break
        failure, self._thread, self._failure = self._failure, None, None
        return failure

    def _go_on(self) -> None:
        count = len(self._stages) if jax.process_count() == 1 else 1
        stages, self._stages = self._stages[:count], self._stages[count:]

        def work() -> None:
            try:
                for stage in stages:
                    stage()
            except Exception as error:  # what the system refuses comes in many kinds from below orbax
                self._failure = error
            finally:
                self._done.set()

        self._done.clear()
        self._thread = threading.Thread(target=work, name="scorefp checkpoint")
        self._thread.start()
