"""The code length of levels [K10]: its decoder, its parts by quadrature, and what it is for laws on a few levels."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import scipy.integrate
from helpers.linear_case import SIZE, T0, T1, LinearCase, alpha, beta, variance
from helpers.references import assert_mean, mean_is, perturbed, standard, standard_error
from helpers.refusals import refused
from jaxtyping import Array
from scipy import special

import scorefp as sfp
from scorefp.likelihood import LikelihoodBound, code_length
from scorefp.likelihood._levels import LevelDecoder, level_start

pytestmark = pytest.mark.usefixtures("x64")

FIVE = sfp.Quantisation(5, -1.0, 1.0)
SHARES = jnp.array([0.4, 0.1, 0.05, 0.15, 0.3])
# Two pixels that are mostly equal.
PAIRS = jnp.array([[0.25, 0.02, 0.01], [0.03, 0.3, 0.02], [0.01, 0.01, 0.35]])
THREE = sfp.Quantisation(3, -1.5, 1.5)


def law(shares: Array, quantisation: sfp.Quantisation) -> tuple[Array, sfp.GaussianMixture]:
    """The levels of a law on a grid, and the law itself: normal ones far narrower than a level."""
    k = jnp.stack(jnp.meshgrid(*(jnp.arange(n) for n in shares.shape), indexing="ij"), axis=-1)
    k = k.reshape(-1, shares.ndim)
    centres = quantisation.place(k, jnp.full(k.shape, 0.5))
    return k, sfp.GaussianMixture(centres, jnp.full(len(k), 1e-12), shares.ravel())


@eqx.filter_jit
def codes(
    score: sfp.score.AbstractScore, ks: Array, keys: Array, quantisation: Any, **settings: Any
) -> LikelihoodBound:
    """One code length for each sample and each of the keys, of shape `(samples, keys)`."""
    encoder = settings.pop("encoder")
    estimator = sfp.BoundEstimator(**settings)
    one = lambda k, key: code_length(score, k, quantisation=quantisation, key=key, estimator=estimator, encoder=encoder)
    return jax.vmap(jax.vmap(one, in_axes=(None, 0)), in_axes=(0, None))(ks, keys)


# ------------------------------------------------------------------------------------------- the decoder
def minus_log(k: int, quantisation: sfp.Quantisation, shift: Any, tau: float) -> Any:
    """-log P(k | x') of one element whose mean is `shift` taus from the centre of its level, by SciPy."""
    half = 0.5 * quantisation.width / tau
    lower = -np.inf if k == 0 else -half - shift
    upper = np.inf if k == quantisation.levels - 1 else half - shift
    # The difference in the lower tail, where it has its digits.
    flip = lower + upper > 0
    lower, upper = np.where(flip, -upper, lower), np.where(flip, -lower, upper)
    return -np.log(special.ndtr(upper) - special.ndtr(lower))


@pytest.mark.quick
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_levels_share_a_law(dtype: Any) -> None:
    """The probabilities of all levels sum to one, for every mean, also one far outside, and every width."""
    k, means = jnp.arange(FIVE.levels), jnp.linspace(-3.0, 3.0, 41, dtype=dtype)
    centres = FIVE.place(k, jnp.full(k.shape, 0.5, dtype))

    @jax.jit
    def total(tau: Array) -> Array:
        one = lambda mean: lambda k, centre: LevelDecoder(k, FIVE, "centre")((mean - centre) / tau, tau)
        return jax.vmap(lambda mean: jnp.exp(-jax.vmap(one(mean))(k, centres)).sum())(means)

    for tau in (0.01, 0.13, 0.5, 3.0, 50.0):
        found = total(jnp.asarray(tau, dtype))
        assert found.dtype == dtype
        # The rounding of a shift of many taus is 1e-6 of a tau in float32.
        np.testing.assert_allclose(found, 1.0, atol=1e-6 if dtype == jnp.float64 else 5e-6)


@pytest.mark.quick
def test_decoder_far_out() -> None:
    """In float32 as in float64 twenty standard deviations away, where the probability is 1e-90, and with a gradient."""
    shifts, taus, ks = np.linspace(-20.0, 20.0, 81), np.array([4.0, 0.4, 0.04, 0.02]), np.array([0, 2, 4])

    def minus(k: Array, tau: Array, shift: Array) -> Array:
        return LevelDecoder(k, FIVE, "centre")(shift, tau)

    over = jax.value_and_grad(minus, argnums=2)
    for axes in ((None, None, 0), (None, 0, None), (0, None, None)):
        over = jax.vmap(over, in_axes=axes)
    found = [jax.jit(over)(ks, taus.astype(dtype), shifts.astype(dtype)) for dtype in (np.float32, np.float64)]
    for single, double in zip(*found, strict=True):
        assert jnp.isfinite(single).all()
        np.testing.assert_allclose(single, double, rtol=1e-4, atol=1e-4)
    want = [[minus_log(k, FIVE, shifts, tau) for tau in taus] for k in ks]
    np.testing.assert_allclose(found[1][0], want, rtol=1e-9, atol=1e-12)


@pytest.mark.quick
def test_what_the_decoder_loses() -> None:
    """The numbers of the documentation, in bits an element: by the noise in widths of a level."""
    levels = sfp.Quantisation(101, -50.5, 50.5)
    z, weights = normal_rule(120)
    k = np.arange(101)[:, None] - 50.0

    def decoded(shift: Any, tau: float) -> Any:
        decoder = LevelDecoder(jnp.full(z.shape, 50), levels, "centre")
        return jax.vmap(lambda k, shift: LevelDecoder(k, levels, "centre")(shift, jnp.asarray(tau)))(
            decoder.levels, jnp.asarray(np.broadcast_to(shift, z.shape))
        )

    flat, lattice, certain = {}, {}, {}
    for tau in (0.1, 0.125, 0.25, 0.5):
        entropy = 0.5 * math.log(2 * math.pi * math.e * tau**2)
        flat[tau] = (weights @ decoded(z, tau) - entropy) / math.log(2)
        certain[tau] = weights @ decoded(0 * z, tau) / math.log(2)
        law = special.softmax(-0.5 * ((tau * z - k) / tau) ** 2, axis=0)
        mean = (law * k).sum(axis=0)
        lattice[tau] = (weights @ (decoded(mean / tau, tau) + np.log(law[50]))) / math.log(2)
    assert [round(float(flat[tau]), 2) for tau in (0.1, 0.125)] == [1.28, 0.96]
    assert [round(float(certain[tau]), 2) for tau in (0.25, 0.5)] == [0.07, 0.55]
    assert round(float(lattice[0.25]), 2) == 0.05
    assert float(lattice[0.125]) == pytest.approx(3e-4, rel=0.2)


# ------------------------------------------------------------------------------------------- its parts
CASE, START = LinearCase(), 3e-2
LEVELS = sfp.Quantisation(8, -2.0, 2.0)
K = (5, 0)


def normal_rule(count: int = 80) -> tuple[np.ndarray, np.ndarray]:
    z, weights = np.polynomial.hermite_e.hermegauss(count)
    return z, weights / weights.sum()


def path_part(x: float) -> float:
    """Prior and integral over time of one element at `x`, the latter in the implicit form."""

    def integrand(log_t: float) -> float:
        t = np.exp(log_t)
        k = CASE.kappa(t)
        square = k**2 * (alpha(t) ** 2 * (x - CASE.centre) ** 2 + variance(t))
        return t * 0.5 * beta(t) * (square - 2 * k + 1)

    square = (alpha(T1) * x) ** 2 + variance(T1)
    prior = 0.5 * square / variance(T1) + 0.5 * np.log(2 * np.pi * variance(T1))
    return prior + scipy.integrate.quad(integrand, np.log(START), np.log(T1), epsabs=1e-10)[0]


def of_one(k: int, encoder: str) -> tuple[float, float, float]:
    """Path, decoder and entropy of one element."""
    width, (z, weights) = LEVELS.width, normal_rule()
    centre = LEVELS.low + (k + 0.5) * width
    a, b = alpha(START), np.sqrt(variance(START))
    tau = b / a
    u, shares = np.polynomial.legendre.leggauss(40)
    u, shares = (0.5 * width * u, 0.5 * shares) if encoder == "uniform" else (np.zeros(1), np.ones(1))
    # The path is quadratic in the encoder's point.
    spread = width / math.sqrt(12) if encoder == "uniform" else 0.0
    path = 0.5 * (path_part(centre - spread) + path_part(centre + spread))
    noised = a * (centre + u[:, None]) + b * z
    mean = (noised - b**2 * CASE.kappa(START) * (noised - a * CASE.centre)) / a
    decoder = shares @ minus_log(k, LEVELS, (mean - centre) / tau, tau) @ weights
    if encoder == "centre":
        return path, decoder, 0.5 * math.log(2 * math.pi * math.e * b**2)
    y = np.linspace(-0.5 * a * width - 9 * b, 0.5 * a * width + 9 * b, 20_001)
    density = (special.ndtr((y + 0.5 * a * width) / b) - special.ndtr((y - 0.5 * a * width) / b)) / (a * width)
    return path, decoder, -np.trapezoid(special.xlogy(density, density), y)


@pytest.mark.parametrize("encoder", ["uniform", "centre"])
def test_parts_are_those_of_quadrature(encoder: str) -> None:
    """For the score of no diffusion, with an inner and an outer level, at a truncation where the decoder errs."""
    path, decoder, entropy = (sum(parts) for parts in zip(*(of_one(k, encoder) for k in K), strict=True))
    keys = jr.split(jr.key(0), 200)
    found = codes(CASE.score, jnp.array([K]), keys, LEVELS, encoder=encoder, draws=64, start=START)
    assert decoder > 0.05
    assert_mean(found.denoising[0], decoder, resolution=0.05)
    np.testing.assert_allclose(found.kernel_entropy, entropy, rtol=1e-6)
    assert_mean((found.prior + found.diffusion)[0], path, resolution=0.02)
    parts = found.prior + found.diffusion + found.denoising - found.kernel_entropy
    np.testing.assert_allclose(parts, found.value, rtol=1e-12)
    spread, claimed = found.value.std(ddof=1), jnp.sqrt(jnp.mean(found.error**2))
    assert 0.85 * spread < claimed < 1.4 * spread


def test_float32_is_float64() -> None:
    with jax.enable_x64(False):
        score = eqx.tree_at(
            lambda s: s.fn, CASE.score, replace_fn=lambda fn: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), fn)
        )
        found = codes(score, jnp.array([K]), jr.split(jr.key(1), 200), LEVELS, encoder="uniform", draws=64, start=START)
        assert found.value.dtype == jnp.float32
    path, decoder, entropy = (sum(parts) for parts in zip(*(of_one(k, "uniform") for k in K), strict=True))
    assert_mean(found.value[0], path + decoder - entropy, resolution=0.02)


# ------------------------------------------------------------------------------------------- what it bounds
@pytest.mark.parametrize(
    ("shares", "quantisation", "n"),
    [
        pytest.param(SHARES, FIVE, 150, id="line"),
        pytest.param(SHARES, FIVE, 2000, id="line, many", marks=pytest.mark.slow),
        pytest.param(PAIRS, THREE, 1000, id="plane", marks=pytest.mark.slow),
    ],
)
def test_exact_score_has_the_entropy(shares: Array, quantisation: sfp.Quantisation, n: int) -> None:
    """The code length of each sample is -log P(k), but for the prior and the decoder: the mean is the entropy, and not
    below it. With a wrong score it is larger by the error of the score [K2].
    """
    k, mixture = law(shares, quantisation)
    p = shares.ravel()
    exact = mixture.score(sfp.VP())
    entropy = -float(jnp.sum(p * jnp.log(p)))
    start = level_start(exact.sde, quantisation)
    values = {}
    for eta in (0.0, 1.0):
        # One program for both.
        model = perturbed(exact, jnp.asarray(eta))
        values[eta] = codes(model, k, jr.split(jr.key(2), n), quantisation, encoder="centre", draws=128).value
    mean, error = float(p @ values[0.0].mean(axis=1)), float(standard_error(values[0.0].T @ p))
    assert error < 0.5 / math.sqrt(n)
    # The prior is 3e-5 off, and the decoder loses 3e-4 bits an element.
    assert entropy - 3 * error < mean < entropy + 3 * error + 1e-3
    assert mean_is(values[0.0].T, -jnp.log(p), sigmas=4.5)
    rise = (values[1.0] - values[0.0]).T @ p
    assert_mean(rise, matching_error(mixture, start), resolution=0.15 if n < 500 else 0.05)


def matching_error(mixture: sfp.GaussianMixture, start: float) -> float:
    r"""$\tfrac12\int g^2 E\|p\|^2 dt$ of `perturbed(…, 1.0)` with $p = \cos 3t\,\sin x$ on each element, whose next
    adds to it; see `helpers.references.Perturbed`."""
    from helpers.references import Perturbed

    sde = sfp.VP()
    t = jnp.exp(jnp.linspace(math.log(start), math.log(sde.t1), 400))
    z, weights = normal_rule(24)
    size = mixture.means.shape[1]
    noise = jnp.asarray(np.stack(np.meshgrid(*[z] * size, indexing="ij"), axis=-1).reshape(-1, size))
    share = jnp.asarray(functools.reduce(np.multiply.outer, [weights] * size).ravel())

    def square(t: Array) -> Array:
        x = sde.alpha(t) * mixture.means[:, None] + sde.sigma(t) * noise
        field = jax.vmap(jax.vmap(lambda x: Perturbed(1.0)(t, x)))(x)
        return mixture.weights @ jnp.sum(field**2, axis=-1) @ share

    return float(jnp.trapezoid(0.5 * sde.g2(t) * jax.vmap(square)(t), t))


def test_beside_the_dequantised_bound() -> None:
    """With the same truncation the uniform encoder is below the bound of dequantised levels, by the divergence between
    the decoded law of the place in the level and its true one; the centre is above it where the score is flat.
    """
    found = {
        encoder: sum(path + decoder - entropy for path, decoder, entropy in (of_one(k, encoder) for k in K))
        for encoder in ("uniform", "centre")
    }
    # The bound of dequantised levels: Tweedie's normal at the encoder's point, and the kernel's entropy.
    width, (z, weights) = LEVELS.width, normal_rule()
    a, b = alpha(START), np.sqrt(variance(START))
    bound, u = 0.0, 0.5 * np.polynomial.legendre.leggauss(40)[0]
    shares = 0.5 * np.polynomial.legendre.leggauss(40)[1]
    for k in K:
        x = LEVELS.low + (k + 0.5 + u[:, None]) * width
        noised = a * x + b * z
        mean = (noised - b**2 * CASE.kappa(START) * (noised - a * CASE.centre)) / a
        density = 0.5 * ((x - mean) * a / b) ** 2 + 0.5 * np.log(2 * np.pi * (b / a) ** 2)
        path = of_one(k, "uniform")[0]
        bound += path + shares @ density @ weights - 0.5 * math.log(2 * math.pi * math.e * b**2) - math.log(width)
    assert found["uniform"] + 0.05 < bound < found["centre"] - 0.05

    @jax.jit
    @jax.vmap
    def dequantised(key: Array) -> Array:
        x = sfp.UniformDequantiser(LEVELS)(jnp.array(K), key=jr.fold_in(key, 1))
        estimator = sfp.BoundEstimator(64, start=START)
        return sfp.likelihood_bound(CASE.score, x, key=key, estimator=estimator) - SIZE * math.log(width)

    assert_mean(dequantised(jr.split(jr.key(3), 200)), bound, resolution=0.02)


def test_default_truncation() -> None:
    """Where the noise is an eighth of a level; `t0` where it is more there."""
    sde = sfp.VP()
    for levels in (5, 17, 64):
        quantisation = sfp.Quantisation(levels, -1.0, 1.0)
        start = level_start(sde, quantisation)
        assert float(sde.sigma(start) / sde.alpha(start)) == pytest.approx(quantisation.width / 8, rel=1e-6)
    assert level_start(sde, sfp.Quantisation(1024, -1.0, 1.0)) == T0
    key, k = jr.key(0), jnp.array(K)
    by_default = code_length(CASE.score, k, quantisation=LEVELS, key=key, estimator=sfp.BoundEstimator(4))
    given = sfp.BoundEstimator(4, start=level_start(sde, LEVELS))
    assert by_default.value == code_length(CASE.score, k, quantisation=LEVELS, key=key, estimator=given).value


@pytest.mark.slow
def test_beginning_earlier_costs_variance() -> None:
    """Where the noise is far below a level, a law on levels is known already, and the path goes on."""
    ks, mixture = law(SHARES, FIVE)
    exact, keys = mixture.score(sfp.VP()), jr.split(jr.key(4), 400)
    own, early = (
        codes(exact, ks[:1], keys, FIVE, encoder="centre", draws=64, start=start).value.std() for start in (None, T0)
    )
    assert early > 1.3 * own


@pytest.mark.parametrize("shape", [(), (2, 1, 2)], ids=str)
def test_any_shape_of_levels(shape: tuple[int, ...]) -> None:
    """Under a standard normal law: -log of its mass in the level, and what the encoder of a flat law loses."""
    quantisation = sfp.Quantisation(40, -4.0, 4.0)
    found = codes(
        standard(), jnp.full((1, *shape), 22), jr.split(jr.key(5), 100), quantisation, encoder="uniform", draws=64
    )
    want = -math.prod(shape) * math.log(special.ndtr(0.6) - special.ndtr(0.4))
    assert_mean(found.value[0], want, resolution=0.03)


def of(k: Any, **settings: Any) -> LikelihoodBound:
    settings = {"score": CASE.score, "quantisation": LEVELS, "key": jr.key(0)} | settings
    return code_length(settings.pop("score"), k, **settings)


@pytest.mark.quick
def test_bad_input(unchecked: None) -> None:
    k = jnp.array(K)
    refused("k has dtype float64; levels are integers 0 … 7", of, 0.5 * k, error=TypeError)
    refused("k holds levels outside 0 … 7", of, k + 3)
    refused("k has shape \\(3,\\), but the score's own sample has shape \\(2,\\)", of, jnp.zeros(3, int))
    refused("quantisation is 8. It is what integer levels mean", of, k, quantisation=8, error=TypeError)
    refused("encoder = 'middle'; it is 'uniform' or 'centre'", of, k, encoder="middle")
    refused("truncation = 'noised'; levels are decoded", of, k, estimator=sfp.BoundEstimator(2, truncation="noised"))
    refused("start = 1.0 lies outside", of, k, estimator=sfp.BoundEstimator(2, start=1.0))
    refused("no Gaussian kernel", of, k, score=standard(sfp.sde.CriticallyDampedLangevin()), error=TypeError)
    wide = sfp.Quantisation(2, -1e5, 1e5)
    refused("at t1 = 1 the noise sigma/alpha is less than 0.125 of it", of, k % 2, quantisation=wide)

    @eqx.filter_jit
    def traced(scale: Array) -> Array:
        sde = sfp.LinearSDE(lambda t: -scale * t, lambda t: 0.5 * jnp.log(-jnp.expm1(-2 * scale * t)), t0=1e-3, t1=5.0)
        return of(k, score=sfp.Score(lambda t, x: -x, sde)).value

    refused("the parameters of the SDE are traced, and start = None", traced, jnp.asarray(1.0))
