"""Scores of PyTorch: equal to the same network in JAX, under every transformation, and refused where they cannot be."""

import gc
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax import Array

import scorefp as sfp
from scorefp import data, train
from scorefp.calculus._rounding import coarsest_dtype
from scorefp.calculus._smoothness import require_smooth
from scorefp.diagnostics import AbstractMeasure, ByClass, CodeLength, Ensemble, Likelihood, ResidualCurve
from scorefp.diagnostics.audit import DEFAULT_MEASURES, _suited
from scorefp.sampling import NodeGrid
from scorefp.score import TorchCall, TorchNetwork, from_torch

torch = pytest.importorskip("torch", reason="PyTorch is not installed: its scores are not tested here")
from helpers import torch_unet  # noqa: E402

SHAPE, KEY = (1, 4, 4), jr.key(0)
BETAS = np.linspace(1e-4, 0.02, 1000)
PHYSICAL = TorchCall(time=sfp.score.physical_time)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """The same weights in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def table() -> sfp.sde.DiscreteSDE:
    return sfp.sde.DiscreteSDE.from_betas(BETAS)


def differ(one: Any, other: Any) -> float:
    """The largest difference of two trees, each array by its own size."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / (jnp.max(jnp.abs(b)) + 1e-30)) for a, b in pairs)


def pair(dtype: Any, sde: Any = None) -> tuple[sfp.score.NetworkScore, sfp.score.NetworkScore]:
    """The U-Net in torch and in JAX, as preconditioned scores: a trained one is as tame."""
    module = torch_unet.made(dtype=dtype)
    sde = sfp.VP() if sde is None else sde
    ours = TorchNetwork(module, sde, PHYSICAL, SHAPE)
    return sfp.NoiseScore(ours, sde), sfp.NoiseScore(torch_unet.port(module), sde)


@pytest.fixture(params=[pytest.param("float32", marks=pytest.mark.slow), "float64"])
def precision(request: pytest.FixtureRequest) -> Iterator[tuple[Any, float]]:
    """A dtype of torch with JAX set to it, and how far the two may differ."""
    with jax.enable_x64(request.param == "float64"):
        yield getattr(torch, request.param), 1e-5 if request.param == "float32" else 1e-12


# With such tolerances no step is chosen by an error estimate, which amplifies the rounding of the two.
COARSE = sfp.Integrator(rtol=1e3, atol=1e3)


# ------------------------------------------------------------------------------------------------ equality
@pytest.mark.parametrize(
    "chosen",
    [
        [sfp.Ito()],
        pytest.param([sfp.Exact(), sfp.Antithetic(), sfp.Sliced(), sfp.FiniteDifference()], marks=pytest.mark.slow),
    ],
)
def test_residuals_by_every_method(precision: tuple[Any, float], chosen: list[Any]) -> None:
    dtype, tolerance = precision
    # Differences multiply the rounding of float32.
    chosen = [method for method in chosen if dtype is torch.float64 or isinstance(method, sfp.Exact | sfp.Ito)]
    x = 0.3 * jr.normal(KEY, SHAPE)

    def account(score: Any) -> Any:
        def of(t: Array, x: Array) -> Any:
            residuals = [sfp.score_fpe_residual(score, t, x, method=method, key=KEY) for method in chosen]
            return score(t, x), residuals

        return jax.jit(of)(jnp.asarray(0.4), x)

    ours, theirs = (account(score) for score in pair(dtype))
    assert differ(ours, theirs) < tolerance
    assert float(jnp.max(jnp.abs(ours[1][0]))) > 1e-2


@pytest.mark.slow
def test_likelihood_and_its_gradient(precision: tuple[Any, float]) -> None:
    dtype, tolerance = precision
    x = 0.3 * jr.normal(KEY, (2, *SHAPE))

    def account(score: Any) -> Any:
        value = lambda x: sfp.log_likelihood(score, x, integrator=COARSE, trace=sfp.Hutchinson(), key=KEY)
        return jax.jit(jax.vmap(jax.value_and_grad(value)))(x)

    ours, theirs = (account(score) for score in pair(dtype))
    assert differ(ours, theirs) < tolerance


@pytest.mark.parametrize(
    "method",
    [sfp.EulerMaruyama(5), sfp.Heun(4), sfp.DPMSolver(5), sfp.ProbabilityFlow(COARSE)],
    ids=lambda method: type(method).__name__,
)
def test_samples(method: Any, precision: tuple[Any, float]) -> None:
    dtype, tolerance = precision
    ours, theirs = (sfp.sample(score, 3, key=KEY, method=method, shape=SHAPE) for score in pair(dtype))
    assert differ(ours, theirs) < tolerance


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_audit() -> None:
    """Bits per dimension and the residual over time."""
    levels = np.random.default_rng(0).integers(0, 16, (4, *SHAPE))
    images = sfp.Dataset(levels, sfp.Quantisation(16, -1.0, 1.0))
    measures = [Likelihood(integrator=COARSE), ResidualCurve(sfp.Ito())]
    ours, theirs = (sfp.audit(score, images, key=KEY, measures=measures) for score in pair(torch.float64))
    for name in ("likelihood", "residual"):
        for number, of in ours[name].numbers.items():
            np.testing.assert_allclose(of.value, theirs[name].numbers[number].value, rtol=1e-11)


@pytest.mark.slow
def test_a_trained_network() -> None:
    """A minute of training on the 8×8 digits, as a loop of torch does it: samples, bits per dimension and the audit of
    the module are those of the port."""
    digits, few = data.digits("train").reshaped((1, 8, 8)), data.digits("test").reshaped((1, 8, 8))
    clean = torch.tensor(np.array(digits.values, np.float32))
    alphas = torch.tensor(np.cumprod(1 - BETAS), dtype=torch.float32)
    module = torch_unet.made(dtype=torch.float32, channels=32).train()
    adam, draws = torch.optim.Adam(module.parameters(), 2e-3), torch.Generator().manual_seed(0)
    begin = time.perf_counter()
    losses: list[float] = []
    while time.perf_counter() - begin < 60:
        x0 = clean[torch.randint(len(clean), (128,), generator=draws)]
        step, noise = torch.randint(1000, (128,), generator=draws), torch.randn(x0.shape, generator=draws)
        signal = alphas[step][:, None, None, None]
        loss = ((module(signal.sqrt() * x0 + (1 - signal).sqrt() * noise, step.float()) - noise) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-50:]) < 0.35
    images = few.rows(np.arange(8))
    for double, tolerance in ((False, 1e-5), (True, 1e-12)):
        with jax.enable_x64(double):
            sde, dtype = table(), torch.float64 if double else torch.float32
            module = module.to(dtype).eval()
            ours = from_torch(module, sde, shape=(1, 8, 8))
            theirs = sfp.NoiseScore(torch_unet.port_of_steps(module, sde), sde, data_std=None)
            for method in (
                sfp.ExponentialIntegrator(100, NodeGrid(), noise=1.0),
                sfp.DPMSolver(20),
                sfp.ProbabilityFlow(COARSE),
            ):
                drawn = [sfp.sample(s, 4, key=KEY, method=method, shape=(1, 8, 8)) for s in (ours, theirs)]
                assert differ(*drawn) < tolerance
            measures = [Likelihood(integrator=COARSE), ResidualCurve(sfp.Ito())]
            audits = [sfp.audit(s, images, key=KEY, measures=measures) for s in (ours, theirs)]
            for name in ("likelihood", "residual"):
                for number, of in audits[0][name].numbers.items():
                    np.testing.assert_allclose(of.value, audits[1][name].numbers[number].value, rtol=tolerance)


@pytest.mark.usefixtures("x64")
def test_a_small_audit() -> None:
    """Bits per dimension and residual of two layers, as of the same in JAX."""
    module = small()
    w, b, u, c = (jnp.asarray(p.detach().numpy()) for p in module.parameters())
    port = lambda t, x: u @ jax.nn.silu(w @ jnp.append(x, t) + b) + c
    ours = sfp.NoiseScore(TorchNetwork(module, sfp.VP(), PHYSICAL, (3,)), sfp.VP())
    images = sfp.Dataset(np.random.default_rng(0).integers(0, 16, (6, 3)), sfp.Quantisation(16, -1.0, 1.0))
    measures = [Likelihood(integrator=COARSE), ResidualCurve(sfp.Exact(), ensemble=Ensemble(times=2, samples=4))]
    reports = [sfp.audit(score, images, key=KEY, measures=measures) for score in (ours, sfp.NoiseScore(port, sfp.VP()))]
    for name in ("likelihood", "residual"):
        for number, of in reports[0][name].numbers.items():
            np.testing.assert_allclose(of.value, reports[1][name].numbers[number].value, rtol=1e-11, err_msg=number)
    assert 0 < reports[0]["likelihood"].numbers["bits_per_dim"].value < 10


# ------------------------------------------------------------------------------------------------ transformations
class Small(torch.nn.Module):
    """A module that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last, self.calls = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3), 0

    def forward(self, x: Any, t: Any) -> Any:
        self.calls += 1
        return self.last(torch.nn.functional.silu(self.first(torch.cat([x, t[:, None]], dim=1))))


def small() -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small().double().eval()


@pytest.mark.usefixtures("x64")
def test_nested_derivatives_to_the_third_order() -> None:
    module = small()
    network = TorchNetwork(module, sfp.VP(), PHYSICAL)
    w, b, u, c = (jnp.asarray(p.detach().numpy()) for p in module.parameters())
    port = lambda t, x: u @ jax.nn.silu(w @ jnp.append(x, t) + b) + c
    t, x, v = jnp.asarray(0.3), jnp.array([0.1, 0.2, -0.5]), jnp.array([1.0, -0.3, 0.2])

    def push(fn: Any, x: Array, v: Array) -> Array:
        return jax.jvp(fn, (x,), (v,))[1]

    def orders(fn: Any) -> Any:
        of_x = lambda x: fn(t, x)
        pulled = lambda x, v: jax.vjp(of_x, x)[1](v)[0]
        div = lambda t, x: jnp.trace(jax.jacfwd(lambda x: fn(t, x))(x))
        linear = jax.linearize(of_x, x)[1]
        step = jax.checkpoint(lambda x, _: (x + 0.1 * of_x(x), None))
        walk = lambda x: jnp.sum(jax.lax.scan(step, x, None, length=3)[0] ** 2)
        return {
            "jvp": jax.jvp(fn, (t, x), (1.0, v)),
            "jvp of jvp": push(lambda x: push(of_x, x, v * x), x, v),
            "reverse of reverse": jax.jacrev(jax.jacrev(of_x))(x),
            "grad of divergence": jax.grad(div, (0, 1))(t, x),
            "third": [a(b(c(of_x)))(x) for a, b, c in THIRD],
            "grad of a squared grad": jax.grad(lambda x: jnp.sum(jax.grad(div, 1)(t, x) ** 2))(x),
            "linear": [linear(v), jax.linear_transpose(linear, v)(v)],
            "transpose of a transpose": jax.linear_transpose(lambda v: pulled(x, v), v)(v),
            "scan": jax.vmap(jax.grad(walk))(jnp.stack([x, v])),
            "vmap": [jax.vmap(fn, (None, 1))(t, jnp.stack([x, v], 1)), jax.vmap(fn, (0, None))(x, v)],
        }

    THIRD = [
        (jax.jacfwd, jax.jacrev, jax.jacfwd),
        (jax.jacrev, jax.jacrev, jax.jacrev),
        (jax.jacfwd, jax.jacfwd, jax.jacfwd),
    ]
    ours, theirs = jax.jit(lambda: orders(network))(), jax.jit(lambda: orders(port))()
    for name, wanted in theirs.items():
        for one, other in zip(jax.tree.leaves(ours[name]), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-14, err_msg=name)
    np.testing.assert_allclose(network(t, x), port(t, x), rtol=1e-13)
    np.testing.assert_allclose(push(lambda x: network(t, x), x, v), push(lambda x: port(t, x), x, v), rtol=1e-13)


def test_a_batch_is_one_call_and_one_compilation() -> None:
    module = small().float()
    score = sfp.NoiseScore(TorchNetwork(module, sfp.VP(), PHYSICAL, (3,)), sfp.VP())
    batch, x = eqx.filter_jit(eqx.filter_vmap(lambda s, t, x: s(t, x), in_axes=(None, None, 0))), jnp.ones((50, 3))
    batch(score, 0.5, x)
    traced, module.calls = batch._cached._cache_size(), 0
    first = batch(score, 0.5, x)
    assert module.calls == 1
    jax.block_until_ready(jax.jit(jax.vmap(lambda x: sfp.divergence(lambda x: score(0.5, x), x)))(x))
    assert module.calls == 2
    # An equal score around the same module, and other weights in it.
    again = sfp.NoiseScore(TorchNetwork(module, sfp.VP(), PHYSICAL, (3,)), sfp.VP())
    with torch.no_grad():
        module.last.bias.add_(1.0)
    assert float(jnp.min(jnp.abs(batch(again, 0.5, x) - first))) > 1e-3
    assert batch._cached._cache_size() == traced


@pytest.mark.slow
def test_calls_leak_nothing() -> None:
    module = torch_unet.made(dtype=torch.float32)
    score = from_torch(module, table(), shape=SHAPE)
    call = jax.jit(jax.vmap(jax.value_and_grad(lambda x: jnp.sum(score(0.5, x) ** 2))))
    x = jr.normal(KEY, (2, *SHAPE))

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    jax.block_until_ready(call(x))
    before = alive()
    for _ in range(200):
        jax.block_until_ready(call(x))
    assert alive() <= before
    assert all(parameter.grad is None for parameter in module.parameters())


def test_what_is_switched_is_put_back() -> None:
    seen: list[Any] = []

    def state() -> Any:
        backends = torch.backends
        return {
            "matmul": torch.get_float32_matmul_precision(),
            "fused": backends.mha.get_fastpath_enabled(),
            "autocast": torch.is_autocast_enabled("cpu"),
            "inference": torch.is_inference_mode_enabled(),
            "deterministic": backends.cudnn.deterministic,
            "benchmark": backends.cudnn.benchmark,
            **{str(i): part.fp32_precision for i, part in enumerate(newer)},
        }

    def fn(x: Any, t: Any) -> Any:
        seen.append(state())
        return -x

    newer = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    newer += [torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn]
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = True
    before = state()
    assert "tf32" in before.values()
    try:
        with torch.inference_mode(), torch.autocast("cpu"):
            jax.grad(lambda x: jnp.sum(TorchNetwork(fn, sfp.VP(), PHYSICAL)(0.5, x)))(jnp.ones(2))
            assert state() == before | {"autocast": True, "inference": True}
        assert state() == before
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.deterministic = torch.backends.cudnn.benchmark = False
    plain = {"matmul": "highest", "fused": False} | {str(i): "ieee" for i in range(len(newer))}
    assert all(one == before | plain for one in seen)


def test_precision_that_only_the_newer_switches_say() -> None:
    matmul, inside = torch.backends.cuda.matmul, list[str]()
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        network = TorchNetwork(lambda x, t: (inside.append(matmul.fp32_precision), -x)[1], sfp.VP(), PHYSICAL)
        network(0.5, jnp.ones(2))
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before
    assert set(inside) == {"ieee"}


def test_eager_calls_wait_for_compiled_ones_without_the_lock() -> None:
    """And a function of torch may call a score of torch. A hang ends the process with the stacks of its threads."""
    program = """
import faulthandler
faulthandler.dump_traceback_later(60, exit=True)
import jax, jax.numpy as jnp, numpy as np, torch, scorefp as sfp
call = sfp.score.TorchCall(time=sfp.score.physical_time)
network = sfp.score.TorchNetwork(lambda x, t: -x * t[:, None], sfp.VP(), call)
eager = jax.vmap(lambda x: network(0.5, x))
compiled, x = jax.jit(eager), jnp.ones((1500, 1500))
for _ in range(5):
    eager(compiled(jnp.linalg.matrix_power(x / 1500, 20)))
inner = lambda x: torch.tensor(np.asarray(eager(jnp.asarray(x.detach().numpy()))))
outer = sfp.score.TorchNetwork(lambda x, t: x + 0 * inner(x), sfp.VP(), call)
print(outer(0.5, jnp.ones(3)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_precision_is_that_of_the_module() -> None:
    """A module of float32 is given float32 whatever the sample has, and difference steps are chosen for that."""
    with jax.enable_x64(True):
        x = jnp.ones(3, jnp.float64)
        single = TorchNetwork(small().float(), sfp.VP(), PHYSICAL)
        assert single(0.5, x).dtype == jnp.float64
        assert coarsest_dtype(lambda x: single(0.5, x), x) == jnp.float32
        assert coarsest_dtype(lambda x: TorchNetwork(small(), sfp.VP(), PHYSICAL)(0.5, x), x) == jnp.float64
        wanted = np.asarray(single(0.5, x))
    # A module of float64 is called in float64, and its value rounded, where JAX has none.
    rounded = TorchNetwork(small(), sfp.VP(), PHYSICAL)(0.5, jnp.ones(3))
    assert rounded.dtype == jnp.float32
    np.testing.assert_allclose(rounded, wanted, rtol=1e-5)


def test_nothing_is_trained() -> None:
    score = from_torch(small().float(), table(), shape=(3,))
    assert not any(jax.tree.leaves(jax.tree.map(lambda leaf: bool(leaf), score.trained())))
    with pytest.raises(ValueError, match="A torch module is trained by torch"):
        train.fit(score, sfp.DSM(), np.ones((8, 3), np.float32), optimizer=optax.sgd(1e-3), steps=1, key=KEY)


# ------------------------------------------------------------------------------------------------ conventions
def test_times() -> None:
    """What a module is given, for one that returns it."""
    sde, t, x = table(), 0.25, jnp.zeros(2)
    told = lambda time: TorchNetwork(lambda x, t: t[:, None] + 0 * x, sde, TorchCall(time=time))(t, x)
    assert float(told(sfp.score.physical_time)[0]) == t
    assert float(told(sfp.score.step_time)[0]) == float(sde.step_of_time(t))
    assert float(told(sfp.score.whole_step_time)[0]) == 249
    np.testing.assert_allclose(told(sfp.score.sigma_time), sde.sigma(t), rtol=1e-6)
    np.testing.assert_allclose(told(sfp.score.log_snr_time), sde.log_snr(t), rtol=1e-6)
    with pytest.raises(TypeError, match="TorchCall gives a module the step"):
        from_torch(lambda x, t: x, sfp.VP())(0.5, x)


def test_orders_and_channels() -> None:
    x = jnp.arange(12.0).reshape(2, 3, 2)
    plain = lambda **call: TorchCall(time=sfp.score.physical_time, **call)
    first = TorchNetwork(lambda t, x: t[:, None, None, None] * x, sfp.VP(), plain(time_first=True))
    np.testing.assert_allclose(first(0.5, x), 0.5 * x)
    # Channels numbered along the axis of torch.
    numbered = lambda x, t: 0 * x + torch.arange(x.shape[1], dtype=x.dtype)[:, None, None]
    last = TorchNetwork(numbered, sfp.VP(), plain(channels_last=True))
    np.testing.assert_array_equal(last(0.5, x), jnp.broadcast_to(jnp.arange(2.0), x.shape))
    np.testing.assert_array_equal(TorchNetwork(numbered, sfp.VP(), plain())(0.5, x)[:, 0, 0], jnp.arange(2.0))
    both = TorchNetwork(lambda x, t: torch.cat([2 * x, x**2], dim=1), sfp.VP(), plain(learned_variance=True))
    np.testing.assert_array_equal(both(0.5, x), 2 * x)
    named = TorchNetwork(lambda x, t: {"sample": 3 * x}, sfp.VP(), plain(output=lambda found: found["sample"]))
    np.testing.assert_array_equal(named(0.5, x), 3 * x)


def test_targets() -> None:
    """Each prediction of the exact score of normal data is that score."""
    sde, std = table(), 0.7
    t, x = jnp.asarray(0.3), jnp.array([0.5, -1.0])
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    exact = -x / (alpha**2 * std**2 + sigma**2)
    clean = (x + sigma**2 * exact) / alpha
    predictions: dict[Callable[..., Any], Array] = {
        sfp.score.score_target: exact,
        sfp.score.noise_target: -sigma * exact,
        sfp.score.clean_target: clean,
        sfp.score.velocity_target: -alpha * sigma * exact - sigma * clean,
    }
    for target, value in predictions.items():
        factor = float((value / x)[0])
        score = from_torch(lambda x, t, by=factor: by * x, sde, target=target)
        np.testing.assert_allclose(score(t, x), exact, rtol=2e-5)
    straight = sfp.LinearSDE(lambda t: jnp.log1p(-t), jnp.log, t0=1e-3, t1=0.999)

    def flow(x: Any, t: Any) -> Any:
        """The velocity of flow matching."""
        t = t[:, None]
        return (t - std**2 * (1 - t)) / (std**2 * (1 - t) ** 2 + t**2) * x

    score = from_torch(flow, straight, target=lambda sde, t: (-1.0, 1.0), call=PHYSICAL)
    np.testing.assert_allclose(score(t, x), -x / (0.7**2 * std**2 + 0.3**2), rtol=2e-5)


def test_conditioning_is_bound() -> None:
    labels = torch.nn.Embedding(4, 2).eval()

    class Classes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.labels = labels

        def forward(self, x: Any, t: Any, y: Any = None) -> Any:
            return x if y is None else x + self.labels(y)

    score = from_torch(Classes().eval(), table(), target=sfp.score.score_target)
    x, known = jnp.ones(2), labels.weight.detach().numpy()
    bound = lambda y: score.bind(args=y)(0.5, x)
    np.testing.assert_allclose(jax.vmap(bound)(jnp.arange(4)), 1 + known, rtol=1e-5)
    np.testing.assert_allclose(bound({"y": jnp.asarray(2)}), 1 + known[2], rtol=1e-5)
    np.testing.assert_allclose(
        jax.jacfwd(lambda x: score.bind(args=(jnp.asarray(1),))(0.5, x))(x), np.eye(2), rtol=1e-5
    )
    np.testing.assert_allclose(score(0.5, x), x, rtol=1e-5)


class Lookup(torch.nn.Module):
    """Steps are rows of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.nn.Embedding(1000, 2, _weight=0.3 * torch.randn(1000, 2))

    def forward(self, x: Any, t: Any) -> Any:
        return x * self.rows(t)


def test_whole_steps() -> None:
    call = TorchCall(time=sfp.score.whole_step_time)
    score = from_torch(Lookup().eval(), table(), call=call, shape=(2,))
    x = sfp.sample(score, 4, key=KEY, method=sfp.ExponentialIntegrator(5, NodeGrid(), noise=1.0))
    assert x.shape == (4, 2)
    rows, t = score.network.module.rows.weight.detach().numpy(), jnp.asarray(0.25)
    slope = jax.grad(lambda x: jnp.sum(score(t, x)))(jnp.ones(2))
    np.testing.assert_allclose(slope, -rows[249] / score.sde.sigma(t), rtol=1e-4)
    own = from_torch(
        lambda x, t: x * t[:, None],
        table(),
        call=TorchCall(time=lambda sde, t: sde.step_of_time(t).astype(int)),
    )
    for jumping in (score, own):
        for method in (sfp.Ito(), sfp.Antithetic(), sfp.FiniteDifference()):
            with pytest.raises(TypeError, match="has no time derivative"):
                sfp.score_fpe_residual(jumping, 0.5, jnp.ones(2), method=method, key=KEY)
    with pytest.raises(ValueError, match=r"(?s)step_time in float32.*scalar types.*time=whole_step_time"):
        from_torch(Lookup().eval(), table(), shape=(2,))


def test_an_audit_leaves_out_what_a_score_that_jumps_does_not_have() -> None:
    """By default with a note, by name with an error, in both cases before the first measure."""
    score = from_torch(Lookup().eval(), table(), call=TorchCall(time=sfp.score.whole_step_time), shape=(2,))
    suited, notes = _suited(DEFAULT_MEASURES, score, jnp.ones((2, 2)))
    assert {type(measure) for measure in set(DEFAULT_MEASURES) - set(suited)} == {ResidualCurve, CodeLength}
    assert re.match("Left out: ResidualCurve; the score calls a torch module with an integer", notes[0])
    smooth = from_torch(lambda x, t: x, table(), shape=(2,))
    assert _suited(DEFAULT_MEASURES, smooth, jnp.ones((2, 2)))[1] == ()

    class Never(AbstractMeasure):
        needs_kernel = needs_levels = False

        def section(self, *_: Any, **__: Any) -> Any:
            raise AssertionError

    for measure in (ResidualCurve(), ByClass(ResidualCurve(), np.arange(4) % 2)):
        for of in (score, sfp.Guided(score, score, 2.0)):
            with pytest.raises(
                TypeError, match=r"Curve takes the time derivative.*Others work: Likelihood|ByClass takes"
            ):
                sfp.audit(of, jnp.ones((4, 2)), key=KEY, measures=(Never(), measure))


# ------------------------------------------------------------------------------------------------ refusals
class Odd(torch.nn.Module):
    """A module with one thing wrong."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn, self.linear = fn, torch.nn.Linear(2, 2)

    def forward(self, x: Any, t: Any) -> Any:
        return self.fn(self.linear(x) * (1 + t[:, None]), t)


def raising(x: Any, t: Any) -> Any:
    raise RuntimeError("the tank is empty")


def autocast(x: Any, t: Any) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x @ torch.eye(2)).float()


WRONG: dict[str, tuple[Callable[..., Any], type[Exception], str]] = {
    "noise": (lambda x, t: x + torch.randn_like(x), ValueError, "draws random numbers"),
    "noise of its own": (lambda x, t: x * np.random.default_rng().normal(), ValueError, "draws random numbers"),
    "another shape": (lambda x, t: x[:, :1], ValueError, r"returned shape \(2, 1\) for x of shape \(2, 2\)"),
    "twice the channels": (lambda x, t: torch.cat([x, x], 1), ValueError, r"learned_variance=True"),
    "no tensor": (lambda x, t: {"sample": x}, TypeError, r"returned a dict; .* returned\['sample'\]"),
    "a tuple": (lambda x, t: (x,), TypeError, r"returned a tuple; .*output=lambda returned: returned\[0\]\)"),
    "an object": (lambda x, t: SimpleNamespace(sample=x), TypeError, r"output=lambda returned: returned\.sample\)"),
    "integers": (lambda x, t: x.long(), TypeError, "a tensor of torch.int64"),
    "detached": (lambda x, t: x.detach(), ValueError, "changes with x and has no derivative"),
    **{
        f"mixed by {name}": (fn, ValueError, "mixes the samples of a batch")
        for name, fn in {
            "the mean": lambda x, t: x - x.mean(0),
            "the first": lambda x, t: x - x[:1],
            "the first time": lambda x, t: x * t[0],
            "the least time": lambda x, t: x * t.min(),
            "the greatest time": lambda x, t: x * t.max(),
            "a sum": lambda x, t: x.cumsum(0),
        }.items()
    },
    "detached in part": (lambda x, t: x.detach() + 0.1 * x, ValueError, "is not that of its differences"),
    "half precision": (lambda x, t: x.half(), TypeError, r"returned torch\.float16"),
    "half inside": (lambda x, t: (3 * x.half()).float(), TypeError, r"computes in torch\.float16.*force_fp32=True"),
    "autocast inside": (autocast, TypeError, r"computes in torch\.bfloat16 inside.*remove autocast"),
    "not finite": (lambda x, t: torch.log(-(x**2)), ValueError, "returns NaN or infinity"),
    "an error": (raising, ValueError, "RuntimeError: the tank is empty"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_score_is_refused(name: str) -> None:
    fn, kind, message = WRONG[name]
    with pytest.raises(kind, match=message):
        from_torch(Odd(fn).eval(), table(), shape=(2,))
    score = from_torch(Odd(fn).eval(), table())
    with pytest.raises(kind, match=message):
        jax.jit(jax.vmap(lambda x: score(0.5, x)))(jnp.ones((3, 2)))


def slope_of_silu(x: Any) -> Any:
    s = torch.sigmoid(x)
    return s * (1 + x * (1 - s))


class Silu(torch.autograd.Function):
    """With a backward that torch can differentiate."""

    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * slope_of_silu(*ctx.saved_tensors)


class Fused(Silu):
    """With a backward outside of the graph, as a kernel is."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g.detach() * slope_of_silu(ctx.saved_tensors[0].detach())


class Linear(Silu):
    """With one that is linear in the cotangent, and constant otherwise."""

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g * slope_of_silu(ctx.saved_tensors[0].detach())


class Once(Silu):
    """With one that torch does not differentiate."""

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Any) -> Any:
        return g * slope_of_silu(*ctx.saved_tensors)


class Kernels(torch.nn.Module):
    """A network with an activation of a kind, on `x` and the time or on the time alone, and a way round."""

    def __init__(self, activation: Any, *, skip: float, timed: bool = False) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(3, 16), torch.nn.Linear(16, 2)
        self.activation, self.skip, self.timed = activation, skip, timed

    def forward(self, x: Any, t: Any) -> Any:
        t = t[:, None] / 1000
        if self.timed:
            return self.skip * x + self.last(torch.tanh(self.first(torch.cat([x, self.activation(t)], 1))))
        return self.skip * x + self.last(self.activation(self.first(torch.cat([x, t], 1))))


@pytest.mark.parametrize("skip", [0.0, 0.3])
def test_a_backward_outside_of_the_graph_is_refused(skip: float) -> None:
    made = lambda fn, **how: from_torch(Kernels(fn, skip=skip, **how).eval(), table(), shape=(2,))
    with pytest.raises(
        ValueError, match=r"derivative by x is right in reverse and wrong as a tangent.*backward of Fused,"
    ):
        made(Fused.apply)
    with pytest.raises(
        ValueError, match=r"derivative by the time is right in reverse and wrong as a tangent.*of Fused,"
    ):
        made(Fused.apply, timed=True)
    with pytest.raises(
        ValueError, match=r"second derivatives by x are not those of its differences.*backward of Linear,"
    ):
        made(Linear.apply)
    with pytest.raises(ValueError, match=r"wrong as a tangent.*backward of Once,"):
        made(Once.apply)


def test_a_backward_inside_of_the_graph_is_taken() -> None:
    own = Kernels(Silu.apply, skip=0.3).eval()
    plain = Kernels(torch.nn.functional.silu, skip=0.3).eval()
    plain.load_state_dict(own.state_dict())
    x = jnp.array([0.3, -0.7])

    def account(module: Any) -> Any:
        score = from_torch(module, table(), shape=(2,))
        div = lambda x: sfp.divergence(lambda x: score(0.5, x), x)
        return div(x), jax.grad(div)(x)

    assert differ(account(own), account(plain)) < 1e-5
    # Kinks of ReLU beside it are no reason; where second derivatives are taken they are refused.
    from_torch(lambda x, t: own(torch.relu(x), t), table(), shape=(2,))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_what_torch_cannot_differentiate_twice_is_refused_by_name() -> None:
    """Checkpoints that run again inside of a backward; a compiled module with donated buffers says the same."""
    inner = torch.nn.Linear(2, 2).eval()
    again = torch.utils.checkpoint.checkpoint

    def checkpointed(reentrant: bool) -> Any:
        return lambda x, t: again(lambda x: torch.tanh(inner(x)), x, use_reentrant=reentrant)

    message = r"fails where torch differentiates it twice.*RuntimeError: .*use_checkpoint=False.*use_reentrant=False\."
    with pytest.raises(ValueError, match=message):
        from_torch(checkpointed(True), table(), shape=(2,))
    from_torch(checkpointed(False), table(), shape=(2,))


def test_modules_without_a_mode() -> None:
    with pytest.warns(DeprecationWarning, match=r"torch\.jit"):
        frozen = torch.jit.freeze(torch.jit.trace(small().float(), (torch.ones(2, 3), torch.ones(2))))
    assert from_torch(frozen, table(), shape=(3,)).shape == (3,)
    exported = torch.export.export(small().float(), (torch.ones(2, 3), torch.ones(2))).module()
    with pytest.raises(ValueError, match=r"torch\.export has no eval\(\): give lambda x, t: module\(x, t\)"):
        from_torch(exported, table(), shape=(3,))


def test_a_torch_without_a_gpu_beside_a_jax_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (lambda x, t: x, small()):
        with pytest.raises(ValueError, match=r"torch that finds no GPU, and JAX computes on gpu.*JAX_PLATFORMS=cpu"):
            from_torch(module, table(), shape=(3,))


def test_a_label_of_another_sample_is_refused() -> None:
    score = from_torch(lambda x, t, y: x * (1 + y[0]), table())
    with pytest.raises(ValueError, match="mixes the samples of a batch"):
        score.bind(args=jnp.asarray(0))(0.5, jnp.ones(2))
    # A table of one row takes no other label.
    one = torch.nn.Embedding(1, 2).eval()
    assert from_torch(lambda x, t, y: x + one(y), table()).bind(args=0)(0.5, jnp.ones(2)).shape == (2,)


def test_a_module_that_needs_a_label_may_say_its_shape() -> None:
    class Classes(torch.nn.Module):
        def forward(self, x: Any, t: Any, y: Any) -> Any:
            return x * y[:, None] * broken

    broken, bound = 1.0, from_torch(Classes().eval(), table(), target=sfp.score.score_target, shape=(2,))
    np.testing.assert_allclose(bound.bind(args=3)(0.5, jnp.ones(2)), 3.0)
    with pytest.raises(ValueError, match=r"positional argument: 'y'.*score\.bind\(args=…\)"):
        bound(0.5, jnp.ones(2))
    broken = torch.nan
    with pytest.raises(ValueError, match="returns NaN or infinity"):
        from_torch(Classes().eval(), table(), shape=(2,)).bind(args=3)(0.5, jnp.ones(2))


class Guided(torch.nn.Module):
    """As in guided-diffusion: the label may be left out, and is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.labels = torch.nn.Embedding(4, 2)

    def forward(self, x: Any, timesteps: Any, y: Any = None) -> Any:
        assert y is not None, "must specify y"
        return self.labels(y) - x


class Diffusers(Guided):
    """As in diffusers."""

    def forward(self, x: Any, timestep: Any, class_labels: Any = None, return_dict: bool = False) -> Any:
        if class_labels is None:
            raise ValueError("class_labels should be provided")
        return super().forward(x, timestep, class_labels)


@pytest.mark.parametrize("kind", [Guided, Diffusers])
def test_a_module_that_asks_for_an_optional_label_may_say_its_shape(kind: Any) -> None:
    score = from_torch(kind().eval(), table(), target=sfp.score.score_target, shape=(2,))
    known = score.network.module.labels.weight.detach().numpy()
    np.testing.assert_allclose(score.bind(args=2)(0.5, jnp.zeros(2)), known[2], rtol=1e-6)
    assert sfp.sample(score, 4, key=KEY, method=sfp.DPMSolver(5), args=jnp.arange(4)).shape == (4, 2)
    with pytest.raises(ValueError, match=r"must specify y|class_labels should.*score\.bind\(args=…\)"):
        score(0.5, jnp.zeros(2))
    # What is wrong with its value is known without a label.
    with pytest.raises(TypeError, match=r"returned a tuple"):
        from_torch(lambda x, t, y=None: (x,), table(), shape=(2,))


def test_a_module_is_tried_within_the_horizon() -> None:
    fn = lambda x, t: x * (1 - t).sqrt()[:, None]
    np.testing.assert_allclose(TorchNetwork(fn, sfp.VP(), PHYSICAL, (2,))(0.75, jnp.ones(2)), 0.5)


def test_a_module_may_write_into_what_it_is_given() -> None:
    def fn(x: Any, t: Any) -> Any:
        t /= 2
        x *= 3
        return torch.nn.functional.silu(x, inplace=True) * t[:, None]

    network, t, x = TorchNetwork(fn, sfp.VP(), PHYSICAL, (2,)), jnp.asarray(0.5), jnp.array([0.2, -1.0])
    port = lambda t, x: jax.nn.silu(3 * x) * t / 2
    for ours, theirs in zip(jax.jvp(network, (t, x), (t, x)), jax.jvp(port, (t, x), (t, x)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_calls_that_cannot_be_are_refused() -> None:
    score, x = from_torch(lambda x, t: x, table()), jnp.ones(2)
    network = TorchNetwork(lambda x, t: x, sfp.VP(), PHYSICAL)
    with pytest.raises(TypeError, match="key is given"):
        score.bind(key=KEY)(0.5, x)
    with pytest.raises(TypeError, match="x has dtype int"):
        network(0.5, jnp.ones(2, int))
    for call in (TorchCall(channels_last=True), TorchCall(learned_variance=True)):
        with pytest.raises(ValueError, match="a number has no axis of channels"):
            TorchNetwork(lambda x, t: x, table(), call)(0.5, jnp.asarray(1.0))
    assert jax.vmap(jax.grad(lambda x: jnp.sum(network(0.5, x))))(jnp.ones((0, 2))).shape == (0, 2)

    class Unhashable:
        __hash__ = None

        def __call__(self, x: Any, t: Any) -> Any:
            return x

    class Slots:
        __slots__ = ()
        __call__ = Unhashable.__call__

    for wrong in (Unhashable(), Slots()):
        with pytest.raises(TypeError, match="has no hash or no weak reference"):
            from_torch(wrong, table())
    single = torch.nn.Linear(2, 2).eval()
    with jax.enable_x64(True), pytest.raises(ValueError, match=r"x of shape \(2, 2\) in float64.*function gets"):
        from_torch(lambda x, t: single(x), table(), shape=(2,))


def test_a_method_is_checked_as_its_module() -> None:
    module = small().float()
    ours = TorchNetwork(module.forward, sfp.VP(), PHYSICAL, (3,))
    np.testing.assert_array_equal(ours(0.5, jnp.ones(3)), TorchNetwork(module, sfp.VP(), PHYSICAL)(0.5, jnp.ones(3)))
    calls = module.calls
    TorchNetwork(module.forward, sfp.VP(), PHYSICAL, (3,))
    assert module.calls == calls
    module.train()
    with pytest.raises(ValueError, match="training mode"):
        TorchNetwork(module.forward, sfp.VP(), PHYSICAL)


def test_time_that_is_rounded_inside_is_refused() -> None:
    with pytest.raises(ValueError, match="rounds the time to integers"):
        from_torch(lambda x, t: x * t.long()[:, None], table(), shape=(2,))


@pytest.mark.usefixtures("unchecked")
def test_modules_that_cannot_be_measured_are_refused() -> None:
    made = lambda module: from_torch(module, table(), shape=(2,))
    with pytest.raises(ValueError, match=r"module = Odd is in training mode.*module\.eval\(\)"):
        made(Odd(lambda x, t: x))
    inside = Odd(lambda x, t: x).eval()
    inside.linear.train()
    with pytest.raises(ValueError, match="module = Linear is in training mode"):
        made(inside)
    with pytest.raises(ValueError, match=r"has parameters on meta, and JAX computes on cpu: call module\.to\('cpu'\)"):
        made(Odd(lambda x, t: x).eval().to("meta"))
    split = Odd(lambda x, t: x).eval()
    split.linear.bias = torch.nn.Parameter(split.linear.bias.to("meta"))
    with pytest.raises(ValueError, match="has parameters on cpu, meta"):
        made(split)
    with pytest.raises(TypeError, match=r"parameters of torch\.bfloat16.*module\.float\(\)"):
        made(Odd(lambda x, t: x).eval().bfloat16())
    for wrong in (3, None, "module", torch.nn.Linear):
        with pytest.raises(TypeError, match=r"module is .*; it is a function"):
            made(wrong)
    with pytest.raises(TypeError, match="call"):
        from_torch(lambda x, t: x, table(), call="x, t")


def test_what_goes_wrong_later_arrives_with_its_own_message() -> None:
    module, state = small().float(), {"broken": False}
    module.first.register_forward_hook(lambda *_: raising(None, None) if state["broken"] else None)
    score = from_torch(module, table(), shape=(3,))
    call = jax.jit(lambda x: score(0.5, x))
    call(jnp.ones(3))
    state["broken"] = True
    with pytest.raises(Exception, match="the tank is empty"):
        jax.block_until_ready(call(jnp.ones(3)))
    with pytest.raises(RuntimeError, match="the tank is empty"):
        score(0.5, jnp.ones(3))
    state["broken"] = False
    module.train()
    with pytest.raises(Exception, match="training mode"):
        jax.block_until_ready(call(jnp.ones(3)))
    module.eval()
    jax.block_until_ready(call(jnp.ones(3)))
    module.last.train()
    with pytest.raises(Exception, match="module = Linear is in training mode"):
        jax.block_until_ready(call(jnp.ones(3)))


def test_channels_in_another_order_are_refused() -> None:
    module = torch.nn.Conv2d(3, 3, 3, padding=1).eval()
    message = r"(?s)x of shape \(2, 8, 8, 3\).*to have 3 channels, but got 8.*channels_last"
    with pytest.raises(ValueError, match=message):
        from_torch(lambda x, t: module(x), table(), shape=(8, 8, 3))


def test_twice_the_channels_as_the_last_axis() -> None:
    doubled = lambda x, t: torch.cat([x, 2 * x], dim=-1)
    remedy = r"returned\[\.\.\., :3\]\)\."
    for call in (TorchCall(), TorchCall(learned_variance=True)):
        with pytest.raises(ValueError, match=remedy):
            from_torch(doubled, table(), call=call, shape=(8, 8, 3))
    from_torch(doubled, table(), call=TorchCall(output=lambda returned: returned[..., :3]), shape=(8, 8, 3))


def test_piecewise_linear_modules_are_refused_where_second_derivatives_are_taken() -> None:
    score = from_torch(lambda x, t: torch.relu(x), table(), shape=(2,))
    with pytest.raises(ValueError, match="score uses relu, which is piecewise linear"):
        require_smooth("score", score, jnp.asarray(0.5), jnp.ones(2))
    require_smooth("score", from_torch(lambda x, t: torch.tanh(x), table()), jnp.asarray(0.5), jnp.ones(2))


def test_integer_timesteps_are_times_outside_the_horizon() -> None:
    score = from_torch(lambda x, t: x, table(), shape=(2,))
    with pytest.raises(ValueError, match=re.escape("t = 500.0 lies outside [t0, t1] = [0.001, 1.0]")):
        score(500, jnp.ones(2))
