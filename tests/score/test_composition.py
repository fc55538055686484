"""Compositions of scores: their residuals, what they sample, and what reaches their parts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.references import local
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp

SDES: dict[str, Callable[[], Any]] = {"VP": sfp.VP, "EDM": sfp.EDM, "OU": sfp.OU}

VP = sfp.VP()
MEANS, STDS, WEIGHTS = np.array([[-1.0], [1.0], [2.0]]), np.array([0.3, 0.5, 0.4]), np.array([0.5, 0.3, 0.2])
CLASSES = len(MEANS)
"""Also the label of a sample whose class is unknown."""


def mixture(seed: int, modes: int = 3) -> sfp.GaussianMixture:
    """A mixture in three dimensions, with full covariances."""
    keys = jr.split(jr.key(seed), 3)
    roots = jr.normal(keys[1], (modes, 3, 3)) / 2
    covariances = roots @ roots.mT + 0.3 * jnp.eye(3)
    weights = jax.nn.softmax(jr.normal(keys[2], (modes,)))
    return sfp.GaussianMixture(jr.normal(keys[0], (modes, 3)), covariances, weights)


class ByClass(eqx.Module):
    """The exact score of a mode of a mixture on the line by its label, and of the whole mixture by another one."""

    def __call__(self, t: Array, x: Array, *, args: Array) -> Array:
        alpha, sigma = VP.alpha(t), VP.sigma(t)
        variances = alpha**2 * STDS**2 + sigma**2
        centred = x[0] - alpha * MEANS[:, 0]
        shares = jax.nn.softmax(jnp.log(WEIGHTS) - centred**2 / (2 * variances) - jnp.log(variances) / 2)
        of_modes = -centred / variances
        return jnp.append(of_modes, shares @ of_modes)[args][None].astype(x.dtype)


FAMILY = sfp.Score(ByClass(), VP, shape=(1,))
UNCONDITIONAL = FAMILY.bind(args=CLASSES)
WHOLE = sfp.GaussianMixture(MEANS, STDS**2, WEIGHTS)


def tilted_law(label: int, strength: float) -> tuple[float, float]:
    """The mean and the standard deviation of q(x) q(c | x)^(1 + w) at t0, by quadrature."""
    x = np.linspace(-8, 8, 20_001)
    alpha, sigma = float(VP.alpha(VP.t0)), float(VP.sigma(VP.t0))
    variances = alpha**2 * STDS**2 + sigma**2
    modes = WEIGHTS * np.exp(-((x[:, None] - alpha * MEANS[:, 0]) ** 2) / (2 * variances)) / np.sqrt(variances)
    density = modes[:, label] ** (1 + strength) * modes.sum(axis=1) ** -strength
    density /= density.sum()
    mean = float(density @ x)
    return mean, float(np.sqrt(density @ (x - mean) ** 2))


# ----------------------------------------------------------------------------------------------- the residual [W2]
NEAR, FAR = np.array([0.3, 0.3, 0.3]), np.array([-0.6, 0.9, 0.2])


@jax.jit
def residuals(composed: Any, t: Array) -> tuple[Array, Array, Array, Array]:
    """The residual of the score, the gradient of the rate; the residual of the potential at one point from that at
    another, where a function of time cancels, and the same of the rate.
    """
    sde, pairs = composed.sde, list(zip(composed.exponents, composed.scores, strict=True))

    def rate(x: Array) -> Array:
        parts = jnp.stack([score(t, x) for score in composed.scores])
        total = jnp.einsum("i,id->d", composed.exponents, parts)
        return 0.5 * sde.g2(t) * (composed.exponents @ jnp.sum(parts**2, axis=1) - jnp.sum(total**2))

    def potential(t: Array, x: Array) -> Array:
        return sum(beta * score.potential(t, x) for beta, score in pairs)

    both = jnp.stack([NEAR, FAR])
    logs = jax.vmap(lambda x: sfp.log_fpe_residual(sfp.Potential(potential, sde), t, x))(both)
    rates = jax.vmap(rate)(both)
    return sfp.score_fpe_residual(composed, t, both[0]), jax.grad(rate)(both[0]), logs[0] - logs[1], rates[0] - rates[1]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", SDES)
def test_residual_is_the_gradient_of_the_rate(name: str) -> None:
    """By two routes that the composition takes no part in: the score equation, and that of log-densities."""
    t = SDES[name]().time_of_log_snr(jnp.asarray(0.7))
    sde = local(SDES[name](), t)
    one, other = (mixture(seed).score(sde) for seed in (0, 1))
    compositions: list[tuple[Any, bool]] = [
        (sfp.Annealed(one, 1.0), True),
        (sfp.Annealed(one, 1.7), False),
        (sfp.Product((one, other)), False),
        (sfp.Product((one, other), [1.7, -0.6]), False),
        (sfp.Guided(one, other, 0.0), True),
        (sfp.Guided(one, other, -1.0), True),
        (sfp.Guided(one, other, 2.5), False),
    ]
    for composed, exact in compositions:
        found = residuals(composed, t)
        scale = float(sde.g2(t))
        np.testing.assert_allclose(found[0], found[1], atol=1e-9 * scale)
        np.testing.assert_allclose(found[2], found[3], atol=1e-9 * scale)
        assert (np.abs(found[0]).max() < 1e-9 * scale) == exact
        assert exact or np.abs(found[0]).max() > 0.01 * scale
    x = jnp.asarray(NEAR)
    np.testing.assert_array_equal(sfp.Product((one,))(t, x), one(t, x))


@pytest.mark.usefixtures("x64")
def test_residual_of_a_tilt() -> None:
    """It is the gradient of [W3], and zero for the reward that leads from one law of a diffusion to another."""
    sde = sfp.VP()
    one, other = (mixture(seed).score(sde) for seed in (0, 1))
    t, x = jnp.asarray(0.3), jnp.array([-0.6, 0.9, 0.2])

    def doob(t: Array, x: Array) -> Array:
        return other.potential(t, x) - one.potential(t, x)

    def bent(t: Array, x: Array) -> Array:
        return -t * jnp.sum(jnp.cos(x)) + x[0] * x[1]

    def rate(reward: Any, x: Array) -> Array:
        slope, curvature = jax.grad(reward, 1)(t, x), jnp.trace(jax.hessian(reward, 1)(t, x))
        toward = sde.drift(t, x) @ slope - sde.g2(t) * one(t, x) @ slope
        return jax.grad(reward)(t, x) + toward - 0.5 * sde.g2(t) * (curvature + slope @ slope)

    @jax.jit
    def both(x: Array) -> list[tuple[Array, Array]]:
        return [
            (sfp.score_fpe_residual(sfp.Tilted(one, reward), t, x), jax.grad(rate, 1)(reward, x))
            for reward in (doob, bent)
        ]

    exact, other_one = both(x)
    np.testing.assert_allclose(exact[0], 0.0, atol=1e-9)
    np.testing.assert_allclose(other_one[0], other_one[1], rtol=1e-9)
    assert np.abs(other_one[0]).max() > 1
    np.testing.assert_allclose(sfp.Tilted(one, doob)(t, x), other(t, x), rtol=1e-10)


# ----------------------------------------------------------------------------------------------- what they sample
N = 9_000


def drawn(score: Any, **options: Any) -> np.ndarray:
    method = sfp.EulerMaruyama(steps=200)
    return np.asarray(sfp.sample(score, N, key=jr.key(3), method=method, **options))[:, 0]


def off(x: np.ndarray, mean: float) -> float:
    """By how many standard errors the mean of samples is off."""
    return float((x.mean() - mean) / (x.std() / np.sqrt(len(x))))


def test_conditional_samples_are_those_of_the_mode() -> None:
    """All labels from one call, also behind a guidance of strength zero, whose unconditional part keeps its own."""
    labels = jnp.arange(N) % CLASSES
    for score in (FAMILY, sfp.Guided(FAMILY, UNCONDITIONAL, 0.0)):
        x = drawn(score, args=labels)
        for label in range(CLASSES):
            mode = x[label::CLASSES]
            mean, std = tilted_law(label, 0.0)
            assert abs(off(mode, mean)) < 3
            assert abs(mode.std() / std - 1) < 3 / np.sqrt(2 * len(mode))
    mean, _ = tilted_law(0, -1.0)
    assert abs(off(drawn(sfp.Guided(FAMILY, UNCONDITIONAL, -1.0), args=labels), mean)) < 3


def test_guided_samples_are_biased() -> None:
    """They have the law of the guided reverse SDE, by its Fokker–Planck equation on a grid, and not the law that
    guidance names.
    """
    guided = sfp.Guided(FAMILY, UNCONDITIONAL, 2.0).bind(args=1)
    x = drawn(guided)
    density = sfp.fokker_planck.solve_density(
        guided, sfp.Box(-6 * jnp.ones(1), 6 * jnp.ones(1)), process="sde", cells=300
    )
    cells, mass = np.asarray(density.centres)[:, 0], density.values[-1] / density.values[-1].sum()
    mean = float(mass @ cells)
    std = float(np.sqrt(mass @ (cells - mean) ** 2))
    assert abs(off(x, mean)) < 3
    assert abs(x.std() / std - 1) < 3 / np.sqrt(2 * N)
    wanted, wanted_std = tilted_law(1, 2.0)
    assert abs(off(x, wanted)) > 6
    assert abs(x.std() / wanted_std - 1) > 0.15


# ----------------------------------------------------------------------------------------------- their parts
class Shifted(eqx.Module):
    """A network whose output is shifted by its conditioning."""

    network: sfp.nn.MLP

    def __call__(self, t: Array, x: Array, *, args: Any = 0.0, key: Any = None) -> Array:
        return self.network(t, x) + args + (0.0 if key is None else jr.normal(key, x.shape))


def model(seed: int = 0, **options: Any) -> sfp.score.NetworkScore:
    return sfp.NoiseScore(Shifted(sfp.nn.MLP((2,), width=4, depth=1, key=jr.key(seed))), VP, **options)


X = jnp.array([0.3, -0.2])


def test_conditioning_reaches_the_right_parts() -> None:
    score = model()
    one, two, three = (score.bind(args=a)(0.5, X) for a in (1.0, 2.0, 3.0))

    def near(got: Array, want: Array) -> None:
        np.testing.assert_allclose(got, want, rtol=1e-5)

    near(sfp.Guided(score, score.bind(args=2.0), 0.5).bind(args=1.0)(0.5, X), 1.5 * one - 0.5 * two)
    near(sfp.Annealed(score, 0.5).bind(args=3.0)(0.5, X), 0.5 * three)
    near(sfp.Product((score, score.bind(args=2.0))).bind(args=1.0)(0.5, X), 2 * one)
    near(sfp.Product((score.bind(args=1.0), score.bind(args=2.0)), (2.0, -1.0))(0.5, X), 2 * one - two)
    toward = lambda t, x, args: args * x[0]
    near(sfp.Tilted(score, toward).bind(args=3.0)(0.5, X), three + jnp.array([3.0, 0.0]))
    # In one another, and the key beside the conditioning.
    both = sfp.Annealed(sfp.Guided(score, score.bind(args=2.0), 0.5), 2.0)
    near(both.bind(args=1.0)(0.5, X), 3 * one - two)
    dropped = sfp.Guided(score, score.bind(args=2.0), 0.5).bind(args=1.0, key=jr.key(1))(0.5, X)
    near(dropped, 1.5 * score.bind(args=1.0, key=jr.key(1))(0.5, X) - 0.5 * two)


def test_the_inner_scores_are_trained() -> None:
    class Measured(eqx.Module):
        score: sfp.score.AbstractScore
        y: Array

        def __call__(self, t: Array, x: Array) -> Array:
            return -jnp.sum((self.score.denoise(t, x) - self.y) ** 2)

    score = model(data_std=jnp.ones(2))
    own = jax.tree.leaves(eqx.filter(score, score.trained()))
    for composed in (
        sfp.Annealed(score, 2.0),
        sfp.Product((score, sfp.Score(lambda t, x: -x, VP)), [0.5, 0.5]),
        sfp.Guided(score, sfp.Score(lambda t, x: -x, VP), 1.0),
        # The reward holds the same score, and its arrays are left alone.
        sfp.Tilted(score, Measured(score, jnp.ones(2))),
    ):
        found = jax.tree.leaves(eqx.filter(composed, composed.trained()))
        assert [id(leaf) for leaf in found] == [id(leaf) for leaf in own]


def test_another_strength_compiles_nothing_new() -> None:
    traces = 0

    @eqx.filter_jit
    def called(score: sfp.score.AbstractScore) -> Array:
        nonlocal traces
        traces += 1
        return score(0.5, X)

    score = model()
    for w in (0, 1.5, np.float32(2.0), jnp.asarray(3.0)):
        want = (1 + w) * score.bind(args=1.0)(0.5, X) - w * score(0.5, X)
        np.testing.assert_allclose(called(sfp.Guided(score.bind(args=1.0), score, w)), want, rtol=1e-5)
    assert traces == 1


def test_what_is_composed_is_on_one_sde_and_of_one_shape() -> None:
    score = lambda sde, shape=None: sfp.Score(lambda t, x: -x, sde, shape)
    assert sfp.Product((score(sfp.VP()), score(sfp.VP(), (2,)), score(sfp.VP()))).shape == (2,)
    assert sfp.Guided(score(sfp.VP()), score(sfp.VP()), 1.0).shape is None
    alpha, sigma = lambda t: -t, jnp.log
    linear = lambda: sfp.LinearSDE(alpha, sigma, t0=0.1, t1=1.0)
    assert sfp.Product((score(linear()), score(linear()))).sde is not None
    for other in (sfp.SubVP(), sfp.VP(beta_max=10.0), sfp.VP(t0=1e-3), linear()):
        refused(
            r"unconditional has the SDE .*, conditional has VP\(\); .* one SDE",
            sfp.Guided,
            score(VP),
            score(other),
            1.0,
        )
        refused(r"scores\[2\] has the SDE", sfp.Product, (score(VP), score(VP), score(other)))
    refused(
        r"scores\[1\] has shape \(3,\), but one of scores\[0\] has shape \(2,\)",
        sfp.Product,
        (score(VP, (2,)), score(VP, (3,))),
    )
    # Where numbers of an SDE are not known, their shapes are compared.
    table = lambda: sfp.sde.DiscreteSDE(np.geomspace(0.99, 0.01, 8))
    made = eqx.filter_jit(lambda a, b: sfp.Product((score(a), score(b)))(0.5, X))
    np.testing.assert_allclose(made(table(), table()), -2 * X)


def test_bad_input() -> None:
    score = sfp.Score(lambda t, x: -x, VP)
    refused("scores is empty", sfp.Product, ())
    refused(r"exponents has shape \(3,\); there are 2 scores", sfp.Product, (score, score), [1.0, 2.0, 3.0])
    refused("exponents holds NaN", sfp.Product, (score, score), [1.0, jnp.nan])
    refused("strength holds NaN or infinite", sfp.Guided, score, score, float("inf"))
    refused("beta holds NaN", sfp.Annealed, score, float("nan"))
    refused("the value of reward has shape", sfp.Tilted(score, lambda t, x: x), 0.5, X)
    refused("in another order", sfp.Tilted, score, lambda x, t: 0.0, error=TypeError)
    with pytest.raises(TypeError, match="required keyword-only argument: 'args'"):
        sfp.Guided(model_of_labels := sfp.Score(ByClass(), VP), model_of_labels.bind(args=3), 1.0)(0.5, X[:1])
