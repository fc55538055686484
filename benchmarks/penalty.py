"""What the Fokker–Planck penalty costs and what it achieves, by the share of the batch and by every how many steps.

    python benchmarks/penalty.py --out docs/assets

scikit-learn's digits, 8×8, dequantised anew at each step; `DSM() + 0.5 * Lazy(ScoreFPE(fraction=share), every=k)`, the
settings of `fit`, Adam at 1e-3; an `MLP` and a small `UNet`. Of each network and setting:

* **operations** that XLA counts in the gradient of the loss, in the mean over `k` steps, over those of `DSM()`: a step
  with the penalty and one without are compiled, each by itself;
* **copies**: how many products and convolutions the optimised program of a step has, over that of `DSM()`; seconds of
  compiling it; bytes it holds beside its arguments;
* **time** of a step over that of `DSM()`: loops of 16 steps on the device take turns in each round; the median of the
  ratios within a round, in brackets deciles 1 and 9;
* **training** with each seed: residual and matching error of the averaged model on the test digits, as it goes. The
  residual is the root mean square of the time-scale-free one per element [F15], unbiased, by `Ito`; the matching error
  the mean square of the error of the noise prediction per element. At equal steps, and at equal seconds: after so many
  fewer steps as a step takes longer, between two evaluations linearly.

The fall is that of the residual below the residual of `DSM()`, `kept` over the fall by the penalty on the whole batch
at every step. Recommended is the setting with the lowest residual among those that take at most 1.10 of the time of
`DSM()` and keep at least 85 % of the fall.

Each cell is one JSON file in `OUT/penalty/` and is skipped where it is there: a killed run resumes where it stopped.
Tables are made from these files alone. The parts can be run by themselves: `--parts operations times trainings`.
Seconds of compiling mean something without a persistent cache alone.
"""

import functools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from _timing import Row, arguments, in_turns, machine, report, spread, table, timed

import scorefp as sfp
from scorefp import data, train
from scorefp.objective import AbstractObjective
from scorefp.train import TrainStep
from scorefp.train.loop import repeated

SDE, WEIGHT, LOOP = sfp.VP(), 0.5, 16
SHARES, EVERY = {"1": 1.0, "1/4": 0.25, "1/8": 0.125, "1/16": 1 / 16, "1/32": 1 / 32}, (1, 2, 4, 8, 16)
SETTINGS = {"DSM": (0.0, 1)} | {f"{share}, {k}": (SHARES[share], k) for share in SHARES for k in EVERY}
RUN = {
    "MLP": ["DSM", *(f"{share}, {k}" for share in ("1", "1/4", "1/16") for k in (1, 4, 8, 16))],
    "UNet": ["DSM", "1, 1", "1/8, 4", "1/16, 1", "1/16, 2", "1/16, 4", "1/32, 1"],
}
"""The settings of each network."""
ADAM = optax.adam(1e-3)
FIT: dict[str, Any] = {"optimizer": ADAM, "progress": False}
TRAINED = {"MLP": (128, 5000, 500), "UNet": (64, 3000, 500)}
"""By network: samples a step, steps, and how many of them lie between two evaluations."""
MOST_TIME, LEAST_KEPT = 1.10, 0.85

TABLE = """\
| network | share | every | operations | time | residual | fall kept | at equal seconds | matching error |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |
| {network} | {share} | {every} | {operations:.3f} | {time} | {residual:.4f} | {kept} | {soon:.4f} | {matching:.4f} |
"""
PROGRAMS = """\
| network | share | every | products and convolutions | over DSM | seconds to compile | MB beside arguments |
| --- | --- | --- | ---: | ---: | ---: | ---: |
| {network} | {share} | {every} | {products} | {copies:.2f} | {compiling:.1f} | {held:.1f} |
"""


def loss_of(setting: str) -> AbstractObjective:
    share, every = SETTINGS[setting]
    return sfp.DSM() + WEIGHT * sfp.Lazy(sfp.ScoreFPE(fraction=share), every=every) if share else 1.0 * sfp.DSM()


@functools.cache
def digits(name: str, part: Any) -> data.Dataset:
    found = data.digits(part)
    return found if name == "MLP" else found.reshaped((1, 8, 8))


def model(name: str, seed: int) -> sfp.score.NetworkScore:
    images = digits(name, "train")
    if name == "MLP":
        network: Any = sfp.nn.MLP(images.shape, width=128, key=jr.key(seed))
    else:
        network = sfp.nn.UNet(images.shape, channels=16, multipliers=(1, 2), attention=(4,), key=jr.key(seed))
    return sfp.NoiseScore(network, SDE, data_std=images.std)


# ------------------------------------------------------------------------------------------------ cells


def cell(path: Path, facts: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The facts and what was measured, which is made where the file is not there."""
    if not path.exists():
        begin = time.perf_counter()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(facts | make()) + "\n")
        part.replace(path)
        print(f"{path.stem}: done after {time.perf_counter() - begin:.0f} s", flush=True)
    found = json.loads(path.read_text())
    if {name: found.get(name) for name in facts} != facts:
        raise SystemExit(f"{path} was made with other settings; remove it, or give --out another folder.")
    return found


def named(name: str, setting: str) -> str:
    return f"{name}-{setting.replace('/', '_').replace(', ', '-')}".lower()


# ------------------------------------------------------------------------------------------------ programs


def trained_step(name: str, setting: str) -> tuple[TrainStep, Any, Any]:
    """A step, its state, which no longer is the start, and the samples."""
    start = model(name, 0)
    weight = 0.02 * jr.normal(jr.key(1), start.network.leave.weight.shape)
    start = eqx.tree_at(lambda m: m.network.leave.weight, start, weight)
    params, skeleton = eqx.partition(start, start.trained())
    images = digits(name, "train")
    optimizer, law = optax.chain(optax.clip_by_global_norm(1.0), ADAM), sfp.UniformLogSNR()
    quantisation = {"quantisation": images.quantisation}
    step = TrainStep(skeleton, loss_of(setting), optimizer, law, TRAINED[name][0], (0.999,), False, **quantisation)
    return step, step.init(params, key=jr.key(3)), (jnp.asarray(images.values), None)


def counted(name: str, setting: str) -> dict[str, Any]:
    """Operations of the gradient with and without the penalty, and what the program of a step holds."""
    step, state, samples = trained_step(name, setting)
    x0 = jnp.zeros((TRAINED[name][0], *digits(name, "train").shape))

    def operations(at: int) -> float:
        def value(params: Any) -> jax.Array:
            return step.objective(eqx.combine(params, step.skeleton), x0, key=jr.key(0), step=jnp.asarray(at))

        return eqx.filter_jit(eqx.filter_grad(value)).lower(state.params).lowered.compile().cost_analysis()["flops"]

    every = SETTINGS[setting][1]
    arrays, rest = eqx.partition((step, state, samples), eqx.is_array)

    def one(arrays: Any) -> Any:
        step, state, samples = eqx.combine(arrays, rest)
        return eqx.filter(step.step(state, samples, jnp.asarray(0)), eqx.is_array)

    lowered = jax.jit(one).lower(arrays)
    begin = time.perf_counter()
    program = lowered.compile()
    seconds = time.perf_counter() - begin
    return {
        "operations": [operations(0), operations(1)] if every > 1 else [operations(0)],
        "products": len(re.findall(r" (?:dot|convolution)\(", program.as_text())),
        "compiling": seconds,
        "held": program.memory_analysis().temp_size_in_bytes,
    }


def clocked(name: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step by setting, one number a round."""

    def program(setting: str) -> Callable[[], float]:
        step, state, samples = trained_step(name, setting)
        arrays, rest = eqx.partition((step, state, samples), eqx.is_array)

        @jax.jit
        def many(arrays: Any) -> Any:
            step, state, samples = eqx.combine(arrays, rest)
            return eqx.filter(repeated(step.step, samples, state, jnp.asarray(LOOP), LOOP), eqx.is_array)

        return timed(many, arrays, steps=LOOP)

    found = in_turns({setting: program(setting) for setting in RUN[name]}, rounds)
    return {"seconds": {setting: values.tolist() for setting, values in found.items()}, "machine": machine()}


# ------------------------------------------------------------------------------------------------ trainings


@eqx.filter_jit
def measured(score: sfp.score.AbstractScore, images: data.Dataset) -> tuple[jax.Array, jax.Array]:
    """The scale-free residual and the matching error of a model, per element."""
    levels = jnp.tile(jnp.asarray(images.values), (4, *[1] * len(images.shape)))
    x0 = data.Dataset(levels, images.quantisation).dequantised(jr.key(100)).values
    terms = sfp.DSM() + sfp.ScoreFPE(sfp.Ito(), unbiased=True)
    _, found = terms.evaluate(score, x0, key=jr.key(101))
    # Both are half an integral over the log-SNR of a squared norm.
    each = 2 / ((SDE.log_snr(SDE.t0) - SDE.log_snr(SDE.t1)) * np.prod(images.shape))
    return jnp.sqrt(jnp.maximum(each * found["ScoreFPE"], 0)), each * found["DSM"]


def learned(name: str, setting: str, seed: int) -> dict[str, Any]:
    """Residual and matching error of a training, as it goes."""
    batch, steps, every = TRAINED[name]
    found: list[list[float]] = []
    look = lambda r: found.append([r.step, *map(float, measured(r.model, digits(name, "test")))])
    common = {"steps": steps, "batch_size": batch, "report_every": every, "callbacks": (look,), "key": jr.key(seed)}
    train.fit(model(name, seed), loss_of(setting), digits(name, "train"), **FIT, **common)
    return {"curve": found}


# ------------------------------------------------------------------------------------------------ tables


def row(out: Path, name: str, setting: str, seeds: list[int]) -> Row:
    """A line of the tables, NaN where a cell is not there."""
    share, every = SETTINGS[setting]
    read = lambda path: json.loads(path.read_text()) if path.exists() else None
    counts, plain = (read(out / f"{named(name, which)}-program.json") for which in (setting, "DSM"))
    times = read(out / f"{name.lower()}-times.json")
    curves = [read(out / f"{named(name, setting)}-{seed}.json") for seed in seeds]
    ratio = spread(np.divide(*(times["seconds"][which] for which in (setting, "DSM")))) if times else [np.nan] * 3
    curve = np.mean([c["curve"] for c in curves], axis=0) if all(curves) else np.full((1, 3), np.nan)
    steps, residuals, matching = curve.T
    soon = np.nan if np.isnan(ratio[0]) else np.interp(steps[-1] / max(ratio[0], 1.0), steps, residuals)
    facts: Row = {"network": name, "share": setting.split(",")[0] if share else "DSM", "every": every if share else ""}
    if counts and plain:
        first, *rest = counts["operations"]
        total = (first + (every - 1) * rest[0]) / every if rest else first
        facts |= {key: counts[key] for key in ("products", "compiling")} | {"held": counts["held"] / 1e6}
        facts |= {"operations": total / plain["operations"][0], "copies": counts["products"] / plain["products"]}
    else:
        facts |= dict.fromkeys(("products", "compiling", "held", "operations", "copies"), np.nan)
    return facts | {"ratio": ratio, "residual": residuals[-1], "matching": matching[-1], "soon": float(soon)}


def shown(rows: list[Row]) -> list[Row]:
    """The lines of one network with what is told against DSM and the whole penalty, the recommended one marked."""
    plain, full = (
        next(r["residual"] for r in rows if (r["share"], r["every"]) == at) for at in (("DSM", ""), ("1", 1))
    )
    lines = [r | {"share of the fall": (plain - r["residual"]) / (plain - full)} for r in rows]
    good = [
        r for r in lines if r["share"] != "DSM" and r["ratio"][0] <= MOST_TIME and r["share of the fall"] >= LEAST_KEPT
    ]
    best = min(good, key=lambda r: r["residual"], default=None)
    for r in lines:
        middle, low, high = (f"{number:.2f}" for number in r["ratio"])
        r["recommended"] = r is best
        r["time"] = f"{middle} ({low}, {high})"
        r["kept"] = "" if r["share"] == "DSM" else f"{100 * r['share of the fall']:.0f} %"
        if r is best:
            r |= {"share": f"**{r['share']}**", "every": f"**{r['every']}**"}
    return lines


def main() -> None:
    parser = arguments(__doc__, 15, "penalty")
    parser.add_argument("--networks", nargs="+", choices=list(TRAINED), default=list(TRAINED))
    parser.add_argument("--parts", nargs="*", default=["operations", "times", "trainings"], help="what is measured")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    out = (options.out or Path(".cache")) / "penalty"
    for name in options.networks:
        batch, steps, every = TRAINED[name]
        facts = {"network": name, "weight": WEIGHT, "batch": batch}
        if "operations" in options.parts:
            for setting in RUN[name]:
                make = functools.partial(counted, name, setting)
                cell(out / f"{named(name, setting)}-program.json", facts | {"setting": setting}, make)
        if "times" in options.parts:
            make = functools.partial(clocked, name, options.rounds)
            cell(out / f"{name.lower()}-times.json", facts | {"rounds": options.rounds}, make)
        if "trainings" in options.parts:
            for seed in options.seeds:
                for setting in RUN[name]:
                    make = functools.partial(learned, name, setting, seed)
                    about = facts | {"setting": setting, "seed": seed, "steps": steps, "evaluated every": every}
                    cell(out / f"{named(name, setting)}-{seed}.json", about, make)
    rows = [r for name in options.networks for r in shown([row(out, name, s, options.seeds) for s in RUN[name]])]
    lengths = ", ".join(f"{name} {TRAINED[name][1]} steps of {TRAINED[name][0]}" for name in options.networks)
    note = (
        f"{lengths}, seeds {options.seeds}; {options.rounds} rounds of {LOOP} steps; {machine(optax)}. "
        "In brackets deciles 1 and 9."
    )
    report("penalty", table(TABLE, rows) + "\n" + table(PROGRAMS, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
