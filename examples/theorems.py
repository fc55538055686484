"""Both sides of every theorem about likelihoods, on laws whose answers are known, and the pictures of it.

Song 2021, Theorems 1 to 4, 6 and 7; Lai 2023, Lemma 4.1, Theorem 4.2, Propositions 4.4 and 4.6. Every number is drawn
from the seeds below. Prints one line a check and writes the figures, `theorems.md` and `theorems.json`.

    python examples/theorems.py --out docs/assets/theorems
"""

import math
from collections.abc import Callable
from typing import Any

import _cells
import diffrax
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import scorefp as sfp
from scorefp.integrals import time_quadrature
from scorefp.likelihood import ode_score

Rows = list[dict[str, Any]]
Affine = tuple[jax.Array, jax.Array]
"""A field that is linear in x, as its slope and the point where it vanishes."""

# The two Gaussian cases: data N(0.5, 0.3) under VP, in one dimension.
LINE, MEAN, VARIANCE = sfp.VP(t0=1e-3), 0.5, 0.3
# The case in the plane: a mixture under Ornstein-Uhlenbeck.
PLANE = sfp.OU(t0=1e-2, t1=3.0)
MIXTURE = ([[-1.0, 0.4], [0.8, -0.5]], [0.2, 0.3], [0.35, 0.65])
SIZES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


def main() -> None:
    parser = _cells.parser(__doc__, out="docs/assets/theorems")
    parser.add_argument("--only", nargs="+", default=list(CHECKS), choices=list(CHECKS), help="the rest stays as saved")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    saved = options.out / "theorems.json"
    results: dict[str, Rows] = _cells.read_json(saved) if saved.exists() else {}
    for name in options.only:
        view, rows = CHECKS[name]()
        _cells.save_figure(view, options.out / f"{name}.png")
        results[name] = rows
    headings = ["check", "left side", "right side", "standard error", "off by"]
    results = {name: results[name] for name in CHECKS if name in results}
    checks = [line for rows in results.values() for line in rows]
    body = [
        [line["check"], *(shown(line[key]) for key in ("left", "right", "error")), verdict(line)] for line in checks
    ]
    _cells.show(headings, body)
    _cells.write(options.out / "theorems.md", _cells.markdown(headings, body))
    _cells.write_json(saved, results, indent=1)


# ------------------------------------------------------------------------------------ one law, one line each
def row(check: str, relation: str, left: Any, right: Any, error: Any = 0.0) -> dict[str, Any]:
    """Two sides with the standard error of their difference; `relation` is `=` or `<=`."""
    return {"check": check, "relation": relation, "left": float(left), "right": float(right), "error": float(error)}


def shown(value: float) -> str:
    return f"{value:.4g}" if value else ""


def verdict(line: dict[str, Any]) -> str:
    """How far the sides are apart, in standard errors where there are any."""
    gap, error = line["left"] - line["right"], line["error"]
    if line["relation"] == "<=" and gap <= 0:
        return "holds"
    if error > 0:
        return f"{gap / error:+.1f} standard errors"
    return f"{abs(gap) / max(abs(line['right']), 1e-12):.0e} relative"


def figure(columns: int, height: float = 3.4, width: float = 4.6) -> tuple[Figure, list[Axes]]:
    view = Figure(figsize=(width * columns, height), layout="constrained")
    panels = list(np.atleast_1d(view.subplots(1, columns)))
    for axes in panels:
        axes.grid(alpha=0.3)
    return view, panels


def bars(axes: Axes, x: Any, estimates: list[sfp.Estimate], label: str, color: str) -> None:
    """Estimates with two standard errors."""
    values, errors = ([float(getattr(e, name)) for e in estimates] for name in ("value", "error"))
    axes.errorbar(x, values, 2 * np.array(errors), fmt="o", ms=4, capsize=2, color=color, label=label, zorder=3)


# ------------------------------------------------------------------------------------ Gaussians on a line
def law(t: Any, mean: Any = MEAN, variance: Any = VARIANCE) -> tuple[jax.Array, jax.Array]:
    """Mean and variance of a diffused normal law."""
    alpha, sigma = LINE.alpha(t), LINE.sigma(t)
    return alpha * mean, alpha**2 * variance + sigma**2


def normal_kl(m: Any, v: Any, other_m: Any, other_v: Any) -> jax.Array:
    return 0.5 * (v / other_v - 1 - jnp.log(v / other_v) + (m - other_m) ** 2 / other_v)


def linear_score(t: Any, other: tuple[Any, Any], factor: Any) -> Affine:
    """Slope and zero of `factor` times the score of another diffused normal law."""
    m, v = law(t, *other)
    return -factor / v, m


def linear(other: tuple[Any, Any], factor: Any, t: Any, x: jax.Array) -> jax.Array:
    slope, zero = linear_score(t, other, factor)
    return slope * (x - zero)


def model_on_the_line(other: tuple[float, float], factor: float) -> sfp.Score:
    """A linear score. Its numbers are arrays inside it, so that all models share what is compiled."""
    return sfp.Score(jax.tree_util.Partial(linear, jax.tree.map(jnp.asarray, other), jnp.asarray(factor)), LINE)


@jax.jit
def moments(other: tuple[Any, Any], factor: Any) -> jax.Array:
    """Mean and variance of the reverse SDE's samples under a linear score, J_SM, and what Theorem 1 loses."""

    def rates(log_snr: Any, state: jax.Array, _: Any) -> jax.Array:
        t, (m, v) = LINE.time_of_log_snr(log_snr), state[:2]
        a, g2, (q_m, q_v) = LINE.rate(t), LINE.g2(t), law(t)
        slope, zero = linear_score(t, other, factor)

        def square(own_slope: Any, own_zero: Any) -> jax.Array:
            at_mean = slope * (q_m - zero) - own_slope * (q_m - own_zero)
            return (slope - own_slope) ** 2 * q_v + at_mean**2

        drift = [a * m - g2 * slope * (m - zero), 2 * (a - g2 * slope) * v - g2]
        integrals = [-0.5 * g2 * square(-1 / q_v, q_m), -0.5 * g2 * square(-1 / v, m)]
        return -jnp.stack(drift + integrals) * LINE.sigma(t) ** 2 / g2  # dt by d log_snr

    start = jnp.stack([0.0, LINE.sigma(LINE.t1) ** 2, 0.0, 0.0])
    solved = diffrax.diffeqsolve(
        diffrax.ODETerm(rates),
        diffrax.Tsit5(),
        LINE.log_snr(LINE.t1),
        LINE.log_snr(LINE.t0),
        0.01,
        start,
        stepsize_controller=diffrax.PIDController(rtol=1e-9, atol=1e-9),
    )
    assert solved.ys is not None
    return solved.ys[0]


def bound_of_the_law() -> tuple[Figure, Rows]:
    """Song 2021, Theorems 1 and 2, and what is lost between the sides [K2]."""
    data = sfp.GaussianMixture(jnp.array([[MEAN]]), jnp.array([VARIANCE]), jnp.ones(1))
    xs, truth = data.sample(jr.key(0), 4000), data.score(LINE)
    sizes = np.linspace(0, 0.5, 26)
    families: dict[str, Callable[[float], tuple[tuple[float, float], float]]] = {
        "score of another law": lambda size: ((MEAN - size, VARIANCE + size), 1.0),
        "truth times a factor": lambda size: ((MEAN, VARIANCE), 1.0 + size),
    }
    view, panels = figure(2)
    rows: Rows = []
    for axes, (name, family) in zip(panels, families.items(), strict=True):
        with jax.enable_x64(True):
            found = np.array([moments(*family(size)) for size in sizes])
            end = float(normal_kl(*law(LINE.t1), 0.0, LINE.sigma(LINE.t1) ** 2))
            kl = np.array([float(normal_kl(*law(LINE.t0), m, v)) for m, v in found[:, :2]])
        bound, loss = found[:, 2] + end, found[:, 3]
        chosen = sizes[::5]
        estimates = [
            sfp.likelihood.kl_bound(model_on_the_line(*family(size)), truth, xs, key=jr.key(1), draws=32)
            for size in chosen
        ]
        axes.plot(sizes, bound, color="C0", label="bound, exact")
        bars(axes, chosen, estimates, "bound, kl_bound", "C0")
        axes.plot(sizes, kl, "--", color="black", label=r"$\mathrm{KL}(q\,\Vert\,p_\mathrm{SDE})$")
        axes.set(xlabel="size of the perturbation", title=name, ylabel="nats")
        axes.legend(fontsize=8)
        relation, which = ("=", "Theorem 2") if "law" in name else ("<=", "Theorem 1")
        rows.append(row(f"{which}: KL and bound, {name}, size 0.3", relation, kl[15], bound[15]))
        rows.append(row(f"KL and bound less what is lost, {name}", "=", kl[15], bound[15] - loss[15]))
        rows.append(row(f"kl_bound and exact bound, {name}", "=", estimates[3].value, bound[15], estimates[3].error))
    return view, rows


def bound_of_a_sample() -> tuple[Figure, Rows]:
    """Song 2021, Theorems 3, 6 and 7 [K3], [K4]."""
    view, panels = figure(2)
    rows: Rows = []
    points = np.linspace(-1.2, 2.2, 9)
    models = {"score of another law": ((0.2, 0.6), 1.0), "truth times 1.3": ((MEAN, VARIANCE), 1.3)}
    axes = panels[0]
    for color, (name, model) in zip(("C0", "C1"), models.items(), strict=True):
        with jax.enable_x64(True):
            m, v, _, _ = (float(value) for value in moments(*model))
        log_prob = jax.scipy.stats.norm.logpdf(points, m, math.sqrt(v))
        for form, marker in (("dsm", "o"), ("sm", "s")):

            def bound(
                x: jax.Array, key: jax.Array, model: Any = model, form: Any = form
            ) -> sfp.likelihood.LikelihoodBound:
                score = model_on_the_line(*model)
                estimator = sfp.BoundEstimator(draws=4096, truncation="noised")
                return sfp.evaluate_bound(score, x[None], key=key, form=form, estimator=estimator)

            found = jax.jit(jax.vmap(bound))(jnp.asarray(points), jr.split(jr.key(2), points.size))
            gap, error = np.asarray(found.value + log_prob), np.asarray(found.error)
            shift = 0.03 if form == "sm" else -0.03
            axes.errorbar(
                points + shift, gap, 2 * error, fmt=marker, ms=4, capsize=2, color=color, label=f"{name}, {form}"
            )
            relation = "=" if "law" in name else "<="
            spread = float(np.sqrt(np.mean(error**2) / points.size))
            rows.append(
                row(f"Theorems 3 and 7: -log p and bound, {name}, {form}", relation, -log_prob.mean(),
                    found.value.mean(), spread)
            )  # fmt: skip
        fine = np.linspace(-1.3, 2.3, 101)
        axes.plot(fine, loss_of_a_point(model, fine, m, v), color=color, lw=1, label=f"{name}, exact")
    axes.set(xlabel="x", title=r"bound $+ \log p_\mathrm{SDE}(x)$", ylabel="nats", ylim=(-0.2, 1.7))
    axes.legend(fontsize=7, ncols=2, loc="upper center")
    rows += truncations(panels[1])
    return view, rows


def loss_of_a_point(model: tuple[tuple[float, float], float], x: np.ndarray, m: float, v: float) -> np.ndarray:
    """The exact bound of Theorem 7 with a linear score, plus log p, by quadrature."""
    with jax.enable_x64(True):
        points = jnp.asarray(x)
        t0 = jnp.asarray(LINE.t0)
        times, weights = time_quadrature(LINE, t0, jnp.asarray(LINE.t1), 200)

        def rate(t: jax.Array) -> jax.Array:
            (slope, zero), (scale, std) = linear_score(t, *model), LINE.transition(t0, t)
            mean_square = slope**2 * ((scale * points - zero) ** 2 + std**2)
            return LINE.g2(t) * (0.5 * mean_square + slope)

        integral = weights @ jax.vmap(rate)(times) + LINE.log_alpha(t0) - LINE.log_alpha(LINE.t1)
        scale, std = LINE.transition(t0, jnp.asarray(LINE.t1))
        prior = LINE.sigma(LINE.t1)
        end = 0.5 * ((scale * points) ** 2 + std**2) / prior**2 + jnp.log(prior) + 0.5 * math.log(2 * math.pi)
        return np.asarray(end + integral + jax.scipy.stats.norm.logpdf(points, m, math.sqrt(v)))


def truncations(axes: Axes) -> Rows:
    """What the truncation does to the mean bound of sharp data, in bits per dimension."""
    sde = sfp.VP()
    data = sfp.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.array([4e-4, 9e-4]), jnp.array([0.5, 0.5]))
    xs, exact = data.sample(jr.key(3), 500), data.score(sde)
    bits = 1 / math.log(2)
    truth = -np.asarray(jax.vmap(data.log_prob)(xs)) * bits
    starts = np.geomspace(1e-5, 1e-2, 7)
    curves: dict[str, list[sfp.Estimate]] = {"denoised (Eq. 39)": [], "ignored (Theorem 6)": []}
    without: list[float] = []
    rows: Rows = []
    for start in starts:
        keys = jr.split(jr.key(4), len(xs))
        for label, truncation in zip(curves, ("denoised", "ignored"), strict=True):

            def bound(x: jax.Array, key: jax.Array, start: Any = start, truncation: Any = truncation) -> Any:
                estimator = sfp.BoundEstimator(draws=512, truncation=truncation, start=float(start))
                return sfp.evaluate_bound(exact, x, key=key, estimator=estimator)

            found = jax.jit(jax.vmap(bound))(xs, keys)
            gap = np.asarray(found.value) * bits - truth
            curves[label].append(sfp.Estimate(gap.mean(), gap.std(ddof=1) / math.sqrt(len(gap))))  # pyright: ignore
            if truncation == "denoised":
                without.append(float((gap + np.asarray(found.kernel_entropy) * bits).mean()))
                entropy = float(found.kernel_entropy[0]) * bits
                if start == starts[0]:
                    closed = 0.5 * math.log2(2 * math.pi * math.e * -math.expm1(-(0.1e-5 + 0.5 * 19.9e-10)))
                    rows.append(row("entropy of the kernel at 1e-5 and closed form, bits/dim", "=", entropy, closed))
    for (label, estimates), color in zip(curves.items(), ("C0", "C1"), strict=True):
        bars(axes, starts, estimates, label, color)
    axes.plot(starts, without, "x--", color="C3", label="without the kernel's entropy")
    axes.axhline(0, color="black", lw=0.8)
    axes.set(xscale="log", xlabel=r"truncation $\varepsilon$", ylabel="bits/dim")
    axes.set(title=r"mean of bound $+ \log p(x)$, exact score")
    axes.legend(fontsize=7)
    mean, denoised = truth.mean(), curves["denoised (Eq. 39)"]
    for start, found in ((1e-5, denoised[0]), (1e-2, denoised[-1])):
        check = f"Eq. 39: mean of -log p and of its bound at {start:g}, bits/dim"
        rows.append(row(check, "<=", mean, mean + found.value, found.error))
    return rows


def entropies() -> tuple[Figure, Rows]:
    """Song 2021, Theorem 4, with the true score and with one that is too long [K5]."""
    sde = sfp.VP(t0=1e-4)
    covariance = jnp.array([[0.5, 0.2], [0.2, 0.3]])
    data = sfp.GaussianMixture(jnp.array([[0.4, -0.3]]), covariance[None], jnp.ones(1))
    exact = data.score(sde)
    at_start = sde.alpha(sde.t0) ** 2 * covariance + sde.sigma(sde.t0) ** 2 * jnp.eye(2)
    closed = float(0.5 * jnp.linalg.slogdet(2 * jnp.pi * jnp.e * at_start)[1])
    view, panels = figure(2)
    rows: Rows = []
    counts = [64, 256, 1024, 4096, 16384]
    for color, form in (("C0", "divergence"), ("C1", "drift")):
        found = [sfp.entropy(exact, data.sample(jr.key(n), n), key=jr.key(n + 1), form=form) for n in counts]
        bars(panels[0], np.array(counts) * (1.0 if form == "drift" else 0.9), found, form, color)
        rows.append(row(f"Theorem 4, {form}: entropy and closed form", "=", found[-1].value, closed, found[-1].error))
    panels[0].axhline(closed, color="black", lw=1, label="closed form")
    panels[0].set(xscale="log", xlabel="samples", ylabel="nats", title="exact score")
    panels[0].legend(fontsize=8)

    scaled = lambda factor, t, x: factor * exact(t, x)

    def times(factor: float) -> sfp.Score:
        return sfp.Score(jax.tree_util.Partial(scaled, jnp.asarray(factor)), sde)

    factors, xs = np.linspace(0.9, 1.1, 9), data.sample(jr.key(5), 4096)
    for color, form in (("C0", "divergence"), ("C1", "drift")):
        bars(panels[1], factors, [sfp.entropy(times(f), xs, key=jr.key(6), form=form) for f in factors], form, color)
    panels[1].axhline(closed, color="black", lw=1, label="closed form")
    panels[1].set(xlabel="factor on the score", ylabel="nats", title="scaled score")
    panels[1].legend(fontsize=8)
    return view, rows


# ------------------------------------------------------------------------------------ a mixture in the plane
def mixture() -> sfp.GaussianMixture:
    means, variances, weights = (jnp.asarray(part) for part in MIXTURE)
    return sfp.GaussianMixture(means, variances, weights)


def rotating(truth: sfp.score.AbstractScore, size: Any, t: Any, x: jax.Array) -> jax.Array:
    return truth(t, x) + size * jnp.tanh(jnp.stack([x[0] - x[1], x[0] + x[1]]))


def lengthened(truth: sfp.score.AbstractScore, size: Any, t: Any, x: jax.Array) -> jax.Array:
    return (1 + size) * truth(t, x)


def perturbed(error: Callable[..., jax.Array], size: float) -> sfp.Score:
    """The exact score with an error. The size is an array inside it, so that all sizes share what is compiled."""
    return sfp.Score(jax.tree_util.Partial(error, mixture().score(PLANE), jnp.asarray(size)), PLANE)


def decomposition() -> tuple[Figure, Rows]:
    """Lai 2023, Lemma 4.1 and the first half of Theorem 4.2 [K6]."""
    view, panels = figure(3, width=3.5)
    exact, xs = mixture().score(PLANE), mixture().sample(jr.key(7), 4000)
    rows: Rows = []
    families = {
        "rotating error": (rotating, SIZES, "C0"),
        "too long or too short": (lengthened, (-0.2, -0.1, -0.05, 0.05, 0.1, 0.2), "C1"),
    }
    for axes, (name, (error, sizes, color)) in zip(panels, families.items(), strict=False):
        found = [
            sfp.kl_decomposition(perturbed(error, size), exact, xs, key=jr.key(8), draws=8, batch_size=500)
            for size in sizes
        ]
        parts = {
            r"$J_\mathrm{SM}$": [float(f.matching.value) for f in found],
            r"$J_\mathrm{Diff}$": [float(f.difference.value) for f in found],
            r"$\mathrm{KL}(q_{t_1}\Vert\pi)$": [float(f.prior.value) for f in found],
        }
        place, width = np.arange(len(sizes)), 0.5
        above, below = np.zeros(len(sizes)), np.zeros(len(sizes))
        for shade, (label, heights) in zip(("#9ecae1", "#fdae6b", "#a1d99b"), parts.items(), strict=True):
            height = np.array(heights)
            bottom = np.where(height >= 0, above, below)
            axes.bar(place, height, width, bottom, label=label, color=shade)
            above, below = above + np.maximum(height, 0), below + np.minimum(height, 0)
        bars(axes, place, [f.kl for f in found], r"$\mathrm{KL}(q\,\Vert\,p_\mathrm{ODE})$, direct", "black")
        axes.set_xticks(place, [f"{size:g}" for size in sizes])
        axes.set(xlabel="size of the perturbation", title=name, ylabel="nats")
        axes.legend(fontsize=8)
        for size, f in zip(sizes, found, strict=True):
            if size in (0.0, 0.4, -0.2, 0.2):
                rows.append(row(f"Lemma 4.1: KL and its terms, {name} {size:g}", "=", f.kl.value, f.total, f.gap.error))
        left = [float(f.difference.value) ** 2 for f in found if f.matching.value > 0]
        right = [float(f.matching.value * f.fisher.value) for f in found if f.matching.value > 0]
        panels[2].loglog(right, left, "o", ms=5, color=color, label=name)
        last = found[-1]
        spread = math.hypot(
            2 * last.difference.value * last.difference.error,
            last.matching.value * last.fisher.error,
            last.fisher.value * last.matching.error,
        )
        check = f"Theorem 4.2: J_Diff² and J_SM J_Fisher, {name} {sizes[-1]:g}"
        rows.append(row(check, "<=", left[-1], right[-1], spread))
    low, high = 1e-6, 10.0
    panels[2].loglog([low, high], [low, high], color="black", lw=1, label="equality")
    panels[2].set(xlabel=r"$J_\mathrm{SM}\,J_\mathrm{Fisher}$", ylabel=r"$J_\mathrm{Diff}^2$", title="Theorem 4.2")
    panels[2].legend(fontsize=8)
    return view, rows


def along_the_flow() -> tuple[Figure, Rows]:
    """The difference between a score and that of its own flow, from the residual, with its bound."""
    model = perturbed(rotating, 0.4)
    times, accurate = np.geomspace(PLANE.t1, 0.02, 60), sfp.Integrator(rtol=1e-6, atol=1e-6)

    def rates(t: Any, state: Any, _: Any) -> Any:
        x, d, bound = state
        u = model.probability_flow(t, x)
        jacobian = jax.jacfwd(lambda y: model.probability_flow(t, y))(x)
        source = sfp.score_fpe_residual(model, t, x) + sfp.curl(lambda y: model(t, y), x) @ u
        worst = jnp.linalg.eigvalsh(0.5 * (jacobian + jacobian.T))[-1]
        return u, source - jacobian.T @ d, -jnp.linalg.norm(source) - worst * bound

    @jax.jit
    def path(latent: jax.Array) -> Any:
        end = model(PLANE.t1, latent) + latent / PLANE.prior.scale**2
        solved = diffrax.diffeqsolve(
            diffrax.ODETerm(rates),
            diffrax.Tsit5(),
            PLANE.t1,
            times[-1],
            -0.01,
            (latent, end, jnp.linalg.norm(end)),
            saveat=diffrax.SaveAt(ts=jnp.asarray(times)),
            stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-6),
        )
        return solved.ys

    @jax.jit
    def by_gradient(ts: jax.Array, x: jax.Array) -> jax.Array:
        return jax.vmap(lambda t, x: model(t, x) - ode_score(model, t, x, integrator=accurate))(ts, x)

    view, (axes,) = figure(1, 3.8)
    rows: Rows = []
    norm = lambda d: np.linalg.norm(np.asarray(d), axis=1)
    for i, latent in enumerate([[0.5, -0.3], [-0.4, 0.8], [1.0, 0.6]]):
        x, d, bound = path(jnp.array(latent))
        chosen = slice(3, None, 8)
        direct = by_gradient(jnp.asarray(times[chosen]), x[chosen])
        axes.plot(times, norm(d), color=f"C{i}", label="from the residual" if i == 0 else None)
        axes.plot(times[chosen], norm(direct), "o", ms=4, color=f"C{i}", label="by gradient" if i == 0 else None)
        axes.plot(times, bound, "--", lw=1, color=f"C{i}", label="bound (2)" if i == 0 else None)
        rows.append(row(f"s - s_ODE from the residual and by gradient, path {i + 1}", "=",
                        norm(d[chosen])[-1], norm(direct)[-1]))  # fmt: skip
        rows.append(row(f"its norm and bound, path {i + 1}", "<=", norm(d)[-1], bound[-1]))
    axes.set(xscale="log", xlabel="t", title=r"$\Vert s - s_\mathrm{ODE}\Vert$ along three paths")
    axes.legend(fontsize=8)
    return view, rows


def conservativity() -> tuple[Figure, Rows]:
    """Lai 2023, Proposition 4.4 [C2]."""
    sde, anchor = sfp.VP(), 0.5
    view, (axes,) = figure(1, 3.8)
    rows: Rows = []
    with jax.enable_x64(True):
        exact = mixture().score(sde)

        def with_error(t: Any, x: jax.Array) -> jax.Array:
            return exact(t, x) + (t - anchor) * jnp.tanh(jnp.stack([-x[1], x[0]]))

        model = sfp.Score(with_error, sde)
        psi = sfp.fokker_planck.AnchoredPotential(model, lambda x: exact.potential(anchor, x), anchor=anchor)

        @jax.jit
        def sides(t: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
            taus, weights = time_quadrature(sde, jnp.asarray(anchor), t, 32)
            norms = jax.vmap(lambda tau: jnp.linalg.norm(sfp.score_fpe_residual(model, tau, x)))(taus)
            integral = sfp.fokker_planck.integrated_residual(model, t, x, start=anchor)
            return model(t, x) - psi(t, x), integral, jnp.abs(weights @ norms)

        times = jnp.linspace(0.05, 0.95, 37)
        for i, x in enumerate([[0.4, -0.2], [-1.0, 0.8], [1.5, 1.0]]):
            left, right, bound = jax.vmap(sides, (0, None))(times, jnp.asarray(x))
            norm = lambda d: np.linalg.norm(np.asarray(d), axis=1)
            first = i == 0
            axes.plot(times, norm(left), color=f"C{i}", label=r"$\Vert s - \nabla\Psi\Vert$" if first else None)
            axes.plot(times[::3], norm(right)[::3], "o", ms=4, color=f"C{i}",
                      label=r"$\Vert\int\varepsilon\Vert$" if first else None)  # fmt: skip
            axes.plot(times, bound, "--", lw=1, color=f"C{i}", label=r"$\int\Vert\varepsilon\Vert$" if first else None)
            rows.append(row(f"Proposition 4.4 at x = {x}, t = 0.05", "=", norm(left)[0], norm(right)[0]))
    axes.set(xlabel="t", title=r"distance from a gradient, $t^* = 0.5$")
    axes.legend(fontsize=8)
    return view, rows


def high_order() -> tuple[Figure, Rows]:
    """Lai 2023, Proposition 4.6 [H4]."""
    model, exact, start = perturbed(rotating, 0.4), mixture().score(PLANE), 0.05
    error = lambda t, x: model(t, x) - exact(t, x)

    @jax.jit
    def sides(t: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        times, weights = time_quadrature(PLANE, jnp.asarray(start), t, 32)

        def operators(x: jax.Array) -> jax.Array:
            return weights @ jax.vmap(lambda t: sfp.fpe_operator(model, t, x) - sfp.fpe_operator(exact, t, x))(times)

        by_errors = error(t, x) - error(start, x) - jax.grad(operators)(x)
        worst = jax.tree.map(jnp.max, jax.vmap(lambda t: sfp.fokker_planck.matching_errors(model, exact, t, x))(times))
        bound = sfp.fokker_planck.high_order_bound(exact, worst, t, x, start=start)
        return sfp.fokker_planck.integrated_residual(model, t, x, start=start), by_errors, bound

    view, (axes,) = figure(1, 3.8)
    rows: Rows = []
    times = jnp.geomspace(0.06, 3.0, 40)
    norm = lambda d: np.linalg.norm(np.asarray(d), axis=1)
    for i, x in enumerate([[0.4, -0.2], [-1.0, 0.8], [1.5, 1.0]]):
        integral, by_errors, bound = jax.vmap(sides, (0, None))(times, jnp.asarray(x))
        first = i == 0
        axes.plot(times, norm(integral), color=f"C{i}", label=r"$\Vert\int\varepsilon\Vert$" if first else None)
        axes.plot(times[::3], norm(by_errors)[::3], "o", ms=4, color=f"C{i}",
                  label="from the errors, (3)" if first else None)  # fmt: skip
        axes.plot(times, bound, "--", lw=1, color=f"C{i}", label="bound" if first else None)
        rows.append(row(f"Proposition 4.6, identity at x = {x}, t = 3", "=", norm(integral)[-1], norm(by_errors)[-1]))
        rows.append(row(f"Proposition 4.6, bound at x = {x}, t = 3", "<=", norm(integral)[-1], bound[-1]))
    axes.set(xscale="log", yscale="log", xlabel="t", title="integrated residual")
    axes.legend(fontsize=8)
    return view, rows


CHECKS: dict[str, Callable[[], tuple[Figure, Rows]]] = {
    "bound_of_the_law": bound_of_the_law,
    "bound_of_a_sample": bound_of_a_sample,
    "entropy": entropies,
    "decomposition": decomposition,
    "along_the_flow": along_the_flow,
    "conservativity": conservativity,
    "high_order": high_order,
}


if __name__ == "__main__":
    main()
