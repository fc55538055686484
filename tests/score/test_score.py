"""Scores: every parametrisation against every other, preconditioning, both ends of time in float32."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import LINEAR, plane_mixture, single_times
from jaxtyping import Array

import scorefp as sfp
from scorefp._types import Event, Time
from scorefp.score import AbstractScore, NetworkScore
from scorefp.sde import AbstractLinearSDE

pytestmark = pytest.mark.usefixtures("x64")

NETWORKS: dict[str, Callable[..., NetworkScore]] = {
    "noise": sfp.NoiseScore,
    "denoiser": sfp.DenoiserScore,
    "velocity": sfp.VelocityScore,
    "EDM": sfp.EDMScore,
}
KINDS = [(name, bare) for name in NETWORKS for bare in (False, True) if (name, bare) != ("EDM", True)]
"""Every parametrisation, preconditioned and bare; EDM is preconditioned by definition."""

STD = 0.7


def target_of(name: str, score: sfp.score.AbstractScore, t: Array, x: Array) -> Array:
    """What a network of a kind is trained to return."""
    return {"noise": score.noise, "denoiser": score.denoise, "velocity": score.velocity, "EDM": score.denoise}[name](
        t, x
    )


def regression(name: str, sde: AbstractLinearSDE, t: Array) -> tuple[Array, Array, Array]:
    """The linear regression of a target on `x_t` for data `N(0, STD^2)`, from the three covariances.

    Its slope, the standard deviation of what it leaves, and that of `x_t`.
    """
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    clean, noise = {
        "noise": (0.0, 1.0),
        "denoiser": (1.0, 0.0),
        "EDM": (1.0, 0.0),
        "velocity": (-sigma, alpha),
    }[name]
    variance = alpha**2 * STD**2 + sigma**2
    covariance = clean * alpha * STD**2 + noise * sigma
    left = clean**2 * STD**2 + noise**2 - covariance**2 / variance
    return covariance / variance, jnp.sqrt(left), jnp.sqrt(variance)


def rebuilt(name: str, bare: bool, score: sfp.score.AbstractScore, at: Array) -> NetworkScore:
    """The same score at the time `at`, held as the network of another parametrisation; NaN at any other time."""
    sde = score.sde
    assert isinstance(sde, AbstractLinearSDE)
    if bare:
        return NETWORKS[name](lambda t, x: jnp.where(t == at, target_of(name, score, t, x), jnp.nan), sde, None)
    slope, left, std = regression(name, sde, at)

    def network(c_noise: Array, scaled: Array) -> Array:
        x = scaled * std  # undo what the class does to the input, and then to the target
        right = jnp.abs(c_noise - 0.25 * jnp.log(sde.sigma(at) / sde.alpha(at))) < 1e-12
        return jnp.where(right, (target_of(name, score, at, x) - slope * x) / left, jnp.nan)

    return NETWORKS[name](network, sde, STD)


class Frozen(eqx.Module):
    """The predictions of a given score and of its parametrisations, and what networks of zeros and of ones are."""

    x: Any
    alpha: Any
    given: list[Any]
    first: dict[Any, list[Any]]
    """By kind."""
    pairs: dict[Any, Any]
    """By two kinds."""
    gaussian: Any
    zero: dict[str, Any]
    """By name, as are the rest."""
    target_of_zero: dict[str, Any]
    target_of_one: dict[str, Any]
    regression: dict[str, tuple[Any, Any, Any]]


@functools.cache
def frozen() -> Frozen:
    """For all linear SDEs at five times at once: with one whose two functions are the numbers that a member has there.

    The times leave out a hundredth of the log-SNR at both ends, where the conversions themselves divide by what is
    nearly zero.
    """
    t, log_alpha, log_sigma = [], [], []
    for make in LINEAR.values():
        sde = make()
        ends = sde.log_snr(jnp.array([sde.t0, sde.t1]))
        at = sde.time_of_log_snr(ends[0] + (ends[1] - ends[0]) * jnp.linspace(0.01, 0.99, 5))
        t, log_alpha, log_sigma = [*t, at], [*log_alpha, sde.log_alpha(at)], [*log_sigma, sde.log_sigma(at)]

    def predictions(score: sfp.score.AbstractScore, t: Array, x: Array) -> list[Array]:
        return [score(t, x), score.noise(t, x), score.denoise(t, x), score.velocity(t, x)]

    @jax.jit
    @jax.vmap
    def everything(t: Array, log_alpha: Array, log_sigma: Array, x: Array) -> Frozen:
        sde = sfp.LinearSDE(lambda t: log_alpha + 0 * t, lambda t: log_sigma + 0 * t, t0=0.0, t1=100.0)
        total = sde.alpha(t) ** 2 + sde.sigma(t) ** 2
        x = jnp.sqrt(total) * x
        given = sfp.Score(lambda t, x: -(x + jnp.sin(3 * x) + 0.4) / total, sde)
        first = {kind: rebuilt(*kind, given, t) for kind in KINDS}
        zero = {name: cls(lambda c, x: jnp.zeros_like(x), sde, STD) for name, cls in NETWORKS.items()}
        one = {name: cls(lambda c, x: jnp.ones_like(x), sde, STD) for name, cls in NETWORKS.items()}
        return Frozen(
            x=x,
            alpha=sde.alpha(t),
            given=predictions(given, t, x),
            first={kind: predictions(score, t, x) for kind, score in first.items()},
            pairs={(a, b): rebuilt(*b, first[a], t)(t, x) for a in KINDS for b in KINDS},
            gaussian=-x / (sde.alpha(t) ** 2 * STD**2 + sde.sigma(t) ** 2),
            zero={name: score(t, x) for name, score in zero.items()},
            target_of_zero={name: target_of(name, score, t, x) for name, score in zero.items()},
            target_of_one={name: target_of(name, score, t, x) for name, score in one.items()},
            regression={name: regression(name, sde, t) for name in NETWORKS},
        )

    x = jr.normal(jr.key(0), (5 * len(LINEAR), 2))
    found = everything(jnp.concatenate(t), jnp.concatenate(log_alpha), jnp.concatenate(log_sigma), x)
    return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind[0]}, bare" if kind[1] else kind[0])
def test_cycles(kind: tuple[str, bool]) -> None:
    """From a score to this parametrisation, from there to each other one, and all four predictions back [P1]."""
    found = frozen()
    for got, want in zip(found.first[kind], found.given, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9)
    for other in KINDS:
        np.testing.assert_allclose(found.pairs[kind, other], found.given[0], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_zeros_is_the_score_of_a_gaussian(name: str) -> None:
    """Of N(0, STD^2) diffused [X2]."""
    np.testing.assert_allclose(frozen().zero[name], frozen().gaussian, rtol=1e-10)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_left_with_unit_variance(name: str) -> None:
    """The class does the linear regression, and a unit of the network's value is a standard deviation of the rest.

    So the network's own target has unit variance. Its input has, too: the cycles above undo the division by the
    standard deviation of `x_t`.
    """
    found = frozen()
    slope, left, _ = (value[:, None] for value in found.regression[name])
    zero, one, x = found.target_of_zero[name], found.target_of_one[name], found.x
    # A difference of predictions: digits are lost where one of them is much larger than what is left.
    size = np.abs(zero) + np.abs(x) * (1 + 1 / found.alpha[:, None])
    assert np.all(np.abs(zero - slope * x) <= 1e-13 * size)
    assert np.all(np.abs(one - zero - left) <= 1e-8 * left + 1e-13 * size)


def wavy(c_noise: Array, x: Array) -> Array:
    """A smooth network of unit size."""
    return jnp.sin(2 * x + c_noise) + 0.3 * jnp.roll(x, 1)


@pytest.mark.quick
def test_karras_preconditioning() -> None:
    """Table 1 of Karras 2022 as printed, on the process it was made for, and on x / alpha for another [P1]."""
    x = jnp.array([0.3, -1.1])

    def printed(x: Array, sigma: Array) -> Array:
        c_skip = STD**2 / (sigma**2 + STD**2)
        c_out = sigma * STD / jnp.sqrt(sigma**2 + STD**2)
        c_in = 1 / jnp.sqrt(sigma**2 + STD**2)
        return c_skip * x + c_out * wavy(jnp.log(sigma) / 4, c_in * x)

    for sde in (sfp.EDM(), sfp.VP()):
        for t in (0.01, 0.6):
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            want = printed(x / alpha, jnp.asarray(sigma / alpha))
            for cls in (sfp.EDMScore, sfp.DenoiserScore):
                np.testing.assert_allclose(cls(wavy, sde, STD).denoise(t, x), want, rtol=1e-12)
    assert sfp.EDMScore(wavy, sfp.EDM()).data_std == 0.5


class Predictions(eqx.Module):
    """Noise and denoised sample by kind, at samples and times."""

    noise: dict[str, Any]
    denoised: dict[str, Any]
    x: Any
    alpha: Any
    sigma: Any


@functools.cache
def table() -> dict[str, dict[str, Predictions]]:
    """Preconditioned scores of every kind on every SDE, at five times from t0 to t1, compiled together."""
    members = {name: make() for name, make in LINEAR.items()}
    inputs = {}
    for name, sde in members.items():
        t = single_times(sde)
        std = np.hypot(np.asarray(sde.alpha(t)) * STD, np.asarray(sde.sigma(t)))
        x = (std[:, None] * np.random.default_rng(0).normal(size=(t.size, 2))).astype(np.float32)
        inputs[name] = t, jnp.asarray(x, jnp.float64)

    def at_all(sde: AbstractLinearSDE, dtype: Any, t: Array, x: Array) -> Predictions:
        def at(t: Array, x: Array) -> Predictions:
            scores = {name: cls(wavy, sde, STD) for name, cls in NETWORKS.items()}
            noise, denoised = ({name: getattr(s, f)(t, x) for name, s in scores.items()} for f in ("noise", "denoise"))
            return Predictions(noise, denoised, x, sde.alpha(t), sde.sigma(t))

        return jax.vmap(at)(t.astype(dtype), x.astype(dtype))

    @jax.jit
    def everything(inputs: Any) -> Any:
        return {
            name: {dtype: at_all(sde, dtype, *inputs[name]) for dtype in ("float32", "float64")}
            for name, sde in members.items()
        }

    return jax.tree.map(np.asarray, everything(inputs))


@pytest.mark.quick
@pytest.mark.parametrize("name", LINEAR)
def test_float32_at_both_ends(name: str) -> None:
    """A few units of round-off at every time from t0 to t1, of the noise prediction, which is of unit size everywhere.

    The score is that divided by sigma. The denoiser is divided by alpha: its error is that of `x / alpha`.
    """
    single, double = table()[name]["float32"], table()[name]["float64"]
    alpha, sigma, x = double.alpha[:, None], double.sigma[:, None], np.abs(double.x)
    units = 16 * np.finfo(np.float32).eps
    for kind in NETWORKS:
        noise, denoised = single.noise[kind], single.denoised[kind]
        exact_noise, exact_denoised = double.noise[kind], double.denoised[kind]
        assert noise.dtype == denoised.dtype == np.float32
        assert np.abs(exact_noise).max() < 5
        assert np.all(np.abs(noise - exact_noise) <= units), kind
        assert np.all(np.abs(denoised - exact_denoised) <= units * (x + sigma) / alpha), kind


@pytest.mark.quick
def test_a_bare_denoiser_loses_digits() -> None:
    """The control of the test above: in float32 near t0 its conversion cancels, the preconditioned one does not."""
    sde, t = sfp.VP(), jnp.float32(1e-5)
    x = jnp.array([0.3, -1.2], jnp.float32)
    exact = sfp.DenoiserScore(wavy, sde, STD)
    # The same denoiser, rounded to float32 at its output only.
    bare = sfp.DenoiserScore(lambda t, x: exact.denoise(t.astype(float), x.astype(float)), sde, None)
    want = exact.noise(t.astype(float), x.astype(float))
    assert float(jnp.abs(bare.noise(t, x) - want).max()) > 1e-5
    assert float(jnp.abs(exact.noise(t, x) - want).max()) < 2e-6


def test_array_of_standard_deviations() -> None:
    """One standard deviation a coordinate: a zero network is the score of N(0, diag(std^2)) diffused."""
    std, sde = jnp.array([0.3, 2.0]), sfp.VP()
    x = jnp.array([0.4, -1.5])
    exact = -x / (sde.alpha(0.3) ** 2 * std**2 + sde.sigma(0.3) ** 2)
    for cls in NETWORKS.values():
        np.testing.assert_allclose(cls(lambda c, x: jnp.zeros_like(x), sde, std)(0.3, x), exact, rtol=1e-12)


@pytest.mark.quick
def test_bound_arguments_reach_the_function() -> None:
    """Only what is bound is passed, to functions, potentials and networks alike."""
    sde, x, key = sfp.VP(), jnp.array([1.0, 2.0]), jr.key(0)

    def field(t: Any, x: Array, **bound: Any) -> Array:
        extra = 0.0 if "key" not in bound else jr.normal(bound["key"], x.shape)
        return bound.get("args", 1.0) * x + extra

    def energy(t: Any, x: Array, **bound: Any) -> Array:
        return 0.5 * jnp.sum(x * field(t, x, **bound))

    noise = jr.normal(key, x.shape)
    score = sfp.Score(field, sde)
    np.testing.assert_array_equal(score(0.5, x), x)
    np.testing.assert_array_equal(score.bind(args=3.0)(0.5, x), 3 * x)
    np.testing.assert_array_equal(score.bind(args=3.0, key=key)(0.5, x), 3 * x + noise)
    np.testing.assert_array_equal(score.bind(args=3.0).bind(key=key)(0.5, x), 3 * x + noise)
    np.testing.assert_array_equal(score.bind(args=2.0, key=key).bind(args=3.0)(0.5, x), 3 * x + noise)
    potential = sfp.Potential(energy, sde).bind(args=3.0, key=key)
    np.testing.assert_allclose(potential(0.5, x), 3 * x + 0.5 * noise, rtol=1e-14)
    for cls in (sfp.NoiseScore, sfp.DenoiserScore, sfp.VelocityScore):
        bare, bound = (cls(f, sde, None) for f in (lambda t, x: 3 * x + noise, field))
        np.testing.assert_allclose(bound.bind(args=3.0, key=key)(0.5, x), bare(0.5, x), rtol=1e-14)
    # A mixture has nothing to bind.
    exact = plane_mixture().score(sde)
    assert exact.bind(args=3.0, key=key) is exact


@pytest.mark.quick
def test_dtype_of_a_network_is_cast() -> None:
    """A network in bfloat16 gives a score in the dtype of the sample."""
    sde = sfp.VP()
    half = lambda c, x: x.astype(jnp.bfloat16)
    for dtype in (jnp.float32, jnp.float64):
        x = jnp.array([0.5, -2.0], dtype)
        for cls in NETWORKS.values():
            got, want = cls(half, sde, STD)(0.5, x), cls(lambda c, x: x, sde, STD)(0.5, x)
            assert got.dtype == dtype
            np.testing.assert_allclose(got, want, rtol=2**-7)
        assert sfp.Score(half, sde)(0.5, x).dtype == dtype
        potential = sfp.Potential(lambda t, x: jnp.sum(half(t, x)), sde)
        assert potential.potential(0.5, x).dtype == dtype
        assert potential(0.5, x).dtype == dtype


@pytest.mark.quick
def test_a_potential_is_a_score() -> None:
    x = jnp.array([[0.3, -0.2]])
    energy = lambda t, x: t * jnp.sum(jnp.sin(x)) + x[0, 0] * x[0, 1]
    potential = sfp.Potential(energy, sfp.VP(), shape=(1, 2))
    np.testing.assert_allclose(potential(0.4, x), 0.4 * jnp.cos(x) + x[:, ::-1], rtol=1e-14)
    np.testing.assert_allclose(potential.potential(0.4, x), energy(0.4, x), rtol=1e-14)
    assert isinstance(potential, sfp.score.AbstractScore)
    assert potential.shape == (1, 2)
    assert sfp.Score(energy, sfp.VP()).shape is None


POTENTIALS = {cls.__name__: cls for cls in (sfp.DistancePotential, sfp.InnerPotential)}


@pytest.mark.quick
@pytest.mark.parametrize("name", POTENTIALS)
def test_energies_around_a_network(name: str) -> None:
    """[P2]: a network of zeros is the normalised Gaussian [X2]; bare, the formula; the offset moves no score."""
    cls, sde, x = POTENTIALS[name], sfp.SubVP(), jnp.array([0.7, -0.4])
    gaussian = sfp.GaussianMixture(jnp.zeros((1, 2)), jnp.array([STD**2]), jnp.ones(1)).score(sde)
    still, network = (lambda c, x: jnp.zeros_like(x)), (lambda t, x: jnp.sin(x[::-1]) + t)

    @jax.jit
    def everything(t: Array) -> dict[str, Any]:
        n = network(t, x)
        return {
            "zero": (cls(still, sde, STD).potential(t, x), gaussian.potential(t, x)),
            "zero, one deviation an entry": (
                cls(still, sde, jnp.full(2, STD)).potential(t, x),
                gaussian.potential(t, x),
            ),
            "bare": (
                cls(network, sde, None).potential(t, x),
                {
                    "DistancePotential": -0.5 * jnp.sum((x - n) ** 2) / sde.sigma(t) ** 2,
                    "InnerPotential": jnp.sum(x * n),
                }[name],
            ),
            "offset": (
                cls(still, sde, STD, jnp.sin).potential(t, x),
                gaussian.potential(t, x) + jnp.sin(0.25 * jnp.log(sde.sigma(t) / sde.alpha(t))),
            ),
            "score": (cls(network, sde, STD, jnp.sin)(t, x), cls(network, sde, STD)(t, x)),
            "derivatives": (
                cls(network, sde).derivatives(t, x),
                (
                    cls(network, sde).potential(t, x),
                    sfp.time_derivative(cls(network, sde).potential, t, x),
                    jax.jacfwd(lambda x: cls(network, sde).potential(t, x))(x),
                ),
            ),
        }

    for t in (sde.t0, 0.3, sde.t1):
        for case, (got, want) in everything(jnp.asarray(t)).items():
            jax.tree.map(lambda a, b, case=case: np.testing.assert_allclose(a, b, rtol=1e-9, err_msg=case), got, want)


@pytest.mark.quick
@pytest.mark.parametrize("name", POTENTIALS)
def test_the_network_of_an_energy_is_what_a_score_needs(name: str) -> None:
    """A mixture of two points, whose noise prediction has unit size at every time, asks the same of the network."""
    sde, x = sfp.VP(), jnp.array([0.7, -0.4])
    grown = POTENTIALS[name](lambda c, y: jnp.ones_like(y), sde, STD)
    still = POTENTIALS[name](lambda c, y: jnp.zeros_like(y), sde, STD)
    t = jnp.array([sde.t0, 1e-3, 0.1, 0.5])
    share = jax.jit(jax.vmap(lambda t: sde.sigma(t) * jnp.linalg.norm(grown(t, x) - still(t, x)) / sde.alpha(t)))(t)
    np.testing.assert_array_less(share, 5)
    np.testing.assert_array_less(0.2, share)


@pytest.mark.quick
def test_flows_of_a_score() -> None:
    """`probability_flow` and `reverse_drift` [S6], by hand for VP."""
    sde, x, t = sfp.VP(), jnp.array([0.3, -0.2]), 0.3
    score = sfp.Score(lambda t, x: -2 * x, sde)
    beta = 0.1 + 19.9 * t
    np.testing.assert_allclose(score.probability_flow(t, x), -0.5 * beta * x + beta * x, rtol=1e-13)
    np.testing.assert_allclose(score.reverse_drift(t, x), -0.5 * beta * x + 2 * beta * x, rtol=1e-13)


class Scaled(eqx.Module):
    """A network without weights, which a `jit` of JAX takes as an argument."""

    def __call__(self, t: Array, x: Array, *, args: Array) -> Array:
        return -x / args


class Mean(AbstractScore):
    """The mean of some scores, with an `__init__` of its own."""

    parts: tuple[AbstractScore, ...]
    spare: AbstractScore | None
    times: int
    sde: sfp.sde.AbstractSDE
    shape: tuple[int, ...] | None = eqx.field(static=True)

    conditions: ClassVar[tuple[str, ...]] = ("parts", "spare")

    def __init__(self, *parts: AbstractScore) -> None:
        self.parts, self.spare, self.times, self.sde, self.shape = parts, None, 1, parts[0].sde, None

    def __call__(self, t: Time, x: Event) -> Event:
        assert self.spare is None
        return self.times * sum((part(t, x) for part in self.parts), jnp.zeros_like(x)) / len(self.parts)


def test_bind_reaches_scores_in_a_tuple() -> None:
    family, x = sfp.Score(Scaled(), sfp.VP()), jnp.array([2.0])
    for wrap in (lambda fn: fn, jax.jit):
        value = wrap(lambda score, args: score.bind(args=args)(0.5, x))(Mean(family.bind(args=1.0), family), 4.0)
        assert float(value[0]) == -0.5


def test_functions_of_any_arguments_are_taken() -> None:
    functions: list[Callable[..., Array]] = [lambda *args: -args[1], lambda t, *args: -args[0], lambda t, x, *key: -x]
    for fn in functions:
        assert float(sfp.Score(fn, sfp.VP())(0.5, jnp.array([2.0]))[0]) == -2.0


def test_velocity_of_flow_matching() -> None:
    """That of a normal law gives its score, likelihood and samples; read as Salimans' velocity it gives others."""
    sde = sfp.LinearSDE(lambda t: jnp.log1p(-t), jnp.log, t0=1e-3, t1=0.999)
    variance = lambda t: 0.49 * (1 - t) ** 2 + t**2
    flow = lambda t, x: (t - 0.49 * (1 - t)) / variance(t) * x  # E[ε - x_0 | x_t]
    x = jnp.array([0.4, -1.1])
    law = -0.5 * jnp.sum(x**2) / variance(sde.t0) - jnp.log(2 * jnp.pi * variance(sde.t0))

    def errors(target: sfp.score.Target) -> list[float]:
        score = NetworkScore(flow, sde, target, data_std=None)
        times = jnp.array([0.01, 0.3, 0.9])
        scores = jax.vmap(lambda t: score(t, x) * variance(t) / x + 1)(times)
        samples = sfp.sample(score, 4000, key=jr.key(0), method=sfp.EulerMaruyama(128), shape=(2,))
        return [abs(float(e)) for e in (jnp.abs(scores).max(), sfp.log_likelihood(score, x) - law, samples.std() - 0.7)]

    assert np.all(np.array(errors(lambda sde, t: (-1.0, 1.0))) < (1e-4, 1e-3, 0.02))
    assert np.all(np.array(errors(sfp.score.velocity_target)) > (0.1, 0.1, 0.1))
