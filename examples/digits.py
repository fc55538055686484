"""The main job: denoising score matching against FP-Diffusion on real handwritten digits.

For each of three seeds it trains both objectives from the same initialisation with the same network and the same
batches, audits both models on the test digits, prints one table and writes to `demo/`:

- `digits_audit.png`: the curves of the first seed's two models,
- `digits_samples.png`: test digits and samples of both, by the probability-flow ODE from the same prior draws,
- `digits.json`: every audit, every number of the table, the history of the losses,
- `digits.md`: the table, as the documentation shows it.

Run it with `make demo`, or `python examples/digits.py --help` for its few options. No seed is tuned.
"""

import time
from collections.abc import Callable
from typing import Any

import _cells
import jax
import jax.random as jr

import scorefp as sfp
from scorefp import data, plot, train

# The penalty is [F15]: the time-scale-free residual, by antithetic differences on a quarter of each batch, in the unit
# of likelihood-weighted score matching.
OBJECTIVES = {
    "DSM": sfp.DSM(),
    "FP-Diffusion": sfp.DSM() + 0.5 * sfp.ScoreFPE(method=sfp.Antithetic(), fraction=0.25),
}

HEADINGS = ["on the test digits", *OBJECTIVES]
ROWS = [
    ("bits/dim, mean", "likelihood", "bits_per_dim", "value"),
    ("  half-width of its 95 % interval", "likelihood", "bits_per_dim", "half_width"),
    ("bits/dim, median", "likelihood", "median_bits_per_dim", "value"),
    ("share of exploded trajectories", "likelihood", "exploded", "value"),
    ("bound of the SDE, bits/dim, mean", "bound", "bound", "value"),
    ("  half-width of its 95 % interval", "bound", "bound", "half_width"),
    ("r_FP, scale-free", "residual", "r_FP_scale_free", "value"),
    ("r_FP", "residual", "r_FP", "value"),
    ("r_DSM, scale-free", "matching", "r_DSM_scale_free", "value"),
    ("r_DSM", "matching", "r_DSM", "value"),
    ("curl, scale-free", "curl", "curl_scale_free", "value"),
    ("W₂² of ODE and SDE samples", "gap", "ode_sde", "value"),
    ("  between two sets of the SDE", "gap", "floor", "value"),
    ("consistency, defect of one entry", "consistency", "consistency_rms", "value"),
]


def main() -> None:
    parser = _cells.parser(__doc__, out="demo", seeds=(0, 1, 2))
    parser.add_argument("--steps", type=int, default=6000, help="training steps of each model")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    begin = time.perf_counter()

    digits, test = data.digits("train"), data.digits("test")
    results: list[dict[str, Any]] = []
    for seed in options.seeds:
        runs = fit_both(digits, options.steps, seed)
        audits = {name: sfp.audit(run.model, test, key=jr.key(1000 + seed)) for name, run in runs.items()}
        for name, run in runs.items():
            results.append(
                {
                    "seed": seed,
                    "objective": name,
                    "seconds_per_step": run.seconds_per_step,
                    "history": {term: values[::50].tolist() for term, values in run.history.items()},
                    "audit": audits[name].to_dict(),
                }
            )
        print(f"seed {seed} done after {time.perf_counter() - begin:.0f} s", flush=True)
        if seed == options.seeds[0]:
            _cells.save_figure(plot.compare(audits), options.out / "digits_audit.png")
            real = {"test digits": test.dequantised(jr.key(2000)).values[:64]}
            grids = plot.image_grid(real | samples(runs, seed), columns=8)
            _cells.save_figure(grids, options.out / "digits_samples.png")

    body = rows(results)
    title = f"Digits 8×8, {options.steps} steps, seeds {options.seeds}: mean over seeds (least, largest)"
    _cells.show(HEADINGS, body, left=1, title=title)
    _cells.write(options.out / "digits.md", _cells.markdown(HEADINGS, body, left=1))
    report = {"steps": options.steps, "seeds": options.seeds, "runs": results}
    _cells.write_json(options.out / "digits.json", report, indent=1)
    print(f"{time.perf_counter() - begin:.0f} s in all; figures and JSON are in {options.out}/")


def fit_both(digits: data.Dataset, steps: int, seed: int) -> dict[str, train.Run]:
    """Both objectives from one initialisation, on the same batches."""
    network = sfp.nn.MLP(digits.shape, width=256, key=jr.key(seed))
    model = sfp.NoiseScore(network, sfp.VP(), data_std=digits.std)
    return {
        name: train.fit(
            model,
            objective,
            digits,
            optimizer=_cells.adam(1e-3, steps),
            steps=steps,
            key=jr.key(100 + seed),
        )
        for name, objective in OBJECTIVES.items()
    }


def samples(runs: dict[str, train.Run], seed: int) -> dict[str, jax.Array]:
    """Sixty-four samples of each model from the same prior draws."""
    method = sfp.ProbabilityFlow(sfp.Integrator(throw=False))
    return {
        name: sfp.sample(run.model, 64, key=jr.key(2000 + seed), method=method).clip(-1, 1)
        for name, run in runs.items()
    }


def rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """The table: means over seeds, with the range in brackets."""

    def row(label: str, read: Callable[[dict[str, Any]], float]) -> list[str]:
        values = [[read(r) for r in results if r["objective"] == name] for name in OBJECTIVES]
        return [label, *(_cells.spread(v, ".4g") for v in values)]

    base = {r["seed"]: r["seconds_per_step"] for r in results if r["objective"] == next(iter(OBJECTIVES))}
    return [
        *(row(label, lambda r, s=section, n=name, f=field: number(r, s, n, f)) for label, section, name, field in ROWS),
        row("milliseconds a step", lambda r: 1e3 * r["seconds_per_step"]),
        row("time of a step over DSM's", lambda r: r["seconds_per_step"] / base[r["seed"]]),
    ]


def number(result: dict[str, Any], section: str, name: str, field: str) -> float:
    found = result["audit"]["sections"][section]["numbers"][name][field]
    return float("inf") if found is None else found


if __name__ == "__main__":
    main()
