r"""Variance of trace estimators on the Jacobians of trained scores, at equal numbers of products with the Jacobian.

    python benchmarks/traces.py --out docs/assets

An `MLP` and a small `UNet` on 8×8 digits (D = 64), trained by `fit` under VP with Adam and kept in `.cache`. At three
levels of noise, for eight diffused test digits each, over 400 keys:

- *divergence*, what a likelihood integrates: the variance of $\sigma^2\,\nabla\cdot s$;
- *residual*: the variance of $\tfrac{\sigma^3}{g^2}\varepsilon$, the sum over its entries; with probes it comes from
  $\tfrac12g^2\,\nabla(\nabla\cdot s)$ alone, taken from all second derivatives of the score;
- *curl*: the variance of $\tfrac12\|\sigma^2(J - J^\top)\|_F^2$.

All at 24 products with $J$ or its transpose: `Hutchinson(24)`, `HutchPlusPlus(8)` and `XTrace(12)` for the divergence,
`XTrace(8)` for the residual; for the curl, where a probe takes two products, `Hutchinson(12)`, `HutchPlusPlus(4)` and
`XTrace(4)`. A column of an estimator is its variance over that of signs: below one is better. The trace that 64
products take exactly has none. *Effective rank* is $(\sum|\mu_i|)^2/\sum\mu_i^2$ of the eigenvalues of the symmetric
part of $I + \sigma^2J$, and *off the diagonal* the share of its square there.

The seconds are those of the divergence of 64 images in one compiled call, estimators in turns, over `Hutchinson(24)`:
median and deciles of the ratios within rounds.
"""

from pathlib import Path
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, in_turns, machine, report, spread, table, timed
from jaxtyping import Array

import scorefp as sfp
from scorefp import calculus, data, train
from scorefp.calculus import AbstractTrace, HutchPlusPlus, XTrace

SDE = sfp.VP()
SHAPE = (1, 8, 8)
LEVELS = {"low": 0.03, "middle": 0.2, "high": 0.6}
CACHE = Path(".cache/traces")
SAMPLES, KEYS, IMAGES = 8, 400, 64

NORMAL = calculus.Gaussian()
PROBED = {"signs": sfp.Hutchinson(24), "normal": sfp.Hutchinson(24, NORMAL)}
TRACES: dict[str, dict[str, AbstractTrace]] = {
    "divergence": {**PROBED, "Hutch++": HutchPlusPlus(8), "XTrace": XTrace(12)},
    "residual": {**PROBED, "Hutch++": HutchPlusPlus(8), "XTrace": XTrace(8)},
    "curl": {
        "signs": sfp.Hutchinson(12),
        "normal": sfp.Hutchinson(12, NORMAL),
        "Hutch++": HutchPlusPlus(4),
        "XTrace": XTrace(4),
    },
}

VARIANCES = """\
| network | noise | quantity | effective rank | off the diagonal | signs: variance | normal | Hutch++ | XTrace |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| {network} | {level}, t = {t} | {quantity} | {rank:.0f} | {off:.2f} \
| {signs:.1e} | {normal:.2f} | {Hutch++:.2f} | {XTrace:.2f} |
"""
SECONDS = """\
| network | signs | Hutch++ | XTrace | Exact |
| --- | ---: | ---: | ---: | ---: |
| {network} | {signs:.2f} | {Hutch++:.2f} | {XTrace:.2f} | {Exact:.2f} |
"""


def as_images(split: Literal["train", "test"]) -> data.Dataset:
    return data.digits(split).reshaped(SHAPE)


def trained(name: str, steps: int) -> sfp.score.AbstractScore:
    images = as_images("train")
    if name == "MLP":
        network, batch = sfp.nn.MLP(SHAPE, width=256, depth=3, key=jr.key(0)), 128
    else:
        network = sfp.nn.UNet(SHAPE, channels=16, multipliers=(1, 2), attention=(4,), key=jr.key(0))
        batch = 64
    score = sfp.NoiseScore(network, SDE, data_std=0.5)
    path = CACHE / f"{name}-{steps}.eqx"
    if not path.exists():
        optimizer = optax.adam(1e-3)
        run = train.fit(
            score, sfp.DSM(), images, optimizer=optimizer, steps=steps, batch_size=batch, key=jr.key(1), progress=False
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        eqx.tree_serialise_leaves(path, run.model)
    return eqx.tree_deserialise_leaves(path, score)


def test_images(count: int) -> Array:
    digits = as_images("test")
    return sfp.UniformDequantiser(digits.quantisation)(jnp.asarray(digits.values)[:count], key=jr.key(2))


@eqx.filter_jit
def derivatives(score: sfp.score.AbstractScore, t: Array, x0: Array, noise: Array) -> tuple[Array, Array]:
    r"""First and second derivatives of the score at diffused samples, as $\sigma^2J$ and $\sigma^3\nabla J$."""

    def at(x0: Array, noise: Array) -> tuple[Array, Array]:
        flat = lambda y: score(t, y.reshape(x0.shape)).ravel()
        x, sigma = SDE.diffuse(t, x0, noise).ravel(), SDE.sigma(t)
        return sigma**2 * jax.jacfwd(flat)(x), sigma**3 * jax.jacfwd(jax.jacfwd(flat))(x)

    return jax.lax.map(lambda pair: at(*pair), (x0, noise))


@eqx.filter_jit
def variance(trace: AbstractTrace, quantity: str, jacobians: Array, seconds: Array, key: Array) -> Array:
    """The variance over keys, the mean over samples; of a residual the sum over its entries."""

    def of_sample(jacobian: Array, second: Array, key: Array) -> Array:
        field, x = lambda y: jacobian @ y, jnp.zeros(len(jacobian))

        def draw(key: Array) -> Array:
            if quantity == "curl":
                return calculus.squared_curl(field, x, trace=trace, key=key)
            probes, products = trace.products(field, trace.probes(x, key))
            if quantity == "divergence":
                return jnp.sum(probes * products) / len(probes)
            return 0.5 * jnp.einsum("pi,pj,ijk->k", probes, probes, second) / len(probes)

        return jnp.sum(jnp.var(jax.lax.map(draw, jr.split(key, KEYS), batch_size=50), axis=0, ddof=1))

    with jax.default_matmul_precision("highest"):
        each = jax.lax.map(lambda row: of_sample(*row), (jacobians, seconds, jr.split(key, len(jacobians))))
    return jnp.mean(each)


def variances(name: str, score: sfp.score.AbstractScore) -> list[Row]:
    rows, x0 = [], test_images(SAMPLES)
    for level, t in LEVELS.items():
        jacobians, seconds = derivatives(score, jnp.asarray(t), x0, jr.normal(jr.key(3), x0.shape))
        symmetric = np.asarray(jacobians + jnp.swapaxes(jacobians, 1, 2)) / 2 + np.eye(x0[0].size)
        values = np.abs(np.linalg.eigvalsh(symmetric))
        squares = np.sum(symmetric**2, axis=(1, 2))
        shape = {
            "rank": float(np.mean(values.sum(axis=1) ** 2 / np.sum(values**2, axis=1))),
            "off": float(np.mean(1 - np.sum(np.diagonal(symmetric, axis1=1, axis2=2) ** 2, axis=1) / squares)),
        }
        for quantity, traces in TRACES.items():
            found = {n: float(variance(trace, quantity, jacobians, seconds, jr.key(4))) for n, trace in traces.items()}
            ratios = {n: value / found["signs"] for n, value in found.items() if n != "signs"}
            what = {"network": name, "level": level, "t": t, "quantity": quantity}
            rows.append({**what, **shape, "signs": found["signs"], **ratios})
            print(rows[-1], flush=True)
    return rows


def seconds(name: str, score: sfp.score.AbstractScore, rounds: int) -> Row:
    xs, keys = test_images(IMAGES), jr.split(jr.key(5), IMAGES)

    def program(trace: AbstractTrace) -> Any:
        def one(x: Array, key: Array) -> Array:
            return sfp.divergence(lambda y: score(0.2, y), x, trace=trace, key=key)

        return jax.jit(jax.vmap(one))

    traces = {n: trace for n, trace in TRACES["divergence"].items() if n != "normal"}
    found = in_turns(
        {n: timed(program(trace), xs, keys) for n, trace in {**traces, "Exact": sfp.Exact()}.items()}, rounds
    )
    return {"network": name, **{n: spread(times / found["signs"]) for n, times in found.items()}}


def main() -> None:
    parser = arguments(__doc__ or "", 10, "traces", "rounds of the timing")
    parser.add_argument("--steps", type=int, nargs=2, default=[6000, 1500], help="training steps of MLP and UNet")
    options = parser.parse_args()
    scores = {name: trained(name, steps) for name, steps in zip(("MLP", "UNet"), options.steps, strict=True)}
    rows = [row for name, score in scores.items() for row in variances(name, score)]
    times = [seconds(name, score, options.rounds) for name, score in scores.items()]
    about = "Seconds of a divergence over those with `Hutchinson(24)`:"
    text = f"{table(VARIANCES, rows)}\n{about}\n\n{table(SECONDS, times)}"
    report("traces", text, [*rows, *times], f"{machine(optax)}; {KEYS} keys, {SAMPLES} images.", options.out)


if __name__ == "__main__":
    main()
