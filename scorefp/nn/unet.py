"""A U-Net of time and one image."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, Int

from .._checks import count, event_shape, is_concrete, random_key, require
from .._types import Event, Key, Scalar, Time
from ..calculus._smoothness import require_smooth_activation
from ._layers import (
    AbstractNetwork,
    Attention,
    Conv,
    GroupNorm,
    Image,
    affine,
    balanced,
    doubled,
    dropout_share,
    dropped,
    halved,
    inputs,
    with_octaves,
)
from .activation import silu
from .embedding import FEATURES, fourier_features


class UNet(AbstractNetwork):
    r"""A U-Net of time and one square image, in the manner of DDPM++ and NCSN++ (Song 2021b, appendix H).

    Residual blocks of two convolutions behind group norms run down and up a ladder of resolutions, each half of the
    one before; the way up sees what the way down had at its resolution. Images shrink by means of two by two pixels and
    grow by copies. Each sum of two branches is divided by $\sqrt 2$, and each block takes a shift of its channels from
    an embedding of time, two dense layers on `fourier_features`. A preconditioned score gives $\tfrac14
    \log(\sigma/\alpha)$, an eighth of the negative log-SNR, for time.

    The last convolution starts at zero, so that a preconditioned score starts as the score of a Gaussian; so does the
    last one of each block and attention.

    Args:
        shape: The event shape, `(c, n, n)`.
        channels: How many channels the finest resolution has.
        multipliers: The channels of each resolution over `channels`, from fine to coarse. All but the last are
            followed by a halving, so $2^{k-1}$ divides $n$ for $k$ multipliers.
        blocks: How many residual blocks each resolution has, on the way down and on the way up.
        attention: The resolutions, such as `(14, 7)`, at which self-attention follows each block.
        dropout: The share of entries that a block drops, where the call gets a key. A call without a key drops
            nothing: that is inference.
        octaves: How many octaves of Fourier features of the image enter beside it, $\sin(2^k\pi x)$ and
            $\cos(2^k\pi x)$ for $k = 1 \ldots$ `octaves` (Kingma 2021, appendix C.3). They make small differences
            large, on which the likelihood of levels depends: with 256 levels on [-1, 1] take 5 or 6. Derivatives in
            `x` become larger too.
        classes: The number of classes, for a network that is conditioned on a label; `None` for one that is not.
        activation: A smooth function; second derivatives of the network are taken.
        dtype: The precision of the products in convolutions, dense layers and attention, such as `jnp.bfloat16`;
            `None` for that of parameters and sample. What one layer hands to the next is of a half precision too;
            parameters, the embedding of time and the value keep theirs, and inside of norms, activations, softmax and
            sums all is in float32. Functions that measure take no half precision: they see the network without.
        key: A random key for the weights.

    Raises:
        TypeError: on a call, if `x` is not floating, or `args` no integer.
        ValueError: if the image is not square or its size cannot be halved so often, a resolution for attention does
            not occur, a count is below one, `dropout` is not in [0, 1), or the activation is piecewise linear; on a
            call, if `x` has another shape than `shape`, `args` is given without `classes`, or it is no class.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from scorefp.nn import UNet
        >>> network = UNet((1, 8, 8), channels=4, multipliers=(1, 2), attention=(4,), key=jax.random.key(0))
        >>> network(0.5, jnp.ones((1, 8, 8))).shape
        (1, 8, 8)
    """

    shape: tuple[int, int, int] = eqx.field(static=True)
    channels: int = eqx.field(static=True)
    multipliers: tuple[int, ...] = eqx.field(static=True)
    blocks: int = eqx.field(static=True)
    times: tuple[eqx.nn.Linear, eqx.nn.Linear]
    labels: Float[Array, "classes_and_none embedding"] | None
    enter: Conv
    down: tuple[tuple["_Block", ...], ...]
    middle: tuple["_Block", ...]
    up: tuple[tuple["_Block", ...], ...]
    norm: GroupNorm
    leave: Conv
    octaves: int = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    dtype: DTypeLike | None = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        channels: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
        octaves: int = 0,
        classes: int | None = None,
        activation: Callable[[Array], Array] = silu,
        dtype: DTypeLike | None = None,
        key: Key,
    ) -> None:
        event_shape(shape)
        multipliers, attention = event_shape(multipliers, "multipliers"), event_shape(attention, "attention")
        sizes = _resolutions(shape, multipliers)
        random_key("the weights of a network", key)
        _check(channels, blocks, octaves, classes)
        dropout = dropout_share(dropout)
        strange = [size for size in attention if size not in sizes]
        require(not strange, f"attention = {tuple(attention)}; {strange} do not occur, the resolutions are {sizes}.")
        require_smooth_activation(activation)
        keys = (jr.fold_in(key, i) for i in itertools.count())
        embedding = 4 * channels
        widths = [channels * multiplier for multiplier in multipliers]

        def row(count: int, first: int, width: int, size: int, skip: int = 0) -> tuple[_Block, ...]:
            """Blocks of one resolution in sequence; `first` channels enter, and each gets `skip` more."""
            return tuple(
                _Block(
                    skip + (width if i else first),
                    width,
                    embedding,
                    attention=size in attention,
                    dropout=dropout,
                    activation=activation,
                    dtype=dtype,
                    key=next(keys),
                )
                for i in range(count)
            )

        ladder = list(zip([channels, *widths], widths, sizes, strict=False))
        climb = list(zip([widths[-1], *reversed(widths)], reversed(widths), reversed(sizes), strict=False))
        self.shape, self.channels, self.multipliers, self.blocks = shape, channels, tuple(multipliers), blocks
        self.times = (
            eqx.nn.Linear(FEATURES, embedding, key=next(keys)),
            eqx.nn.Linear(embedding, embedding, key=next(keys)),
        )
        self.labels = None if classes is None else jr.normal(next(keys), (classes + 1, embedding))
        self.enter = Conv((1 + 2 * octaves) * shape[0], channels, dtype=dtype, key=next(keys))
        self.down = tuple(row(blocks, first, width, size) for first, width, size in ladder)
        self.middle = row(2, widths[-1], widths[-1], sizes[-1])
        self.up = tuple(row(blocks, first, width, size, skip=width) for first, width, size in climb)
        self.norm = GroupNorm(channels * multipliers[0])
        self.leave = Conv(channels * multipliers[0], shape[0], zero=True, dtype=dtype, key=next(keys))
        self.octaves = octaves
        self.activation = activation
        self.dtype = dtype

    def __call__(self, t: Time, x: Event, *, args: Int[ArrayLike, ""] | None = None, key: Key | None = None) -> Event:
        """The value of the network at one time and one image.

        Args:
            t: The time, or whatever the score conditions on.
            x: One image, of shape `(c, n, n)`.
            args: The label of the image, below the number of classes; `None` for an image whose class is unknown.
            key: A random key for dropout; `None` drops nothing.
        """
        t, x = inputs(t, x, self.shape)
        e = self._embedding(t, args)
        remaining: Iterator[Key | None] = itertools.repeat(None) if key is None else iter(jr.split(key, self._count))
        h, seen = self.enter(with_octaves(jnp.moveaxis(x, 0, -1), self.octaves)), list[Image]()
        for level, blocks in enumerate(self.down):
            h = halved(h) if level else h
            for block in blocks:
                h = block(h, e, key=next(remaining))
                seen.append(h)
        for block in self.middle:
            h = block(h, e, key=next(remaining))
        for level, blocks in enumerate(self.up):
            h = doubled(h) if level else h
            for block in blocks:
                h = block(jnp.concatenate([h, seen.pop()], axis=-1), e, key=next(remaining))
        value = self.leave(self.norm.activated(self.activation, h))
        return jnp.moveaxis(value, -1, 0).astype(jnp.result_type(x, self.leave.weight))

    @property
    def _count(self) -> int:
        """How many blocks there are."""
        return len(self.middle) + sum(len(blocks) for blocks in (*self.down, *self.up))

    def _embedding(self, t: Scalar, args: Int[ArrayLike, ""] | None) -> Float[Array, " embedding"]:
        """The features of time and label that every block gets."""
        first, second = self.times
        e = affine(second, self.activation(affine(first, fourier_features(t), self.dtype)), self.dtype)
        if self.labels is None:
            require(args is None, "args is given to a network without classes; make it with UNet(…, classes=n).")
            return self.activation(e)
        classes = len(self.labels) - 1
        label, known = jnp.asarray(classes if args is None else args), f"the labels are 0 … {classes - 1}"
        if label.shape != () or not jnp.issubdtype(label.dtype, jnp.integer):
            raise TypeError(
                f"args has shape {label.shape} and dtype {label.dtype}; a label is one integer, and {known}. "
                "Batch over labels with jax.vmap."
            )
        if is_concrete(label):
            require(0 <= int(label) <= classes, f"args = {int(label)}; {known}, and {classes} where it is unknown.")
        # One out of range that is known only at run time gives NaN, which the trainer reports; clamped it would be
        # another class.
        row = self.labels.at[label].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return self.activation(e + row)


class _Block(AbstractNetwork):
    """A residual block: norm, activation and convolution twice, dropout before the second, attention behind."""

    norms: tuple[GroupNorm, GroupNorm]
    convs: tuple[Conv, Conv]
    shift: eqx.nn.Linear
    shortcut: Conv | None
    attention: Attention | None
    dropout: float = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    dtype: DTypeLike | None = eqx.field(static=True)

    def __init__(
        self,
        channels: int,
        out: int,
        embedding: int,
        *,
        attention: bool,
        dropout: float,
        activation: Callable[[Array], Array],
        dtype: DTypeLike | None,
        key: Key,
    ) -> None:
        keys = jr.split(key, 5)
        self.norms = GroupNorm(channels), GroupNorm(out)
        self.convs = (
            Conv(channels, out, dtype=dtype, key=keys[0]),
            Conv(out, out, zero=True, dtype=dtype, key=keys[1]),
        )
        self.shift = eqx.nn.Linear(embedding, out, key=keys[2])
        self.shortcut = None if channels == out else Conv(channels, out, 1, dtype=dtype, key=keys[3])
        self.attention = Attention(out, dtype=dtype, key=keys[4]) if attention else None
        self.dropout = dropout
        self.activation = activation
        self.dtype = dtype

    def __call__(self, x: Image, e: Float[Array, " embedding"], *, key: Key | None) -> Image:
        h = self.convs[0](self.norms[0].activated(self.activation, x))
        h = self.norms[1].activated(self.activation, h, affine(self.shift, e, self.dtype))
        h = self.convs[1](dropped(h, self.dropout, key))
        h = balanced(x if self.shortcut is None else self.shortcut(x), h)
        return h if self.attention is None else balanced(h, self.attention(h))


def _resolutions(shape: tuple[int, ...], multipliers: Sequence[int]) -> list[int]:
    """The sizes of the image, from fine to coarse."""
    require(
        len(shape) == 3 and shape[1] == shape[2] and min(shape) >= 1,
        f"shape = {shape}; a U-Net takes square images (c, n, n). Pad or crop others, and give grey ones one channel.",
    )
    require(len(multipliers) >= 1, "multipliers = (); give one for each resolution, such as (1, 2, 2).")
    size, factor = shape[1], 2 ** (len(multipliers) - 1)
    require(
        size % factor == 0,
        f"shape = {shape} with multipliers = {tuple(multipliers)}; the size {size} is halved "
        f"{len(multipliers) - 1} times, so {factor} must divide it. Give fewer multipliers, or pad the images to "
        f"{-(-size // factor) * factor}.",
    )
    return [size // 2**level for level in range(len(multipliers))]


def _check(channels: int, blocks: int, octaves: int, classes: int | None) -> None:
    count("channels", channels, 1)
    count("blocks", blocks, 1)
    count("octaves", octaves, 0)
    if classes is not None:
        require(count("classes", classes) >= 1, f"classes = {classes}; give at least one, or None for no labels.")
