"""Conservativity, and the residual integrated over time: Lai 2023, Propositions 4.4 [C2] and 4.6 [H4], and the suprema
M, m [F11].
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.gaussian import geometric
from helpers.references import LINEAR, assert_mean, perturbed
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.fokker_planck import (
    AnchoredPotential,
    MatchingErrors,
    high_order_bound,
    integrated_residual,
    residual_suprema,
)
from scorefp.integrals import time_quadrature
from scorefp.sde import AbstractLinearSDE

pytestmark = pytest.mark.usefixtures("x64")


# --------------------------------------------------------------------------------------------- quadrature


def test_quadrature_converges_on_every_linear_sde() -> None:
    r"""$\int a\,d\tau = \Delta\log\alpha$ and $\int g^2/\alpha^2\,d\tau = \Delta(\sigma^2/\alpha^2)$, `t0` to `t1`."""

    @jax.jit
    def errors() -> Array:
        found: list[Array] = []
        for make in LINEAR.values():
            sde = make()
            ends = jnp.array([sde.t0, sde.t1])
            want = jnp.stack([jnp.diff(sde.log_alpha(ends))[0], jnp.diff(jnp.exp(-sde.log_snr(ends)))[0]])
            for nodes in (4, 16, 64):
                t, weights = time_quadrature(sde, ends[0], ends[1], nodes)
                got = jnp.stack([weights @ sde.rate(t), weights @ (sde.g2(t) / sde.alpha(t) ** 2)])
                found.append(jnp.abs(got - want) / (jnp.abs(want) + 1e-3))
        return jnp.stack(found).reshape(len(LINEAR), 3, 2)

    few, some, many = np.moveaxis(np.asarray(errors()), 1, 0)
    assert few.max(axis=1).min() > 1e-3
    assert many.max() < 1e-9
    # Spectral: four times the nodes square the error, or better.
    assert np.all(some.max(axis=1) < few.max(axis=1) ** 2)


def test_quadrature_of_any_sde_is_exact_on_polynomials() -> None:
    sde = geometric().sde
    t, weights = time_quadrature(sde, jnp.array(0.8), jnp.array(0.3), 3)
    assert float(weights @ t**5) == pytest.approx((0.3**6 - 0.8**6) / 6, rel=1e-12)
    assert float(weights @ t**6) != pytest.approx((0.3**7 - 0.8**7) / 7, rel=1e-6)


# --------------------------------------------------------------------------------------------- potentials


def network(shape: tuple[int, ...]) -> sfp.nn.MLP:
    """One that is in training: the last layer of a new one is zero."""
    fresh = sfp.nn.MLP(shape, width=16, depth=1, key=jr.key(0))
    return eqx.tree_at(lambda n: n.leave.weight, fresh, jr.normal(jr.key(1), fresh.leave.weight.shape) / 4)


CURLS: dict[str, tuple[Callable[[tuple[int, ...]], sfp.score.AbstractScore], bool]] = {
    "DistancePotential": (lambda shape: sfp.DistancePotential(network(shape), sfp.VP()), True),
    "InnerPotential": (lambda shape: sfp.InnerPotential(network(shape), sfp.VP()), True),
    "ScalarMLP": (lambda shape: sfp.Potential(sfp.nn.ScalarMLP(shape, width=16, key=jr.key(2)), sfp.VP()), True),
    "MLP": (lambda shape: sfp.NoiseScore(network(shape), sfp.VP()), False),
}


@pytest.mark.parametrize("name", CURLS)
def test_potentials_have_no_curl_and_plain_networks_have(name: str) -> None:
    """Deveney 2023, Fig. 1: to round-off in float64, beside a share of the Jacobian that training has to remove."""
    make, conservative = CURLS[name]
    score = make((3,))

    @jax.jit
    @jax.vmap
    def share(t: Array, x: Array) -> Array:
        at_t = lambda x: score(t, x)
        return jnp.linalg.norm(sfp.curl(at_t, x)) / jnp.linalg.norm(jax.jacfwd(at_t)(x))

    shares = share(jnp.array([1e-3, 0.1, 0.5, 1.0]), jr.normal(jr.key(3), (4, 3)))
    assert float(shares.max()) < 1e-13 if conservative else float(shares.min()) > 1e-3


# --------------------------------------------------------------------------------------------- Proposition 4.4


def two_modes(sde: AbstractLinearSDE) -> tuple[sfp.Score, Callable[[Array, Array], Array]]:
    r"""Score and log-density of half $N(m, 0.3 I)$ and half $N(-m, 0.3 I)$, diffused.

    In closed form, which compiles in a fraction of the time of a mixture's.
    """
    mean = jnp.array([0.9, -0.5])
    variance = lambda t: 0.3 * sde.alpha(t) ** 2 + sde.sigma(t) ** 2

    def log_density(t: Array, x: Array) -> Array:
        size = jnp.sum(x**2) + sde.alpha(t) ** 2 * jnp.sum(mean**2)
        along = jnp.log(jnp.cosh(sde.alpha(t) * (mean @ x) / variance(t)))
        return along - 0.5 * size / variance(t) - jnp.log(2 * jnp.pi * variance(t))

    def score(t: Array, x: Array) -> Array:
        scaled = sde.alpha(t) * mean
        return (scaled * jnp.tanh(scaled @ x / variance(t)) - x) / variance(t)

    return sfp.Score(score, sde), log_density


def test_distance_to_the_gradient_is_the_integrated_residual() -> None:
    r"""$s - \nabla\Psi = \int_{t^*}^t \varepsilon\,d\tau$ [C2], when the score is exact at $t^*$ and only then."""
    sde, anchor = sfp.VP(), 0.4
    exact, log_density = two_modes(sde)

    def two_sides(nodes: int) -> tuple[np.ndarray, np.ndarray]:
        """Of a score whose swirl is `offset` at the anchor, for two offsets, times before and after, and samples."""

        def at(offset: Array, t: Array, x: Array) -> tuple[Array, Array]:
            turn = lambda x: jnp.tanh(jnp.stack([-x[1] + 0.3 * x[0], x[0]]))
            size = lambda t: 0.1 * (sde.log_snr(t) - sde.log_snr(anchor)) + offset
            wrong = sfp.Score(lambda t, x: exact(t, x) + size(t) * turn(x), sde)
            psi = AnchoredPotential(wrong, lambda x: log_density(anchor, x), anchor=anchor, nodes=nodes)
            return wrong(t, x) - psi(t, x), integrated_residual(wrong, t, x, start=anchor, nodes=nodes)

        offsets, times = jnp.array([0.0, 0.3]), jnp.array([0.02, 0.9])
        xs = jnp.array([[0.4, -0.2], [-1.0, 0.5], [0.1, 1.3]])
        every = jax.vmap(jax.vmap(jax.vmap(at, (None, None, 0)), (None, 0, None)), (0, None, None))
        left, right = jax.jit(every)(offsets, times, xs)
        return np.asarray(left), np.asarray(right)

    left, right = two_sides(24)
    assert np.linalg.norm(right, axis=-1).min() > 0.05
    np.testing.assert_allclose(left[0], right[0], atol=1e-13)
    # Off the anchor's density, the difference is what the score is off there, at all times.
    off = left[1] - right[1]
    assert np.linalg.norm(off, axis=-1).min() > 0.05
    np.testing.assert_allclose(off[0], off[1], atol=1e-13)
    # What is left of the difference is the quadrature.
    few_left, few_right = two_sides(8)
    assert 1e-6 < np.abs(few_left[0] - few_right[0]).max() < 1e-2


def test_residual_of_exact_scores_integrates_to_zero() -> None:
    """A log-normal law under geometric Brownian motion, in time; `M` below has the mixture under a linear SDE."""
    exact = geometric()

    @jax.jit
    @jax.vmap
    def integral(factor: Array) -> Array:
        score = sfp.Score(lambda t, x: factor * exact(t, x), exact.sde)
        return integrated_residual(score, 0.9, jnp.array([0.7, 0.4]), start=0.1, nodes=8)

    of_exact, of_wrong = integral(jnp.array([1.0, 1.1]))
    assert jnp.abs(of_exact).max() < 1e-12
    assert jnp.abs(of_wrong).max() > 0.05


def test_probes_integrate_without_bias(getkey: Callable[[], Array]) -> None:
    score = perturbed(sfp.Score(lambda t, x: -jnp.sinh(x), sfp.VP()))
    x = jnp.array([0.5, -0.8])

    @jax.jit
    def values(keys: Array) -> tuple[Array, Array]:
        integral = lambda method, key: integrated_residual(score, 0.9, x, start=0.1, method=method, key=key)
        return integral(sfp.Exact(), None), jax.vmap(lambda key: integral(sfp.Hutchinson(), key))(keys)

    want, estimates = values(jr.split(getkey(), 512))
    assert_mean(estimates, want)


# --------------------------------------------------------------------------------------------- Proposition 4.6


def test_bound_by_the_errors_of_score_matching() -> None:
    """Over many times and samples, with bounds of the errors over the whole space, and with those along the path."""
    sde, start, eta = sfp.VP(), 0.05, 0.3
    truth, _ = two_modes(sde)

    def field(t: Array, x: Array) -> Array:
        """Its Jacobian has rows of norm √5 at most, its divergence a gradient of norm 2√10."""
        return eta * jnp.cos(3 * t) * jnp.stack([jnp.sin(2 * x[0] + x[1]), jnp.sin(2 * x[1] - x[0] + 1)])

    wrong = sfp.Score(lambda t, x: truth(t, x) + field(t, x), sde)
    whole_space = MatchingErrors(*(jnp.asarray(eta * size) for size in (2**0.5, 10**0.5, 2 * 10**0.5)))

    @jax.jit
    @jax.vmap
    def sides(t: Array, x: Array) -> tuple[Array, Array, Array, Array, Array, MatchingErrors]:
        path = jnp.linspace(start, t, 64)
        errors = jax.tree.map(
            jnp.max, jax.vmap(lambda tau: sfp.fokker_planck.matching_errors(wrong, truth, tau, x))(path)
        )
        none = jax.tree.map(jnp.zeros_like, errors)
        bounds = [high_order_bound(truth, deltas, t, x, start=start) for deltas in (none, errors, whole_space)]
        sizes = [jnp.linalg.norm(integrated_residual(s, t, x, start=start)) for s in (truth, wrong)]
        return *sizes, *bounds, errors

    t, x = jr.uniform(jr.key(0), (64,), minval=start, maxval=1.0), 2 * jr.normal(jr.key(1), (64, 2))
    of_truth, size, none, along_path, anywhere, errors = sides(t, x)
    assert of_truth.max() < 1e-10
    assert size.min() > 1e-3
    assert jnp.all(none == 0)
    assert jnp.all(size < along_path)
    assert jnp.all(along_path < anywhere)
    # The closed forms of the suprema are no smaller than what was measured, and not much larger.
    for measured, supremum in zip(jax.tree.leaves(errors), jax.tree.leaves(whole_space), strict=True):
        assert 0.9 * supremum < measured.max() <= supremum


def test_bound_is_nearly_attained() -> None:
    r"""A constant error `c` in the score of $N(0, v)$ under $dx = g\,dw$ has the residual $c\,g^2/(v + \sigma^2)$.

    It integrates to $c\,\log\frac{v+\sigma^2(t)}{v+\sigma^2(t_0)}$, and the bound is that plus $2|c|$.
    """
    sde, variance, c = sfp.EDM(), 1e-4, 0.2
    truth = sfp.Score(lambda t, x: -x / (variance + sde.sigma(t) ** 2), sde)
    wrong = sfp.Score(lambda t, x: truth(t, x) + c, sde)

    @jax.jit
    def sides(x: Array) -> Array:
        """The integral, its bound, and the latter with half the errors."""
        errors = sfp.fokker_planck.matching_errors(wrong, truth, 1.0, x)
        halved = jax.tree.map(lambda error: 0.5 * error, errors)
        integral = integrated_residual(wrong, sde.t1, x, start=sde.t0, nodes=64)
        bounds = [high_order_bound(truth, d, sde.t1, x, start=sde.t0, nodes=64) for d in (errors, halved)]
        return jnp.stack([jnp.linalg.norm(integral), *bounds])

    size, bound, half = (float(value) for value in sides(jnp.array([0.3])))
    spread = variance + np.array([sde.t0, sde.t1]) ** 2
    assert size == pytest.approx(c * np.log(spread[1] / spread[0]), rel=1e-9)
    assert bound == pytest.approx(size + 2 * c, rel=1e-9)
    assert half < 0.6 * size


# --------------------------------------------------------------------------------------------- M and m


def test_suprema_of_a_linear_score(getkey: Callable[[], Array]) -> None:
    r"""$s = -c\,x$ under VP has $\varepsilon = -\beta c(c-1)x$ and $L = \tfrac12\beta(c-1)(c\|x\|^2 - D)$."""
    sde, c, size = sfp.VP(), 1.5, 3
    score = sfp.Score(lambda t, x: -c * x, sde)
    xs = jr.normal(getkey(), (500, size))
    flat = sfp.Potential(lambda t, x: -2.0 + 0.0 * x.sum(), sde)
    key = getkey()
    found = jax.tree.map(np.asarray, residual_suprema(score, xs, key=key, times=5, density=flat, batch_size=125))
    slope, first = sde.beta_max - sde.beta_min, sde.beta_min
    total, square = first + 0.5 * slope, first**2 + first * slope + slope**2 / 3
    # The data are standard normal, which VP keeps: E‖x‖² = D at all times.
    want = (c * (c - 1)) ** 2 * size * square
    assert found.residual.error.max() < 0.05 * want
    assert np.all(np.abs(found.residual.value - want) < 4 * found.residual.error)
    assert float(found.M) == float(found.residual.value.max())
    # At t0 the samples are the clean ones.
    operator = 0.5 * total * (c - 1) * np.abs(c * np.sum(np.asarray(xs) ** 2, axis=1) - size).max()
    assert float(found.operator[0]) == pytest.approx(float(operator), rel=0.02)
    assert float(found.m) >= float(found.operator[0])
    np.testing.assert_allclose(found.weighted.value, np.exp(-2.0) * found.residual.value, rtol=1e-12)
    # Two probes are without bias; and the size of a batch changes nothing.
    by_probes = residual_suprema(score, xs, key=key, times=3, nodes=16, trace=sfp.Hutchinson(), batch_size=250)
    by_probes = jax.tree.map(np.asarray, by_probes)
    assert by_probes.weighted is None
    assert by_probes.M_weighted is None
    assert np.all(np.abs(by_probes.residual.value - want) < 4 * by_probes.residual.error)


def test_suprema_vanish_on_exact_scores_and_scale_on_others() -> None:
    sde = sfp.OU(t1=3.0)
    exact, log_density = two_modes(sde)
    density, xs = sfp.Potential(log_density, sde), 0.9 * jr.normal(jr.key(0), (8, 2))

    @jax.jit
    @jax.vmap
    def suprema(eta: Array) -> tuple[Array, Array, Array | None]:
        wrong = perturbed(exact, 1.0)
        mixed = sfp.Score(lambda t, x: exact(t, x) + eta * (wrong(t, x) - exact(t, x)), sde)
        found = residual_suprema(mixed, xs, key=jr.key(1), times=3, nodes=12, density=density)
        return found.M, found.m, found.M_weighted

    M, m, weighted = suprema(jnp.array([0.0, 1e-3, 2e-3, 1.0]))
    assert M[0] < 1e-20
    assert M[1] > 1e-7
    # The residual is linear in a small error, M quadratic; the square of the error shows in a large one.
    assert float(M[2] / M[1]) == pytest.approx(4.0, rel=0.02)
    assert abs(float(M[3] / M[1]) / 1e6 - 1) > 0.01
    # L tends to that of the exact score, which is not zero: m says how fast log q changes.
    assert m[0] > 0.1
    assert float(m[1] - m[0]) == pytest.approx(0.0, abs=0.01)
    # The variance of a mode rises from 0.3 to 0.5: the largest density is that of a mode's centre at t0.
    peak = 1 / (2 * jnp.pi * 0.3)
    assert weighted is not None
    assert jnp.all(weighted[1:] < peak * M[1:])
    assert jnp.all(weighted[1:] > 0)


# --------------------------------------------------------------------------------------------- bad input


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments() -> None:
    score, x = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.ones(2)
    none, zero = MatchingErrors(*jnp.zeros(3)), lambda x: jnp.zeros(())
    refused(r"anchor = 1.5 lies outside \[t0, t1\] = \[1e-05, 1.0\]", AnchoredPotential, score, zero, anchor=1.5)
    refused("nodes = 0", AnchoredPotential, score, zero, anchor=0.5, nodes=0)
    with pytest.raises(ValueError, match=r"the value of log_density has shape \(2,\)"):
        AnchoredPotential(score, lambda x: x, anchor=0.5).potential(0.5, x)
    for bound in (
        lambda **kw: integrated_residual(score, 0.5, x, **{"start": 0.1, **kw}),
        lambda **kw: high_order_bound(score, none, 0.5, x, **{"start": 0.1, **kw}),
    ):
        refused("nodes = 0; it is a count of at least 1", bound, nodes=0)
        refused(r"start = 0.0 lies outside \[t0, t1\]", bound, start=0.0)
    refused(r"^t = 2.0 lies outside", integrated_residual, score, 2.0, x, start=0.1)
    for method, message in (
        (sfp.Ito(), "form = 'gradient' with method = Ito"),
        (sfp.Hutchinson(), "key is None, but Hutchinson"),
    ):
        refused(message, integrated_residual, score, 0.5, x, start=0.1, method=method)
    general = sfp.Score(lambda t, x: -x, geometric().sde)
    for kernel in (
        lambda: high_order_bound(general, none, 0.5, x, start=0.1),
        lambda: residual_suprema(general, x[None], key=jr.key(0)),
    ):
        refused("has no Gaussian kernel", kernel, error=TypeError)
    for wrong, message in [
        ({"times": 0}, "times = 0"),
        ({"nodes": 0}, "nodes = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"key": None}, "key is None, but residual_suprema"),
    ]:
        refused(message, residual_suprema, score, jnp.ones((4, 2)), **{"key": jr.key(0), **wrong})
    with pytest.raises(ValueError, match=r"xs has shape \(1, 2\); it needs a leading axis with at least two"):
        residual_suprema(score, x[None], key=jr.key(0))
