"""The toy sets of Lai 2023 (§6.1, §7.1, App. D.1) and Deveney 2023 (§4), and the Müller–Brown surface.

Mixtures are `GaussianMixture`, so their diffused score is exact; the others have `sample`, and `log_prob` where the
density is elementary. Where a paper gives no parameters, those of its authors' published code are taken and the
docstring says so.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import count, kind, number, random_key, require, same_shape, sample
from .._module import AbstractModule
from .._types import Event, Key, Scalar
from .mixture import GaussianMixture


def lai_three_modes() -> GaussianMixture:
    r"""The mixture on the line of Lai 2023, §7.1: two narrow modes and a wide one,

    $$ \tfrac3{10}\mathcal N\big(-\tfrac67, \tfrac1{70^2}\big) + \tfrac3{10}\mathcal N\big(-\tfrac27, \tfrac1{70^2}\big)
       + \tfrac4{10}\mathcal N\big(\tfrac47, \tfrac1{7^2}\big). $$

    Samples have shape `(1,)`.

    Example:
        >>> import jax
        >>> from scorefp.densities import lai_three_modes
        >>> lai_three_modes().sample(jax.random.key(0), 5).shape
        (5, 1)
    """
    means = jnp.array([[-6.0], [-2.0], [4.0]]) / 7
    stds = jnp.array([0.1, 0.1, 1.0]) / 7
    return GaussianMixture(means, stds**2, jnp.array([0.3, 0.3, 0.4]))


def lai_two_modes() -> GaussianMixture:
    r"""The mixture in the plane of Lai 2023, §6.1:
    $\tfrac15\mathcal N((-5, -5), I) + \tfrac45\mathcal N((5, 5), I)$.

    Example:
        >>> from scorefp.densities import lai_two_modes
        >>> lai_two_modes().means.shape
        (2, 2)
    """
    return GaussianMixture(jnp.array([[-5.0, -5.0], [5.0, 5.0]]), jnp.ones(2), jnp.array([0.2, 0.8]))


def eight_modes() -> GaussianMixture:
    r"""Eight equal modes on the unit circle, of standard deviation 0.1 (Lai 2023, Listing 3).

    The text of §7.1 says a standard deviation of 1, which would leave no modes; the listing has 0.1.

    Example:
        >>> from scorefp.densities import eight_modes
        >>> eight_modes().means.shape
        (8, 2)
    """
    angles = 2 * jnp.pi * jnp.arange(8) / 8
    means = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=1)
    return GaussianMixture(means, jnp.full(8, 0.1**2), jnp.full(8, 1 / 8))


def deveney_mixture() -> GaussianMixture:
    r"""Nine equal modes of a square lattice in the plane, in a diamond (Deveney 2023, Figure 2).

    The paper gives no parameters. The authors' published code (github.com/teojd/ODESDEGap) has the means
    $0.65\cdot\{(0, 0), (\pm2, \pm2), (\pm4, 0), (0, \pm4)\}$ and the covariance $0.65^2\cdot 0.2\,I$.

    Example:
        >>> from scorefp.densities import deveney_mixture
        >>> deveney_mixture().means.shape
        (9, 2)
    """
    corners = [(0, 0), (2, 2), (2, -2), (-2, 2), (-2, -2), (4, 0), (-4, 0), (0, 4), (0, -4)]
    means = 0.65 * jnp.array(corners, dtype=float)
    return GaussianMixture(means, jnp.full(9, 0.65**2 * 0.2), jnp.full(9, 1 / 9))


class Checkerboard(AbstractModule):
    r"""The uniform law on the squares of one colour of a checkerboard centred at the origin.

    The default is that of Lai 2023 (Listing 1): eight squares of side 2 in $[-4, 4]^2$. Deveney 2023 gives no
    parameters; the authors' published code (github.com/teojd/ODESDEGap) has `Checkerboard(side=1.5)`.

    Args:
        side: The side of a square.
        cells: The squares along one side of the board, an even number.

    Raises:
        ValueError: if `side` is not positive, or `cells` is not a positive even number.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.densities import Checkerboard
        >>> board = Checkerboard()
        >>> round(float(jnp.exp(-board.log_prob(jnp.array([1.0, 1.0])))), 3)
        32.0
        >>> float(board.log_prob(jnp.array([1.0, -1.0])))
        -inf
    """

    side: float = 2.0
    cells: int = eqx.field(default=4, static=True)

    def __check_init__(self) -> None:
        require(self.side > 0, f"side = {self.side}; the side of a square is positive.")
        require(
            self.cells > 0 and self.cells % 2 == 0,
            f"cells = {self.cells}; a board centred at the origin has a positive even number of squares a side.",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return (2,)

    def log_prob(self, x: Event) -> Scalar:
        r"""The log-density at one sample, in nats; $-\infty$ off the squares."""
        x = _point(x)
        inside = jnp.all(jnp.abs(x) <= 0.5 * self.side * self.cells)
        coloured = jnp.sum(jnp.floor(x / self.side)) % 2 == 0
        area = jnp.asarray(0.5 * self.cells**2 * self.side**2, x.dtype)
        return jnp.where(inside & coloured, -jnp.log(area), -jnp.inf)

    def sample(self, key: Key, n: int) -> Float[Array, "n 2"]:
        """`n` independent samples.

        Args:
            key: A random key.
            n: How many.
        """
        n = count("n", n, least=1)
        column_key, row_key, offset_key = jr.split(random_key("Checkerboard", key), 3)
        column = jr.randint(column_key, (n,), 0, self.cells)
        row = 2 * jr.randint(row_key, (n,), 0, self.cells // 2) + column % 2
        corner = jnp.stack([column, row], axis=1) - self.cells // 2
        return self.side * (corner + jr.uniform(offset_key, (n, 2)))


class Circles(AbstractModule):
    r"""Concentric circles: a uniform angle and, on each circle as often, a normal distance from the origin.

    $$ p(x) = \frac{1}{2\pi\|x\|}\,\frac1K\sum_{k=1}^K
       \big[\mathcal N(\|x\|; r_k, \sigma^2) + \mathcal N(-\|x\|; r_k, \sigma^2)\big], $$

    where the second term, a distance below zero, counts only for circles as small as their noise.

    Deveney 2023 gives no parameters; the defaults are those of the authors' published code
    (github.com/teojd/ODESDEGap).

    Args:
        radii: $r_k$.
        noise: $\sigma$, the standard deviation of the distance.

    Raises:
        ValueError: unless `radii` and `noise` are positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.densities import Circles
        >>> circles = Circles()
        >>> bool(circles.log_prob(jnp.array([1.3, 0.0])) > circles.log_prob(jnp.array([2.0, 0.0])))
        True
    """

    radii: tuple[float, ...] = (1.3, 2.8)
    noise: float = 0.2

    def __check_init__(self) -> None:
        for radius in kind("radii", self.radii, (tuple, list), "They are a tuple of numbers."):
            number("radii", radius)
        require(
            len(self.radii) > 0 and min(self.radii) > 0 and self.noise > 0,
            f"radii = {self.radii} and noise = {self.noise}; all must be positive.",
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return (2,)

    def log_prob(self, x: Event) -> Scalar:
        """The log-density at one sample other than the origin, in nats."""
        x = _point(x)
        radii, noise = jnp.asarray(self.radii, x.dtype), jnp.asarray(self.noise, x.dtype)
        distance = jnp.linalg.norm(x)
        both = jnp.concatenate([distance - radii, distance + radii])
        log_normal = -0.5 * (both / noise) ** 2 - jnp.log(noise) - 0.5 * jnp.log(2 * jnp.pi)
        return jax.nn.logsumexp(log_normal) - jnp.log(2 * jnp.pi * distance * len(self.radii))

    def sample(self, key: Key, n: int) -> Float[Array, "n 2"]:
        """`n` independent samples.

        Args:
            key: A random key.
            n: How many.
        """
        n = count("n", n, least=1)
        which_key, angle_key, noise_key = jr.split(random_key("Circles", key), 3)
        centre = jr.choice(which_key, jnp.asarray(self.radii), (n,))
        distance = centre + self.noise * jr.normal(noise_key, (n,))
        angle = 2 * jnp.pi * jr.uniform(angle_key, (n,))
        return distance[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)


class SwissRolls(AbstractModule):
    r"""Five Swiss rolls, at the origin and at $(\pm r, \pm r)$ (Lai 2023, Listing 2).

    A roll is the spiral $\tfrac14\,\theta\,(\cos\theta, \sin\theta)$ with $\theta$ uniform on
    $[\tfrac32\pi, \tfrac92\pi]$, plus normal noise. The rolls of the listing share their points; here all samples are
    independent. The density is not elementary.

    Args:
        spacing: $r$.
        noise: The standard deviation of the noise; the listing adds 1 before it divides by 4.

    Raises:
        ValueError: if `noise` is negative.

    Example:
        >>> import jax
        >>> from scorefp.densities import SwissRolls
        >>> SwissRolls().sample(jax.random.key(0), 5).shape
        (5, 2)
    """

    spacing: float = 4.5
    noise: float = 0.25

    def __check_init__(self) -> None:
        require(self.noise >= 0, f"noise = {self.noise}; a standard deviation is not negative.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return (2,)

    def sample(self, key: Key, n: int) -> Float[Array, "n 2"]:
        """`n` independent samples.

        Args:
            key: A random key.
            n: How many.
        """
        n = count("n", n, least=1)
        which_key, angle_key, noise_key = jr.split(random_key("SwissRolls", key), 3)
        centres = self.spacing * jnp.array([[0.0, 0.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0], [1.0, 1.0]])
        angle = 1.5 * jnp.pi * (1 + 2 * jr.uniform(angle_key, (n,)))
        spiral = 0.25 * angle[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
        return jr.choice(which_key, centres, (n,)) + spiral + self.noise * jr.normal(noise_key, (n, 2))


class MuellerBrown(AbstractModule):
    r"""The energy surface of Müller & Brown 1979 with the law $p \propto e^{-V/T}$,

    $$ V(x) = \sum_{k=1}^4 A_k \exp\big[a_k(x_1 - u_k)^2 + b_k(x_1 - u_k)(x_2 - v_k) + c_k(x_2 - v_k)^2\big]. $$

    Three basins in a row, with minima at $(-0.558, 1.442)$, $(-0.050, 0.467)$ and $(0.623, 0.028)$; a usual test of
    simulations. The law is not normalised and has no direct sampler: `Langevin` draws from it.

    Args:
        temperature: $T$ in units of the energy; the default is that of the published code of Plainer 2025
            (github.com/noegroup/ScoreMD).

    Raises:
        ValueError: if `temperature` is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> from scorefp.densities import MuellerBrown
        >>> round(float(MuellerBrown().energy(jnp.array([-0.558, 1.442]))), 1)
        -146.7
    """

    temperature: float = 23.0

    def __check_init__(self) -> None:
        require(self.temperature > 0, f"temperature = {self.temperature}; it must be positive.")

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return (2,)

    def energy(self, x: Event) -> Scalar:
        """$V$ at one sample."""
        x = _point(x)
        height, a, b, c, u, v = jnp.asarray(_MUELLER_BROWN, x.dtype)
        right, up = x[0] - u, x[1] - v
        return jnp.sum(height * jnp.exp(a * right**2 + b * right * up + c * up**2))

    def potential(self, x: Event) -> Scalar:
        """$-V/T$ at one sample: the log-density up to a constant, in nats."""
        return -self.energy(x) / self.temperature


# Rows: A, a, b, c, u, v.
_MUELLER_BROWN = (
    (-200.0, -100.0, -170.0, 15.0),
    (-1.0, -1.0, -6.5, 0.7),
    (0.0, 0.0, 11.0, 0.6),
    (-10.0, -10.0, -6.5, 0.7),
    (1.0, 0.0, -0.5, -1.0),
    (0.0, 0.5, 1.5, 1.0),
)


def _point(x: Event) -> Event:
    """`x`, refused unless it is one point of the plane."""
    x = sample("x", x)
    same_shape("x", x.shape, "a point of the plane", (2,))
    return x
