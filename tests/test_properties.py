"""What every public class does: any event shape, both precisions, jit, vmap, grad, and being a pytree."""

import inspect
import re
from types import ModuleType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.properties import PACKAGES, ROWS, WITHOUT_ROW, Row, Shape
from jaxtyping import Array

T = 0.2
PRECISIONS = (jnp.float64, jnp.float32, jnp.float32)
CASES = [pytest.param(row, shape, id=f"{name}-{shape}") for name, row in ROWS.items() for shape in row.shapes]


def sample(shape: Shape, dtype: Any) -> Array:
    return 0.8 + 0.5 * jnp.cos(jnp.arange(int(np.prod(shape)), dtype=dtype)).reshape(shape)


def batched(row: Row, thing: Any, t: Array, x: Array) -> tuple[Any, Array]:
    """A batch of two, of which the sample is the first; and the gradients of the sum of all values."""

    def total(t: Array, x: Array) -> tuple[Array, Any]:
        used = row.use(thing, t, x, jr.key(0))
        return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(used)), used

    differentiated = jax.vmap(jax.value_and_grad(total, argnums=1, has_aux=True))
    (_, batch), gradients = differentiated(jnp.stack([t, 1.1 * t]), jnp.stack([x, 0.9 * x]))
    return batch, gradients


@eqx.filter_jit
def everything(row: Row, thing: Any, t: Array, x: Array) -> tuple[Any, Any, Array]:
    """One sample alone, and `batched`."""
    return row.use(thing, t, x, jr.key(0)), *batched(row, thing, t, x)


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_every_public_class_has_a_row(package: ModuleType) -> None:
    public = {
        member
        for name, member in inspect.getmembers(package, inspect.isclass)
        if not name.startswith(("Abstract", "_")) and issubclass(member, eqx.Module)
    }
    assert public
    assert public <= {row.cls for row in ROWS.values()} | WITHOUT_ROW


@pytest.mark.parametrize(("row", "shape"), CASES)
def test_shapes_and_dtypes(row: Row, shape: Shape) -> None:
    """float32 stays float32, also where float64 is the default, and float64 stays float64."""
    # One precision a shape, where there are several.
    dtypes = (jnp.float32, jnp.float64) if len(row.shapes) == 1 else (PRECISIONS[row.shapes.index(shape)],)
    with jax.enable_x64(True):
        for dtype in dtypes:
            thing, x, t = row.make(shape, dtype), sample(shape, dtype), jnp.asarray(T, dtype)
            batch, gradients = eqx.filter_eval_shape(batched, row, thing, t, x)
            assert gradients.shape == (2, *shape)
            for leaf in (gradients, *jax.tree.leaves(batch)):
                assert leaf.dtype == dtype, batch
                assert leaf.shape[0] == 2


@pytest.mark.parametrize("name", ROWS)
def test_values(name: str) -> None:
    """Compiled, with the object itself as an argument: one sample is the same alone and in a batch; all is finite."""
    row = ROWS[name]
    shape = row.shapes[0]
    thing, x, t = row.make(shape, jnp.float32), sample(shape, jnp.float32), jnp.asarray(T, jnp.float32)
    one, batch, gradients = everything(row, thing, t, x)
    assert np.all(np.isfinite(gradients))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(batch), strict=True):
        assert np.all(np.isfinite(b))
        # Batched, sums are taken in another order.
        np.testing.assert_allclose(b[0], a, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.quick
@pytest.mark.parametrize("name", ROWS)
def test_pytree(name: str) -> None:
    """Flattened and built again it is the same, and immutable."""
    thing = ROWS[name].make(ROWS[name].shapes[0], jnp.float32)
    leaves, treedef = jax.tree.flatten(thing)
    again = jax.tree.unflatten(treedef, leaves)
    assert type(again) is type(thing)
    assert jax.tree.structure(again) == treedef
    for a, b in zip(leaves, jax.tree.leaves(again), strict=True):
        assert a is b
    dynamic, static = eqx.partition(thing, eqx.is_array)
    assert type(eqx.combine(dynamic, static)) is type(thing)
    assert re.fullmatch(r"[A-Z]\w*\(.*\)", repr(thing)), repr(thing)
    assert " at 0x" not in repr(thing)
    with pytest.raises((AttributeError, TypeError)):
        thing.anything = 1
