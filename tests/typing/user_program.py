"""A program as a user writes it: `test_user_program.py` runs it and asks two type checkers what an editor would say."""

import tempfile
from typing import Any, ClassVar, assert_type

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import optax
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

import scorefp as sfp
from scorefp import data, train
from scorefp.diagnostics import AbstractMeasure, Number, Section
from scorefp.objective import AbstractTerm, Perturbed
from scorefp.sde import AbstractLinearSDE, AbstractSDE


class Network(eqx.Module):
    """A network of one's own."""

    layer: eqx.nn.Linear
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, size: int, *, key: Array) -> None:
        self.layer = eqx.nn.Linear(size + 1, size, key=key)
        self.shape = (size,)

    def __call__(self, t: Array, x: Array) -> Array:
        return self.layer(jnp.concatenate([x, t[None]]))


class SmallValues(AbstractTerm):
    """A training term of one's own."""

    scale: float
    fraction: float = 1.0

    def observe(self, score: sfp.score.AbstractScore, perturbed: Perturbed, *, key: Array) -> tuple[Array | None, Any]:
        return None, None

    def integrand(self, sde: AbstractLinearSDE, perturbed: Perturbed, value: Array, observed: Any) -> Array:
        return self.scale * sde.g2(perturbed.t) * jnp.sum(value**2)


class Size(AbstractMeasure):
    """A measure of one's own."""

    t: float
    needs_kernel = False
    needs_levels = False

    def section(self, score: sfp.score.AbstractScore, data: sfp.Dataset, *, key: Array, mesh: Mesh | None) -> Section:
        sizes = jax.vmap(lambda x: jnp.linalg.norm(score(self.t, x)))(jnp.asarray(data.values))
        return Section("size", {"size": Number(float(sizes.mean()), None, "1", "mean norm")}, {})


class Twice(sfp.score.AbstractScore):
    """A score of one's own."""

    inner: sfp.score.AbstractScore
    sde: AbstractSDE
    shape: tuple[int, ...] | None = None
    conditions: ClassVar[tuple[str, ...]] = ("inner",)

    def __call__(self, t: ArrayLike, x: Array) -> Array:
        return 2 * self.inner(t, x)


def my_weighting(sde: AbstractLinearSDE, t: Array) -> Array:
    return sde.sigma(t) ** 2 / (1 + t)


def my_grid(sde: AbstractSDE, steps: int) -> Array:
    return jnp.linspace(sde.t1, sde.t0, steps + 1)


def forward_processes() -> None:
    linear = sfp.LinearSDE(lambda t: -t, lambda t: 0.5 * jnp.log(-jnp.expm1(-2 * t)), t0=1e-3, t1=5.0)
    assert_type(linear.alpha(1.0), Array)
    mine = sfp.GeneralSDE(
        lambda t, x: -x * t, lambda t, x: lx.DiagonalLinearOperator(1 + x**2), sfp.sde.Normal(1.0), t0=0.0, t1=1.0
    )
    score = sfp.Score(lambda t, x: -x, mine, shape=(2,))
    x = jnp.ones(2)
    assert_type(score(0.5, x), Array)
    assert_type(sfp.score_fpe_residual(score, 0.5, x), Array)
    assert_type(sfp.log_likelihood(score, x), Array)
    assert_type(sfp.divergence(lambda x: -x, x), Array)
    wrong = sfp.Potential(lambda t, x: -0.5 * jnp.sum(x**2) + t, linear)
    assert_type(wrong.potential(0.5, x), Array)
    Twice(score, mine)(0.5, x)


def training(folder: str) -> None:
    sde = sfp.VP(t1=1.0)
    samples = data.Dataset(jr.normal(jr.key(0), (64, 2)))
    loss = sfp.DSM(weighting=my_weighting) + 0.1 * sfp.ScoreFPE(fraction=0.25) + SmallValues(0.1)
    loss = loss + 0.1 * sfp.DSM(weighting=lambda sde, t: sde.g2(t))
    model = sfp.NoiseScore(Network(2, key=jr.key(1)), sde, data_std=1.0)
    seen: list[int] = []

    def watch(report: train.Report) -> None:
        seen.append(report.step)

    def judge(score: sfp.score.AbstractScore) -> dict[str, float]:
        return {"at zero": float(score(0.5, jnp.zeros(2)).sum())}

    run = train.fit(
        model,
        loss,
        samples,
        optimizer=optax.adam(1e-3),
        steps=4,
        key=jr.key(2),
        batch_size=8,
        time=sfp.UniformTime(),
        decay=(0.9, 0.99),
        checkpoints=train.Checkpoints(folder, every=2),
        evaluate=judge,
        evaluate_every=2,
        callbacks=[watch],
        progress=False,
        report_every=2,
    )
    loaded = train.load(folder, model)
    for trained in (run.model, run.averages[1], run.last, loaded):
        print(trained.network)  # a field that not every score has

    plain = sfp.Score(Network(2, key=jr.key(3)), sde)
    store = train.Checkpoints(folder + "/plain")
    other = train.fit(
        plain,
        sfp.DSM(),
        samples,
        optimizer=optax.sgd(0.1),
        steps=1,
        key=jr.key(4),
        batch_size=8,
        checkpoints=store,
        report_every=1,
    )
    assert_type(other, train.Run[sfp.Score])
    assert_type(other.averages, tuple[sfp.Score, ...])
    assert_type(other.last, sfp.Score)
    assert_type(train.load(store.path, plain), sfp.Score)

    sampler = sfp.EulerMaruyama(steps=4, grid=my_grid)
    assert_type(sfp.sample(run.model, 8, key=jr.key(5), method=sampler), Array)
    assert_type(sfp.ProbabilityFlow(sfp.Integrator(solver=diffrax.Heun())).integrator, sfp.Integrator)
    report = sfp.audit(run.model, samples, key=jr.key(7), measures=[Size(0.5)])
    assert_type(report["size"].numbers["size"].value, float)
    print(report)


if __name__ == "__main__":
    forward_processes()
    with tempfile.TemporaryDirectory() as folder:
        training(folder)
