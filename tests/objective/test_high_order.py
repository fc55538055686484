"""Score matching of order two and three: exact conditional means on a mixture.

Given `x_t`, the noise of a mixture is a mixture of normal laws and the loss is a polynomial in it, of degree six at
most: Gauss–Hermite quadrature gives its conditional mean without error, and nothing here is Monte Carlo.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import image_mixture, line_mixture, plane_mixture
from helpers.refusals import refused
from helpers.terms import Sign, cost, evaluations
from jaxtyping import Array

import scorefp as sfp
from scorefp.objective import Perturbed

pytestmark = pytest.mark.usefixtures("x64")

SDE, TIME, POINT = sfp.SubVP(t0=0.01), 0.3, (0.4, -0.2)
"""A process whose `g²`, `σ` and `λ'` all differ."""


METHODS = {
    "exact": sfp.Exact(),
    "plus": sfp.Hutchinson(law=Sign(1.0)),
    "minus": sfp.Hutchinson(law=Sign(-1.0)),
}


def noise_given(data: sfp.GaussianMixture, x: Array) -> tuple[Array, Array]:
    """Nodes and weights of the law of the noise given `x_t`, exact for polynomials of degree seven."""
    alpha, sigma = SDE.alpha(TIME), SDE.sigma(TIME)
    covariances = jnp.einsum("kij,kj,klj->kil", data.axes, data.variances, data.axes)
    total = alpha**2 * covariances + sigma**2 * jnp.eye(2)
    away = x - alpha * data.means
    means = sigma * jax.vmap(jnp.linalg.solve)(total, away)
    roots = jnp.linalg.cholesky(jnp.eye(2) - sigma**2 * jnp.linalg.inv(total))
    density = jax.vmap(jax.scipy.stats.multivariate_normal.pdf, (0, None, 0))(away, jnp.zeros(2), total)
    shares = data.weights * density / jnp.sum(data.weights * density)
    nodes, weights = np.polynomial.hermite_e.hermegauss(4)
    plane = jnp.asarray(np.stack(np.meshgrid(nodes, nodes), axis=-1).reshape(-1, 2))
    both = jnp.asarray(np.outer(weights, weights).ravel() / (2 * np.pi))
    noise = means[:, None] + jnp.einsum("kij,nj->kni", roots, plane)
    return noise.reshape(-1, 2), (shares[:, None] * both).ravel()


class Shift:
    """What is added to the exact score: a value, a Jacobian and a gradient of its trace at one point, apart."""

    def __init__(self, value: Array, jacobian: Array, slope: Array) -> None:
        self.value, self.jacobian, self.slope = value, jacobian, slope

    def __call__(self, x: Array) -> Array:
        # The Jacobian of b y_1 y_2 + a (y_1², y_2²)/2 has the trace of gradient slope, and vanishes at the point.
        y = x - jnp.asarray(POINT)
        return self.value + self.jacobian @ y + 0.5 * self.slope * y**2


class Answer(NamedTuple):
    """What is known at `POINT`: derivatives of the exact score, the law of the noise, and by order and method the
    integrands' means without the factor `λ / 2σ²`, and their gradients in the three parts of the shift."""

    derivatives: tuple[Array, Array, Array]
    noise: tuple[Array, Array]
    means: dict[str, Array]
    slopes: dict[str, tuple[Array, Array, Array]]


@jax.jit
def _answer(data: sfp.GaussianMixture, *parts: Array) -> Answer:
    x, t, exact = jnp.asarray(POINT), jnp.asarray(TIME), data.score(SDE)
    noise, weights = noise_given(data, x)
    field = lambda x: exact(t, x)
    derivatives = field(x), jax.jacfwd(field)(x), jax.hessian(field)(x)

    def means(*parts: Array) -> Any:
        shift = Shift(*parts)
        model = sfp.Score(lambda t, x: exact(t, x) + shift(x), SDE)

        def mean(term: sfp.HighOrderDSM) -> Array:
            seen = Perturbed(t, jnp.ones(()), x, noise[0], x)
            s, observed = term.observe(model, seen, key=jr.key(0))

            def at(noise: Array) -> Array:
                return term.integrand(SDE, Perturbed(t, jnp.ones(()), x, noise, x), s, observed)

            return jnp.sum(weights * jax.vmap(at)(noise)) * 2 * SDE.sigma(TIME) ** 2 / SDE.g2(TIME)

        found = {f"{o} {name}": mean(sfp.HighOrderDSM(o, m)) for o in (2, 3) for name, m in METHODS.items()}
        return found, found

    slopes, values = jax.jacrev(means, (0, 1, 2), has_aux=True)(*parts)
    return Answer(derivatives, (noise, weights), values, slopes)


def answer(value: np.ndarray, jacobian: np.ndarray, slope: np.ndarray) -> Answer:
    """`Answer` of the exact score shifted by a value, a Jacobian and a bend, in NumPy."""
    return jax.tree.map(np.asarray, _answer(plane_mixture(), *map(jnp.asarray, (value, jacobian, slope))))


NONE = (np.zeros(2), np.zeros((2, 2)), np.zeros(2))
VALUE, JACOBIAN, SLOPE = np.array([0.5, -0.3]), np.array([[0.4, 0.7], [-0.2, 0.3]]), np.array([0.6, -0.9])
PROBES = {"plus": np.array([1.0, 1.0]), "minus": np.array([1.0, -1.0])}


def test_the_targets_are_the_derivatives_of_the_score() -> None:
    r"""Tweedie's formulas of orders one to three: $\sigma s = -E\epsilon$, $\sigma^2J + I =
    \operatorname{Cov}\epsilon$, $\sigma^3\nabla^2s = -\kappa_3(\epsilon)$, all given $x_t$."""
    known, sigma = answer(*NONE), float(SDE.sigma(TIME))
    s, jacobian, bend = known.derivatives
    noise, weights = known.noise
    mean = weights @ noise
    rest = noise - mean
    covariance = np.einsum("n,ni,nj->ij", weights, rest, rest)
    third = np.einsum("n,ni,nj,nk->ijk", weights, rest, rest, rest)
    np.testing.assert_allclose(sigma * s, -mean, rtol=1e-10)
    np.testing.assert_allclose(sigma**2 * jacobian + np.eye(2), covariance, rtol=1e-10)
    np.testing.assert_allclose(sigma**3 * bend, -third, rtol=1e-9, atol=1e-12)
    # The control: none of them is trivial here.
    assert min(np.abs(mean).max(), np.abs(covariance - np.eye(2)).max(), np.abs(third).max()) > 0.01


def test_minimisers() -> None:
    r"""The losses rise from the exact score by the square of the error: $\sigma^2\Delta J$ in order two, $\sigma^3
    \nabla\operatorname{tr}\Delta J$ in order three; each probe sees its own part of it."""
    sigma2 = float(SDE.sigma(TIME)) ** 2
    shifts = NONE, (NONE[0], JACOBIAN, NONE[2]), (*NONE[:2], SLOPE)
    start, wrong, bent = (answer(*shift).means for shift in shifts)
    rise = {name: float(wrong[name] - start[name]) for name in start}
    frobenius, trace = np.sum(JACOBIAN**2), np.trace(JACOBIAN)
    np.testing.assert_allclose(rise["2 exact"], sigma2**2 * (frobenius / 2 + (trace / 2) ** 2), rtol=1e-9)
    for name, v in PROBES.items():
        along = np.sum((JACOBIAN @ v) ** 2) / 2 + (v @ JACOBIAN @ v / 2) ** 2
        np.testing.assert_allclose(rise[f"2 {name}"], sigma2**2 * along, rtol=1e-9)
    for name in METHODS:
        # The bend of the shift is diagonal, so that each sign sees the same gradient of v·Jv as the trace has.
        np.testing.assert_allclose(
            bent[f"3 {name}"] - start[f"3 {name}"], sigma2**3 * np.sum((SLOPE / 2) ** 2), rtol=1e-9
        )
        # Order two does not look at the bend.
        np.testing.assert_allclose(bent[f"2 {name}"], start[f"2 {name}"], rtol=1e-12)


def test_gradients_vanish_at_the_exact_score_alone() -> None:
    """In the value, the Jacobian and the bend, for exact derivatives and for each probe; the value and, in order three,
    the Jacobian are part of the target and have no gradient anywhere."""
    for name, slopes in answer(*NONE).slopes.items():
        for slope in slopes:
            np.testing.assert_allclose(slope, 0, atol=1e-12, err_msg=name)
    for name, (value, jacobian, slope) in answer(VALUE, JACOBIAN, SLOPE).slopes.items():
        np.testing.assert_array_equal(value, 0)
        trained, other = (jacobian, slope) if name.startswith("2") else (slope, jacobian)
        assert np.abs(trained).max() > 1e-3, name
        np.testing.assert_array_equal(other, 0)


def test_errors_of_lower_orders_enter_by_powers() -> None:
    r"""With $m = \sigma\Delta s$ the minimiser of order two is off by $mm^\top/\sigma^2$, that of order three by
    $-\|m\|^2m/\sigma^3$ when the Jacobian is right; [H3] subtracts what would be of lower order."""
    sigma = float(SDE.sigma(TIME))
    for size in (1.0, 0.1):
        m = size * np.array([0.6, -0.4])
        jacobian = np.outer(m, m) / sigma**2
        off = answer(m / sigma, jacobian, NONE[2]).slopes
        np.testing.assert_allclose(off["2 exact"][1], 0, atol=1e-12)
        np.testing.assert_allclose(off["2 plus"][1], 0, atol=1e-12)
        third = answer(m / sigma, NONE[1], -np.sum(m**2) * m / sigma**3).slopes
        np.testing.assert_allclose(third["3 exact"][2], 0, atol=1e-12)
    # The controls: without the shift neither vanishes, and it is the square and the cube.
    sizes = [answer(size * VALUE, NONE[1], NONE[2]).slopes for size in (1.0, 0.5)]
    for name, index, power in (("2 exact", 1, 2), ("3 exact", 2, 3)):
        ratio = np.asarray(sizes[0][name][index]) / np.asarray(sizes[1][name][index])
        np.testing.assert_allclose(ratio, 2.0**power, rtol=1e-8)


def test_what_a_probe_adds() -> None:
    r"""The mean over probes of the Frobenius part is exact; the square of the trace has $\operatorname{Var}_v(v^\top
    Av)$ on top, with $A = \sigma^2J + I - \hat e\hat e^\top$: $(A_{12} + A_{21})^2$ in the plane. In order three it is
    the variance of the target."""
    known, sigma = answer(VALUE, JACOBIAN, SLOPE), float(SDE.sigma(TIME))
    found, (s, true, bend), (noise, weights) = known.means, known.derivatives, known.noise
    e = noise + sigma * (s + VALUE)
    matrix = sigma**2 * (true + JACOBIAN) + np.eye(2)
    errors = matrix - np.einsum("ni,nj->nij", e, e)
    on_top = weights @ (errors[:, 0, 1] + errors[:, 1, 0]) ** 2 / 4
    mean = 0.5 * (found["2 plus"] + found["2 minus"])
    np.testing.assert_allclose(mean - found["2 exact"], on_top, rtol=1e-9)
    assert on_top > 0.1 * found["2 exact"]

    bends = bend + np.einsum("i,ij,ik->ijk", SLOPE, np.eye(2), np.eye(2))
    brackets = {}
    for name, v in PROBES.items():
        along = (e @ v)[:, None]
        target = (v @ matrix @ v - along**2) * e + 2 * along * (matrix @ v)
        brackets[name] = sigma**3 * np.einsum("i,ijk,j->k", v, bends, v) - target
        np.testing.assert_allclose(found[f"3 {name}"], weights @ np.sum(brackets[name] ** 2, axis=1) / 4, rtol=1e-9)
    half = 0.5 * (brackets["plus"] - brackets["minus"])
    mean = 0.5 * (found["3 plus"] + found["3 minus"])
    np.testing.assert_allclose(mean - found["3 exact"], weights @ np.sum(half**2, axis=1) / 4, rtol=1e-9)


@pytest.mark.parametrize("make", [line_mixture, image_mixture], ids=["()", "(2, 1, 2)"])
def test_any_event_shape(make: Any) -> None:
    """In an objective, float32 too: values and gradients in parameters are finite, the value comes out once."""
    calls = []
    with jax.enable_x64(False):
        shape = make().means.shape[1:]
        x0 = jnp.asarray(np.random.default_rng(0).normal(size=(4, *shape)), jnp.float32)
        loss = sfp.DSM() + 0.5 * sfp.HighOrderDSM(2) + 0.1 * sfp.HighOrderDSM(3)

        def total(theta: Array) -> tuple[Array, dict[str, Array]]:
            def network(t: Array, x: Array) -> Array:
                calls.append(t)
                return -x + theta * jnp.sin(jnp.roll(x, 1) if x.ndim else x)

            return loss.evaluate(sfp.Score(network, SDE), x0, key=jr.key(0))

        (value, terms), slope = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(0.3, jnp.float32))
    assert value.dtype == slope.dtype == np.float32
    assert all(np.isfinite(v) for v in [value, slope, *terms.values()])
    want = terms["DSM"] + 0.5 * terms["HighOrderDSM"] + 0.1 * terms["HighOrderDSM 2"]
    np.testing.assert_allclose(value, want, rtol=1e-6)


@pytest.mark.quick
def test_one_evaluation() -> None:
    """The value of the score comes out beside its derivatives."""
    for order in (2, 3):
        assert evaluations(sfp.DSM() + sfp.HighOrderDSM(order), SDE) == 1


def test_cost_of_a_step() -> None:
    """Operations of a training step with one probe: twice those of `DSM` alone with order two, under four times with
    order three."""
    assert 1.8 < cost(sfp.DSM() + sfp.HighOrderDSM(2), SDE) < 2.2
    assert 3.4 < cost(sfp.DSM() + sfp.HighOrderDSM(3), SDE) < 4.0


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    for order in (0, 1, 4):
        refused(rf"order = {order}; .* order 2 or 3\. The first order is DSM\(\)", sfp.HighOrderDSM, order)
    for fraction in (0.0, 1.5):
        with pytest.raises(ValueError, match=rf"fraction = {fraction}; a share of the batch lies in \(0, 1\]"):
            sfp.HighOrderDSM(2, fraction=fraction)
    kinked = sfp.Score(lambda t, x: jax.nn.relu(x), SDE)
    value = lambda order, score: jax.eval_shape(
        lambda x0: sfp.HighOrderDSM(order)(score, x0, key=jr.key(0)), jnp.ones((4, 2))
    )
    refused("score uses relu, which is piecewise linear", value, 3, kinked)
    # A Jacobian it has.
    assert value(2, kinked).shape == ()
    refused("the value of fn has shape", value, 2, sfp.Score(lambda t, x: jnp.sum(x), SDE))
