"""Sums come out right with a compiler that is known to give wrong ones, and nothing is touched without need."""

import importlib.metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.scripts import ran

AT_FAULT = (0, 10, 2) <= tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:3])) <= (0, 12, 0)
OFF = "--xla_cpu_experimental_ynn_fusion_type="

# The smallest case of the fault: two logarithms of different arguments around one reduction.
ERROR = """
import os, jax, jax.numpy as jnp, numpy as np
t, x = np.linspace(1e-3, 1.0, 20_000, dtype=np.float32), np.ones((20_000, 2), np.float32)
value = jax.jit(lambda t, x: jnp.log(2 * t) * jnp.sum(jnp.log(t)[:, None] * x, axis=1))(t, x)
u = t.astype(np.float64)
print(os.environ["XLA_FLAGS"], abs(np.asarray(value) - 2 * np.log(2 * u) * np.log(u)).max(), sep="|")
"""


def seen(code: str, flags: str = "") -> tuple[str, float]:
    """The flags of XLA at the end of a program, and the error of its sum."""
    flags, error = ran("-W", "error", "-c", code, flags=flags).stdout.split("|")
    return flags, float(error)


def test_the_import_makes_sums_right_by_itself() -> None:
    flags, error = seen("import jax, scorefp" + ERROR)
    assert error < 1e-4
    assert flags == (OFF if AT_FAULT else "")


def test_the_versions_at_fault_are_at_fault_without_the_import() -> None:
    assert (seen(ERROR)[1] > 1) == AT_FAULT


def test_flags_of_the_user_stay_and_a_setting_of_ours_wins() -> None:
    flags, error = seen("import scorefp" + ERROR, "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    assert error < 1e-4
    assert flags.endswith("--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    assert seen("import scorefp" + ERROR, OFF)[0] == OFF


def test_a_jax_that_started_before_and_sums_wrongly_is_refused() -> None:
    start = "import jax, jax.numpy as jnp; jnp.zeros(1); "
    refused = ran("-c", start + "import scorefp", check=False)
    assert (refused.returncode != 0) == AT_FAULT
    assert ("jax started before scorefp was imported" in refused.stderr) == AT_FAULT
    assert (OFF in refused.stderr) == AT_FAULT
    # One that sums rightly is left in peace, also where the import stands in a function that jax traces.
    inner = "jax.jit(lambda x: (__import__('scorefp'), x)[1])(1.0)"
    assert ran("-W", "error", "-c", start + inner, flags=OFF).stderr == ""


def test_forbidden_it_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCOREFP_KEEP_XLA_FLAGS", "1")
    kept = ran("-c", "import scorefp, os; print(os.environ['XLA_FLAGS'])")
    assert kept.stdout.strip() == ""
    assert ("compiles some sums wrongly" in kept.stderr) == AT_FAULT


def test_these_tests_sum_rightly() -> None:
    t, x = jnp.linspace(1e-3, 1.0, 20_000), jnp.ones((20_000, 2))
    value = jax.jit(lambda t, x: jnp.log(2 * t) * jnp.sum(jnp.log(t)[:, None] * x, axis=1))(t, x)
    u = np.asarray(t, np.float64)
    np.testing.assert_allclose(value, 2 * np.log(2 * u) * np.log(u), atol=1e-4)
