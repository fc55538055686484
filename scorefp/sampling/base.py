"""What a sampler is: a way to take one sample from `t1` to `t0`."""

from abc import abstractmethod

from .._module import AbstractModule
from .._types import Event, Key
from ..score import AbstractScore


class AbstractSampler(AbstractModule):
    """A way to take one sample of the prior at `t1` to a sample at `t0` [G1].

    It sees one sample; `sample` draws the prior, batches and compiles.
    """

    @abstractmethod
    def __call__(self, score: AbstractScore, x1: Event, *, key: Key) -> Event:
        """The sample at `t0` that starts from `x1` at `t1`."""
