"""Variational dequantisation by a conditional flow [K7]."""

import math
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from .._checks import count, event_shape, kind, needs, random_key, require
from .._types import Event, Key, Scalar
from ..dataset import AbstractDequantiser, Quantisation


@runtime_checkable
class ConditionalFlow(Protocol):
    """The interface of a conditional density on the unit cube; flowjax's distributions have it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of a draw, `(D,)`."""
        ...

    @property
    def cond_shape(self) -> tuple[int, ...] | None:
        """The shape of the condition, `(D,)`."""
        ...

    def sample_and_log_prob(
        self, key: Any, sample_shape: tuple[int, ...] = (), condition: Any = None
    ) -> tuple[Array, Array]:
        """A differentiable draw, and its log-density."""
        ...

    def log_prob(self, x: Any, condition: Any = None) -> Array:
        """The log-density."""
        ...


class VariationalDequantiser(AbstractDequantiser):
    r"""Dequantisation by noise from a conditional flow, $u \sim q_\phi(u \mid k)$ on $[0, 1)^D$ [K7] (Song 2021,
    Eq. 13; Ho 2019).

    Trained through the likelihood bound by `scorefp.train.fit_dequantiser`, it narrows the gap
    $\mathrm{KL}\big(q_\phi \,\Vert\, p(u \mid k)\big)$ that uniform noise leaves. `variational_dequantiser` makes one.

    Args:
        flow: A conditional density on the unit cube of flattened samples, conditioned on the `condition` of the levels.
        quantisation: The levels and the interval.

    Raises:
        TypeError: if `flow` has no `sample_and_log_prob`; on a call, if the levels are not integers.
        ValueError: if the flow is not one of vectors with a condition of the same size; on a call, if a level is out of
            range, or the levels have another size than the flow.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> quantisation = sfp.Quantisation(4, 0.0, 1.0)
        >>> dequantiser = sfp.likelihood.variational_dequantiser(
        ...     (2,), quantisation, layers=1, width=4, key=jax.random.key(0)
        ... )
        >>> dequantiser.condition(jnp.array([0, 3])).tolist()
        [-0.75, 0.75]
    """

    flow: ConditionalFlow
    quantisation: Quantisation

    def __check_init__(self) -> None:
        if isinstance(self.flow, type) or not callable(getattr(self.flow, "sample_and_log_prob", None)):
            raise TypeError(
                f"flow is a {type(self.flow).__name__}; it needs sample_and_log_prob(key, condition=…), as flowjax's "
                "distributions have it. variational_dequantiser makes a suitable one."
            )
        shape, condition = self.flow.shape, self.flow.cond_shape
        require(
            len(shape) == 1 and condition == shape,
            f"flow has the shape {shape} and the condition's shape {condition}; both must be the size of a flattened "
            "sample, (D,).",
        )

    def condition(self, k: Integer[Array, "*event"]) -> Array:
        r"""The condition of the flow, the flattened levels on [-1, 1]: $(2k + 1)/\text{levels} - 1$.

        Args:
            k: Integer levels of one sample.
        """
        k = jnp.ravel(k).astype(_dtype(self.flow))
        return (2 * k + 1) / self.quantisation.levels - 1

    def positions(self, k: Integer[Array, "*event"], *, key: Key) -> tuple[Event, Scalar]:
        (size,) = self.flow.shape
        require(
            k.size == size,
            f"k has shape {k.shape} and {k.size} elements, but the flow has {size}; draw takes the levels of one "
            "sample. Batch with jax.vmap.",
        )
        u, log_prob = self.flow.sample_and_log_prob(key, condition=self.condition(k))
        # Rounding may give 1, which is the next level.
        below_one = jnp.nextafter(jnp.ones((), u.dtype), jnp.zeros((), u.dtype))
        return jnp.clip(u, 0, below_one).reshape(k.shape), log_prob


def variational_dequantiser(
    shape: tuple[int, ...],
    quantisation: Quantisation,
    *,
    layers: int = 4,
    width: int = 64,
    key: Key,
) -> VariationalDequantiser:
    """A dequantiser whose flow is flowjax's: coupling layers with monotone rational-quadratic splines on (0, 1).

    Splines map the unit interval onto itself, so that the noise stays inside its level by construction. The last layer
    of every conditioner starts at zero, so that the noise starts as uniform. The arrays take the precision that is
    switched on when it is made.

    Args:
        shape: The event shape.
        quantisation: The levels and the interval.
        layers: The number of coupling layers. Each changes half of the entries; one entry alone is changed by all.
        width: The width of a conditioner.
        key: A random key for the weights.

    Raises:
        ImportError: if flowjax is not installed.
        ValueError: if `layers` or `width` is below one, or the shape has no elements.

    Example:
        >>> import jax, jax.numpy as jnp, scorefp as sfp
        >>> quantisation = sfp.Quantisation(17, -1.0, 1.0)
        >>> dequantiser = sfp.likelihood.variational_dequantiser(
        ...     (2, 3), quantisation, layers=2, width=8, key=jax.random.key(0)
        ... )
        >>> drawn = dequantiser.draw(jnp.zeros((2, 3), int), key=jax.random.key(1))
        >>> drawn.x.shape, bool(jnp.abs(drawn.log_prob) < 1e-5)
        ((2, 3), True)
    """
    shape = event_shape(shape)
    size = math.prod(shape)
    kind("quantisation", quantisation, Quantisation)
    random_key("the weights of the flow", key)
    for name, value in (("layers", layers), ("width", width)):
        count(name, value, 1)
    with needs("variational_dequantiser", "flowjax", "flow"):
        from flowjax import bijections, distributions, flows
    flow = flows.coupling_flow(
        key,
        base_dist=distributions.Uniform(jnp.zeros(size), jnp.ones(size)),
        transformer=bijections.RationalQuadraticSpline(knots=8, interval=(0, 1)),
        cond_dim=size,
        flow_layers=layers,
        nn_width=width,
        nn_depth=1,
        invert=False,  # draws are what training needs
    )

    def is_coupling(node: Any) -> bool:
        return isinstance(node, bijections.Coupling)

    def from_zero(node: Any) -> Any:
        if not is_coupling(node):
            return node
        last = node.conditioner.layers[-1]
        zeros = eqx.tree_at(lambda layer: (layer.weight, layer.bias), last, replace_fn=jnp.zeros_like)
        return eqx.tree_at(lambda coupling: coupling.conditioner.layers[-1], node, zeros)

    return VariationalDequantiser(jax.tree.map(from_zero, flow, is_leaf=is_coupling), quantisation)


def _dtype(flow: Any) -> jnp.dtype:
    """The precision of a flow's arrays."""
    leaves = [leaf for leaf in jax.tree.leaves(flow) if eqx.is_inexact_array(leaf)]
    return jnp.result_type(*leaves) if leaves else jnp.result_type(float)
