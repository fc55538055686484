"""Gaussian data, VP and a linear score, where every quantity of the likelihood theorems is a one-dimensional integral.

The data are N(m, v I) in the plane, the score is `s(t, x) = -gain (x - alpha centre) / (alpha² spread + sigma²)`. With
`gain = 1` it is the score of another diffused Gaussian, N(centre, spread I); with any other gain it is that of no
diffusion. The reverse SDE and the flow are linear then, and their laws Gaussian. All by NumPy and SciPy, VP written out
anew: nothing here is the package's.
"""

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jaxtyping import Array

import scorefp as sfp

SIZE = 2
T0, T1 = 1e-5, 1.0


def exponent(t):
    """`B`, the integral of beta."""
    return 0.1 * t + 0.5 * 19.9 * t**2


def beta(t):
    return 0.1 + 19.9 * t


def alpha(t):
    return np.exp(-exponent(t) / 2)


def variance(t):
    return -np.expm1(-exponent(t))


class LinearScore(eqx.Module):
    """The score with its numbers as arrays: what is compiled for one case serves all."""

    gain: Array
    centre: Array
    spread: Array

    def __call__(self, t: Array, x: Array) -> Array:
        scale2 = jnp.exp(-(0.1 * t + 0.5 * 19.9 * t**2))
        spread = scale2 * self.spread + 1 - scale2
        return -self.gain * (x - jnp.sqrt(scale2) * self.centre) / spread


@dataclasses.dataclass(frozen=True)
class LinearCase:
    """Data N(mean, v), score as above; `mean` and `centre` are the same number in each entry."""

    mean: float = 0.4
    v: float = 0.3
    gain: float = 1.2
    centre: float = 0.6
    spread: float = 0.5

    def kappa(self, t):
        return self.gain / (alpha(t) ** 2 * self.spread + variance(t))

    @property
    def mixture(self) -> sfp.GaussianMixture:
        return sfp.GaussianMixture(jnp.full((1, SIZE), self.mean), jnp.array([self.v]), jnp.ones(1))

    @property
    def score(self) -> sfp.Score:
        numbers = (jnp.asarray(value) for value in (self.gain, self.centre, self.spread))
        return sfp.Score(LinearScore(*numbers), sfp.VP(), shape=(SIZE,))

    def data_law(self, t) -> tuple[float, float]:
        """Mean and variance of an entry of q_t."""
        return alpha(t) * self.mean, alpha(t) ** 2 * self.v + variance(t)

    def reverse_law(self, t: float = T0) -> tuple[float, float]:
        """Mean and variance of an entry of p_SDE at `t`."""
        return self._law(t, 1.0, -1.0)

    def flow_law(self, t: float = T0) -> tuple[float, float]:
        """Mean and variance of an entry of p_ODE at `t`."""
        return self._law(t, 0.5, 0.0)

    def _law(self, t: float, pull: float, noise: float) -> tuple[float, float]:
        def slope(t, y):
            growth = -beta(t) / 2 + pull * beta(t) * self.kappa(t)
            source = pull * beta(t) * self.kappa(t) * alpha(t) * self.centre
            return [growth * y[0] - source, 2 * growth * y[1] + noise * beta(t)]

        start = [0.0, float(variance(T1))]
        solved = scipy.integrate.solve_ivp(slope, (T1, t), start, rtol=1e-11, atol=1e-12)
        return float(solved.y[0, -1]), float(solved.y[1, -1])

    # ----------------------------------------------------------------------------- divergences and their terms
    def kl(self, law: tuple[float, float], t: float = T0) -> float:
        """KL(q_t || N(law))."""
        (m, v), (n, w) = self.data_law(t), law
        return SIZE * 0.5 * (v / w + (n - m) ** 2 / w - 1 + np.log(w / v))

    @property
    def prior_kl(self) -> float:
        return self.kl((0.0, float(variance(T1))), T1)

    @property
    def matching(self) -> float:
        """J_SM(g²)."""
        return self._expected(lambda t: (self._error(t), self._error(t)))

    @property
    def difference(self) -> float:
        """J_Diff."""
        return self._expected(lambda t: (self._error(t), self._flow_error(t)))

    @property
    def fisher(self) -> float:
        """J_Fisher."""
        return self._expected(lambda t: (self._flow_error(t), self._flow_error(t)))

    def _own(self, t) -> tuple[float, float]:
        """The score as `slope x + shift`."""
        return -self.kappa(t), self.kappa(t) * alpha(t) * self.centre

    def _error(self, t) -> tuple[float, float]:
        (slope, shift), (m, v) = self._own(t), self.data_law(t)
        return slope + 1 / v, shift - m / v

    def _flow_error(self, t) -> tuple[float, float]:
        (slope, shift), (m, v) = self._own(t), self.flow_law(t)
        return -1 / v - slope, m / v - shift

    def _expected(self, pair) -> float:
        """½ ∫ g² E⟨A x + a, B x + b⟩ dt, with x ~ q_t."""

        def integrand(log_t):
            t = np.exp(log_t)
            ((A, a), (B, b)), (m, v) = pair(t), self.data_law(t)
            return t * 0.5 * beta(t) * SIZE * (A * B * (v + m**2) + (A * b + B * a) * m + a * b)

        # Gauss-Legendre in log t: the integrand is smooth there, and each node may cost a solve.
        nodes, weights = np.polynomial.legendre.leggauss(48)
        low, high = np.log(T0), np.log(T1)
        points = 0.5 * (high + low) + 0.5 * (high - low) * nodes
        return float(0.5 * (high - low) * sum(w * integrand(p) for p, w in zip(points, weights, strict=True)))

    # ----------------------------------------------------------------------------- bounds of one sample
    def bound(self, x: np.ndarray, *, noised: bool) -> float:
        """The bound of Theorem 7 (`noised`) or of Theorem 6 at one sample, by quadrature of the implicit form."""
        first, rest = (alpha(T0), variance(T0)) if noised else (1.0, 0.0)

        def kernel(t):
            scale = alpha(t) / first
            return scale, variance(t) - scale**2 * rest

        def integrand(log_t):
            t = np.exp(log_t)
            scale, var = kernel(t)
            k = self.kappa(t)
            square = k**2 * (np.sum((scale * x - alpha(t) * self.centre) ** 2) + SIZE * var)
            return t * 0.5 * beta(t) * (square - 2 * k * SIZE + SIZE)

        scale, var = kernel(T1)
        prior = 0.5 * (np.sum((scale * x) ** 2) + SIZE * var) / variance(T1) + SIZE / 2 * np.log(
            2 * np.pi * variance(T1)
        )
        integral = scipy.integrate.quad(integrand, np.log(T0), np.log(T1), epsabs=1e-10, limit=200)[0]
        return float(prior + integral)

    def denoising(self, x: np.ndarray) -> float:
        """-E[log q(x | x')] + E[log p(x' | x)] of Eq. 39 at one sample."""
        a, b2, k = alpha(T0), variance(T0), self.kappa(T0)
        square = k**2 * (a**2 * np.sum((x - self.centre) ** 2) + SIZE * b2)
        return float(0.5 * b2 * square - b2 * k * SIZE - SIZE * np.log(a))


def normal_nll(law: tuple[float, float], x: np.ndarray) -> float:
    """-log N(x; law) of a sample with independent entries."""
    m, v = law
    return float(np.sum(0.5 * (x - m) ** 2 / v + 0.5 * np.log(2 * np.pi * v)))
