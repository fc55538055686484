"""The checks of jaxtyping and beartype are on while the tests run, and only then."""

import jax.numpy as jnp
import pytest
from helpers.scripts import ran
from jaxtyping import TypeCheckError

import scorefp as sfp

pytestmark = pytest.mark.quick


def test_a_wrong_annotation_is_refused_here() -> None:
    with pytest.raises(TypeCheckError):
        sfp.VP().alpha("noon")  # pyright: ignore
    assert sfp.VP().alpha(jnp.asarray(0.5)).shape == ()


def test_users_pay_nothing() -> None:
    code = "import sys, scorefp; print(vars(scorefp.VP.alpha), 'beartype' in sys.modules)"
    assert ran("-c", code).stdout.strip() == "{} False"
    assert vars(sfp.VP.alpha)
