"""Conditioning left out of a share of the samples, so that one network learns both scores of guidance."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

from .._checks import number, random_key, require
from .._module import AbstractModule
from .._types import Key


class LabelDropout(AbstractModule):
    r"""A share $p$ of the samples is trained without its conditioning, with `null` in its place (Ho & Salimans 2022).

    The network then learns the conditional and the unconditional score at once: the loss of a sample with conditioning
    $c$ is $(1 - p)\,\ell(c) + p\,\ell(\text{null})$ in the mean. For guidance take
    `Guided(model, model.bind(args=null), strength)`.

    The samples are drawn anew each step, each by itself, on the device.

    Args:
        share: $p$, from 0 to 1. Ho & Salimans 2022 find 0.1 and 0.2 to be about as good, and 0.5 worse.
        null: What stands for no conditioning, a pytree of numbers or arrays like the `args` of one sample: for
            `UNet(classes=10)` it is 10.

    Raises:
        TypeError: if `share` is no number; in `fit`, if `null` has another structure or dtype than the conditioning.
        ValueError: if `share` is not in [0, 1], or `null` is `None`; in `fit`, if the data have no conditioning, or
            `null` has another shape or does not fit the dtype.

    Example:
        >>> from scorefp import train
        >>> train.LabelDropout(share=0.1, null=10)
        LabelDropout(share=0.1, null=10)
    """

    share: float
    null: Any

    def __check_init__(self) -> None:
        require(0 <= self.share <= 1, f"share = {self.share}; a share of the samples lies in [0, 1].")
        require(self.null is not None, "null is None; it stands for no conditioning: give a label that no sample has.")

    def __call__(self, args: Any, *, key: Key) -> Any:
        """The conditioning of a batch, that of some samples replaced.

        Args:
            args: The conditioning, a pytree with the batch as leading axis.
            key: A random key.
        """
        rows = len(jax.tree.leaves(args)[0])
        left_out = jr.bernoulli(random_key("label dropout", key), self.share, (rows,))

        def replaced(leaf: jax.Array, null: Any) -> jax.Array:
            return jnp.where(left_out.reshape(-1, *[1] * (leaf.ndim - 1)), jnp.asarray(null, leaf.dtype), leaf)

        return jax.tree.map(replaced, args, self.null)


def fitting(dropout: LabelDropout, one: Any) -> LabelDropout:
    """The dropout with `null` as arrays of the dtypes of the conditioning, refused where it is not like it.

    Args:
        dropout: The dropout.
        one: The shapes and dtypes of the conditioning of one sample; `None` where there is none.
    """
    if one is None:
        raise ValueError(
            "label_dropout is given, but data have no conditioning to leave out. Give a Dataset with args, such as "
            "digits(…, labels=True), or no label_dropout."
        )
    own, wanted = jax.tree.structure(dropout.null), jax.tree.structure(one)
    if own != wanted:
        raise TypeError(
            f"label_dropout.null is of the structure {own}; the conditioning of one sample is of {wanted}. Give one of "
            "its kind."
        )
    return LabelDropout(dropout.share, jax.tree.map(_like, one, dropout.null))


def _like(one: jax.ShapeDtypeStruct, null: Any) -> jax.Array:
    """One array of `null` in the dtype of the conditioning, of which numbers of Python have none of their own."""
    plain = isinstance(null, int | float) and not isinstance(null, bool)
    given = np.asarray(number("label_dropout.null", null) if plain else null)
    if not (jnp.issubdtype(given.dtype, jnp.number) or given.dtype == bool):
        raise TypeError(f"label_dropout.null holds {null!r}; it is made of numbers, like the conditioning.")
    require(
        given.shape == one.shape,
        f"label_dropout.null holds an array of shape {given.shape}; that of one sample's conditioning has {one.shape}.",
    )
    require(bool(np.all(np.isfinite(given))), "label_dropout.null holds NaN or infinite entries.")
    whole = jnp.issubdtype(one.dtype, jnp.integer)
    if jax.dtypes.canonicalize_dtype(given.dtype) != one.dtype and not (plain and whole <= isinstance(null, int)):
        raise TypeError(
            f"label_dropout.null holds {null!r} of dtype {given.dtype}; the conditioning has dtype {one.dtype}. Give "
            "one of it."
        )
    if whole:
        ends = jnp.iinfo(one.dtype)
        require(
            bool(np.all((given >= int(ends.min)) & (given <= int(ends.max)))),
            f"label_dropout.null = {null}; {one.dtype}, the dtype of the conditioning, holds {ends.min} … {ends.max}.",
        )
    return jnp.asarray(given, one.dtype)
