"""How terms share evaluations: values sample by sample by hand, copies of the network, operations, precision."""

import re
from collections import Counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.objective import AbstractObjective, Smoothness

BATCH, SIZE, STEP = 8, 3, 0.02


class Network(eqx.Module):
    """With conditioning and dropout."""

    mlp: sfp.nn.MLP

    def __call__(self, t: Array, x: Array, *, args: Array, key: Array) -> Array:
        return self.mlp(t, x * jr.bernoulli(key, 0.8, x.shape) + args)


class Unseen(eqx.Module):
    """A network of somebody else that rounds: a closure hides from `full_precision` what it does."""

    mlp: sfp.nn.MLP

    def __call__(self, t: Array, x: Array) -> Array:
        half = jax.tree.map(lambda a: a.astype(jnp.bfloat16) if eqx.is_inexact_array(a) else a, self.mlp)
        return half(t, x.astype(jnp.bfloat16)).astype(x.dtype)


def mlp(dtype: Any = None) -> sfp.nn.MLP:
    network = sfp.nn.MLP((SIZE,), width=16, depth=1, dtype=dtype, key=jr.key(0))
    return eqx.tree_at(lambda n: n.leave.weight, network, 0.3 * jr.normal(jr.key(1), network.leave.weight.shape))


def pair(score: sfp.score.AbstractScore, t: Array, x: Array, key: Array) -> tuple[Array, Array]:
    """[F7] with one probe, as its formula has it."""
    sde: Any = score.sde
    s, g2 = score(t, x), sde.g2(t)
    dt = STEP * sde.sigma(t) ** 2 / g2
    dt = t - jnp.maximum(t - dt, sde.t0)
    v = jr.rademacher(key, (1, SIZE), x.dtype)[0]
    ends = [score(t - dt, x + sign * jnp.sqrt(g2 * dt) * v + dt * (g2 * s - sde.drift(t, x))) for sign in (1, -1)]
    return s, -(ends[0] - 2 * s + ends[1]) / (2 * dt) + sde.rate(t) * s


@pytest.mark.usefixtures("x64")
def test_terms_are_those_of_each_sample_by_itself() -> None:
    """Shared evaluations, shares of the batch, conditioning and dropout change no value and no gradient."""
    sde, time = sfp.VP(), sfp.UniformLogSNR()
    rng = np.random.default_rng(0)
    x0, args = jnp.asarray(rng.normal(size=(BATCH, SIZE))), jnp.asarray(rng.normal(size=(BATCH, SIZE)))
    loss = sfp.DSM() + sfp.ScoreFPE(fraction=0.25) + Smoothness(fraction=0.5)
    loss = loss + sfp.ScoreFPE(unbiased=True, fraction=0.5) + sfp.ScoreFPE(sfp.Ito(), fraction=0.75)

    def by_hand(score: sfp.score.AbstractScore, key: Array) -> list[Array]:
        time_key, noise_key, model_key, term_key = jr.split(key, 4)
        t, weight = time.sample(sde, BATCH, key=time_key)
        noise = jr.normal(noise_key, x0.shape, x0.dtype)

        def row(t: Array, weight: Array, x0: Array, noise: Array, args: Array, model_key: Array, key: Array) -> Array:
            here, keys = score.bind(args=args, key=model_key), jr.split(key, 5)
            x, sigma, g2 = sde.diffuse(t, x0, noise), sde.sigma(t), sde.g2(t)
            s, residual = pair(here, t, x, keys[1])
            near = here(t, x + 0.1 * sigma * jr.normal(keys[2], x.shape, x.dtype))
            one, two = (pair(here, t, x, k)[1] for k in jr.split(keys[3]))
            ito = sfp.score_fpe_residual(here, t, x, method=sfp.Ito(), key=keys[4])
            free = sigma**4 / (2 * g2)
            matching = 0.5 * g2 / sigma**2 * jnp.sum((sigma * s + noise) ** 2)
            slope = 0.5 * g2 * jnp.sum(((near - s) / 0.1) ** 2)
            squares = [free * jnp.sum(square) for square in (residual**2, one * two, ito**2)]
            return weight * jnp.stack([matching, squares[0], slope, *squares[1:]])

        keys = jr.split(model_key, BATCH), jr.split(term_key, BATCH)
        rows = jax.vmap(row)(t, weight, x0, noise, args, *keys)
        return [rows[:share, i].mean() for i, share in enumerate((8, 2, 4, 4, 6))]

    def terms(network: Network, key: Array, hand: bool) -> tuple[Array, Array]:
        score = sfp.NoiseScore(network, sde, data_std=1.0)
        options = {"key": key, "args": args, "dropout": True}
        found = by_hand(score, key) if hand else list(loss.evaluate(score, x0, **options)[1].values())
        return jnp.stack(found) @ jnp.arange(1.0, 6.0), jnp.stack(found)

    both = eqx.filter_jit(
        lambda network, key: [
            eqx.filter_value_and_grad(terms, has_aux=True)(network, key, hand) for hand in (False, True)
        ]
    )
    network = jax.tree.map(lambda a: a.astype(float) if eqx.is_inexact_array(a) else a, Network(mlp()))
    ((_, found), slopes), ((_, want), want_slopes) = both(network, jr.key(3))
    assert np.all(np.abs(want) > 1e-3)
    np.testing.assert_allclose(found, want, rtol=1e-9)
    for slope, by_rows in zip(jax.tree.leaves(slopes), jax.tree.leaves(want_slopes), strict=True):
        np.testing.assert_allclose(slope, by_rows, rtol=1e-7, atol=1e-7 * float(jnp.abs(by_rows).max()))


# ------------------------------------------------------------------------------------------ copies and operations


def program(network: Any, loss: AbstractObjective, batch: int, step: int | None = None) -> Any:
    """The compiled gradient of an objective, at a step that the compiler knows."""
    x0 = jnp.ones((batch, *network.shape))

    def value(network: Any) -> Array:
        score = sfp.NoiseScore(network, sfp.VP(), data_std=1.0)
        return loss(score, x0, key=jr.key(0), step=None if step is None else jnp.asarray(step))

    return eqx.filter_jit(eqx.filter_grad(value)).lower(network).lowered.compile()


def operations(*args: Any) -> float:
    return program(*args).cost_analysis()["flops"]


def products(compiled: Any) -> int:
    return len(re.findall(r" (?:dot|convolution)\(", compiled.as_text()))


QUARTER = sfp.ScoreFPE(fraction=0.25)


@pytest.mark.parametrize("kind", ["MLP", pytest.param("UNet", marks=pytest.mark.slow)])
def test_operations_of_a_step(kind: str) -> None:
    """A share of a quarter is two more evaluations of a quarter, up to what the compiler computes twice; every fourth
    step alone, an eighth in the mean."""
    if kind == "MLP":
        network, batch = sfp.nn.MLP((64,), width=256, key=jr.key(0)), 128
    else:
        network, batch = sfp.nn.UNet((1, 8, 8), channels=16, multipliers=(1,), attention=(), key=jr.key(0)), 32
    plain = program(network, sfp.DSM(), batch)
    loss, lazy = sfp.DSM() + 0.5 * QUARTER, sfp.DSM() + 0.5 * sfp.Lazy(QUARTER, every=4)
    quarter = program(network, loss, batch)
    over = lambda flops: flops / plain.cost_analysis()["flops"]
    assert 1.4 < over(quarter.cost_analysis()["flops"]) < 1.54
    # Two copies of the network: at the samples, and at all further points.
    assert products(quarter) < 2.2 * products(plain)
    on, off = (operations(network, lazy, batch, step) for step in (4, 5))
    assert 1.4 < over(on) < 1.54
    assert 0.99 < over(off) < 1.01
    assert over(on + 3 * off) / 4 < 1.15


def test_a_lazy_step_is_two_copies_of_the_network() -> None:
    network = sfp.nn.MLP((16,), width=32, key=jr.key(0))
    x0, score = jnp.ones((16, 16)), lambda network: sfp.NoiseScore(network, sfp.VP(), data_std=1.0)

    def compiled(loss: AbstractObjective) -> Any:
        value = lambda network, step: loss(score(network), x0, key=jr.key(0), step=step)
        return eqx.filter_jit(eqx.filter_grad(value)).lower(network, jnp.asarray(0)).lowered.compile()

    plain, lazy = compiled(sfp.DSM()), compiled(sfp.DSM() + sfp.Lazy(QUARTER, every=4))
    assert products(lazy) < 2.2 * products(plain)
    assert lazy.as_text().count(" conditional(") == 1


# ------------------------------------------------------------------------------------------ precision


def noise_of(term: AbstractObjective, network: Any, exact: Any) -> float:
    """The root mean square over keys of what rounding does to a term, over the term itself."""
    x0, keys = 0.5 * jr.normal(jr.key(2), (64, SIZE)), jr.split(jr.key(4), 8)

    @eqx.filter_jit
    def values(network: Any) -> Array:
        return jax.vmap(lambda key: term(sfp.NoiseScore(network, sfp.VP(), data_std=0.5), x0, key=key))(keys)

    full = np.asarray(values(exact))
    return float(np.sqrt(np.mean((np.asarray(values(network)) - full) ** 2)) / np.mean(full))


@pytest.mark.slow
def test_a_penalty_of_a_network_that_rounds_is_the_residual() -> None:
    """`Antithetic` takes its three points in float32 and `Ito` has no difference; `DSM` is that of the network."""
    half, exact = mlp(jnp.bfloat16), mlp()
    for term in (sfp.ScoreFPE(), sfp.ScoreFPE(fraction=0.25), sfp.ScoreFPE(sfp.Ito()), Smoothness()):
        assert noise_of(term, half, exact) < 0.02, term
    # Two-sided: a rounding that is not seen is noise in the difference, and none to speak of in the derivative.
    coarse = sfp.ScoreFPE(sfp.Antithetic(0.1))
    assert noise_of(coarse, half, exact) < 0.01
    assert noise_of(coarse, Unseen(exact), exact) > 0.05
    assert noise_of(sfp.ScoreFPE(sfp.Ito()), Unseen(exact), exact) < 0.02
    # Beside a penalty that does not round, score matching does.
    loss, x0 = sfp.DSM() + sfp.ScoreFPE(), jnp.ones((8, SIZE))
    of = lambda net: eqx.filter_jit(loss.evaluate)(sfp.NoiseScore(net, sfp.VP()), x0, key=jr.key(0))[1]["DSM"]
    assert 1e-6 < abs(of(half) / of(exact) - 1) < 1e-2


def test_products_that_the_device_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """On TPUs products of float32 round to bfloat16: the three points of `Antithetic` are finer there, the value that
    `DSM` has is not, and the residual is the same. TF32, which GPUs take by themselves, is fine enough."""
    x0, loss = jnp.ones((8, SIZE)), sfp.DSM() + sfp.ScoreFPE()

    def seen(backend: str, dtype: Any = None) -> tuple[Counter[str], Array]:
        arrays, rest = eqx.partition(mlp(dtype), eqx.is_inexact_array)
        of = lambda arrays: loss(sfp.NoiseScore(eqx.combine(arrays, rest), sfp.VP()), x0, key=jr.key(0))
        step = jax.jit(jax.grad(of))
        text = step.trace(arrays).lower(lowering_platforms=(backend,)).as_text()
        value = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(step(arrays))])
        # Operands in bfloat16 are of the network alone.
        exact = r"stablehlo\.dot_general .*precision = \[(\w+), \w+\] : \(tensor<[^>]*f32>"
        return Counter(re.findall(exact, text)), value

    named, there = seen("tpu")
    assert named.keys() == {"DEFAULT"}
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    finer, here = seen("tpu")
    # Those of the samples stay; those of the points, and of the values there, do not.
    assert finer["DEFAULT"] == named["DEFAULT"] // 2 <= finer["HIGH"]
    np.testing.assert_allclose(here, there, rtol=1e-4, atol=1e-5 * np.max(abs(there)))
    with jax.default_matmul_precision("highest"):
        assert seen("tpu")[0].keys() == {"HIGHEST"}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert seen("cuda")[0] == named
    assert seen("cuda", jnp.bfloat16)[0].keys() == {"HIGH"}


@pytest.mark.quick
def test_noise_above_the_signal_is_refused() -> None:
    score, x0 = sfp.NoiseScore(Unseen(mlp()), sfp.VP()), jnp.ones((8, SIZE))
    message = r"step = 0\.02 with products in bfloat16: the difference of Antithetic rounds by up to 0\.39 of the noise"
    refused(message, sfp.DSM() + sfp.ScoreFPE(), score, x0, key=jr.key(0))
    refused(message, sfp.score_fpe_residual, score, 0.5, x0[0], method=sfp.Antithetic(), key=jr.key(0))
    small = sfp.Score(lambda t, x: -x, sfp.VP())
    refused(r"step = 1e-06 with products in float32", sfp.ScoreFPE(sfp.Antithetic(1e-6)), small, x0, key=jr.key(0))
    potential = sfp.Potential(lambda t, x: -jnp.sum(x.astype(jnp.bfloat16) @ x.astype(jnp.bfloat16)), sfp.VP())
    refused("products in bfloat16", sfp.LogFPE(sfp.Antithetic()), potential, x0, key=jr.key(0))
    rounds = sfp.Score(lambda t, x: -x.astype(jnp.bfloat16).astype(x.dtype), sfp.VP())
    refused("products in bfloat16", sfp.ScoreFPE(sfp.Antithetic()), rounds, x0, key=jr.key(0))
    # What sees the derivative, has float64, or multiplies rounded parameters in float32, has the digits.
    matrix = jnp.eye(SIZE)
    residual = lambda w: sfp.score_fpe_residual(
        sfp.Score(lambda t, x: -jnp.matmul(w, x), sfp.VP()), 0.5, x0[0], method=sfp.Antithetic(), key=jr.key(0)
    )
    np.testing.assert_array_equal(residual(matrix.astype(jnp.bfloat16)), residual(matrix))
    sfp.ScoreFPE(sfp.Ito())(score, x0, key=jr.key(0))
    with jax.enable_x64(True):
        sfp.ScoreFPE(sfp.Antithetic(1e-6))(small, jnp.ones((8, SIZE)), key=jr.key(0))
