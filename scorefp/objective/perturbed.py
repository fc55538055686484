"""What every term of an objective looks at: a sample at a time."""

from .._module import AbstractModule
from .._types import Event, Scalar


class Perturbed(AbstractModule):
    r"""One clean sample diffused to time `t`. Every term of an objective reads the same one.

    Args:
        t: The time.
        weight: $1/p(t)$ of the draw of `t`, by which every integrand is multiplied. A term that is no integral over
            time, such as an initial condition, divides by it.
        x0: The clean sample.
        noise: The standard normal $\epsilon$.
        x: $x_t = \alpha x_0 + \sigma\epsilon$.
    """

    t: Scalar
    weight: Scalar
    x0: Event
    noise: Event
    x: Event
