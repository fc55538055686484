"""Hutch++ and XTrace: against their definitions and other libraries, without bias wherever traces are taken, and finite
where the rank is short."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import pytest
from helpers.references import assert_mean, fitted_order, mean_is
from helpers.refusals import refused
from jaxtyping import Array

import scorefp as sfp
from scorefp.calculus import AbstractTrace, HutchPlusPlus, XTrace, divergence, squared_curl

pytestmark = pytest.mark.usefixtures("x64")

D = 10
TRACES = [HutchPlusPlus(2), XTrace(3)]
named = pytest.mark.parametrize("trace", TRACES, ids=lambda trace: type(trace).__name__)


def matrix(seed: int = 0, size: int = D, rank: int | None = None) -> np.ndarray:
    """Neither symmetric nor diagonal."""
    rng = np.random.default_rng(seed)
    left, right = rng.normal(size=(2, size, size if rank is None else rank))
    return left @ right.T


def of_matrix(trace: AbstractTrace, a: Array, key: Array) -> Array:
    return divergence(lambda x: a @ x, jnp.zeros(len(a), a.dtype), trace=trace, key=key)


@jax.jit
def score_fn(t: Array, x: Array) -> Array:
    """No gradient, with an effect of every entry on every other."""
    return -x + t * jnp.sin(jnp.asarray(matrix(1, len(x))) @ x)


SCORE = sfp.Score(score_fn, sfp.VP())


# ------------------------------------------------------------------------------------------ values


def by_definition(trace: AbstractTrace, a: np.ndarray, probes: np.ndarray) -> float:
    """The sums of the papers, each basis by a decomposition of its own."""

    def parts(tests: np.ndarray, others: np.ndarray, *, sphere: bool) -> float:
        q = np.linalg.qr(a @ tests.T)[0]
        rest = others.T - q @ (q.T @ others.T)
        scales = (len(a) - len(tests)) / np.sum(rest**2, axis=0) if sphere else np.ones(len(others))
        return np.trace(q.T @ a @ q) + np.mean(scales * np.sum(rest * (a @ rest), axis=0))

    if isinstance(trace, HutchPlusPlus):
        return parts(*np.split(probes, 2), sphere=False)
    return float(np.mean([parts(np.delete(probes, i, 0), probes[i : i + 1], sphere=True) for i in range(len(probes))]))


@named
def test_values_are_those_of_the_definition(trace: AbstractTrace) -> None:
    a, key = matrix(), jr.key(0)
    probes = np.asarray(trace.probes(jnp.zeros(D), key))
    got = float(jax.jit(lambda a: of_matrix(trace, a, key))(jnp.asarray(a)))
    assert got == pytest.approx(by_definition(trace, a, probes), rel=1e-11)
    assert abs(got - np.trace(a)) > 1e-2


def test_values_are_those_of_other_libraries() -> None:
    """With the same test vectors; traceax 1.0.2 has both, matfree 0.6.3 XTrace."""
    traceax = pytest.importorskip("traceax")
    stochtrace = pytest.importorskip("matfree.stochtrace")
    a, key = jnp.asarray(matrix(2, 30)), jr.key(1)

    def by_traceax(estimator: Any, products: int, probes: Array) -> Array:
        given = eqx.tree_at(lambda e: e.sampler, estimator, lambda key, n, k: probes.T)
        return given(key, lx.MatrixLinearOperator(a), products)[0]

    hutch, x = HutchPlusPlus(4), XTrace(5)
    probes = hutch.probes(a[0], key), x.probes(a[0], key)

    @jax.jit
    def both() -> tuple[list[Array], list[Array]]:
        return [of_matrix(trace, a, key) for trace in (hutch, x, x)], [
            by_traceax(traceax.HutchPlusPlusEstimator(), 12, probes[0]),
            by_traceax(traceax.XTraceEstimator(), 10, probes[1]),
            jnp.mean(stochtrace.leave_one_out_xtrace()(lambda v: a @ v, probes[1])),
        ]

    np.testing.assert_allclose(*both(), rtol=1e-11)


@named
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_low_ranks_are_exact_and_their_gradients_finite(trace: AbstractTrace, dtype: type) -> None:
    """A decomposition is not differentiable there. Sizes near the ends of float32 as well, and a layer of zeros."""
    ranks = np.stack([matrix(3, D, 0), matrix(4, D, 1), matrix(5, D, 2)])
    a = jnp.asarray(np.concatenate([ranks, 1e-25 * ranks, 1e25 * ranks]), dtype)

    @jax.jit
    @jax.vmap
    def both(a: Array) -> tuple[Array, Array]:
        return jax.value_and_grad(lambda a: of_matrix(trace, a, jr.key(2)))(a)

    values, gradients = both(a)
    sizes = np.maximum(np.abs(a).max(axis=(1, 2)), 1e-30)
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(values / sizes, np.trace(a, axis1=1, axis2=2) / sizes, atol=200 * eps)
    assert bool(jnp.all(jnp.isfinite(gradients)))
    assert values.dtype == dtype
    # The control: of a rank above that, the value is an estimate.
    assert abs(float(of_matrix(trace, jnp.asarray(matrix(6), dtype), jr.key(2))) - np.trace(matrix(6))) > 1e-2


@named
def test_as_many_products_as_entries_are_exact(trace: AbstractTrace) -> None:
    small = jnp.asarray(matrix(7, 6))
    assert float(of_matrix(trace, small, jr.key(3))) == pytest.approx(float(jnp.trace(small)), rel=1e-12)
    scalar = divergence(jnp.sin, jnp.array(0.3), trace=trace, key=jr.key(3))
    assert float(scalar) == pytest.approx(np.cos(0.3), rel=1e-12)


def test_rates_of_convergence() -> None:
    r"""Eigenvalues $i^{-2}$ in random directions: Hutchinson's error falls as a root of the number of products, the
    others' at least as its 3/2th power."""
    size, counts = 120, np.array([4, 8, 16])
    basis = np.linalg.qr(matrix(8, size))[0]
    a = jnp.asarray(basis * np.arange(1, size + 1) ** -2.0 @ basis.T)

    def order(make: Any) -> float:
        error = lambda trace: jax.jit(jax.vmap(lambda key: of_matrix(trace, a, key) - jnp.trace(a)))
        found = [float(jnp.sqrt(jnp.mean(error(make(n))(jr.split(jr.key(4), 200)) ** 2))) for n in counts.tolist()]
        return fitted_order(1 / counts, np.array(found))

    assert 0.3 < order(lambda n: sfp.Hutchinson(3 * n)) < 0.7
    assert order(HutchPlusPlus) > 1.5
    assert order(XTrace) > 1.5


# ------------------------------------------------------------------------------------------ unbiased


@functools.cache
def draws(trace: AbstractTrace) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Many estimates of all that takes a trace, and what they estimate."""
    t, x = jnp.asarray(0.4), jnp.cos(1.0 + jnp.arange(D, dtype=float))
    field = lambda y: SCORE(t, y)

    def everything(trace: AbstractTrace, key: Array | None) -> dict[str, Array]:
        forms = {
            form: sfp.score_fpe_residual(SCORE, t, x, form=form, method=trace, key=key)
            for form in ("gradient", "martingale", "mixed")
        }
        probes, products = trace.products(lambda v: jax.jvp(field, (x,), (v,))[1], trace.probes(x, key))
        return {
            "divergence": divergence(field, x, trace=trace, key=key),
            "its gradient": jax.grad(lambda y: divergence(field, y, trace=trace, key=key))(x),
            "curl": squared_curl(field, x, trace=trace, key=key),
            "operator": sfp.fpe_operator(SCORE, t, x, trace=trace, key=key),
            "outer": probes.T @ probes / len(probes),
            "size": jnp.sum(products**2) / len(probes),
            **forms,
        }

    found = jax.jit(jax.vmap(lambda key: everything(trace, key)))(jr.split(jr.key(5), 4000))
    return jax.tree.map(np.asarray, (found, jax.jit(lambda: everything(sfp.Exact(), None))()))


@named
def test_estimates_are_unbiased(trace: AbstractTrace) -> None:
    found, want = draws(trace)
    for name, values in found.items():
        assert_mean(values, want[name], sigmas=4.5, resolution=0.05)
    assert not mean_is(found["martingale"], want["gradient"])


@named
def test_derivatives_hold_the_basis(trace: AbstractTrace) -> None:
    """That of the probes which the estimate was made with, by finite differences."""
    t, x, key = jnp.asarray(0.4), jnp.cos(1.0 + jnp.arange(D, dtype=float)), jr.key(6)
    made, _ = trace.products(lambda v: jax.jvp(lambda y: SCORE(t, y), (x,), (v,))[1], trace.probes(x, key))

    @jax.jit
    def held(y: Array) -> Array:
        return jnp.mean(jax.vmap(lambda v: v @ jax.jvp(lambda z: SCORE(t, z), (y,), (v,))[1])(made))

    value, gradient = jax.jit(jax.value_and_grad(lambda y: divergence(lambda z: SCORE(t, z), y, trace=trace, key=key)))(
        x
    )
    step = 1e-5
    differences = [(held(x + step * e) - held(x - step * e)) / (2 * step) for e in jnp.eye(D)]
    assert float(value) == pytest.approx(float(held(x)), rel=1e-12)
    np.testing.assert_allclose(gradient, jnp.stack(differences), atol=1e-7)


@named
def test_a_log_likelihood(trace: AbstractTrace) -> None:
    """Test vectors are drawn once a solve: the same key gives the same number, and the mean over keys is the exact
    one."""
    x = 0.3 * jnp.cos(1.0 + jnp.arange(D, dtype=float))
    loose = sfp.Integrator(rtol=1e-4, atol=1e-4)

    @jax.jit
    def likelihoods(keys: Array) -> Array:
        return sfp.flow_likelihood(
            SCORE, jnp.broadcast_to(x, (len(keys), D)), trace=trace, key=keys[0], integrator=loose, common_steps=True
        ).log_prob

    keys = jr.split(jr.key(7), 300)
    found = likelihoods(keys)
    exact = jax.jit(lambda: sfp.log_likelihood(SCORE, x, integrator=loose))()
    assert_mean(found, exact, resolution=0.05)
    np.testing.assert_array_equal(found, likelihoods(keys))


@pytest.mark.quick
def test_bad_input() -> None:
    x = jnp.ones(D)
    refused("samples = 0; HutchPlusPlus needs at least one", HutchPlusPlus, 0)
    refused("samples = 1; XTrace needs at least two", XTrace, 1)
    for trace in TRACES:
        name = type(trace).__name__
        refused(
            f"key is None, but {name} draws random numbers", lambda trace=trace: divergence(jnp.sin, x, trace=trace)
        )
        with pytest.raises(TypeError, match=rf"trace is a {name}\. It is Exact\(\) or Hutchinson\(samples, law\)"):
            sfp.laplacian(jnp.sin, x, trace=trace, key=jr.key(0))
        with pytest.raises(TypeError, match=rf"probes is a {name}\. It is Exact\(\) or Hutchinson\(samples, law\)"):
            sfp.Ito(trace)  # pyright: ignore
