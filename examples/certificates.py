"""What certificates see of a score: the bound of its error and the circulation, beside the known error [N1], [C4].

Three modes in the plane under VP, whose score is known: as it is, with a gradient added, and with a field without
divergence in the density, which leaves the marginals alone. Measured from samples alone are the lower bounds of the
error and of its gradient part, the circulation, and the p-value of the kernel test [N2].

    python examples/certificates.py
"""

from typing import Any

import _cells
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp.diagnostics import CirculationCurve, Ensemble, ScoreError, SteinTest, log_snr_ends

SDE = sfp.VP()
COVARIANCES = [[[0.3, 0.1], [0.1, 0.2]], [[0.2, -0.08], [-0.08, 0.3]], [[0.15, 0.0], [0.0, 0.4]]]
MEANS, WEIGHTS = [[-0.9, 0.2], [0.8, 0.5], [0.1, -1.0]], [0.2, 0.5, 0.3]
DATA = sfp.GaussianMixture(jnp.asarray(MEANS), jnp.asarray(COVARIANCES), jnp.asarray(WEIGHTS))
EXACT = DATA.score(SDE)
KINDS = {"exact": 0.0, "a gradient added": 0.3, "a rotation added": 0.3}
HEADINGS = ("score", "its error", "bound", "error's gradient part", "bound", "circulation", "p-value")
CURVES = {
    "truth": ("error, known", "black", "-"),
    "score_error": ("at least, all fields", "#0072B2", "o"),
    "score_error_gradient": ("at least, gradients", "#D55E00", "s"),
    "circulation": ("circulation", "#009E73", "^"),
}


def main() -> None:
    parser = _cells.parser(__doc__, out="docs/assets/certificates")
    parser.add_argument("--samples", type=int, default=4096)
    options = parser.parse_args()
    found = {kind: measured(kind, eta, options.samples) for kind, eta in KINDS.items()}
    body = [[kind, *(cell[name] for name in ROW)] for kind, cell in found.items()]
    text = _cells.markdown(HEADINGS, body)
    print(text)
    _cells.write(options.out / "certificates.md", text)
    _cells.save_figure(figure(found), options.out / "certificates.png")


ROW = ("truth", "score_error", "truth_gradient", "score_error_gradient", "circulation", "p_value")


class Wrong(eqx.Module):
    """The exact score with an error of a kind, of the size `eta` of one entry of the noise prediction."""

    kind: str = eqx.field(static=True)
    eta: float

    def error(self, t: jax.Array, x: jax.Array) -> jax.Array:
        if self.kind == "a rotation added":
            s = EXACT(t, x)
            return self.eta * jnp.stack([-s[1], s[0]])
        return self.eta / SDE.sigma(t) * jnp.stack([jnp.cos(x[0]) * jnp.cos(x[1]), -jnp.sin(x[0]) * jnp.sin(x[1])])

    def __call__(self, t: jax.Array, x: jax.Array) -> jax.Array:
        return EXACT(t, x) + self.error(t, x)


def measured(kind: str, eta: float, samples: int) -> dict[str, Any]:
    """The numbers as text, and the curves with the known error beside them."""
    wrong, x = Wrong(kind, eta), DATA.sample(jr.key(0), samples)
    score = sfp.Score(wrong, SDE, (2,))
    measures = (
        ScoreError(ensemble=Ensemble(16, samples)),
        CirculationCurve(ensemble=Ensemble(16, samples)),
        SteinTest(ensemble=Ensemble(8, 1024, log_snr_ends)),
    )
    report = sfp.audit(score, x, key=jr.key(1), measures=measures)
    curves = {name: c for title in ("error", "circulation") for name, c in report[title].curves.items()}
    times = jnp.asarray(curves["score_error"].t)

    @jax.jit
    def squares(t: jax.Array) -> jax.Array:
        noise = jr.normal(jr.key(2), x.shape)
        errors = jax.vmap(lambda x0, n: wrong.error(t, SDE.diffuse(t, x0, n)))(x, noise)
        return SDE.sigma(t) ** 2 * jnp.mean(errors**2)

    truth = np.asarray(jax.lax.map(squares, times), np.float64)
    size = f"{np.sqrt(truth.mean()):.3f}"
    numbers = {name: str(n) for section in report.sections.values() for name, n in section.numbers.items()}
    gradient = "0.000" if kind == "a rotation added" else size
    return numbers | {"truth": size, "truth_gradient": gradient, "t": times, "known": np.sqrt(truth), "curves": curves}


def figure(found: dict[str, dict[str, Any]]) -> Figure:
    view = Figure(figsize=(9.6, 3.3), layout="constrained")
    panels = view.subplots(1, len(found), sharey=True)
    for axes, (kind, cell) in zip(panels, found.items(), strict=True):
        for name, (label, colour, mark) in CURVES.items():
            if name == "truth":
                axes.plot(cell["t"], cell["known"], color=colour, linewidth=1.2, label=label)
            else:
                curve = cell["curves"][name]
                half = np.minimum(curve.half_width, curve.value)
                axes.errorbar(
                    curve.t,
                    curve.value,
                    yerr=(half, curve.half_width),
                    color=colour,
                    fmt=mark,
                    markersize=4,
                    linewidth=1,
                    label=label,
                )
        axes.set_xscale("log")
        axes.set_title(kind, fontsize=10)
        axes.set_xlabel("t")
        axes.grid(alpha=0.25, linewidth=0.5)
    panels[0].set_ylabel("root mean square of one entry\nof the noise prediction")
    view.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False)
    return view


if __name__ == "__main__":
    main()
