"""The Fokker–Planck operator and residuals: zero on exact scores, the known value on others, by every method."""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.gaussian import LogNormalDensity, black_scholes
from helpers.references import (
    LINEAR,
    MIXTURES,
    Local,
    assert_mean,
    diffused,
    fitted_order,
    locals_of_all,
    mean_is,
    perturbed,
    plane_mixture,
    relative,
)
from jaxtyping import Array

import scorefp as sfp
from scorefp.fokker_planck.residual import resolve, resolve_log
from scorefp.sde import CriticallyDampedLangevin, GeometricBrownianMotion

pytestmark = pytest.mark.usefixtures("x64")

FORMS = ("gradient", "martingale", "mixed")
ALONG = sfp.Ito(sfp.Exact())
residual = sfp.score_fpe_residual


# ------------------------------------------------------------------------------------------ every linear SDE


def wrong_potential(exact: sfp.score.AbstractPotential) -> sfp.Potential:
    """A potential that solves nothing: conservative, with a residual."""
    wave = lambda t, x: 0.3 * jnp.cos(3 * t) * jnp.sum(jnp.sin(x + 0.3) * jnp.cos(jnp.roll(x, 1)))
    return sfp.Potential(lambda t, x: exact.potential(t, x) + wave(t, x), exact.sde)


def generator(score: sfp.score.AbstractScore, t: Array, x: Array) -> tuple[Array, Array]:
    r"""$-\partial_t h - (f - g^2 s)\cdot\nabla h + \tfrac12 g^2 \Delta h$ by autodiff, and the size of its terms.

    That is the generator of the reverse SDE of a score, applied to its denoiser.
    """
    sde = score.sde
    assert isinstance(sde, Local)
    drift = sde.drift(t, x) - sde.g2(t) * score(t, x)
    slope = jax.jvp(lambda t: score.denoise(t, x), (t,), (jnp.ones_like(t),))[1]
    transport = jax.jvp(lambda x: score.denoise(t, x), (x,), (drift,))[1]
    second = jax.jacfwd(jax.jacfwd(lambda x: score.denoise(t, x)))(x).reshape(*x.shape, x.size, x.size)
    spread = 0.5 * sde.g2(t) * jnp.einsum("...ii->...", second)
    return -slope - transport + spread, jnp.abs(slope) + jnp.abs(transport) + jnp.abs(spread)


def terms(score: sfp.score.AbstractScore, t: Array, x: Array) -> Array:
    """The size of the terms that cancel in a residual [F5]."""
    sde = score.sde
    assert isinstance(sde, Local)
    s = score(t, x)
    slope = sfp.time_derivative(score, t, x)
    advected, carried = (jax.jvp(lambda x: score(t, x), (x,), (v,))[1] for v in (sde.drift(t, x), sde.g2(t) * s))
    spread = 0.5 * sde.g2(t) * sfp.laplacian(lambda x: score(t, x), x)
    return sum(jnp.abs(term) for term in (slope, advected, sde.rate(t) * s, carried, spread))


def on_all_sdes(mixture: sfp.GaussianMixture, fn: Callable[[sfp.score.AbstractPotential, Array, Array], Any]) -> Any:
    """`fn(exact score, t, x)` on every linear SDE, at five times from t0 to t1, for four samples, compiled together.

    Arrays of shape `(SDEs, times, samples, ...)`.
    """
    clean = mixture.sample(jr.key(0), 4)
    noise = jr.normal(jr.key(1), clean.shape)

    def at(sde: Local, x0: Array, noise: Array) -> Any:
        t = sde.centre
        return fn(mixture.score(sde), t, sde.alpha(t) * x0 + sde.sigma(t) * noise)

    each = jax.vmap(jax.vmap(jax.vmap(at, in_axes=(None, 0, 0)), in_axes=(0, None, None)), in_axes=(0, None, None))
    return jax.tree.map(np.asarray, jax.jit(each)(locals_of_all(5), clean, noise))


class Residuals(eqx.Module):
    """Of the exact and of a perturbed score, by `Exact` and by `Ito`, and the size of the terms that cancel."""

    exact: Any
    exact_by_ito: Any
    wrong: Any
    wrong_by_ito: Any
    size: Any


@functools.cache
def residuals(shape: str) -> Residuals:
    """For one event shape."""

    def fn(exact: sfp.score.AbstractPotential, t: Array, x: Array) -> Residuals:
        wrong = perturbed(exact)
        return Residuals(
            exact=residual(exact, t, x),
            exact_by_ito=residual(exact, t, x, method=ALONG),
            wrong=residual(wrong, t, x, form="martingale"),
            wrong_by_ito=residual(wrong, t, x, method=ALONG),
            size=terms(exact, t, x),
        )

    return on_all_sdes(MIXTURES[shape](), fn)


class Study(eqx.Module):
    """In the plane: of the exact score, of one not conservative, of one conservative and not exact."""

    exact: Any
    wrong: dict[str, Any]
    """By form, as is the next."""
    conservative: dict[str, Any]
    size: Any
    turned: Any
    """The two parts by which the forms differ: this and `spread`."""
    spread: Any
    generator: Any
    generator_size: Any
    bridge: Any
    operator: Any
    printed_operator: Any
    log_slope: Any
    """The time derivative of the exact log-density."""
    log_residual: Any
    log_residual_by_ito: Any
    log_residual_unnormalised: Any
    log_residual_wrong: Any
    log_residual_wrong_by_ito: Any
    log_residual_gradient: Any
    """Of the wrong one, as are the next two."""
    density: Any
    density_residual: Any
    t: Any


@functools.cache
def study() -> Study:
    def fn(exact: sfp.score.AbstractPotential, t: Array, x: Array) -> Study:
        sde = exact.sde
        assert isinstance(sde, Local)
        wrong, potential = perturbed(exact), wrong_potential(exact)
        f, g2, s = sde.drift(t, x), sde.g2(t), wrong(t, x)
        jacobian = jax.jacfwd(lambda x: wrong(t, x))(x)
        turn = sfp.curl(lambda x: wrong(t, x), x)
        second = jax.jacfwd(lambda x: sfp.curl(lambda y: wrong(t, y), x))(x)
        along, size = generator(wrong, t, x)
        unnormalised = sfp.Potential(lambda t, x: exact.potential(t, x) + jnp.sin(2 * t), sde)
        log_residual, gradient = jax.value_and_grad(lambda x: sfp.log_fpe_residual(potential, t, x))(x)
        return Study(
            exact=residual(exact, t, x, form="mixed"),
            wrong={form: residual(wrong, t, x, form=form) for form in FORMS},
            conservative={form: residual(potential, t, x, form=form) for form in FORMS},
            size=terms(exact, t, x),
            turned=turn @ (f - g2 * s),
            spread=0.5 * g2 * jnp.einsum("ijj->i", second),
            generator=along,
            generator_size=size,
            bridge=-(sde.sigma(t) ** 2) / sde.alpha(t),
            operator=sfp.fpe_operator(wrong, t, x),
            printed_operator=0.5 * g2 * (jnp.trace(jacobian) + jnp.sum(s**2)) - jnp.sum(f * s) - sde.rate(t) * x.size,
            log_slope=jax.jvp(lambda t: exact.potential(t, x), (t,), (jnp.ones_like(t),))[1],
            log_residual=sfp.log_fpe_residual(exact, t, x),
            log_residual_by_ito=sfp.log_fpe_residual(exact, t, x, method=ALONG),
            log_residual_unnormalised=sfp.log_fpe_residual(unnormalised, t, x),
            log_residual_wrong=log_residual,
            log_residual_wrong_by_ito=sfp.log_fpe_residual(potential, t, x, method=ALONG),
            log_residual_gradient=gradient,
            density=jnp.exp(potential.potential(t, x)),
            density_residual=sfp.fpe_residual(lambda t, x: jnp.exp(potential.potential(t, x)), t, x, sde=sde),
            t=t,
        )

    return on_all_sdes(plane_mixture(), fn)


def cells(name: str, *found: np.ndarray) -> Any:
    """Arrays of one SDE, time by time."""
    index = list(LINEAR).index(name)
    return zip(*(array[index] for array in found), strict=True)


@pytest.mark.parametrize("shape", MIXTURES)
@pytest.mark.parametrize("name", LINEAR)
def test_exact_scores_have_no_residual(name: str, shape: str) -> None:
    """[X1]: relative to the terms that cancel. The other side: a perturbed score, in the same units."""
    found = residuals(shape)
    for taken in (found.exact, found.exact_by_ito):
        assert all(relative(eps, size) < 1e-9 for eps, size in cells(name, taken, found.size))
    assert all(relative(eps, size) > 1e-3 for eps, size in cells(name, found.wrong, found.size))


@pytest.mark.parametrize("shape", MIXTURES)
@pytest.mark.parametrize("name", LINEAR)
def test_ito_with_all_probes_is_exact(name: str, shape: str) -> None:
    """[F6], on a score that is neither exact nor conservative."""
    found = residuals(shape)
    for got, want in cells(name, found.wrong_by_ito, found.wrong):
        assert relative(got - want, want) < 1e-10


@pytest.mark.parametrize("name", LINEAR)
def test_operator(name: str) -> None:
    """[F2] as printed, with a dense Jacobian; on the exact score it is the time derivative of the log-density [F3]."""
    found = study()
    for got, want in cells(name, found.operator, found.printed_operator):
        np.testing.assert_allclose(got, want, atol=1e-11 * np.abs(want).max())
    for got, slope in cells(name, found.log_residual, found.log_slope):
        assert np.abs(got).max() < 1e-9 * np.abs(slope).max()


@pytest.mark.parametrize("name", LINEAR)
def test_forms_differ_by_the_curl(name: str) -> None:
    r"""[F5]: martingale - gradient $= (J - J^\top)(f - g^2 s) - \tfrac12 g^2 \nabla\cdot(J - J^\top)$.

    Mixed - gradient is the first term alone. Conservative scores have one residual.
    """
    found = study()
    wrong, turned, spread = found.wrong, found.turned, found.spread
    for form, difference in [("martingale", turned - spread), ("mixed", turned)]:
        for a, b, want, size in cells(name, wrong[form], wrong["gradient"], difference, found.size):
            assert relative(a - b - want, size) < 1e-9
            assert relative(want, size) > 1e-3
        for a, b, size in cells(name, found.conservative[form], found.conservative["gradient"], found.size):
            assert relative(a - b, size) < 1e-9
            assert relative(a, size) > 1e-3
    for eps, size in cells(name, found.exact, found.size):
        assert relative(eps, size) < 1e-9


@pytest.mark.parametrize("name", LINEAR)
def test_bridge_to_consistency(name: str) -> None:
    """[F8]: along a model's own reverse SDE its denoiser drifts by -(sigma^2 / alpha) times its residual."""
    found = study()
    bridge = found.bridge[..., None] * found.wrong["martingale"]
    rows = list(cells(name, found.generator, bridge, found.generator_size))
    for got, want, size in rows:
        assert relative(got - want, size) < 1e-9
    # At t0 the denoiser is the identity for any score, and there is nothing to see.
    assert max(relative(want, size) for _, want, size in rows) > 1e-2


@pytest.mark.parametrize("name", LINEAR)
def test_residuals_of_densities(name: str) -> None:
    """[F3]: unnormalised potentials are off by d log Z / dt; the gradient is the score's residual; [F1] is p r."""
    found = study()
    for got, t, slope in cells(name, found.log_residual_unnormalised, found.t, found.log_slope):
        np.testing.assert_allclose(got, 2 * np.cos(2 * t), atol=1e-9 * (1 + np.abs(slope).max()))
    for got, want, size in cells(name, found.log_residual_gradient, found.conservative["gradient"], found.size):
        assert relative(got - want, size) < 1e-9
    for got, p, r, slope in cells(
        name, found.density_residual, found.density, found.log_residual_wrong, found.log_slope
    ):
        np.testing.assert_allclose(got, p * r, atol=1e-10 * np.abs(p * slope).max())


@pytest.mark.parametrize("name", LINEAR)
def test_log_residual_along_a_curve(name: str) -> None:
    """[F16]: zero on exact potentials, and on others the residual with the Laplacian, by orthonormal probes."""
    found = study()
    for got, slope in cells(name, found.log_residual_by_ito, found.log_slope):
        np.testing.assert_allclose(got, 0, atol=1e-9 * (1 + np.abs(slope).max()))
    for got, want, slope in cells(name, found.log_residual_wrong_by_ito, found.log_residual_wrong, found.log_slope):
        np.testing.assert_allclose(got, want, atol=1e-10 * (1 + np.abs(slope).max()))
        assert np.abs(want).max() > 1e-3 * np.abs(slope).max()


def test_linear_scores_have_the_residual_computed_by_hand() -> None:
    r"""[X3]: $s = (-I/v + \eta w A) x$ on $\mathcal N(0, c I)$ diffused, $v = \alpha^2 c + \sigma^2$. Then

    gradient: $\eta w' A x + (g^2/v + a) \eta w (A + A^\top) x - g^2 \eta^2 w^2 A^\top A x$,
    martingale: $\eta w' A x + 2 (g^2/v + a) \eta w A x - g^2 \eta^2 w^2 A^2 x$,

    and the mixed form is the martingale one, since second derivatives vanish.
    """
    sde, c, eta = sfp.VP(), 0.3, 0.4
    x = jnp.array([0.5, -1.2])
    w, dw = (lambda t: jnp.cos(3 * t)), (lambda t: -3 * jnp.sin(3 * t))

    @jax.jit
    def both(matrix: Array, t: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        variance = lambda t: sde.alpha(t) ** 2 * c + sde.sigma(t) ** 2
        score = sfp.Score(lambda t, x: -x / variance(t) + eta * w(t) * matrix @ x, sde)
        a, g2, v = sde.rate(t), sde.g2(t), variance(t)
        moved = eta * dw(t) * matrix @ x
        gradient = (
            moved + (g2 / v + a) * eta * w(t) * (matrix + matrix.T) @ x - g2 * (eta * w(t)) ** 2 * matrix.T @ matrix @ x
        )
        martingale = moved + 2 * (g2 / v + a) * eta * w(t) * matrix @ x - g2 * (eta * w(t)) ** 2 * matrix @ matrix @ x
        want = {"gradient": gradient, "martingale": martingale, "mixed": martingale}
        return {form: residual(score, t, x, form=form) for form in FORMS}, want

    rotation, any_matrix = jnp.array([[0.0, -1.0], [1.0, 0.0]]), jnp.array([[0.3, -1.0], [0.4, 0.8]])
    for matrix in (rotation, any_matrix):
        for t in (1e-5, 0.2, 0.7, 1.0):
            got, want = both(matrix, jnp.asarray(t))
            for form in FORMS:
                np.testing.assert_allclose(got[form], want[form], rtol=1e-10, atol=1e-10, err_msg=form)
            assert float(jnp.abs(want["gradient"] - want["martingale"]).min()) > 1e-4


# ------------------------------------------------------------------------------------------ general SDEs


def test_black_scholes() -> None:
    """[F0]: a correlated diffusion that depends on the state, with a known log-normal density."""
    sde, faster = black_scholes()
    energy = LogNormalDensity(sde)
    exact, wrong = sfp.Potential(energy, sde), sfp.Potential(energy, faster)

    @jax.jit
    @jax.vmap
    def everything(t: Array, x: Array) -> tuple[Array, ...]:
        return (
            residual(exact, t, x),
            residual(wrong, t, x),
            sfp.log_fpe_residual(exact, t, x),
            sfp.log_fpe_residual(wrong, t, x),
            sfp.log_fpe_residual(exact, t, x, method=ALONG),
            sfp.log_fpe_residual(wrong, t, x, method=ALONG),
            sfp.fpe_residual(lambda t, x: jnp.exp(energy(t, x)), t, x, sde=faster),
            jnp.exp(energy(t, x)),
            sfp.time_derivative(exact, t, x),
            # A drift that is too fast by 0.1 x leaves r = ∇·(0.1 x q) / q, known exactly.
            0.1 * jnp.sum(x * exact(t, x)) + 0.2,
        )

    t = jnp.linspace(0.0, 1.0, 5)
    x = jnp.exp(0.1 + 0.6 * jr.normal(jr.key(0), (5, 2)))
    of_exact, of_wrong, log, log_wrong, along, along_wrong, density_wrong, density, slope, known = everything(t, x)
    assert relative(of_exact, slope) < 1e-11
    assert float(jnp.abs(log).max()) < 1e-11
    assert float(jnp.abs(along).max()) < 1e-11
    np.testing.assert_allclose(along_wrong, log_wrong, rtol=1e-9)
    np.testing.assert_allclose(log_wrong, known, rtol=1e-9)
    np.testing.assert_allclose(density_wrong, density * log_wrong, rtol=1e-9)
    assert relative(of_wrong, slope) > 1e-2


def test_critically_damped_langevin() -> None:
    """A Gaussian whose covariance solves the linear moment equation: noise in half of the coordinates only."""
    sde = CriticallyDampedLangevin(beta=3.0, mass=0.6)
    drift = jax.jacfwd(lambda x: sde.drift(0.5, x[:, None])[:, 0])(jnp.zeros(2))
    pole = 0.5 * jnp.trace(drift)
    stationary = jnp.diag(jnp.array([1.0, 0.6]))
    start = jnp.array([[0.3, 0.1], [0.1, 0.2]])
    mean = jnp.array([[0.4, -0.2, 0.0], [0.1, 0.3, -0.5]])

    def energy(t: Array, x: Array) -> Array:
        # The matrix exponential, at the double eigenvalue that makes the damping critical.
        flow = jnp.exp(pole * t) * (jnp.eye(2) + (drift - pole * jnp.eye(2)) * t)
        covariance = stationary + flow @ (start - stationary) @ flow.T
        centred = x - flow @ mean
        inverse = jnp.linalg.inv(covariance)
        return -0.5 * jnp.sum(centred * (inverse @ centred)) - 1.5 * jnp.log(jnp.linalg.det(2 * jnp.pi * covariance))

    exact = sfp.Potential(energy, sde)
    wrong = sfp.Score(lambda t, x: exact(t, x) + 0.1 * jnp.sin(x), sde)

    @jax.jit
    @jax.vmap
    def everything(t: Array, x: Array) -> tuple[Array, ...]:
        return (
            residual(exact, t, x),
            residual(wrong, t, x),
            sfp.time_derivative(exact, t, x),
            sfp.log_fpe_residual(exact, t, x),
            sfp.log_fpe_residual(exact, t, x, method=ALONG),
        )

    found = everything(jnp.linspace(0.001, 1.0, 4), jr.normal(jr.key(1), (4, 2, 3)))
    assert relative(found[0], found[2]) < 1e-11
    assert relative(found[1], found[2]) > 1e-2
    assert float(jnp.abs(found[3]).max()) < 1e-11
    assert float(jnp.abs(found[4]).max()) < 1e-11


# ------------------------------------------------------------------------------------------ estimators


SQUARED = ("Hutchinson, mixed", "Ito", "Antithetic", "Sliced", "Sliced, random trace")
METHODS: dict[str, tuple[Any, str]] = {
    "Hutchinson, martingale": (sfp.Hutchinson(), "martingale"),
    "Hutchinson, mixed": (sfp.Hutchinson(), "mixed"),
    "normal Hutchinson, gradient": (sfp.Hutchinson(2, sfp.calculus.Gaussian()), "gradient"),
    "Ito": (sfp.Ito(), "martingale"),
    "Antithetic": (sfp.Antithetic(step=1e-4, samples=2), "martingale"),
    "Sliced": (sfp.Sliced(), "gradient"),
    "Sliced, random trace": (sfp.Sliced(samples=2, trace=sfp.Hutchinson()), "gradient"),
    "FiniteDifference": (sfp.FiniteDifference(trace=sfp.Hutchinson()), "gradient"),
}


class Draws(eqx.Module):
    """Many estimates of a residual, and some of its square, by method; the residual itself by form."""

    exact: dict[str, Any]
    mixed_derivative: Any
    estimates: dict[str, Any]
    squares: dict[str, Any]


@functools.cache
def draws() -> Draws:
    """Of one perturbed score at one point."""
    score, t, x = perturbed(plane_mixture().score(sfp.VP()), eta=1.0), 0.2, jnp.array([0.4, -0.3])

    @jax.jit
    def everything(keys: Array) -> Draws:
        second = jax.jacfwd(jax.jacfwd(lambda x: score(t, x)))(x)
        found = Draws({form: residual(score, t, x, form=form) for form in FORMS}, second[:, 0, 1], {}, {})
        for name, (method, form) in METHODS.items():
            taken = resolve(method, form)
            one = lambda key, method=method, form=form: residual(score, t, x, form=form, method=method, key=key)
            square = lambda key, taken=taken: taken.squared_norm(score, jnp.asarray(t), x, key)[1]
            found.estimates[name] = jax.vmap(one)(keys)
            if name in SQUARED:
                found.squares[name] = jax.vmap(square)(keys)
        return found

    return jax.tree.map(np.asarray, everything(jr.split(jr.key(0), 10_000)))


@pytest.mark.parametrize("name", METHODS)
def test_mean_of_each_method(name: str) -> None:
    """Within four standard errors of the exact residual of the same form, and no such thing for another form."""
    found, form = draws(), METHODS[name][1]
    estimates, exact = found.estimates[name], found.exact[form]
    assert_mean(estimates, exact, resolution=0.05)
    if name in SQUARED:
        assert_mean(found.squares[name], np.sum(exact**2), resolution=0.05)
    other = found.exact["martingale" if form != "martingale" else "gradient"]
    assert not mean_is(estimates, other)


def test_the_square_of_one_probe_is_biased() -> None:
    r"""[F9]: by the variance, which for signs in the plane is $g^4\|\partial_1\partial_2 s\|^2$."""
    found = draws()
    exact = np.sum(found.exact["martingale"] ** 2)
    g2 = float(sfp.VP().g2(0.2))
    variance = g2**2 * np.sum(found.mixed_derivative**2)
    for name in ("Hutchinson, martingale", "Ito"):
        one_probe = np.sum(found.estimates[name] ** 2, axis=1)
        assert_mean(one_probe, exact + variance, resolution=0.05)
        assert not mean_is(one_probe, exact)


def test_ito_and_hutchinson_see_the_same_probes() -> None:
    """[F6] is [F5] probe by probe: the same key gives the same estimate."""
    found = draws().estimates
    np.testing.assert_allclose(found["Ito"], found["Hutchinson, martingale"], rtol=1e-10)


@pytest.mark.parametrize("shape", ["()", "(2,)"])
def test_antithetic_is_of_first_order(shape: str) -> None:
    """[F7] against [F6] with the same probe: what is left is the bias."""
    sde, steps = sfp.VP(), [0.04, 0.02, 0.01, 0.005, 0.0025]
    score, key = perturbed(MIXTURES[shape]().score(sde)), jr.key(3)
    x = jnp.full(MIXTURES[shape]().shape, 0.4)

    @jax.jit
    def errors(t: Array) -> tuple[Array, Array]:
        limit = residual(score, t, x, method=sfp.Ito(), key=key)
        taken = [residual(score, t, x, method=sfp.Antithetic(step), key=key) for step in steps]
        return jnp.stack([jnp.linalg.norm((eps - limit).ravel()) for eps in taken]), jnp.linalg.norm(limit.ravel())

    for t in (0.05, 0.3, 1.0):
        found, size = errors(jnp.asarray(t))
        assert abs(fitted_order(steps, found) - 1) < 0.1
        assert found[-1] < 0.1 * size


def test_antithetic_stays_inside() -> None:
    """The score is NaN before t0. Closer to t0 than a step, the step is shorter and the residual as good."""
    sde = sfp.EDM()
    exact = plane_mixture().score(sde)
    wrong = perturbed(exact)
    guarded = sfp.Score(lambda t, x: jnp.where(t >= sde.t0, wrong(t, x), jnp.nan), sde)
    x, key = jnp.array([0.4, -0.3]), jr.key(0)

    @jax.jit
    @jax.vmap
    def both(t: Array) -> tuple[Array, Array]:
        long = sfp.Antithetic(step=0.5)
        return residual(guarded, t, x, method=long, key=key), residual(wrong, t, x, method=sfp.Ito(), key=key)

    near = sde.t0 * (1 + jnp.array([1e-6, 1e-4, 1e-2, 0.2]))
    got, want = both(near)
    np.testing.assert_allclose(got[:3], want[:3], rtol=1e-2)
    assert np.all(np.isfinite(got))


def test_finite_difference_residual_is_of_second_order() -> None:
    sde, steps = sfp.VP(), [0.01, 0.005]
    score, x = perturbed(plane_mixture().score(sde)), jnp.array([0.4, -0.3])

    @jax.jit
    def errors(t: Array) -> Array:
        want = residual(score, t, x)
        taken = [residual(score, t, x, method=sfp.FiniteDifference(h, h / 2)) for h in steps]
        return jnp.stack([jnp.linalg.norm(eps - want) for eps in taken])

    for t in (0.5, 1.0):
        assert abs(fitted_order(steps, errors(jnp.asarray(t))) - 2) < 0.15


LOG_METHODS: dict[str, sfp.fokker_planck.AbstractLogResidualMethod] = {
    "Hutchinson": resolve_log(sfp.Hutchinson()),
    "Ito": sfp.Ito(),
    "normal Ito": sfp.Ito(sfp.Hutchinson(64, sfp.calculus.Gaussian())),
    "Antithetic": sfp.Antithetic(step=1e-6, samples=2),
    "Smoothed": sfp.Smoothed(width=1e-4),
    "Smoothed by normals": sfp.Smoothed(width=1e-4, samples=64, law=sfp.calculus.Gaussian()),
}


@functools.cache
def log_draws() -> dict[str, Any]:
    """Estimates of the residual of a potential on a linear SDE, and on one whose diffusion depends on the state."""
    linear = wrong_potential(plane_mixture().score(sfp.VP()))
    general = GeometricBrownianMotion(jnp.array([0.3, -0.2]), jnp.array([[0.8, 0.5], [-0.3, 0.6]]))
    x = jnp.array([1.1, 0.9])

    @jax.jit
    def everything(keys: Array) -> dict[str, Any]:
        found = {}
        for sde in (linear.sde, general):
            potential = sfp.Potential(linear.fn, sde)

            def one(key: Array, potential: Any = potential) -> dict[str, tuple[Array, Array]]:
                return {
                    name: (
                        method.log_residual(potential, jnp.asarray(0.2), x, key)[1],
                        method.log_square(potential, jnp.asarray(0.2), x, key)[1],
                    )
                    for name, method in LOG_METHODS.items()
                }

            found[type(sde).__name__] = jax.vmap(one)(keys), sfp.log_fpe_residual(potential, 0.2, x)
        return found

    return jax.tree.map(np.asarray, everything(jr.split(jr.key(4), 3_000)))


@pytest.mark.parametrize("sde", ["VP", "GeometricBrownianMotion"])
def test_mean_of_each_log_method(sde: str) -> None:
    """[F16]: each estimate and its two-estimate square have the mean of the residual with the exact Laplacian."""
    found, exact = log_draws()[sde]
    for name, (estimates, squares) in found.items():
        assert_mean(estimates, exact, resolution=0.1)
        assert_mean(squares, exact**2, resolution=0.2)
        # The mean of 64 normal probes has hardly a variance left.
        assert "normal" in name or not mean_is(estimates**2, exact**2), name


def test_orders_of_the_log_methods() -> None:
    """On a line a sign is an orthonormal probe: what is left is the bias, of order one in the step of `Antithetic`, of
    order two in the width of `Smoothed`."""
    potential, key = wrong_potential(MIXTURES["()"]().score(sfp.VP())), jr.key(3)
    steps = [0.08, 0.04, 0.02]

    @jax.jit
    def errors(t: Array) -> tuple[Array, ...]:
        x = jnp.asarray(0.4)
        by = lambda method: sfp.log_fpe_residual(potential, t, x, method=method, key=key)
        return (
            jnp.stack([by(sfp.Antithetic(h)) for h in steps]) - by(sfp.Exact()),
            jnp.stack([by(sfp.Smoothed(h)) for h in steps]) - by(sfp.Exact()),
        )

    for t in (0.05, 0.3):
        first, second = errors(jnp.asarray(t))
        assert abs(fitted_order(steps, jnp.abs(first)) - 1) < 0.1
        assert abs(fitted_order(steps, jnp.abs(second)) - 2) < 0.1


def test_log_residual_of_traced_parameters() -> None:
    """Potentials made of arrays that a transformation traces, as in training."""

    def at(scale: Array) -> Array:
        wrapped = sfp.Potential(jax.tree_util.Partial(lambda scale, t, x: -scale * jnp.sum(x**2), scale), sfp.OU())
        bare = sfp.InnerPotential(eqx.Partial(lambda scale, t, x: -scale * x, scale), sfp.OU(), None)
        # Twice of each: the second time jax looks for what it has traced before.
        times = (0.3, 0.4)
        x = jnp.array([0.5, 1.0])
        return jnp.stack([sfp.log_fpe_residual(phi, t, x) for phi in (wrapped, bare) for t in times])

    # s = -2 c x on OU: r = -2 (1 - c) (1 - c |x|^2).
    want = lambda c: -2 * (1 - c) * (1 - 1.25 * c)
    np.testing.assert_allclose(jax.jit(at)(jnp.asarray(1.1)), want(1.1), rtol=1e-10)
    np.testing.assert_allclose(jax.jit(jax.jacfwd(at))(jnp.asarray(1.1)), jax.grad(want)(1.1), rtol=1e-10)


def test_random_trace_of_the_log_residual() -> None:
    potential, x = wrong_potential(plane_mixture().score(sfp.VP())), jnp.array([0.8, 0.1])

    @jax.jit
    def everything(keys: Array) -> tuple[Array, ...]:
        def one(key: Array) -> tuple[Array, Array, Array]:
            trace = sfp.Hutchinson()
            density = lambda t, x: jnp.exp(potential.potential(t, x))
            return (
                sfp.log_fpe_residual(potential, 0.2, x, method=trace, key=key),
                sfp.fpe_operator(potential, 0.2, x, trace=trace, key=key),
                sfp.fpe_residual(density, 0.2, x, sde=potential.sde, trace=trace, key=key),
            )

        exact = (
            sfp.log_fpe_residual(potential, 0.2, x),
            sfp.fpe_operator(potential, 0.2, x),
            jnp.exp(potential.potential(0.2, x)) * sfp.log_fpe_residual(potential, 0.2, x),
        )
        return jax.vmap(one)(keys), exact

    for estimates, exact in zip(*everything(jr.split(jr.key(0), 4_000)), strict=True):
        assert_mean(estimates, exact)


# ------------------------------------------------------------------------------------------ float32


@pytest.mark.parametrize("make", [sfp.VP, sfp.SubVP], ids=lambda make: make.__name__)
def test_float32_near_t0(make: Callable[[], Any]) -> None:
    r"""The scale-free residual [F15], $(\sigma^3/g^2)\varepsilon$, of a score of the size $1/\sigma$.

    The data are points, so that the noise prediction is of unit size down to t0. `Exact` and `Ito` have some units of
    round-off. `Antithetic(step)` divides a difference of scores by its step, and in a score the sample counts with its
    own round-off, `eps |x| / sigma`.
    """
    sde = make()
    points = sfp.GaussianMixture(plane_mixture().means, jnp.full(3, 1e-14), jnp.array([0.2, 0.5, 0.3]))
    methods = {"Exact": sfp.Exact(), "Ito": sfp.Ito(sfp.Exact()), "Antithetic": sfp.Antithetic(step=0.02)}
    # Far enough from t0 for a whole step.
    t = sde.time_of_log_snr(sde.log_snr(sde.t0) - 0.1).astype(jnp.float32)
    x = diffused(points, sde, t[None], jr.key(1), 16)[0].astype(jnp.float32)

    def taken(method: Any, dtype: Any) -> Array:
        def at(t: Array, x: Array) -> Array:
            unit = sde.sigma(t) ** 3 / sde.g2(t)
            return unit * residual(points.score(sde), t, x, method=method, key=jr.key(0), form="martingale")

        return jax.vmap(at, in_axes=(None, 0))(t.astype(dtype), x.astype(dtype))

    @jax.jit
    def both() -> tuple[dict[str, Array], dict[str, Array | float]]:
        single = {name: taken(method, jnp.float32) for name, method in methods.items()}
        # The score is exact, so that two of the values are known.
        return single, {"Exact": 0.0, "Ito": 0.0, "Antithetic": taken(methods["Antithetic"], jnp.float64)}

    single, double = both()
    eps = np.finfo(np.float32).eps
    allowed = {
        "Exact": 32 * eps,
        "Ito": 32 * eps,
        "Antithetic": eps * (1 + float(jnp.abs(x).max() / sde.sigma(t))) / 0.02,
    }
    for name in methods:
        assert single[name].dtype == np.float32
        error = np.abs(np.asarray(single[name], np.float64) - np.asarray(double[name])).max()
        assert error <= allowed[name], f"{name}: {error} > {allowed[name]}"
