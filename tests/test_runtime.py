"""The warning about a compiler that gives wrong sums, and that the tests run without its fault."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
from helpers.scripts import ran

VERSION = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:3]))


def imported(flags: str) -> str:
    return ran("-c", "import scorefp", flags=flags).stderr


def test_warns_where_it_must_and_only_there() -> None:
    assert ("compiles some sums wrongly" in imported("")) == ((0, 10, 2) <= VERSION <= (0, 12, 0))
    assert imported("--xla_cpu_experimental_ynn_fusion_type=") == ""


def test_these_tests_sum_rightly() -> None:
    """The smallest case of the fault: two logarithms of different arguments around one reduction."""
    t, x = jnp.linspace(1e-3, 1.0, 20_000), jnp.ones((20_000, 2))
    value = jax.jit(lambda t, x: jnp.log(2 * t) * jnp.sum(jnp.log(t)[:, None] * x, axis=1))(t, x)
    u = np.asarray(t, np.float64)
    np.testing.assert_allclose(value, 2 * np.log(2 * u) * np.log(u), atol=1e-4)
