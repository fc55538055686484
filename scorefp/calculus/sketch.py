r"""Traces that look at the matrix first: part of it exactly, in a basis of its range, and the rest by probes [F9].

With $Q$ an orthonormal basis of $A\Omega$ for random $\Omega$, $\operatorname{tr}A = \operatorname{tr}Q^\top AQ +
\operatorname{tr}PAP$, $P = I - QQ^\top$, and the second part has little of a matrix whose singular values fall. Both
parts together are a mean of $v^\top Av$ over probes $v$ with the identity for a mean outer product, so that whatever is
linear in $vv^\top$ takes them.

A derivative holds the basis fixed. The mean of the estimate is the trace in whatever basis, so the mean of its
derivative is the derivative of the trace; and none goes through a QR decomposition, whose derivative is infinite where
the rank is short, as at a network whose last layer is zero, and large near by.
"""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from .._checks import random_key, require
from .._precision import measures
from .._types import Event, Key
from .probes import AbstractTrace, Exact, Made, Probes


class HutchPlusPlus(AbstractTrace):
    r"""Hutch++ (Meyer 2021, *Hutch++: Optimal Stochastic Trace Estimation*, Algorithm 1): a basis $Q$ of the range from
    `samples` Rademacher probes $\Omega$, and as many others $g$ for the rest [F9],

    $$ \operatorname{tr}A \approx \operatorname{tr}Q^\top AQ + \operatorname{mean}_g\,g^\top PAPg, \qquad
       P = I - QQ^\top, \quad Q = \operatorname{orth}(A\Omega). $$

    Unbiased, exact up to round-off for a matrix of a rank of `samples` or less, and taken exactly where its three
    products a sample are at least `D`. The error falls as one over the number of products for any symmetric positive
    semi-definite matrix. The Jacobian of a trained score is another: near a diagonal one, for which `Hutchinson()` is
    better (`benchmarks/traces.py`).

    A derivative of it holds $Q$ fixed.

    Args:
        samples: The number of test vectors for the range, and of those for the rest.

    Raises:
        ValueError: if `samples` is below one.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.calculus import HutchPlusPlus, divergence
        >>> key, ones = jax.random.key(0), jnp.ones(50)
        >>> round(float(divergence(lambda x: ones * x.sum(), ones, trace=HutchPlusPlus(2), key=key)), 3)
        50.0
    """

    samples: int

    random: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(self.samples >= 1, f"samples = {self.samples}; HutchPlusPlus needs at least one test vector.")

    def probes(self, x: Event, key: Key | None) -> Probes:
        return jr.rademacher(random_key("HutchPlusPlus", key), (2 * self.samples, *x.shape), x.dtype)

    def products(self, push: Callable[[Event], Event], probes: Probes) -> tuple[Made, Made]:
        if 3 * self.samples >= probes[0].size:
            return _exact(push, probes)
        tests, others = jnp.split(probes, 2)
        seen = _and_the_rest(jax.lax.stop_gradient(jax.vmap(push)(tests)), others)
        return seen, jax.vmap(push)(seen)


class XTrace(AbstractTrace):
    r"""XTrace (Epperly 2024, *XTrace: Making the Most of Every Sample in Stochastic Trace Estimation*): each of
    `samples` test vectors $\omega_i$ takes the rest that a basis $Q_i$ from all others leaves [F9],

    $$ \begin{gathered}
       \operatorname{tr}A \approx \operatorname{mean}_i\Big[\operatorname{tr}Q_i^\top AQ_i +
       \frac{D - m + 1}{\|P_i\omega_i\|^2}\,\omega_i^\top P_iAP_i\omega_i\Big], \\
       P_i = I - Q_iQ_i^\top, \quad Q_i = \operatorname{orth}(A\Omega_{-i}).
       \end{gathered} $$

    Unbiased, exact up to round-off for a matrix of a rank below `samples`, and taken exactly where its two products a
    sample are at least `D`. It sees a multiple of the identity exactly. Where more is wanted than products, as in the
    residual, there are three a sample.

    A derivative of it holds each $Q_i$ fixed.

    Args:
        samples: The number $m$ of test vectors, uniform on the sphere of radius $\sqrt D$.

    Raises:
        ValueError: if `samples` is below two.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.calculus import XTrace, divergence
        >>> key, ones = jax.random.key(0), jnp.ones(50)
        >>> round(float(divergence(lambda x: ones * x.sum(), ones, trace=XTrace(2), key=key)), 3)
        50.0
    """

    samples: int

    random: ClassVar[bool] = True

    def __check_init__(self) -> None:
        require(self.samples >= 2, f"samples = {self.samples}; XTrace needs at least two test vectors.")

    def probes(self, x: Event, key: Key | None) -> Probes:
        normal = jr.normal(random_key("XTrace", key), (self.samples, *x.shape), x.dtype)
        norms = jnp.sqrt(jnp.sum(normal**2, axis=range(1, normal.ndim), keepdims=True))
        return jnp.sqrt(jnp.asarray(x.size, x.dtype)) * normal / norms

    def products(self, push: Callable[[Event], Event], probes: Probes) -> tuple[Made, Made]:
        if 2 * self.samples >= probes[0].size:
            return _exact(push, probes)
        of_tests = jax.vmap(push)(probes)
        basis, mix = _leave_one_out(jax.lax.stop_gradient(of_tests), probes)
        of_basis = jax.vmap(push)(basis)
        return _mixed(mix, probes, basis), _mixed(mix, of_tests, of_basis)


def _exact(push: Callable[[Event], Event], like: Probes) -> tuple[Made, Made]:
    return Exact().products(push, Exact().probes(like[0], None))


def _rows(probes: Probes) -> Float[Array, "rows D"]:
    """Probes as rows, in the precision that decompositions have at least."""
    return probes.reshape(len(probes), -1).astype(jnp.promote_types(probes.dtype, jnp.float32))


def _like(rows: Float[Array, "made D"], probes: Probes) -> Made:
    return rows.reshape(-1, *probes.shape[1:]).astype(probes.dtype)


@measures
def _and_the_rest(images: Probes, others: Probes) -> Made:
    """An orthonormal basis of the images, and what other probes have beside it, weighted as one set of probes."""
    q, g = _orthonormal(_rows(images)), _rows(others)
    weighted = jnp.concatenate([jnp.sqrt(len(g)) * q, g - (g @ q.T) @ q])
    return _like(jnp.sqrt(2.0).astype(g.dtype) * weighted, others)


@measures
def _leave_one_out(images: Probes, tests: Probes) -> tuple[Probes, Float[Array, "made all"]]:
    """A basis of the images of test vectors, and the mix of tests and basis that are the probes of XTrace."""
    omega, images, m = _rows(tests), _rows(images), len(tests)
    q = _orthonormal(images)
    within = images @ q.T
    # Row i: the direction in the basis that only the i-th image has. It is zero where the others have it too.
    s = jax.vmap(lambda i: _orthonormal(jnp.roll(within, m - 1 - i, axis=0))[-1])(jnp.arange(m))
    w = omega @ q.T
    x = w - s * jnp.sum(s * w, axis=1, keepdims=True)
    ranks = jnp.sum(q**2) - jnp.sum(s**2, axis=1)
    scale = jnp.sqrt((omega.shape[1] - ranks) / jnp.sum((omega - x @ q) ** 2, axis=1))
    # The mean over i of Q_i Q_iᵀ is Q (I - mean_i s_i s_iᵀ) Qᵀ, whose root makes probes of it.
    root = _root(jnp.diag(jnp.sum(q**2, axis=1)) - s.T @ s / m)
    mix = jnp.block([[jnp.diag(scale), -scale[:, None] * x], [jnp.zeros((m, m), q.dtype), jnp.sqrt(m) * root.T]])
    return _like(q, tests), jnp.sqrt(2.0).astype(q.dtype) * mix


@measures
def _mixed(mix: Float[Array, "made all"], tests: Probes, basis: Probes) -> Made:
    return _like(mix @ jnp.concatenate([_rows(tests), _rows(basis)]), tests)


def _orthonormal(rows: Float[Array, "rows D"]) -> Float[Array, "rows D"]:
    """Orthonormal rows of the same span, zero where a row is in the span of those before it.

    By Gram and Schmidt, twice, which is once enough. LAPACK's decomposition has arbitrary rows for the zero ones, and
    two of them that run in batches at the same time wait for each other on CPUs, for ever (jaxlib 0.10.2).
    """

    def step(q: Array, i: Array) -> tuple[Array, None]:
        row = rows[i]
        rest = row - (q @ row) @ q
        rest = rest - (q @ rest) @ q
        square = jnp.sum(rest**2)
        new = square > (100 * jnp.finfo(rows.dtype).eps) ** 2 * jnp.sum(row**2)
        return q.at[i].set(jnp.where(new, rest / jnp.sqrt(jnp.where(new, square, 1)), 0)), None

    # Products of entries as small as those of a score near the prior leave the range of float32 earlier than these do.
    largest = jnp.max(jnp.abs(rows))
    rows = rows / jnp.where(largest > 0, largest, 1)
    return jax.lax.scan(step, jnp.zeros_like(rows), jnp.arange(len(rows)))[0]


def _root(square: Float[Array, "m m"]) -> Float[Array, "m m"]:
    """A lower triangular root of a positive semi-definite matrix of eigenvalues of at most one, by Cholesky."""

    def step(rest: Array, i: Array) -> tuple[Array, Array]:
        pivot = rest[i, i]
        some = pivot > 10 * jnp.finfo(rest.dtype).eps
        column = jnp.where(some, rest[:, i] / jnp.sqrt(jnp.where(some, pivot, 1)), 0)
        return rest - jnp.outer(column, column), column

    return jax.lax.scan(step, square, jnp.arange(len(square)))[1].T
