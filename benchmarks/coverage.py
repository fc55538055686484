"""Standard errors of the likelihood bound beside its spread, and how often an interval holds the mean.

    python benchmarks/coverage.py --out docs/assets

One point in the plane; the exact score of two normal modes, and the score of one normal law that is not theirs. Each
bound is estimated `rounds` times with other keys. Error over spread is the root mean square of the standard errors over
the standard deviation of the values, which 4,000 rounds know to 1.1 %; coverage is the share of values that lie within
1.96 of their own standard errors of the mean of all, which would be 0.95 for normal values with known errors. Float32,
`UniformLogSNR()` and `UniformTime()`, both stratified; the keys are fixed.
"""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
from _timing import Row, arguments, machine, report, table
from jaxtyping import Array

import scorefp as sfp

POINT = jnp.array([0.4, -0.2])
SDES = {"VP()": sfp.VP(), "OU()": sfp.OU(), "EDM()": sfp.EDM()}
LAWS = {"UniformLogSNR()": sfp.UniformLogSNR(), "UniformTime()": sfp.UniformTime()}
MIXTURE = sfp.GaussianMixture(jnp.array([[-1.0, 0.0], [1.0, 0.5]]), jnp.array([0.05, 0.2]), jnp.array([0.5, 0.5]))

TABLE = """\
| SDE | score | times | draws | error over spread | coverage |
| --- | --- | --- | ---: | ---: | ---: |
| `{sde}` | {score} | `{law}` | {draws} | {ratio:.2f} | {coverage:.2f} |
"""


def repeated(score: sfp.score.AbstractScore, estimator: sfp.BoundEstimator, rounds: int) -> tuple[Array, Array]:
    """Values and standard errors of a bound with many keys."""

    def once(key: Array) -> tuple[Array, Array]:
        bound = sfp.evaluate_bound(score, POINT, key=key, estimator=estimator)
        return bound.value, bound.error

    return jax.jit(lambda keys: jax.lax.map(once, keys, batch_size=50))(jr.split(jr.key(0), rounds))


def main() -> None:
    options = arguments(__doc__, 4000, "coverage", "how often each bound is estimated").parse_args()
    rows: list[Row] = []
    for (sde_name, sde), (law_name, law), draws in itertools.product(SDES.items(), LAWS.items(), (64, 256)):
        scores = {"exact": MIXTURE.score(sde), "wrong": sfp.Score(lambda t, x: -1.3 * x / (0.3 + t**2), sde)}
        for name, score in scores.items():
            value, error = repeated(score, sfp.BoundEstimator(draws=draws, time=law), options.rounds)
            ratio = float(jnp.sqrt(jnp.mean(error**2)) / jnp.std(value))
            coverage = float(jnp.mean(jnp.abs(value - jnp.mean(value)) < 1.96 * error))
            row = {"sde": sde_name, "law": law_name, "draws": draws, "score": name}
            rows.append(row | {"ratio": ratio, "coverage": coverage})
    report("coverage", table(TABLE, rows), rows, f"{options.rounds} rounds, {machine()}.", options.out)


if __name__ == "__main__":
    main()
