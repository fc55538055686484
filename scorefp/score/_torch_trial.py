"""The trial of a PyTorch module: two samples, by which what is no score is refused."""

import dataclasses
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
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
    rows = _warmed(_two_rows(fn, device, types, times))
    first = _checked_value(rows, device)
    _check_apart(rows, first)
    for entry in (rows.x, *([rows.t] if rows.t.is_floating_point() else [])):
        entry.requires_grad_()
    value = rows.value()
    _check_slopes(rows, first, value)
    nodes = {node.name().partition("Backward")[0] for node in _graph(value.grad_fn)}
    return next((known for theirs, known in _PIECEWISE_LINEAR.items() if theirs in nodes), "torch")


@dataclass(frozen=True)
class _TwoRows:
    """A function and two rows that it is tried on, with another time and another sample for each."""

    fn: Rows
    t: Tensor
    x: Tensor
    rest: list[Tensor]
    later: Tensor
    other: Tensor

    @property
    def name(self) -> str:
        """The function in an error."""
        return f"module = {described(self.fn.module)}"

    @property
    def time_name(self) -> str:
        """What it is given for the time, in an error."""
        return described(self.fn.call.time)

    def value(self, t: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """Its value on the rows, or at another time or sample of theirs."""
        return self.called(self.t if t is None else t, self.x if x is None else x, self.rest)

    def called(self, t: Tensor, x: Tensor, rest: list[Tensor]) -> Tensor:
        """Its value on any rows."""
        fn = self.fn
        try:
            returned = fn.raw(t, x, *rest)
        except Exception as error:
            told = f"{self.time_name} in {str(t.dtype).removeprefix('torch.')}"
            order = "module(t, x" if fn.call.time_first else "module(x, t"
            raise ValueError(
                f"{self.name} failed when it was called as {order}{', …' if rest else ''}) with x of shape "
                f"{tuple(x.shape)} in {str(fn.dtype or x.dtype).removeprefix('torch.')} and t, the {told}, of shape "
                f"{tuple(t.shape)}: {type(error).__name__}: {error}. TorchCall says what a module takes: "
                "time=whole_step_time for integers, time_first, channels_last."
                + ("" if rest else " What it takes besides is bound: score.bind(args=…).")
                + ("" if fn.dtype else " A function gets the dtype of the sample, and a torch.nn.Module its own.")
            ) from error
        return fn.checked(returned, x)


def _two_rows(fn: Rows, device: Any, types: Sequence[tuple[tuple[int, ...], Any]], times: np.ndarray) -> _TwoRows:
    """Two rows of such types: normal draws of floats, and the numbers 0 and 1 of integers."""
    torch, draws = torch_library(), np.random.default_rng(0)

    def drawn(shape: tuple[int, ...], dtype: Any) -> Tensor:
        whole = np.broadcast_to(np.arange(2).reshape(2, *(1 for _ in shape)), (2, *shape))
        values = draws.normal(size=(2, *shape)) if jnp.issubdtype(dtype, jnp.floating) else whole
        return torch.tensor(values.astype(dtype), device=device)

    t, later = (torch.tensor(pair.astype(types[0][1]), device=device) for pair in times)
    x, other = drawn(*types[1]), drawn(*types[1])
    return _TwoRows(fn, t, x, [drawn(*kind) for kind in types[2:]], later, other)


def _warmed(rows: _TwoRows) -> _TwoRows:
    """The rows after a first call, which may draw a table of sines or the like, with labels that the function takes."""
    try:
        rows.value()
        return rows
    except ValueError:
        # Labels 0 and 1 tell rows apart; a table may have one row only.
        labels = [a if a.is_floating_point() else torch_library().zeros_like(a) for a in rows.rest]
        rows = dataclasses.replace(rows, rest=labels)
        rows.value()
        return rows


def _checked_value(rows: _TwoRows, device: Any) -> Tensor:
    """The value on the rows, refused unless it is finite and the same twice."""
    before = _random_state(device)
    first, second = (rows.value() for _ in range(2))
    require(
        bool(first.isfinite().all()),
        f"{rows.name} returns NaN or infinity for samples from the normal law, t = {rows.t.tolist()} "
        f"({rows.time_name}). TorchCall(time=…) says what it takes for the time.",
    )
    equal = torch_library().equal
    require(
        all(equal(a, b) for a, b in zip(before, _random_state(device), strict=True)) and _near(first, second),
        f"{rows.name} draws random numbers: two calls at the same point are not the same. Switch its noise off; "
        "dropout is off after module.eval().",
    )
    return first


def _check_apart(rows: _TwoRows, first: Tensor) -> None:
    """Refuses a function whose value of a row depends on the other row."""
    single = [[a[i : i + 1] for a in (rows.t, rows.x, *rows.rest)] for i in range(2)]
    alone = [rows.called(t, x, rest) for t, x, *rest in single]
    require(
        all(_near(one, first[i : i + 1]) for i, one in enumerate(alone)),
        f"{rows.name} mixes the samples of a batch: its value at one of them depends on the others.",
    )


def _check_slopes(rows: _TwoRows, first: Tensor, value: Tensor) -> None:
    """Refuses a `value` that changes with the sample or the time and has no derivative by it, or a wrong one."""
    floats, slopes = rows.t.is_floating_point(), [None] * 2
    if value.requires_grad:
        inputs = [rows.x, *([rows.t] if floats else [])]
        grad = torch_library().autograd.grad
        slopes = [*grad(value.sum(), inputs, allow_unused=True, retain_graph=True), None]
    changes = [not _near(rows.value(x=rows.other), first), floats and not _near(rows.value(t=rows.later), first)]
    flat = [slope is None or not bool(slope.any()) for slope in slopes]
    require(
        not (changes[0] and flat[0]),
        f"{rows.name} returns a value that changes with x and has no derivative: it detaches it, or works under "
        "torch.no_grad().",
    )
    require(
        not (changes[1] and flat[1]),
        f"{rows.name} returns a value that changes with the time ({rows.time_name}, which is continuous) and has no "
        "derivative: it rounds the time to integers. Say so by TorchCall(time=scorefp.score.whole_step_time).",
    )
    if changes[0]:
        _check_differences(rows, first, value)


def _check_differences(rows: _TwoRows, first: Tensor, value: Tensor) -> None:
    """Refuses a `value` whose derivative by the sample is not that of its differences."""
    # Along one direction; a square on both sides, so that one reverse pass does. Kinks of ReLU need the tolerance.
    torch, x = torch_library(), rows.x.detach()
    step, along = torch.finfo(x.dtype).eps ** (1 / 3), rows.other - x
    ahead, behind = (rows.value(x=x + by * along).detach() for by in (step, -step))
    change, noise = (ahead - behind) / (2 * step), torch.finfo(x.dtype).eps / step * first.detach().norm()
    (pulled,) = torch.autograd.grad(value, rows.x, change, retain_graph=True)
    error, size = float((pulled * along).sum() - (change**2).sum()), float(change.norm())
    require(
        abs(error) <= 0.3 * size**2 + 10 * float(noise) * size,
        f"{rows.name} returns a value whose derivative by x is not that of its differences: part of it is detached, "
        "rounded, or has a derivative of its own.",
    )


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
