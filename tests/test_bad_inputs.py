"""Every public callable takes a good call, and refuses bad input by an error that names the argument.

The table is `tests/helpers/bad_inputs.py`; without the type checks of the tests, as for users.
"""

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.bad_inputs import EXEMPT, ROOMS, Row, all_rows, counted, public, role, rows, verdict
from helpers.refusals import refused

import scorefp as sfp

pytestmark = pytest.mark.usefixtures("unchecked")

STATIC = {
    "sample": ("wrong rank", "broadcastable", "integer", "complex", "half precision"),
    "time": ("wrong rank", "complex"),
    "key": ("wrong rank", "wrong dtype"),
}
"""What is known of an argument while a program is traced, by its role."""


@pytest.mark.parametrize("room", ROOMS)
@pytest.mark.filterwarnings("ignore")
def test_bad_inputs(room: str) -> None:
    wrong = list[str]()
    for name, row in rows(room).items():
        if not row.elsewhere:
            assert_finite(name, row.call(**row.good))
        for argument, kind, value in row.bad():
            if found := verdict(row, argument, value):
                wrong.append(f"{name} | {argument} | {kind} | {found}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("room", ["calculus", "score", "fokker_planck", "densities", "likelihood", "nn"])
@pytest.mark.parametrize("transformed", [jax.jit, jax.vmap])
def test_bad_inputs_while_traced(room: str, transformed: Any) -> None:
    """What is static is refused under `jit` and `vmap` too, before anything compiles."""
    wrong, tried = list[str](), 0
    for name, row in rows(room).items():
        for argument, kind, value in row.bad():
            if kind in STATIC.get(role(row, argument), ()) and argument != "anchor":
                value = value if transformed is jax.jit else jnp.stack([value, value])
                tried += 1
                if found := verdict(as_traced(row, argument, transformed), argument, value):
                    wrong.append(f"{name} | {argument} | {kind} | {found}")
    assert not wrong, "\n".join(wrong)
    assert tried


def as_traced(row: Row, argument: str, transformed: Any) -> Row:
    """The call with one argument traced."""

    def call(**values: Any) -> Any:
        value = values.pop(argument)
        return eqx.filter_eval_shape(transformed(lambda v: row.call(**values | {argument: v})), value)

    return dataclasses.replace(row, call=call)


def assert_finite(name: str, found: Any) -> None:
    for leaf in jax.tree.leaves(found):
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating):
            assert np.isfinite(leaf).all(), name


def test_every_public_callable_has_a_row() -> None:
    """A callable is in the table, or in the list of those that take no input of a user, with the reason."""
    called = {id(getattr(row.call, "__func__", row.call)) for row in all_rows().values()}
    missing = {name for name, member in public().items() if id(member) not in called}
    assert missing == EXEMPT.keys()
    assert all(reason for row in all_rows().values() for reason in row.legal.values())


def test_what_is_legal_is_an_argument() -> None:
    """No exception of the table outlives the argument that it is about."""
    for name, row in all_rows().items():
        assert {key.partition(":")[0] for key in (*row.legal, *row.roles, *row.called)} <= {*row.defaults}, name


def test_the_table_of_the_documentation(root: Path) -> None:
    assert counted() in (root / "docs" / "design.md").read_text(encoding="utf-8"), counted()


def test_a_silent_answer_fails_the_table() -> None:
    """The judge itself: a number, NaN, an error of another library and one that names nothing are told apart."""

    def nothing(x: Any) -> None:
        raise ValueError("something is wrong")

    row = Row(lambda x: x, {"x": 1.0})
    assert verdict(row, "x", float("nan")).startswith("taken")
    assert verdict(dataclasses.replace(row, call=jnp.sin), "x", "word").startswith("unclear")
    assert verdict(dataclasses.replace(row, call=nothing), "x", 1.0).startswith("unclear")
    assert verdict(dataclasses.replace(row, call=lambda x: x.shape), "x", 1).startswith("bare")
    assert not verdict(Row(sfp.Hutchinson, {}), "samples", 2.5)


def test_declared_shape() -> None:
    """A batch in place of one sample gives the sum over the batch, where nobody looks."""
    score = sfp.Score(lambda t, x: -x, sfp.VP(), shape=(2,))
    potential = sfp.Potential(lambda t, x: -0.5 * jnp.sum(x**2), sfp.VP(), shape=(2,))
    xs = jnp.ones((4, 2))
    message = r"x has shape \(4, 2\), but the score's event shape is \(2,\).*Batch with jax\.vmap"
    for call in (
        lambda x: score(0.3, x),
        lambda x: potential.potential(0.3, x),
        lambda x: sfp.log_likelihood(score, x),
        lambda x: sfp.likelihood_bound(score, x, key=jax.random.key(0), estimator=sfp.BoundEstimator(2)),
        lambda x: sfp.score_fpe_residual(score, 0.3, x),
        lambda x: sfp.log_fpe_residual(potential, 0.3, x),
        lambda x: sfp.fpe_operator(score, 0.3, x),
    ):
        refused(message, call, xs)
        refused(message, jax.jit(call), xs)
        assert jax.eval_shape(jax.vmap(call), xs).shape[0] == 4


class Own(sfp.score.AbstractScore):
    """A score of one's own that looks at nothing."""

    sde: sfp.sde.AbstractSDE = sfp.VP()
    shape: tuple[int, ...] | None = (2,)

    def __call__(self, t: Any, x: Any) -> Any:
        return -x


def test_declared_shape_of_a_score_of_ones_own() -> None:
    xs = jnp.ones((4, 2))
    for call in (
        sfp.log_likelihood,
        lambda score, x: score.denoise(0.3, x),
        lambda score, x: sfp.fpe_operator(score, 0.3, x),
    ):
        refused(r"x has shape \(4, 2\), but the score's event shape is \(2,\)", call, Own(), xs)
        assert jnp.isfinite(call(Own(), xs[0])).all()


def test_time_at_the_ends_in_float32() -> None:
    """An end of the horizon rounded to float32, also for a sample of float64, is inside; half of it is not."""
    score = sfp.Score(lambda t, x: -x, sfp.VP())
    with jax.enable_x64(True):
        for dtype in (jnp.float32, jnp.float64):
            assert jnp.isfinite(score(jnp.asarray(1e-5, jnp.float32), jnp.ones(2, dtype))).all()
    refused("t = 5e-06 lies outside", score, 5e-6, jnp.ones(2))


def test_a_weighting_returns_a_scalar() -> None:
    score, x0 = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.ones((8, 2))
    value = lambda term: jax.jit(lambda key: term(score, x0, key=key))(jax.random.key(0))
    batch = lambda sde, t: sde.g2(t)[None]
    for term in (sfp.DSM, sfp.ZeroCurl, sfp.HighOrderDSM, sfp.Consistency, sfp.objective.ScoreSize):
        refused(r"the value of weighting has shape \(1,\); it is a scalar", value, term(weighting=batch))
        imaginary = term(weighting=lambda sde, t: 1j * t)
        refused(r"the value of weighting is an array complex64\[\]; it is real", value, imaginary, error=TypeError)
        assert jnp.isfinite(value(term(weighting=lambda sde, t: 1.0)))
    refused(r"the value of scale has shape \(1,\); it is a scalar", value, sfp.ScoreFPE(scale=batch))
    mixed = sfp.objective.InterpolatedWeighting(0.5, first=batch)
    refused(r"the value of first has shape \(1,\)", value, sfp.DSM(weighting=mixed))


@pytest.mark.parametrize("make", [sfp.NoiseScore, sfp.EDMScore, sfp.InnerPotential, sfp.objective.EDMWeighting])
def test_data_std(make: Any) -> None:
    network = sfp.nn.MLP(shape=(2,), width=4, key=jax.random.key(0))
    made = lambda std: make(std) if make is sfp.objective.EDMWeighting else make(network, sfp.VP(), std)
    for std in (float("inf"), float("nan"), -1.0, 0.0):
        refused(rf"data_std = {std}", made, std)
    assert made(0.5) is not None
    if make is not sfp.objective.EDMWeighting:
        refused(r"data_std has shape \(3,\), but one sample of the network has shape \(2,\)", made, jnp.ones(3))
        refused("data_std = .*nan.*positive and finite", made, jnp.array([0.5, jnp.nan]))
        assert made(jnp.ones(2)) is not None


LARGE = jax.ShapeDtypeStruct((1_000_000,), jnp.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: sfp.divergence(jnp.sin, x),
        lambda x: sfp.laplacian(jnp.sum, x),
        lambda x: sfp.curl(jnp.sin, x),
        lambda x: sfp.calculus.squared_curl(jnp.sin, x),
        lambda x: sfp.fpe_operator(sfp.Score(lambda t, x: -x, sfp.VP()), 0.5, x),
        lambda x: sfp.log_likelihood(sfp.Score(lambda t, x: -x, sfp.VP()), x),
    ],
)
def test_exact_traces_of_large_samples(call: Any) -> None:
    """A million elements would take an identity of terabytes; ten thousand are fine."""
    refused("x has 1000000 elements: an exact trace.*Hutchinson", jax.eval_shape, call, LARGE)
    jax.eval_shape(call, jax.ShapeDtypeStruct((100, 100), jnp.float32))


def test_hutchinson_of_large_samples() -> None:
    call = lambda x: sfp.divergence(jnp.sin, x, trace=sfp.Hutchinson(), key=jax.random.key(0))
    assert jax.eval_shape(call, LARGE).shape == ()


def test_measuring_does_not_round() -> None:
    """Half precision is refused where something is measured, and taken where a network computes."""
    score, x = sfp.Score(lambda t, x: -x, sfp.VP()), jnp.ones(2, jnp.bfloat16)
    message = r"x has dtype bfloat16; a measurement does not round to half precision: pass x\.astype\(jnp\.float32\)"
    for call in (
        lambda: sfp.log_likelihood(score, x),
        lambda: sfp.score_fpe_residual(score, 0.5, x),
        lambda: sfp.likelihood_bound(score, x, key=jax.random.key(0)),
    ):
        refused(message, call, error=TypeError)
    assert score(0.5, x).dtype == jnp.bfloat16


def test_losses_do_not_multiply() -> None:
    loss: Any = sfp.DSM()
    refused("factor is a DSM; it is a real number", lambda: loss * sfp.DSM(), error=TypeError)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert repr(2 * loss) == "2.0*DSM()"
