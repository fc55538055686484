"""Between two digits: along a circle of latents, along a line of latents, and by mixing pixels.

A score is trained on the 8×8 digits. Pairs of test digits of two classes are encoded; the points between their latents
are decoded with the log-likelihood in the same solve, and those between their pixels get theirs from a solve of their
own. Prints and writes what each way makes of the middle, the error of the round trip, and the picture:

    python examples/latents.py --out docs/assets/latents

The circle is the path of Song 2020 (DDIM, §5.3): a point between two draws of the prior at which it is as long as they
are. The trained model is kept in `.cache/latents/` and the numbers beside the picture; a run that was stopped resumes.
"""

from pathlib import Path
from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import scorefp as sfp
from scorefp import data, plot, train

SHARES = np.linspace(0, 1, 9)
SHOWN = 6
LENIENT = sfp.Integrator(throw=False)


def circle(start: jax.Array, end: jax.Array, share: float) -> jax.Array:
    """The point on the circle through two vectors, at a share of the angle between them."""
    angle = jnp.arccos(jnp.vdot(start, end) / (jnp.linalg.norm(start) * jnp.linalg.norm(end)))
    return (jnp.sin((1 - share) * angle) * start + jnp.sin(share * angle) * end) / jnp.sin(angle)


def line(start: jax.Array, end: jax.Array, share: float) -> jax.Array:
    """The point on the line between two vectors."""
    return (1 - share) * start + share * end


WAYS = {"circle of latents": circle, "line of latents": line, "mixed pixels": line}
COLUMNS = {"length": "length of the latent, over √D", "bits": "bits/dim, median", "low": "10 %", "high": "90 %"}


def main() -> None:
    parser = _cells.parser(__doc__, out="demo/latents")
    parser.add_argument("--steps", type=int, default=6000, help="training steps")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of test digits")
    parser.add_argument("--cache", type=Path, default=Path(".cache/latents"), help="where the trained model is kept")
    options = parser.parse_args()
    model = fitted(options.cache / f"model-{options.steps}", options.steps)
    facts = {"steps": options.steps, "pairs": options.pairs}
    found = _cells.cell(options.out / "latents.json", facts, lambda: measured(model, options.pairs))

    headings = ["half-way", *COLUMNS.values()]
    body = [[name, *(f"{row[column]:.3f}" for column in COLUMNS)] for name, row in found["middle"].items()]
    _cells.show(headings, body, left=1, title=f"{options.pairs} pairs of test digits, {options.steps} training steps")
    print("error of the round trip: median {median:.1e}, largest {largest:.1e}".format(**found["round trip"]))
    _cells.write(options.out / "latents.md", _cells.markdown(headings, body, left=1))
    view = plot.image_grid(
        {name: np.array(found["pictures"][name]).reshape(-1, 8, 8) for name in WAYS},
        columns=len(SHARES),
        limits=(-1, 1),
    )
    _cells.save_figure(view, options.out / "latents.png")


def fitted(path: Path, steps: int) -> sfp.score.NetworkScore:
    """The score of the digits; kept."""
    digits = data.digits("train")
    start = sfp.NoiseScore(sfp.nn.MLP(digits.shape, width=256, key=jr.key(0)), sfp.VP(), data_std=digits.std)

    def trained() -> tuple[Any, dict[str, Any]]:
        run = train.fit(start, sfp.DSM(), digits, optimizer=_cells.adam(1e-3, steps), steps=steps, key=jr.key(100))
        return run.model, {"steps": steps}

    return _cells.kept(path, start, trained)[0]


def chosen(pairs: int) -> tuple[jax.Array, jax.Array]:
    """Pairs of test digits of two classes."""
    test = data.digits("test", labels=True)
    values, labels = np.asarray(test.dequantised(jr.key(1)).values), np.asarray(test.args)
    order = np.random.default_rng(0).permutation(len(values))
    both = [(i, j) for i, j in zip(order[::2], order[1::2], strict=False) if labels[i] != labels[j]][:pairs]
    first, second = np.array(both).T
    return jnp.asarray(values[first]), jnp.asarray(values[second])


def measured(model: sfp.score.AbstractScore, pairs: int) -> dict[str, Any]:
    """What each way makes of the pairs: pictures of the first ones, numbers of the middle of all."""
    ends = chosen(pairs)
    trip = eqx.filter_jit(jax.vmap(lambda x: sfp.reverse.round_trip(model, x, integrator=LENIENT)))
    there = trip(jnp.concatenate(ends))
    latents = there.latent[: len(ends[0])], there.latent[len(ends[0]) :]
    decoded = eqx.filter_jit(jax.vmap(lambda z: sfp.decode(model, z, integrator=LENIENT)))

    middle, pictures = {"the digits themselves": likelihoods(model, jnp.concatenate(ends), True)}, dict[str, Any]()
    for name, way in WAYS.items():
        of_pixels = name == "mixed pixels"
        start, end = ends if of_pixels else latents
        middle[name] = likelihoods(model, jax.vmap(lambda a, b, way=way: way(a, b, 0.5))(start, end), of_pixels)
        path = jax.vmap(lambda a, b, way=way: jnp.stack([way(a, b, share) for share in SHARES]))
        points = path(start[:SHOWN], end[:SHOWN]).reshape(-1, start.shape[1])
        shown = points if of_pixels else decoded(points)
        pictures[name] = np.asarray(shown, np.float64).round(3).tolist()
    errors = np.asarray(there.solver_error)
    error = {"median": float(np.median(errors)), "largest": float(np.max(errors))}
    return {"round trip": error, "middle": middle, "pictures": pictures}


def likelihoods(model: sfp.score.AbstractScore, points: jax.Array, of_pixels: bool) -> dict[str, float]:
    """The typical length of the latents and quantiles of the bits per dimension, of pictures or of latents."""
    if of_pixels:
        solved = eqx.filter_jit(jax.vmap(lambda x: sfp.flow_likelihood(model, x, integrator=LENIENT)))(points)
        latent, log_prob = solved.latent, solved.log_prob
    else:
        drawn = sfp.flow_samples(model, len(points), key=jr.key(2), initial=points, integrator=LENIENT)
        latent, log_prob = points, drawn.log_prob
    levels = data.digits("test").quantisation
    assert levels is not None
    size = points.shape[1]
    # A solve that failed counts as no likelihood at all.
    bits = sfp.bits_per_dim(jnp.where(jnp.isnan(log_prob), -jnp.inf, log_prob), size, levels)
    low, median, high = (float(q) for q in np.quantile(np.asarray(bits), [0.1, 0.5, 0.9], method="nearest"))
    length = float(np.nanmedian(np.linalg.norm(np.asarray(latent), axis=1))) / np.sqrt(size)
    return {"length": float(length), "bits": median, "low": low, "high": high}


if __name__ == "__main__":
    main()
