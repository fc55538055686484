"""Forward processes: closed forms against derivatives, both precisions, composition, moments and simulation."""

import functools
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
import scipy.stats
from helpers.gaussian import black_scholes
from helpers.linear_case import beta, exponent
from helpers.references import LINEAR, assert_mean, single_times
from jaxtyping import Array

import scorefp as sfp
from scorefp.sde import (
    AbstractLinearSDE,
    AbstractSDE,
    CriticallyDampedLangevin,
    Normal,
)

pytestmark = pytest.mark.usefixtures("x64")

FUNCTIONS = ("log_alpha", "log_sigma", "alpha", "sigma", "rate", "g2", "log_snr")


def slope(fn: Callable[[Array], Array], t: Array) -> Array:
    return jax.jvp(fn, (t,), (jnp.ones_like(t),))[1]


def curves(sde: AbstractLinearSDE, t: Array) -> dict[str, Array]:
    """All functions of time, with derivatives by autodiff, and transitions between neighbours."""
    found = {name: getattr(sde, name)(t) for name in FUNCTIONS}
    found |= {f"{name}'": slope(getattr(sde, name), t) for name in FUNCTIONS}
    found["variance'"] = slope(lambda t: sde.sigma(t) ** 2, t)
    found["time_of_log_snr"] = sde.time_of_log_snr(found["log_snr"])
    found["time_of_log_snr'"] = slope(sde.time_of_log_snr, found["log_snr"])
    found["scale"], found["std"] = sde.transition(t[:-1], t[1:])
    found["scale of two"], found["std of two"] = sde.transition(t[:-2], t[2:])
    found["t"] = t
    return found


def as_functions(sde: AbstractLinearSDE) -> sfp.LinearSDE:
    """The linear SDE made from a member's two functions."""
    return sfp.LinearSDE(sde.log_alpha, sde.log_sigma, t0=sde.t0, t1=sde.t1)


@functools.cache
def tables() -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """`curves` of every linear SDE, compiled together: in float64, in float32, and of `as_functions`."""
    members = {name: make() for name, make in LINEAR.items()}
    at = {name: single_times(sde, 9) for name, sde in members.items()}

    @jax.jit
    def everything(at: dict[str, Array]) -> Any:
        return {
            "float64": {name: curves(sde, at[name]) for name, sde in members.items()},
            "float32": {name: curves(sde, at[name].astype(jnp.float32)) for name, sde in members.items()},
            "as functions": {name: curves(as_functions(sde), at[name]) for name, sde in members.items()},
        }

    return jax.tree.map(np.asarray, everything(at))


PRINTED: dict[str, Callable[[np.ndarray], tuple[Any, Any, Any]]] = {
    # alpha, sigma, g^2 as [S4] prints them.
    "VE": lambda t: (1.0, 0.01 * 5000.0**t, 0.01**2 * 5000.0 ** (2 * t) * 2 * np.log(5000.0)),
    "VE from zero": lambda t: (
        1.0,
        0.01 * np.sqrt(5000.0 ** (2 * t) - 1),
        0.01**2 * 5000.0 ** (2 * t) * 2 * np.log(5000.0),
    ),
    "VP": lambda t: (np.exp(-exponent(t) / 2), np.sqrt(1 - np.exp(-exponent(t))), beta(t)),
    "SubVP": lambda t: (np.exp(-exponent(t) / 2), 1 - np.exp(-exponent(t)), beta(t) * (1 - np.exp(-2 * exponent(t)))),
    "OU": lambda t: (np.exp(-t), np.sqrt((1 - np.exp(-2 * t)) / 2), 1.0),
    "EDM": lambda t: (1.0, t, 2 * t),
    "Cosine": lambda t: (np.cos(np.pi * t / 2), np.sin(np.pi * t / 2), np.pi * np.tan(np.pi * t / 2)),
    "LinearSDE": lambda t: (1 / (1 + t), t, 2 * t + 2 * t**2 / (1 + t)),
    # Through the values of VP, whose log alpha is a parabola: a cubic spline has it exactly.
    "DiscreteSDE": lambda t: PRINTED["VP"](t),
}


@pytest.mark.quick
@pytest.mark.parametrize("name", LINEAR)
def test_printed_formulas(name: str) -> None:
    table = tables()["float64"][name]
    for function, want in zip(("alpha", "sigma", "g2"), PRINTED[name](table["t"]), strict=True):
        # The printed `1 - exp` itself has no more digits than this near t0.
        np.testing.assert_allclose(table[function], want + 0 * table["t"], rtol=1e-9, err_msg=function)


@pytest.mark.parametrize("name", LINEAR)
def test_closed_forms_agree_with_derivatives(name: str) -> None:
    """[S2], [S7]."""
    table = tables()["float64"][name]
    np.testing.assert_allclose(table["rate"], table["log_alpha'"], rtol=1e-11)
    np.testing.assert_allclose(table["alpha"], np.exp(table["log_alpha"]), rtol=1e-14)
    np.testing.assert_allclose(table["sigma"], np.exp(table["log_sigma"]), rtol=1e-14)
    drained = 2 * table["rate"] * table["sigma"] ** 2
    error = np.abs(table["g2"] - (table["variance'"] - drained))
    assert np.all(error <= 1e-11 * (np.abs(table["variance'"]) + np.abs(drained)))
    np.testing.assert_allclose(table["log_snr'"], -table["g2"] / table["sigma"] ** 2, rtol=1e-10)
    assert np.all(np.diff(table["log_snr"]) < 0)


def test_an_end_that_was_rounded_to_float32_is_in_the_horizon() -> None:
    """In float64 it may lie a little outside: both of a score and of what is measured."""
    exact, x = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.ones(2)
    for end in (np.float32(exact.sde.t0), np.float32(sfp.Cosine().t1)):
        sde = sfp.VP() if end < 0.5 else sfp.Cosine()
        score = sfp.Score(lambda t, x: -x, sde)
        assert bool(jnp.isfinite(sfp.score_fpe_residual(score, end, x)).all())
        assert bool(jnp.isfinite(sde.perturb(end, x, x)).all())
    with pytest.raises(ValueError, match="outside"):
        sfp.VP().perturb(0.99 * sfp.VP().t0, x, x)


@pytest.mark.usefixtures("unchecked")
def test_times_in_a_list_may_be_traced() -> None:
    np.testing.assert_array_equal(jax.jit(lambda t: sfp.VP().alpha([t, t]))(0.5), sfp.VP().alpha([0.5, 0.5]))


@pytest.mark.parametrize("name", LINEAR)
def test_time_of_log_snr_inverts(name: str) -> None:
    table = tables()["float64"][name]
    np.testing.assert_allclose(table["time_of_log_snr"], table["t"], rtol=1e-11)


@pytest.mark.parametrize("name", LINEAR)
def test_two_functions_define_the_process(name: str) -> None:
    member, general = tables()["float64"][name], tables()["as functions"][name]
    for function in member:
        np.testing.assert_allclose(general[function], member[function], rtol=1e-10, atol=1e-12, err_msg=function)


@pytest.mark.quick
@pytest.mark.parametrize("name", LINEAR)
def test_float32(name: str) -> None:
    """Within the round-off that a function's own condition allows.

    A logarithm has an absolute error; an exponential of one the same in relative terms; and `|x f'(x)|` counts too,
    since the argument is rounded.
    """
    exact, single = tables()["float64"][name], tables()["float32"][name]
    for function in (*FUNCTIONS, "time_of_log_snr"):
        want, rise = exact[function], exact[f"{function}'"]
        argument = exact["log_snr"] if function == "time_of_log_snr" else exact["t"]
        if function.startswith("log"):
            size = 1 + np.abs(want)
        else:
            size = np.abs(want) * (1 + np.abs(np.log(np.where(want == 0, 1, np.abs(want)))))
        allowed = 8 * np.finfo(np.float32).eps * (size + np.abs(argument * rise))
        assert single[function].dtype == np.float32, function
        error = np.abs(single[function] - want)
        assert np.all(error <= allowed), f"{function}: {error} > {allowed}"


@pytest.mark.quick
@pytest.mark.parametrize("make", [sfp.VP, sfp.SubVP, sfp.OU], ids=lambda make: make.__name__)
def test_sigma_near_zero(make: Callable[..., AbstractLinearSDE]) -> None:
    """[S5]: at t = 1e-5 in float32; the control is one minus an exponential."""
    sde, t = make(t0=1e-5), np.float32(1e-5)
    sigma = float(sde.sigma(jnp.asarray(t, jnp.float32)))
    want = float(sde.sigma(jnp.asarray(t, jnp.float64)))
    assert abs(sigma / want - 1) < 1e-5
    alpha = np.float32(sde.alpha(jnp.asarray(t, jnp.float32)))
    if make is sfp.SubVP:
        naive = 1 - alpha**2
    elif make is sfp.VP:
        naive = np.sqrt(1 - alpha**2)
    else:
        naive = np.sqrt((1 - alpha**2) / np.float32(2))
    # The exponent is 1e-6 for VP and sub-VP, where float32 has one digit left, and 2e-5 for OU.
    assert abs(naive / want - 1) > (1e-4 if make is sfp.OU else 1e-2)


@pytest.mark.parametrize("name", LINEAR)
def test_transitions_compose(name: str) -> None:
    """Chapman–Kolmogorov, and the kernel as the transition from a clean sample [S3]."""
    table = tables()["float64"][name]
    scale, std = table["scale"], table["std"]
    np.testing.assert_allclose(table["scale of two"], scale[1:] * scale[:-1], rtol=1e-12)
    np.testing.assert_allclose(table["std of two"] ** 2, scale[1:] ** 2 * std[:-1] ** 2 + std[1:] ** 2, rtol=1e-11)
    np.testing.assert_allclose(table["alpha"][1:], scale * table["alpha"][:-1], rtol=1e-12)
    np.testing.assert_allclose(table["sigma"][1:] ** 2, scale**2 * table["sigma"][:-1] ** 2 + std**2, rtol=1e-11)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("make", "t0", "want"),
    [
        (sfp.VP, 1e-5, 23.86447),
        (sfp.VP, 1e-2, 16.26607),
        (sfp.SubVP, 1e-5, 37.67895),
        (sfp.SubVP, 1e-2, 22.48414),
    ],
)
def test_published_normalisers(make: Callable[..., AbstractLinearSDE], t0: float, want: float) -> None:
    """Z of importance sampling on [t0, 1] (Song 2021, App.) [H2]."""
    sde = make(t0=t0)
    assert abs(float(sde.log_snr(sde.t0) - sde.log_snr(sde.t1)) - want) < 5e-6 * 1.01


def test_moments_solve_their_equations() -> None:
    """`m' = a m`, `V' = 2 a V + g^2` from the kernel at t0, all SDEs in one solve over the share of the horizon."""
    members = [make() for make in LINEAR.values()]
    # The rate of Cosine has its pole next to t1, so the shares are those of the whole horizon but its last percent.
    ends = [(sde.t0, sde.t1 - 0.01 * (sde.t1 - sde.t0)) for sde in members]

    def field(share: Array, state: Array, _: None) -> Array:
        rates = []
        for sde, (first, last), (mean, variance) in zip(members, ends, state, strict=True):
            t = first + share * (last - first)
            a = sde.rate(t)
            rates.append((last - first) * jnp.stack([a * mean, 2 * a * variance + sde.g2(t)]))
        return jnp.stack(rates)

    def kernel(end: int) -> Array:
        return jnp.stack(
            [jnp.stack([s.alpha(e[end]), s.sigma(e[end]) ** 2]) for s, e in zip(members, ends, strict=True)]
        )

    @jax.jit
    def both() -> tuple[Array, Array]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(field),
            diffrax.Tsit5(),
            0.0,
            1.0,
            None,
            kernel(0),
            stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-12),
            max_steps=20_000,
        )
        return solution.ys[-1], kernel(1)

    found, want = both()
    np.testing.assert_allclose(found, want, rtol=1e-7)


@pytest.mark.quick
def test_perturb_is_the_kernel() -> None:
    sde = sfp.VP()
    x0, noise = jnp.ones((2, 3)), jnp.full((2, 3), 0.5)
    want = np.exp(-exponent(0.3) / 2) + 0.5 * np.sqrt(1 - np.exp(-exponent(0.3)))
    np.testing.assert_allclose(sde.perturb(0.3, x0, noise), np.full((2, 3), want), rtol=1e-12)


# ------------------------------------------------------------------------------------------ general G


def entangled() -> sfp.GeneralSDE:
    """Two noises, two coordinates, a diffusion that mixes both."""

    def diffusion(t: Array, x: Array) -> lx.AbstractLinearOperator:
        return lx.MatrixLinearOperator(jnp.array([[1.0, jnp.sin(x[1])], [x[0] * x[1], 0.5 + t]]))

    return sfp.GeneralSDE(lambda t, x: jnp.sin(x) - t * x, diffusion, Normal(1.0), t0=0.0, t1=1.0)


CASES: dict[str, tuple[Callable[[], AbstractSDE], tuple[int, ...]]] = {
    "VP ()": (sfp.VP, ()),
    "VE (3,)": (sfp.VE, (3,)),
    "EDM (2, 2, 2)": (sfp.EDM, (2, 2, 2)),
    "GBM": (lambda: black_scholes()[0], (2,)),
    "CLD": (CriticallyDampedLangevin, (2, 3)),
    "GeneralSDE": (entangled, (2,)),
}


@pytest.mark.parametrize("case", CASES)
def test_diffusion_and_its_covariance(case: str) -> None:
    """The covariance and its row divergence against the dense matrix of the operator; the flows [S6] hold both."""
    make, shape = CASES[case]
    sde = make()
    size = int(np.prod(shape))
    x = 1.2 + 0.3 * jnp.cos(jnp.arange(size, dtype=float)).reshape(shape)
    v = jnp.sin(1 + jnp.arange(size, dtype=float)).reshape(shape)
    score = jnp.cos(2 + jnp.arange(size, dtype=float)).reshape(shape)
    t = jnp.asarray(0.4)

    def matrix(x: Array) -> Array:
        operator = sde.diffusion(t, x)
        flat = jax.jacfwd(operator.mv)(jnp.zeros(operator.in_structure().shape))
        flat = flat.reshape(size, -1)
        return flat @ flat.T

    @jax.jit
    def both(x: Array) -> tuple[Any, Any]:
        covariance = matrix(x)
        rows = jnp.einsum("ijj->i", jax.jacfwd(matrix)(x).reshape(size, size, size)).reshape(shape)
        pushed = (covariance @ score.ravel()).reshape(shape)
        got = (
            sde.covariance(t, x, v),
            sde.covariance_divergence(t, x),
            sde.probability_flow(t, x, score),
            sde.reverse_drift(t, x, score),
        )
        want = (
            (covariance @ v.ravel()).reshape(shape),
            rows,
            sde.drift(t, x) - 0.5 * rows - 0.5 * pushed,
            sde.drift(t, x) - rows - pushed,
        )
        return got, want

    got, want = both(x)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    if case in {"GBM", "GeneralSDE"}:
        assert float(jnp.abs(want[1]).min()) > 0.1


def test_black_scholes_as_a_general_sde() -> None:
    """The closed forms of the member against autodiff through the general class."""
    gbm, _ = black_scholes()
    general = sfp.GeneralSDE(gbm.drift, gbm.diffusion, Normal(1.0), t0=gbm.t0, t1=gbm.t1)
    x, v = jnp.array([0.7, 1.9]), jnp.array([-0.4, 1.1])

    @jax.jit
    def all_of(x: Array) -> tuple[tuple[Array, ...], ...]:
        return tuple(
            (sde.drift(0.3, x), sde.covariance(0.3, x, v), sde.covariance_divergence(0.3, x)) for sde in (gbm, general)
        )

    for a, b in zip(*all_of(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)


@pytest.mark.quick
def test_critically_damped() -> None:
    r"""The drift's matrix has a double eigenvalue, which is what critical damping means, and
    $\mathcal N(0, I)\otimes\mathcal N(0, M I)$ is stationary: $A P + P A^\top + Q = 0$."""
    sde = CriticallyDampedLangevin(beta=3.0, mass=0.6)
    drift = np.asarray(jax.jacfwd(lambda x: sde.drift(0.5, x[:, None])[:, 0])(jnp.zeros(2)))
    eigenvalues = np.linalg.eigvals(drift)
    assert abs(eigenvalues[0] - eigenvalues[1]) < 1e-6
    noise = np.diag(np.asarray(sde.covariance(0.5, jnp.zeros((2, 1)), jnp.ones((2, 1))))[:, 0])
    stationary = np.diag([1.0, 0.6])
    np.testing.assert_allclose(drift @ stationary + stationary @ drift.T + noise, 0, atol=1e-12)
    np.testing.assert_allclose(np.asarray(sde.prior.scale)[:, 0] ** 2, [1.0, 0.6], rtol=1e-12)


# ------------------------------------------------------------------------------------------ priors


@pytest.mark.quick
@pytest.mark.parametrize(
    ("make", "shape"), [(sfp.EDM, (3,)), (sfp.OU, ()), (CriticallyDampedLangevin, (2, 3))], ids=["EDM", "OU", "CLD"]
)
def test_prior(make: Callable[[], AbstractSDE], shape: tuple[int, ...]) -> None:
    sde = make()
    prior = sde.prior
    scale = np.asarray(prior.scale) * np.ones(shape)
    if isinstance(sde, AbstractLinearSDE):
        np.testing.assert_allclose(scale, np.full(shape, float(sde.sigma(sde.t1))), rtol=1e-14)
    samples = jax.jit(jax.vmap(lambda key: prior.sample(key, shape)))(jr.split(jr.key(0), 4_000))
    assert samples.shape == (4_000, *shape)
    assert_mean((samples / scale) ** 2, np.ones(shape))
    assert_mean(1 + samples / scale, np.ones(shape))
    want = scipy.stats.norm(scale=scale).logpdf(np.asarray(samples[0])).sum()
    np.testing.assert_allclose(prior.log_prob(samples[0]), want, rtol=1e-12)


# ------------------------------------------------------------------------------------------ simulation


@eqx.filter_jit
def simulated(sde: AbstractSDE, starts: Array, t1: float, steps: int, key: Array) -> Array:
    """Euler–Maruyama by diffrax, which is given `drift` and `diffusion` as they are."""

    def one(x0: Array, key: Array) -> Array:
        path = diffrax.UnsafeBrownianPath(x0.shape, key)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda t, x, _: sde.drift(t, x)),
            diffrax.ControlTerm(lambda t, x, _: sde.diffusion(t, x), path),
        )
        dt = (t1 - sde.t0) / steps
        solution = diffrax.diffeqsolve(
            terms, diffrax.Euler(), sde.t0, t1, dt, x0, adjoint=diffrax.DirectAdjoint(), max_steps=steps + 1
        )
        return solution.ys[-1]

    return jax.vmap(one)(starts, jr.split(key, starts.shape[0]))


def test_simulated_linear_sde() -> None:
    sde, count = sfp.OU(), 4_000
    # The kernel at t0 is not yet sharp: its variance is part of that at the end.
    starts = jnp.ones((count, 2, 1, 2)) * sde.alpha(sde.t0)
    starts += sde.sigma(sde.t0) * jr.normal(jr.key(0), starts.shape)
    ends = simulated(sde, starts, 1.0, 200, jr.key(1))
    mean, variance = np.exp(-1.0), (1 - np.exp(-2.0)) / 2
    assert_mean(ends, np.full((2, 1, 2), mean), resolution=0.05)
    assert_mean((ends - mean) ** 2, np.full((2, 1, 2), variance), resolution=0.05)


def test_simulated_black_scholes() -> None:
    r"""$\log x_t \sim \mathcal N((\mu - \tfrac12\operatorname{diag}\Sigma) t, \Sigma t)$ from $x_0 = 1$.

    The diffusion depends on the state and is not symmetric.
    """
    sde, _ = black_scholes()
    ends = jnp.log(simulated(sde, jnp.ones((6_000, 2)), 0.5, 150, jr.key(2)))
    covariance = np.asarray(sde.volatility @ sde.volatility.T)
    mean = 0.5 * (np.asarray(sde.growth) - 0.5 * np.diag(covariance))
    centred = np.asarray(ends) - mean
    assert_mean(centred[:, :, None] * centred[:, None, :], 0.5 * covariance, resolution=0.05)
    assert_mean(1 + centred, np.ones(2), resolution=0.05)


def test_simulated_langevin() -> None:
    """The stationary law stays: the noise enters the velocity alone, and the position gets it all the same."""
    sde = CriticallyDampedLangevin(beta=2.0)
    starts = jnp.sqrt(jnp.array([[1.0], [0.25]])) * jr.normal(jr.key(3), (4_000, 2, 2))
    still = jnp.zeros_like(starts)
    spread = simulated(sde, starts, 0.5, 300, jr.key(4))
    grown = simulated(sde, still, 0.5, 300, jr.key(4))
    assert_mean(spread**2, np.array([[1.0, 1.0], [0.25, 0.25]]), resolution=0.05)
    duration = 0.5 - sde.t0
    drift = np.asarray(jax.jacfwd(lambda x: sde.drift(0.5, x[:, None])[:, 0])(jnp.zeros(2)))
    flow = scipy.linalg.expm(drift * duration)
    stationary = np.diag([1.0, 0.25])
    want = stationary - flow @ stationary @ flow.T
    outer = np.einsum("nid,njd->nijd", grown, grown)
    assert_mean(outer, np.repeat(want[:, :, None], 2, axis=2), resolution=0.05)
