"""The U-Net: its layers against equinox's, what it commutes with, the derivatives that residuals take, precision."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from helpers import networks
from helpers.refusals import refused
from jax.extend.core import ClosedJaxpr, Jaxpr
from jaxtyping import Array

import scorefp as sfp
from scorefp import data, train
from scorefp.nn import MLP, UNet, full_precision, silu
from scorefp.nn._layers import Attention, Conv, GroupNorm, affine

_M = TypeVar("_M")


def filled(make: Callable[[], _M], dtype: Any = np.float32) -> _M:
    return networks.filled(make, dtype, lambda shape: np.sqrt(np.prod(shape[:-1])) if len(shape) > 1 else 2.0)


def small(**options: Any) -> Callable[[], UNet]:
    """The U-Net of most tests: two resolutions, attention at the coarser."""
    settings: dict[str, Any] = {"channels": 4, "multipliers": (1, 2), "attention": (4,), **options}
    return lambda: UNet((1, 8, 8), key=jr.key(0), **settings)


def one_resolution(**options: Any) -> Callable[[], UNet]:
    """A smaller one, whose derivatives compile sooner: every layer is in it, but for those between resolutions."""
    return lambda: UNet((1, 4, 4), channels=4, multipliers=(1,), attention=(4,), **options, key=jr.key(0))


def image(seed: int = 1, shape: tuple[int, ...] = (1, 8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.quick
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((1, 8, 8), {}),
        ((3, 12, 12), {"blocks": 2, "attention": (6, 3)}),
        ((1, 28, 28), {"attention": (7,), "classes": 10, "dropout": 0.1, "octaves": 2}),
        ((2, 5, 5), {"multipliers": (1,)}),
        ((1, 1, 1), {"multipliers": (3,), "channels": 1}),
    ],
    ids=str,
)
def test_sizes(shape: tuple[int, int, int], options: dict[str, Any]) -> None:
    network = eqx.filter_eval_shape(lambda: UNet(shape, **{"channels": 4, **options}, key=jr.key(0)))
    value = eqx.filter_eval_shape(lambda n, x: n(0.5, x), network, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert (value.shape, value.dtype) == (shape, jnp.float32)


@pytest.mark.quick
def test_every_array_has_a_part_in_the_value() -> None:
    network = filled(small(classes=1, octaves=1))
    x = jnp.asarray(image(shape=(2, 1, 8, 8)), jnp.float32)
    x, t, labels = x[jnp.array([0, 1, 1])], jnp.array([-1.5, 0.3, 1.0]), jnp.array([0, 1, 1])

    @eqx.filter_jit
    def batch(network: UNet) -> tuple[Array, UNet]:
        values = lambda n: jax.vmap(lambda t, x, label: n(t, x, args=label))(t, x, labels)
        return values(network), eqx.filter_grad(lambda n: jnp.sum(values(n) ** 2))(network)

    (_, sooner, later), slopes = batch(network)
    assert np.abs(sooner - later).max() > 1e-3
    networks.every_array_counts(slopes)


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_layers_are_those_of_equinox() -> None:
    x = image(shape=(6, 5, 8))
    conv, norm, attention = (
        filled(make, np.float64)
        for make in (lambda: Conv(8, 3, key=jr.key(0)), lambda: GroupNorm(8), lambda: Attention(8, key=jr.key(0)))
    )
    reference = eqx.nn.Conv2d(8, 3, 3, padding="SAME", key=jr.key(0))
    weights = jnp.transpose(conv.weight, (3, 2, 0, 1)), conv.bias[:, None, None]
    reference = eqx.tree_at(lambda c: (c.weight, c.bias), reference, weights)
    of_norm = eqx.tree_at(lambda n: (n.weight, n.bias), eqx.nn.GroupNorm(2, 8), (norm.weight, norm.bias))
    first = lambda layer: lambda x: jnp.moveaxis(layer(jnp.moveaxis(x, -1, 0)), 0, -1)

    @jax.jit
    def both(x: Array) -> list[tuple[Array, Array]]:
        q, k, v = jnp.split(attention.enter(attention.norm(x)).reshape(30, 24), 3, axis=1)
        seen = (jax.nn.softmax(q @ k.T / jnp.sqrt(8.0)) @ v).reshape(x.shape)
        return [
            (conv(x), first(reference)(x)),
            (norm(x), first(of_norm)(x)),
            (attention(x), attention.leave(seen)),
        ]

    for own, want in both(jnp.asarray(x)):
        np.testing.assert_allclose(own, want, rtol=1e-10, atol=1e-12)


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_a_norm_is_an_affine_map_of_each_channel() -> None:
    """The form of a norm in half precision is that of the others, with its derivatives in image, shift and parameters,
    of which the second are those that the penalty takes.
    """
    norm, x = filled(lambda: GroupNorm(8), np.float64), jnp.asarray(image(shape=(6, 5, 8)))
    shift, v = jnp.arange(8.0), jnp.cos(x)

    def along(form: str, norm: GroupNorm, shift: Array) -> Array:
        values = lambda x: jnp.sum(getattr(norm, form)(silu, x, shift) * v)
        return jax.jvp(jax.grad(values), (x,), (v,))[1].var()

    @functools.partial(jax.jit, static_argnums=0)
    def all_of(form: str) -> Any:
        return getattr(norm, form)(silu, x, shift), jax.value_and_grad(along, (1, 2))(form, norm, shift)

    plain, affine = all_of("activated"), all_of("as_affine")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11), plain, affine)
    networks.every_array_counts(affine)


@pytest.mark.quick
@pytest.mark.parametrize("shift", [0.0, 100.0, 1000.0])
def test_a_norm_in_half_precision_is_that_of_its_input(shift: float) -> None:
    """Up to the rounding of the values, also where the shift or the mean is large beside the spread."""
    norm, x = GroupNorm(8), 0.1 * jnp.asarray(image(shape=(16, 16, 8)), jnp.bfloat16)
    found = jax.jit(lambda x: norm.activated(lambda y: y, x, jnp.full(8, shift)))(x)
    exact = np.asarray(x, np.float64).reshape(256, 2, 4)
    want = (exact - exact.mean((0, 2), keepdims=True)) / np.sqrt(exact.var((0, 2), keepdims=True) + 1e-5)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float64), want.reshape(16, 16, 8), rtol=2**-8, atol=2e-3)


def test_a_norm_in_half_precision_keeps_no_float32() -> None:
    """What its derivative holds of the size of an image is the image itself."""
    norm, x = filled(lambda: GroupNorm(64)), jnp.asarray(image(shape=(16, 16, 64)), jnp.bfloat16)
    held = lambda form: jax.tree.leaves(jax.vjp(lambda x: getattr(norm, form)(silu, x, jnp.ones(64)), x)[1])
    large = lambda leaves: [leaf.dtype for leaf in leaves if leaf.size >= x.size]
    assert set(large(held("activated"))) == {jnp.dtype(jnp.bfloat16)}
    assert large(jax.tree.leaves(jax.vjp(lambda x: silu(norm(x)), x)[1])).count(jnp.float32) >= 2


@pytest.mark.quick
@pytest.mark.usefixtures("x64")
def test_it_mirrors_with_its_kernels() -> None:
    """Mirrored kernels on the mirrored image give the mirrored value, and those of the network another."""
    network, x = filled(small(octaves=1), np.float64), jnp.asarray(image())
    mirrored = jax.tree.map(lambda a: a[:, ::-1] if eqx.is_array(a) and a.ndim == 4 else a, network)

    @eqx.filter_jit
    def value(network: UNet, x: Array) -> Array:
        return network(0.3, x)

    want = value(network, x)
    np.testing.assert_allclose(value(mirrored, x[..., ::-1])[..., ::-1], want, rtol=1e-10, atol=1e-12)
    assert np.abs(value(network, x[..., ::-1])[..., ::-1] - want).max() > 0.01


@pytest.mark.quick
def test_training_starts_at_the_gaussian() -> None:
    """The last convolution is zero, and a preconditioned score is that of normal data."""
    x = jnp.asarray(image(shape=(1, 4, 4)), jnp.float32)

    @jax.jit
    def values() -> tuple[Array, Array, Array]:
        network = one_resolution()()
        sde = sfp.VP()
        variance = (sde.alpha(0.4) * 0.7) ** 2 + sde.sigma(0.4) ** 2
        return network(0.4, x), sfp.NoiseScore(network, sde, data_std=0.7)(0.4, x), -x / variance

    value, score, want = values()
    np.testing.assert_array_equal(value, np.zeros_like(x))
    np.testing.assert_allclose(score, want, rtol=1e-5)


@pytest.mark.usefixtures("x64")
def test_second_derivatives() -> None:
    """Along a line in `(t, x)`, against differences of the first derivative, of second order in the step."""
    network = filled(one_resolution(octaves=1), np.float64)
    t, (x, v) = jnp.asarray(0.4), jnp.asarray(image(shape=(2, 1, 4, 4)))

    networks.against_differences(networks.slopes_along(network, t, x, v), least=0.1, within=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_gradient_of_the_residual_in_the_parameters() -> None:
    """The gradient of training with a Fokker–Planck residual, which has three derivatives, along a random direction."""
    network = filled(one_resolution(), np.float64)
    x, key = jnp.asarray(image(shape=(1, 4, 4))), jr.key(3)
    params, static = eqx.partition(network, eqx.is_inexact_array)
    direction = jax.tree.map(lambda a: a * jnp.cos(jnp.arange(a.size)).reshape(a.shape), params)

    @jax.jit
    def loss_and_slope(e: Array) -> tuple[Array, Array]:
        def loss(params: Any) -> Array:
            score = sfp.NoiseScore(eqx.combine(params, static), sfp.VP())
            return jnp.mean(sfp.score_fpe_residual(score, 0.4, x, method=sfp.Hutchinson(), key=key) ** 2)

        value, slopes = jax.value_and_grad(loss)(jax.tree.map(lambda a, d: a + e * d, params, direction))
        return value, sum(jnp.vdot(a, b) for a, b in zip(*map(jax.tree.leaves, (slopes, direction)), strict=True))

    networks.against_differences(loss_and_slope, least=1e-3, within=1e-4)


@pytest.mark.quick
@pytest.mark.parametrize(
    "make",
    [one_resolution, lambda dropout=0.0: lambda: MLP((1, 4, 4), width=8, dropout=dropout, key=jr.key(0))],
    ids=["UNet", "MLP"],
)
def test_dropout(make: Any) -> None:
    """The same key drops the same, another other entries, none nothing; it reaches the network through `bind`."""
    network, without = filled(make(dropout=0.5)), filled(make())
    x = jnp.asarray(image(shape=(1, 4, 4)), jnp.float32)
    keys = jr.split(jr.key(1))[jnp.array([0, 0, 1])]

    @eqx.filter_jit
    def values(keys: Array) -> tuple[Array, ...]:
        bare = sfp.NoiseScore(network, sfp.VP(), data_std=None)
        noise = jax.vmap(lambda key: bare.bind(key=key).noise(0.3, x))(keys)
        return noise, network(0.3, x), without(0.3, x), network(0.3, x, key=keys[0])

    noise, none, plain, first = values(keys)
    np.testing.assert_array_equal(noise[0], noise[1])
    np.testing.assert_array_equal(none, plain)
    np.testing.assert_allclose(noise[0], first, rtol=1e-4, atol=1e-5)
    assert np.abs(noise[0] - noise[2]).max() > 0.01
    assert np.abs(first - none).max() > 0.01


@pytest.mark.quick
def test_labels() -> None:
    network = filled(one_resolution(classes=3))
    x = jnp.asarray(image(shape=(1, 4, 4)), jnp.float32)

    @eqx.filter_jit
    def values(labels: Array) -> tuple[Array, Array, Any]:
        value = jax.vmap(lambda label: network(0.3, x, args=label))
        slope = eqx.filter_grad(lambda n: jnp.sum(n(0.3, x, args=labels[1])))(network)
        return value(labels), network(0.3, x), slope.labels

    found, unknown, slope = values(jnp.array([0, 1, 2, 3, 4, -1]))
    np.testing.assert_allclose(found[3], unknown, rtol=1e-5, atol=1e-6)
    assert min(np.abs(found[i] - found[j]).max() for i in range(4) for j in range(i)) > 1e-3
    assert np.isnan(found[4:]).all()
    assert np.abs(slope[1]).max() > 0
    assert not slope[jnp.array([0, 2, 3])].any()


def test_labels_are_learnt() -> None:
    """Bright images of one class and dark ones of the other: almost pure noise is denoised to the class."""
    signs = jnp.tile(jnp.array([-1.0, 1.0]), 16)
    x = signs[:, None, None, None] * jnp.ones((32, 1, 4, 4)) + 0.1 * jr.normal(jr.key(0), (32, 1, 4, 4))
    network = filled(lambda: UNet((1, 4, 4), channels=4, multipliers=(1,), classes=2, key=jr.key(0)))
    network = eqx.tree_at(lambda n: n.leave.weight, network, jnp.zeros_like(network.leave.weight))
    run = train.fit(
        sfp.NoiseScore(network, sfp.VP(), data_std=1.0),
        sfp.DSM(weighting=sfp.noise_weighting),
        data.Dataset(x, args=(signs > 0).astype(jnp.int32)),
        optimizer=optax.adam(1e-2),
        steps=150,
        batch_size=32,
        decay=0.9,
        key=jr.key(1),
        progress=False,
    )
    noise = jr.normal(jr.key(2), (16, 1, 4, 4))

    @eqx.filter_jit
    def denoised(model: sfp.score.AbstractScore, label: Array) -> Array:
        return jax.vmap(lambda x: model.bind(args=label).denoise(0.9, x))(noise).mean()

    dark, bright = (float(denoised(run.model, jnp.array(label))) for label in (0, 1))
    assert dark < -0.7
    assert bright > 0.7


def equations(jaxpr: Jaxpr) -> Iterator[Any]:
    """All equations of a program, those inside others too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: isinstance(value, Jaxpr | ClosedJaxpr)):
            if isinstance(inner, Jaxpr | ClosedJaxpr):
                yield from equations(inner.jaxpr if isinstance(inner, ClosedJaxpr) else inner)


@pytest.mark.quick
@pytest.mark.parametrize(
    "make",
    [small(dtype=jnp.bfloat16), lambda: MLP((1, 8, 8), width=8, depth=1, dtype=jnp.bfloat16, key=jr.key(0))],
    ids=["UNet", "MLP"],
)
def test_bfloat16_is_for_products_alone(make: Callable[[], UNet | MLP]) -> None:
    """In the program of the gradient products have operands in bfloat16, and what sums or divides is in float32."""
    network = filled(make)
    t, x = jnp.linspace(-1, 1, 3), jnp.asarray(image(shape=(3, 1, 8, 8)), jnp.float32)

    def loss(network: UNet | MLP) -> Array:
        values = jax.vmap(network)(t, x)
        assert values.dtype == jnp.float32
        return jnp.sum(values**2)

    program, slopes, _ = eqx.filter_make_jaxpr(eqx.filter_grad(loss))(network)
    assert {leaf.dtype for leaf in jax.tree.leaves(eqx.filter(network, eqx.is_array))} == {jnp.dtype(jnp.float32)}
    assert {leaf.dtype for leaf in jax.tree.leaves(slopes)} == {jnp.dtype(jnp.float32)}
    products = 0
    for equation in equations(program.jaxpr):
        kinds = {variable.aval.dtype for variable in equation.invars}
        if equation.primitive.name in ("convolution", "correlation", "dot_general"):
            products += 1
            assert kinds & {jnp.dtype(jnp.bfloat16)}, equation
        elif equation.primitive.name in ("reduce_sum", "reduce_max", "exp", "rsqrt", "div", "logistic", "sqrt"):
            # Sums over axes of length one, which dropping an axis leaves in a gradient, add nothing up.
            shape, axes = equation.invars[0].aval.shape, equation.params.get("axes", ())
            assert jnp.dtype(jnp.bfloat16) not in kinds or (axes and {shape[axis] for axis in axes} == {1}), equation
    assert products > 5


@pytest.mark.quick
def test_layers_hand_on_arrays_of_their_precision() -> None:
    """What a product or a concatenation of two images reads is in bfloat16, in derivatives too; in a network of float32
    nothing is rounded.
    """
    x = jnp.asarray(image(), jnp.float32)

    def read(network: UNet) -> set[tuple[str, str]]:
        slope = lambda x: jax.jvp(lambda x: network(0.3, x), (x,), (x,))[1]
        program = jax.make_jaxpr(jax.value_and_grad(lambda x: jnp.sum(slope(x) ** 2)))(x)
        found = set[tuple[str, str]]()
        for equation in equations(program.jaxpr):
            name, shapes = equation.primitive.name, [v.aval.shape for v in equation.invars]
            joined = name == "concatenate" and len(shapes) == 2 and all(len(shape) == 3 for shape in shapes)
            if joined or name in ("convolution", "correlation", "dot_general"):
                found |= {(name, str(variable.aval.dtype)) for variable in equation.invars}
        return found

    names = ("concatenate", "convolution", "dot_general")
    assert read(filled(small(dtype=jnp.bfloat16))) == {(name, "bfloat16") for name in names}
    for exact in (small(), small(dtype=jnp.float32)):
        assert read(filled(exact)) == {(name, "float32") for name in names}
        assert "f16" not in str(jax.make_jaxpr(filled(exact))(0.3, x))


def test_second_derivatives_of_bfloat16() -> None:
    """Near those of float32; and without its rounding the network is the same to the bit."""
    x, v = jnp.asarray(image(shape=(2, 1, 4, 4)), jnp.float32)
    exact, coarse = filled(one_resolution()), filled(one_resolution(dtype=jnp.bfloat16))

    @eqx.filter_jit
    def along(network: UNet) -> Any:
        value = lambda e: network(0.3 + 0.7 * e, x + e * v)
        slope = lambda e: jax.jvp(value, (e,), (jnp.ones_like(e),))
        first = jax.jvp(slope, (jnp.zeros(()),), (jnp.ones(()),))
        reverse = jax.grad(lambda e: jnp.sum(slope(e)[1]))(jnp.zeros(()))
        return *jax.tree.leaves(first), reverse

    for want, found in zip(along(exact), along(coarse), strict=True):
        assert found.dtype == jnp.float32
        scale = np.abs(want).max()
        assert 1e-5 * scale < np.abs(found - want).max() < 0.1 * scale
    for want, found in zip(along(exact), along(full_precision(coarse)), strict=True):
        np.testing.assert_array_equal(found, want)


@pytest.mark.quick
def test_bfloat16_is_near_float32() -> None:
    """By what its eight digits allow; and products of it are summed in float32, where in its own sum 256 + 1 is 256."""
    x = jnp.asarray(image(shape=(1, 4, 4)), jnp.float32)
    exact, coarse = filled(one_resolution()), filled(one_resolution(dtype=jnp.bfloat16))
    layer = filled(lambda: Conv(64, 8, dtype=jnp.bfloat16, key=jr.key(0)))
    layer = eqx.tree_at(lambda c: (c.weight, c.bias), layer, (jnp.ones_like(layer.weight), jnp.zeros(8)))
    linear = filled(lambda: eqx.nn.Linear(4096, 2, key=jr.key(0)))
    linear = eqx.tree_at(lambda c: (c.weight, c.bias), linear, (jnp.ones((2, 4096)), jnp.zeros(2)))

    @jax.jit
    def values(x: Array) -> tuple[Array, ...]:
        ones = jnp.ones((64, 64, 64))
        slopes = eqx.filter_grad(lambda c: jnp.sum(c(ones)))(layer)
        return (
            exact(0.3, x),
            coarse(0.3, x),
            layer(ones)[5, 5],
            affine(linear, jnp.ones(4096), jnp.bfloat16),
            slopes.weight,
        )

    want, found, convolved, applied, slope = values(x)
    scale = np.abs(want).max()
    assert 1e-4 * scale < np.abs(found - want).max() < 0.05 * scale
    np.testing.assert_array_equal(convolved, np.full(8, 576.0))
    np.testing.assert_array_equal(applied, np.full(2, 4096.0))
    np.testing.assert_array_equal(slope[1, 1], np.full((64, 8), 4096.0))


@pytest.mark.quick
@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 8, 9), {}, r"shape = \(1, 8, 9\); a U-Net takes square images .* Pad or crop"),
        ((8, 8), {}, r"shape = \(8, 8\); a U-Net takes square images"),
        ((1, 10, 10), {}, r"size 10 is halved 2 times, so 4 must divide it. Give fewer multipliers, or pad .* to 12"),
        ((1, 8, 8), {"multipliers": ()}, r"multipliers = \(\); give one for each resolution"),
        ((1, 8, 8), {"multipliers": (1, 0)}, r"multipliers\[1\] = 0; it is a count of at least 1"),
        ((1, 8, 8), {"channels": 0}, "channels = 0"),
        ((1, 8, 8), {"blocks": 0}, "blocks = 0"),
        ((1, 8, 8), {"attention": (8, 7)}, r"\[7\] do not occur, the resolutions are \[8, 4, 2\]"),
        ((1, 8, 8), {"dropout": 1.0}, r"dropout = 1.0; .* is in \[0, 1\)"),
        ((1, 8, 8), {"octaves": -1}, "octaves = -1"),
        ((1, 8, 8), {"classes": 0}, "classes = 0; give at least one, or None"),
        ((1, 8, 8), {"activation": jax.nn.relu}, "piecewise linear"),
    ],
)
def test_bad_settings(shape: Any, options: dict[str, Any], message: str, unchecked: None) -> None:
    refused(message, UNet, shape, **options, key=jr.key(0))


@pytest.mark.quick
def test_bad_calls(unchecked: None) -> None:
    network, with_labels = filled(small()), filled(small(classes=3))
    x = jnp.ones((1, 8, 8))
    refused(r"x has shape \(2, 1, 8, 8\).* batch them with jax.vmap", network, 0.3, jnp.ones((2, 1, 8, 8)))
    refused(r"args is given to a network without classes", network, 0.3, x, args=1)
    refused(r"args = 4; the labels are 0 … 2, and 3 where it is unknown", with_labels, 0.3, x, args=4)
    message = r"args has shape \(2,\) .* a label is one integer, and the labels are 0 … 2"
    refused(message, with_labels, 0.3, x, args=jnp.array([0, 1]), error=TypeError)
    refused(r"dtype float32; a label is one integer", with_labels, 0.3, x, args=jnp.array(1.0), error=TypeError)
