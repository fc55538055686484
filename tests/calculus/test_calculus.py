"""Divergence, Laplacian, curl, time derivative and derivatives along a curve, against dense derivatives."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import assert_mean, fitted_order
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.calculus import curve_derivatives, value_and_divergence

pytestmark = pytest.mark.usefixtures("x64")

SHAPES = [(), (3,), (2, 2, 2)]


def field(x: Array) -> Array:
    """A vector field of the shape of `x` whose Jacobian is neither symmetric nor diagonal."""
    flat = x.ravel()
    mixing = jnp.sin(1.0 + jnp.arange(x.size**2, dtype=x.dtype)).reshape(x.size, x.size)
    return (jnp.sin(mixing @ flat) + flat**2 * jnp.roll(flat, 1)).reshape(x.shape)


def sample(shape: tuple[int, ...]) -> Array:
    return jnp.cos(1.0 + jnp.arange(np.prod(shape, dtype=int), dtype=float)).reshape(shape)


def dense(x: Array) -> tuple[Array, Array]:
    """The Jacobian, `(D, D)`, and the second derivatives, `(D, D, D)`, of the field."""
    jacobian = jax.jacfwd(field)(x).reshape(x.size, x.size)
    return jacobian, jax.jacfwd(jax.jacrev(field))(x).reshape(x.size, x.size, x.size)


@pytest.mark.quick
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_exact_values(shape: tuple[int, ...]) -> None:
    x = sample(shape)

    @jax.jit
    def both(x: Array) -> tuple[dict[str, Any], dict[str, Any]]:
        jacobian, second = dense(x)
        value, div = value_and_divergence(field, x)
        got = {
            "divergence": sfp.divergence(field, x),
            "value": value,
            "its divergence": div,
            "laplacian": sfp.laplacian(field, x),
            "laplacian of a scalar": sfp.laplacian(lambda y: jnp.sum(field(y) ** 2), x),
            "curl": sfp.curl(field, x),
            "squared curl": sfp.calculus.squared_curl(field, x),
        }
        want = {
            "divergence": jnp.trace(jacobian),
            "value": field(x),
            "its divergence": jnp.trace(jacobian),
            "laplacian": jnp.einsum("kii->k", second).reshape(x.shape),
            "laplacian of a scalar": 2 * jnp.sum(jacobian**2)
            + 2 * jnp.sum(field(x).ravel() * jnp.einsum("kii->k", second)),
            "curl": jacobian - jacobian.T,
            "squared curl": 0.5 * jnp.sum((jacobian - jacobian.T) ** 2),
        }
        return got, want

    got, want = both(x)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-12, atol=1e-13, err_msg=name)
    if len(shape) > 0:
        assert float(want["squared curl"]) > 0.1


@pytest.mark.quick
def test_curl_of_a_gradient_vanishes() -> None:
    x = sample((2, 2, 2))
    gradient = jax.grad(lambda y: jnp.sum(jnp.sin(y) * jnp.roll(y, 1, axis=0)))
    turn, square = jax.jit(lambda x: (sfp.curl(gradient, x), sfp.calculus.squared_curl(gradient, x)))(x)
    assert np.abs(turn).max() < 1e-15
    assert abs(square) < 1e-13


def test_scalar_curl_in_the_plane() -> None:
    """Entry `[1, 0]` is the curl of Lai's Figure 3, and its square the squared curl [C1]."""
    swirl = lambda x: jnp.stack([jnp.sin(x[1]), x[0] ** 3])
    x = jnp.array([0.7, 0.4])
    want = 3 * 0.7**2 - np.cos(0.4)
    turn, square = jax.jit(lambda x: (sfp.curl(swirl, x), sfp.calculus.squared_curl(swirl, x)))(x)
    np.testing.assert_allclose(turn[1, 0], want, rtol=1e-13)
    np.testing.assert_allclose(square, want**2, rtol=1e-13)


@eqx.filter_jit
def estimates(method: sfp.Hutchinson, x: Array, keys: Array) -> tuple[Array, Array, Array]:
    def one(key: Array) -> tuple[Array, Array, Array]:
        return (
            sfp.divergence(field, x, trace=method, key=key),
            sfp.laplacian(field, x, trace=method, key=key),
            sfp.calculus.squared_curl(field, x, trace=method, key=key),
        )

    return jax.vmap(one)(keys)


@pytest.mark.parametrize("law", [sfp.calculus.Rademacher(), sfp.calculus.Gaussian()], ids=["Rademacher", "Gaussian"])
@pytest.mark.parametrize("samples", [1, 4])
def test_hutchinson_mean_and_variance(law: sfp.calculus.Rademacher | sfp.calculus.Gaussian, samples: int) -> None:
    r"""The variance of one probe is known, $\sum_{i<j}(J_{ij}+J_{ji})^2$ for signs and
    $\tfrac12\|J+J^\top\|_F^2$ for normal entries, and falls as one over their number."""
    x = sample((3,))
    jacobian, second = jax.jit(dense)(x)
    symmetric = np.asarray(jacobian + jacobian.T)
    variance = 0.5 * np.sum(symmetric**2)
    if isinstance(law, sfp.calculus.Rademacher):
        variance -= 0.5 * np.sum(np.diag(symmetric) ** 2)
    div, lap, turn = estimates(sfp.Hutchinson(samples, law), x, jr.split(jr.key(0), 20_000))
    trace = jnp.trace(jacobian)
    assert_mean(div, trace)
    assert_mean((div - trace) ** 2, variance / samples)
    assert_mean(lap, jnp.einsum("kii->k", second))
    assert_mean(turn, 0.5 * jnp.sum((jacobian - jacobian.T) ** 2))


@pytest.mark.quick
def test_signs_are_exact_for_a_diagonal_jacobian(getkey: Callable[[], Array]) -> None:
    x = sample((4,))
    got = sfp.divergence(jnp.sin, x, trace=sfp.Hutchinson(), key=getkey())
    np.testing.assert_allclose(got, jnp.sum(jnp.cos(x)), rtol=1e-14)


def test_curve_derivatives_compose_with_the_curve() -> None:
    """Against two derivatives of `fn(c(e))` for the parabola with the given derivatives; pytrees in and out."""

    def fn(point: tuple[Array, Array]) -> dict[str, Array]:
        t, x = point
        return {"a": jnp.sin(t * x[0]) * x, "b": jnp.exp(-t) * jnp.sum(x**3)}

    point = (jnp.array(0.3), jnp.array([0.5, -0.2]))
    velocity = (jnp.array(0.7), jnp.array([1.0, 2.0]))
    acceleration = (jnp.array(-1.0), jnp.array([0.4, -3.0]))

    def along(e: Array) -> dict[str, Array]:
        curve = jax.tree.map(lambda p, v, a: p + e * v + 0.5 * e**2 * a, point, velocity, acceleration)
        return fn(curve)

    @jax.jit
    def derivatives(e: Array) -> Any:
        return along(e), jax.jacfwd(along)(e), jax.jacfwd(jax.jacfwd(along))(e)

    got = curve_derivatives(fn, point, velocity, acceleration)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-14), got, derivatives(jnp.array(0.0))
    )


def motion(t: Array, x: Array) -> Array:
    return jnp.sin(3 * t) * x + t**3


def velocity(t: Array, x: Array) -> Array:
    return 3 * jnp.cos(3 * t) * x + 3 * t**2


@pytest.mark.quick
def test_exact_time_derivative() -> None:
    x = sample((3,))
    np.testing.assert_allclose(sfp.time_derivative(motion, 0.4, x), velocity(jnp.asarray(0.4), x), rtol=1e-14)


@pytest.mark.parametrize("t", [0.2, 0.5, 0.8], ids=["at t0", "interior", "at t1"])
def test_finite_difference_is_of_second_order(t: float) -> None:
    x, horizon = jnp.asarray(0.6), (0.2, 0.8)
    steps = [0.08, 0.04, 0.02, 0.01, 0.005]
    want = velocity(jnp.asarray(t), x)
    errors = []
    for h in steps:
        method = sfp.FiniteDifference(h, h / 2)
        errors.append(abs(float(sfp.time_derivative(motion, t, x, method=method, horizon=horizon) - want)))
    assert abs(fitted_order(steps, errors) - 2) < 0.1
    assert errors[-1] < 1e-3


@pytest.mark.quick
def test_finite_difference_is_the_printed_formula() -> None:
    """Lai 2023, App. D [F9], in the interior."""
    hs, hd, t, x = 0.03, 0.02, 0.5, sample((3,))
    ahead, here, behind = (motion(jnp.asarray(u), x) for u in (t + hd, t, t - hs))
    printed = (hs**2 * ahead + (hd**2 - hs**2) * here - hd**2 * behind) / (hs * hd * (hs + hd))
    got = sfp.time_derivative(motion, t, x, method=sfp.FiniteDifference(hs, hd), horizon=(0.0, 1.0))
    np.testing.assert_allclose(got, printed, rtol=1e-12)
    # Not yet the derivative: the two would be hard to tell apart if the steps were tiny.
    assert float(jnp.abs(printed - velocity(jnp.asarray(t), x)).max()) > 1e-4


def guarded_slopes(t0: float, t1: float, method: sfp.FiniteDifference, dtype: type) -> Array:
    """Slopes, all over the horizon, of the time itself, which is NaN outside the horizon."""

    def guarded(t: Array, x: Array) -> Array:
        inside = (t >= jnp.asarray(t0, t.dtype)) & (t <= jnp.asarray(t1, t.dtype))
        return jnp.where(inside, t * x, jnp.nan)

    slope = lambda t: sfp.time_derivative(guarded, t, jnp.ones((), dtype), method=method, horizon=(t0, t1))
    return jax.jit(jax.vmap(slope))(jnp.asarray(np.linspace(t0, t1, 101).astype(dtype)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_finite_difference_stays_inside(dtype: type) -> None:
    """Among horizons drawn at random are those where a sum of steps rounds to just beyond `t1`."""
    rng = np.random.default_rng(0)
    starts, lengths = rng.uniform(0.0, 3.0, 12).tolist(), rng.uniform(0.1, 5.0, 12).tolist()
    for t0, length in [(1e-5, 1.0), (2e-3, 80.0), *zip(starts, lengths, strict=True)]:
        method = sfp.FiniteDifference(*rng.uniform(1e-4, 0.04, 2).tolist())
        slopes = guarded_slopes(t0, t0 + length, method, dtype)
        # Exact for a straight line, up to the round-off of a difference quotient.
        round_off = np.finfo(dtype).eps * (t0 + length) / min(method.backward, method.forward)
        np.testing.assert_allclose(slopes, 1.0, atol=10 * round_off)


@pytest.mark.quick
def test_bad_input() -> None:
    x, rotate = sample((3,)), lambda y: jnp.roll(y, 1)
    for function in (sfp.divergence, sfp.laplacian, sfp.calculus.squared_curl):
        with pytest.raises(ValueError, match=r"key is None, but Hutchinson draws random numbers; pass key="):
            function(rotate, x, trace=sfp.Hutchinson())
    for function in (sfp.divergence, sfp.calculus.squared_curl):
        refused(r"value of fn has shape \(1,\), but x has shape \(3,\); the two must", function, lambda y: y[:1], x)
    refused(r"Jacobian of fn has shape \(1, 3\), but a square one has shape \(3, 3\)", sfp.curl, lambda y: y[:1], x)
    refused("samples = 0; Hutchinson needs at least one probe", sfp.Hutchinson, 0)
    refused(r"backward = -0\.1 and forward = 0\.0005; both steps must be positive", sfp.FiniteDifference, backward=-0.1)
    long = sfp.FiniteDifference(0.6, 0.6)
    with pytest.raises(ValueError, match=r"backward \+ forward = 1\.2 is longer than the horizon \[0\.0, 1\.0\]"):
        sfp.time_derivative(motion, 0.5, x, method=long, horizon=(0.0, 1.0))
