"""The initial condition of the Cauchy problem: values and gradients in closed form, whatever the law of times."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.linear_case import alpha, variance
from helpers.references import assert_mean, mean_is
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.objective import AbstractTerm

pytestmark = pytest.mark.usefixtures("x64")

SDE = sfp.VP(t0=0.05)
MEAN, VARIANCE = np.array([0.4, -0.3]), np.array([0.5, 0.2])
SLOPE, SHIFT = -0.9, np.array([0.2, 0.1])


def model(slope: Array | float = SLOPE, shift: Any = SHIFT) -> sfp.Score:
    """`s = a x + b + (t - t0) x`: what comes later must not count."""
    return sfp.Score(lambda t, x: slope * x + jnp.asarray(shift) + (t - SDE.t0) * x, SDE)


def truth(x: Array) -> Array:
    """The score at `t0` of a normal law with independent entries, `-(x - α m)/v`."""
    alpha, sigma = SDE.alpha(SDE.t0), SDE.sigma(SDE.t0)
    return -(x - alpha * MEAN) / (alpha**2 * VARIANCE + sigma**2)


def kernel() -> tuple[float, float, np.ndarray, np.ndarray]:
    """`α`, `σ²` at `t0` of VP, and mean and variance of `x` there."""
    scale, sigma2 = alpha(0.05), variance(0.05)
    return scale, sigma2, scale * MEAN, scale**2 * VARIANCE + sigma2


def samples(batches: int, n: int) -> Array:
    rng = np.random.default_rng(0)
    return jnp.asarray(MEAN + np.sqrt(VARIANCE) * rng.normal(size=(batches, n, 2)))


TERMS: dict[str, AbstractTerm] = {
    "exact": sfp.CauchyInitial(truth),
    "denoising": sfp.CauchyInitial(),
    "a part of the batch": sfp.CauchyInitial(truth, fraction=0.25),
    "norm": sfp.CauchyInitial(truth, power=1.0),
}


def test_closed_forms() -> None:
    r"""Of a linear score and a normal law. The matching form is $E\|(a + 1/v)(x - m) + am + b\|^2$; the denoising form
    is $\sigma^2$ times it and a constant, its gradient $\sigma^2$ times the other's [H1]."""
    _, sigma2, mean, variance = kernel()
    x0 = samples(400, 32)

    @jax.jit
    def both(x0: Array) -> Any:
        def values(names: list[str], slope: Array, shift: Array, x0: Array, key: Array, time: Any) -> list[Array]:
            loss = sum((TERMS[name] for name in names[1:]), start=1.0 * TERMS[names[0]])
            return list(loss.evaluate(model(slope, shift), x0, key=key, time=time)[1].values())

        def one(x0: Array, key: Array) -> Any:
            point = jnp.asarray(SLOPE), jnp.asarray(SHIFT)
            found = [values(list(TERMS), *point, x0, key, time) for time in (sfp.UniformTime(), sfp.UniformLogSNR())]
            slopes = jax.jacrev(partial(values, ["exact", "denoising"]), (0, 1))
            return found, slopes(*point, x0, key, sfp.UniformTime())

        return jax.vmap(one)(x0, jr.split(jr.key(0), len(x0)))

    (by_time, by_log_snr), slopes = both(x0)
    values = dict(zip(TERMS, by_time, strict=True))
    for name, first, second in zip(TERMS, by_time, by_log_snr, strict=True):
        # The same draws, weighted by their times: the weights cancel to round-off.
        np.testing.assert_allclose(first, second, rtol=1e-12, err_msg=name)
    error = (SLOPE + 1 / variance) ** 2 * variance + (SLOPE * mean + SHIFT) ** 2
    matching = float(np.sum(error))
    assert_mean(values["exact"], matching, resolution=0.02)
    assert_mean(values["a part of the batch"], matching, resolution=0.03)
    constant = np.sum(1 - sigma2 / variance)
    assert_mean(values["denoising"], sigma2 * matching + constant, resolution=0.02)
    of_exact, of_denoising = slopes
    want = (
        float(np.sum(2 * (SLOPE + 1 / variance) * variance + 2 * (SLOPE * mean + SHIFT) * mean)),
        2 * (SLOPE * mean + SHIFT),
    )
    for exact, denoising, wanted in zip(of_exact, of_denoising, want, strict=True):
        assert_mean(exact, wanted)
        assert mean_is(np.asarray(denoising), sigma2 * np.asarray(wanted))
        assert not mean_is(np.asarray(denoising), np.zeros_like(wanted))


def test_by_hand() -> None:
    """One sample and one draw: the norm and its powers, and the place where the score is looked at."""
    alpha, sigma2, *_ = kernel()
    seen: list[Array] = []

    def initial(x: Array) -> Array:
        jax.debug.callback(seen.append, x)
        return jnp.zeros_like(x)

    x0 = samples(1, 1)[0]
    terms = [sfp.CauchyInitial(initial, power) for power in (2.0, 1.0, 3.0)]
    loss = 1.0 * terms[0] + terms[1] + terms[2] + sfp.CauchyInitial()
    _, found = jax.jit(lambda x0: loss.evaluate(model(), x0, key=jr.key(1)))(x0)
    x = np.asarray(seen[0])
    norm = np.linalg.norm(SLOPE * x + SHIFT)
    noise = (x - alpha * np.asarray(x0[0])) / np.sqrt(sigma2)
    denoising = np.sum((np.sqrt(sigma2) * (SLOPE * x + SHIFT) + noise) ** 2)
    np.testing.assert_allclose(list(found.values()), [norm**2, norm, norm**3, denoising], rtol=1e-10)
    assert list(found) == ["CauchyInitial", "CauchyInitial 2", "CauchyInitial 3", "CauchyInitial 4"]


@pytest.mark.quick
@pytest.mark.parametrize("x64_on", [False, True], ids=["float32", "float64"])
def test_zero_where_the_score_is_right(x64_on: bool) -> None:
    """With a gradient of zero, and not NaN, for the norm too; and a potential is a score."""
    with jax.enable_x64(x64_on):
        x0 = jnp.ones((4, 2))

        @jax.jit
        def slope(a: Array) -> Any:
            def value(a: Array, power: float) -> Array:
                potential = sfp.Potential(lambda t, x: -0.5 * jnp.sum((1 + a) * x**2) + t, sfp.EDM())
                return sfp.CauchyInitial(lambda x: -x, power)(potential, x0, key=jr.key(0))

            return [jax.value_and_grad(value)(a, power) for power in (1.0, 2.0)]

        for value, rise in slope(jnp.asarray(0.0)):
            np.testing.assert_array_equal([value, rise], 0)
        for value, rise in slope(jnp.asarray(0.5)):
            assert value > 0.1
            assert rise > 0.1


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_bad_input() -> None:
    def value(term: AbstractTerm, score: sfp.score.AbstractScore = model()) -> Any:
        return jax.eval_shape(lambda x0: term(score, x0, key=jr.key(0)), jnp.ones((4, 2)))

    wrong: Callable[[Array], Array] = lambda x: jnp.sum(x)
    refused(r"the value of initial has shape \(\), but a score at x has shape \(2,\)", value, sfp.CauchyInitial(wrong))
    with pytest.raises(TypeError, match="the value of initial has dtype int64"):
        value(sfp.CauchyInitial(lambda x: jnp.ones(2, int)))
    refused(r"the value of fn has shape \(\)", value, sfp.CauchyInitial(truth), sfp.Score(lambda t, x: jnp.sum(x), SDE))
    with pytest.raises(TypeError, match=r"initial is a Score, a function of \(t, x\); .*Pass lambda x: score\("):
        sfp.CauchyInitial(model())  # type: ignore
    refused(r"power = 0\.0; the exponent of the norm is positive", sfp.CauchyInitial, truth, power=0.0)
    refused(r"power = 1\.0 without initial; .* Use power=2, or give initial", sfp.CauchyInitial, power=1.0)
    refused(r"fraction = 0\.0; a share of the batch", sfp.CauchyInitial, truth, fraction=0.0)
