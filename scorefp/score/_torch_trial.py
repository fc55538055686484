"""The trial of a PyTorch module: two samples, by which what is no score is refused."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from .._checks import require
from .._describe import described
from ._host import Tensor, plain_kernels, torch_library
from ._torch_module import Rows, owner_of

_seen: weakref.WeakKeyDictionary[Any, dict[Any, str]] = weakref.WeakKeyDictionary()

_PIECEWISE_LINEAR = {
    "Relu": "relu",
    "LeakyRelu": "leaky_relu",
    "Hardtanh": "hard_tanh",
    "Hardsigmoid": "hard_sigmoid",
}
"""The activations that torch's graph names, by their names in `jax.nn`, by which second derivatives are refused."""


def tried(
    fn: Rows,
    device: Any,
    types: Sequence[tuple[tuple[int, ...], Any]],
    within: Callable[[np.ndarray], np.ndarray],
) -> str:
    """The name of a function in programs, after a trial of it on rows of such types, once for each.

    Args:
        fn: The function.
        device: Its device.
        types: The shape and dtype of a row of its time, its sample, and the leaves of its conditioning.
        within: What it is given for the time, at shares of the horizon.
    """
    known = _seen.setdefault(owner_of(fn.module), {})
    # A method by its function: one that is bound would keep its module alive.
    about = (getattr(fn.module, "__func__", None), fn.call, fn.structure, fn.dtype, device, *types)
    if about not in known:
        times = within(np.array([[0.25, 0.5], [0.4, 0.75]]))
        with plain_kernels(device), torch_library().enable_grad():
            known[about] = _trial(fn, device, types, times)
    return known[about]


def _trial(fn: Rows, device: Any, types: Sequence[tuple[tuple[int, ...], Any]], times: np.ndarray) -> str:
    """Calls the function on two rows, and refuses it by the name of what is wrong with it."""
    torch, draws, name = torch_library(), np.random.default_rng(0), described(fn.module)

    def drawn(shape: tuple[int, ...], dtype: Any) -> Tensor:
        whole = np.broadcast_to(np.arange(2).reshape(2, *(1 for _ in shape)), (2, *shape))
        values = draws.normal(size=(2, *shape)) if jnp.issubdtype(dtype, jnp.floating) else whole
        return torch.tensor(values.astype(dtype), device=device)

    floats = jnp.issubdtype(types[0][1], jnp.floating)
    t, later = (torch.tensor(pair.astype(types[0][1]), device=device) for pair in times)
    x, other = drawn(*types[1]), drawn(*types[1])
    rest = [drawn(*kind) for kind in types[2:]]

    def value(t: Tensor, x: Tensor, rest: list[Tensor]) -> Tensor:
        try:
            returned = fn.raw(t, x, *rest)
        except Exception as error:
            told = f"{time_name} in {str(t.dtype).removeprefix('torch.')}"
            order = "module(t, x" if fn.call.time_first else "module(x, t"
            raise ValueError(
                f"module = {name} failed when it was called as {order}{', …' if rest else ''}) with x of shape "
                f"{tuple(x.shape)} in {str(given).removeprefix('torch.')} and t, the {told}, of shape "
                f"{tuple(t.shape)}: {type(error).__name__}: {error}. TorchCall says what a module takes: "
                "time=whole_step_time for integers, time_first, channels_last."
                + ("" if rest else " What it takes besides is bound: score.bind(args=…).")
                + ("" if fn.dtype else " A function gets the dtype of the sample, and a torch.nn.Module its own.")
            ) from error
        return fn.checked(returned, x)

    time_name, given = described(fn.call.time), fn.dtype or x.dtype
    try:
        value(t, x, rest)  # what is made at a first call, such as a table of sines, may be drawn
    except ValueError:
        # Labels 0 and 1 tell rows apart; a table may have one row only.
        rest = [a if a.is_floating_point() else torch.zeros_like(a) for a in rest]
        value(t, x, rest)
    before = _random_state(device)
    first, second = (value(t, x, rest) for _ in range(2))
    require(
        bool(first.isfinite().all()),
        f"module = {name} returns NaN or infinity for samples from the normal law, t = {t.tolist()} ({time_name}). "
        "TorchCall(time=…) says what it takes for the time.",
    )
    require(
        all(torch.equal(a, b) for a, b in zip(before, _random_state(device), strict=True)) and _near(first, second),
        f"module = {name} draws random numbers: two calls at the same point are not the same. Switch its noise off; "
        "dropout is off after module.eval().",
    )
    alone = [value(t[i : i + 1], x[i : i + 1], [a[i : i + 1] for a in rest]) for i in range(2)]
    require(
        all(_near(one, first[i : i + 1]) for i, one in enumerate(alone)),
        f"module = {name} mixes the samples of a batch: its value at one of them depends on the others.",
    )
    inputs = [x.requires_grad_(), *([t.requires_grad_()] if floats else [])]
    differentiable = value(t, x, rest)
    slopes = [None] * 2
    if differentiable.requires_grad:
        slopes = [*torch.autograd.grad(differentiable.sum(), inputs, allow_unused=True, retain_graph=True), None]
    changes = [not _near(value(t, other, rest), first), floats and not _near(value(later, x, rest), first)]
    flat = [slope is None or not bool(slope.any()) for slope in slopes]
    require(
        not (changes[0] and flat[0]),
        f"module = {name} returns a value that changes with x and has no derivative: it detaches it, or works under "
        "torch.no_grad().",
    )
    require(
        not (changes[1] and flat[1]),
        f"module = {name} returns a value that changes with the time ({time_name}, which is continuous) and has no "
        "derivative: it rounds the time to integers. Say so by TorchCall(time=scorefp.score.whole_step_time).",
    )
    if changes[0]:
        # Along one direction; a square on both sides, so that one reverse pass does. Kinks of ReLU need the tolerance.
        step, along = torch.finfo(x.dtype).eps ** (1 / 3), other - x.detach()
        ahead, behind = (value(t, x.detach() + by * along, rest).detach() for by in (step, -step))
        change, noise = (ahead - behind) / (2 * step), torch.finfo(x.dtype).eps / step * first.detach().norm()
        (pulled,) = torch.autograd.grad(differentiable, x, change, retain_graph=True)
        error, size = float((pulled * along).sum() - (change**2).sum()), float(change.norm())
        require(
            abs(error) <= 0.3 * size**2 + 10 * float(noise) * size,
            f"module = {name} returns a value whose derivative by x is not that of its differences: part of it is "
            "detached, rounded, or has a derivative of its own.",
        )
    nodes = {node.name().partition("Backward")[0] for node in _graph(differentiable.grad_fn)}
    return next((known for theirs, known in _PIECEWISE_LINEAR.items() if theirs in nodes), "torch")


def _random_state(device: Any) -> list[Tensor]:
    """The states of torch's own generators."""
    torch = torch_library()
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _near(a: Tensor, b: Tensor) -> bool:
    """Whether two values differ by no more than kernels do that sum in another order."""
    a, b = a.detach(), b.detach()
    return float((a - b).abs().max()) <= 1e-4 * float(b.abs().max())


def _graph(node: Any) -> Iterator[Any]:
    """The nodes of the graph of a value, each once."""
    seen, waiting = set[Any](), [node]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [following for following, _ in node.next_functions]
            yield node
