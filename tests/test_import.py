"""`import scorefp` loads the mathematics and nothing else."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.quick

UNWANTED = ["optax", "grain", "orbax", "tensorboardX", "matplotlib", "sklearn", "mlxtend", "ot", "ott"]


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_import_is_light() -> None:
    loaded = run("import sys, scorefp; print(*sys.modules)").split()
    assert "scorefp" in loaded
    assert not set(UNWANTED) & set(loaded)


def test_import_leaves_jax_configuration_alone() -> None:
    values = "{k: str(v) for k, v in jax.config.values.items()}"
    assert run(f"import jax; before = {values}; import scorefp; print(before == {values})").strip() == "True"


def test_public_names_resolve() -> None:
    assert run("import scorefp; print([n for n in scorefp.__all__ if not hasattr(scorefp, n)])").strip() == "[]"
