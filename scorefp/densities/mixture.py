"""Gaussian mixtures, which every linear SDE keeps: the exact reference of the whole library [X1]."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._checks import count, finite, floating, random_key, require, same_shape, sample
from .._module import AbstractModule
from .._precision import measures
from .._types import Event, Key, Scalar, Time
from ..score import AbstractPotential
from ..score.score import arguments
from ..sde import AbstractLinearSDE, AbstractSDE
from ..sde.linear import require_linear


class GaussianMixture(AbstractModule):
    r"""The mixture $\sum_k w_k\,\mathcal N(m_k, C_k)$ with full covariances, on samples of any event shape.

    Args:
        means: $m_k$, of shape `(K, *event)`.
        covariances: $C_k$, of shape `(K, D, D)` with `D` the number of elements of a sample; or `(K,)`, multiples
            of the identity.
        weights: $w_k$, of shape `(K,)`; their sum may be off by rounding, and is made one.

    Raises:
        ValueError: if the shapes do not match, a mean is not finite, a covariance is not symmetric positive definite,
            or the weights are not positive with sum one.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> mixture = sfp.GaussianMixture(jnp.array([[-2.0], [2.0]]), jnp.array([1.0, 1.0]), jnp.array([0.5, 0.5]))
        >>> mixture.sample(jax.random.key(0), 5).shape
        (5, 1)
        >>> round(float(mixture.log_prob(jnp.array([2.0]))), 3)
        -1.612
    """

    means: Float[Array, "K *event"]
    weights: Float[Array, " K"]
    variances: Float[Array, "K D"]
    axes: Float[Array, "K D D"]

    def __init__(
        self,
        means: Float[ArrayLike, "K *event"],
        covariances: Float[ArrayLike, "K D D"] | Float[ArrayLike, " K"],
        weights: Float[ArrayLike, " K"],
    ) -> None:
        self.means = finite("means", floating("means", means))
        weights = floating("weights", weights)
        count, *event = self.means.shape
        size = int(np.prod(event))
        # By NumPy: the checks need values anyway, and nothing has to be compiled.
        covariance = np.asarray(floating("covariances", covariances))
        if covariance.ndim == 1:
            covariance = covariance[:, None, None] * np.eye(size, dtype=covariance.dtype)
        same_shape("covariances", covariance.shape, "(K, D, D) of means", (count, size, size))
        same_shape("weights", weights.shape, "(K,) of means", (count,))
        shares = np.asarray(weights, np.float64)
        total = float(shares.sum())
        require(
            bool((shares > 0).all()) and abs(total - 1) < 1e-5,
            f"weights = {np.asarray(weights)} with sum {total}; they must be positive and sum to one.",
        )
        require(
            np.allclose(covariance, covariance.mT),
            "covariances holds a matrix that is not symmetric; a covariance equals its transpose.",
        )
        # One eigendecomposition serves every time: α² C + σ² I has the same axes.
        variances, axes = np.linalg.eigh(covariance)
        require(
            bool((variances > 0).all()),
            f"covariances holds a matrix that is not positive definite; its least eigenvalue is {variances.min()}.",
        )
        self.weights = jnp.asarray(shares / total, weights.dtype)
        self.variances, self.axes = jnp.asarray(variances), jnp.asarray(axes)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.means.shape[1:]

    def log_prob(self, x: Event) -> Scalar:
        """The log-density at one sample, in nats."""
        return self.log_prob_diffused(x, jnp.ones((), self.means.dtype), jnp.zeros((), self.means.dtype))

    @measures
    def sample(self, key: Key, n: int) -> Float[Array, "n *event"]:
        """`n` independent samples.

        Args:
            key: A random key.
            n: How many.
        """
        n = count("n", n, least=1)
        which_key, noise_key = jr.split(random_key("GaussianMixture", key))
        which = jr.choice(which_key, self.weights.size, (n,), p=self.weights)
        noise = jr.normal(noise_key, (n, self.variances.shape[1]), self.means.dtype)
        offset = jnp.einsum("nij,nj->ni", self.axes[which], jnp.sqrt(self.variances)[which] * noise)
        return self.means[which] + offset.reshape((n, *self.shape))

    def score(self, sde: AbstractSDE) -> "MixturePotential":
        r"""The exact potential $\log q_t$ of the mixture diffused by a linear SDE [X1].

        Raises:
            TypeError: if the SDE has no Gaussian kernel.
        """
        return MixturePotential(self, require_linear(sde))

    @measures
    def log_prob_diffused(self, x: Event, alpha: Scalar, sigma: Scalar) -> Scalar:
        r"""The log-density of $\alpha x_0 + \sigma\epsilon$ at one sample, in nats."""
        x = sample("x", x)
        same_shape("x", x.shape, "one sample of the mixture", self.shape)
        alpha, sigma = alpha.astype(x.dtype), sigma.astype(x.dtype)
        centred = (x - alpha * self.means).reshape(self.variances.shape)
        along = jnp.einsum("kij,ki->kj", self.axes, centred)
        variances = alpha**2 * self.variances + sigma**2
        log_normal = -0.5 * jnp.sum(along**2 / variances + jnp.log(2 * jnp.pi * variances), axis=1)
        return jax.nn.logsumexp(log_normal + jnp.log(self.weights))


class MixturePotential(AbstractPotential):
    r"""The exact potential $\log q_t(x)$ of a Gaussian mixture diffused by a linear SDE, made by
    `GaussianMixture.score` [X1].

    $q_t = \sum_k w_k\,\mathcal N(\alpha m_k,\ \alpha^2 C_k + \sigma^2 I)$; the score, noise and denoiser follow
    exactly.

    Args:
        mixture: The law of the data.
        sde: A linear SDE.
    """

    mixture: GaussianMixture
    sde: AbstractLinearSDE

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.mixture.shape

    def potential(self, t: Time, x: Event) -> Scalar:
        t, x = arguments(self, t, x)
        return self.mixture.log_prob_diffused(x, self.sde.alpha(t), self.sde.sigma(t))
