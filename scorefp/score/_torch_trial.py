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
from ._host import Tensor, plain_kernels, pulled, torch_library
from ._torch_module import Rows, owner_of


class FailedCallError(ValueError):
    """A module failed with an error of its own when it was called."""


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
    nodes = list(_graph(value.grad_fn))
    _check_precision(rows, nodes)
    rows = dataclasses.replace(rows, own=[node.name() for node in nodes if _is_own(node)])
    slope = _check_slopes(rows, first, value)
    names = {node.name().partition("Backward")[0] for node in nodes}
    bends = next((known for theirs, known in _PIECEWISE_LINEAR.items() if theirs in names), None)
    # Kinks have no second derivatives to compare, and are refused where these are taken.
    if slope is not None and rows.own and bends is None:
        _check_second(rows, slope)
    return bends or "torch"


@dataclass(frozen=True)
class _TwoRows:
    """A function and two rows that it is tried on, with another time and another sample for each; and the nodes of its
    graph with a backward that is not torch's, where these are known.
    """

    fn: Rows
    t: Tensor
    x: Tensor
    rest: list[Tensor]
    later: Tensor
    other: Tensor
    own: Sequence[str] = ()

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
            raise FailedCallError(
                f"{self.name} failed when it was called as {order}{', …' if rest else ''}) with x of shape "
                f"{tuple(x.shape)} in {str(fn.dtype or x.dtype).removeprefix('torch.')} and t, the {told}, of shape "
                f"{tuple(t.shape)}: {type(error).__name__}: {error}. TorchCall says what a module takes: "
                "time=whole_step_time for integers, time_first, channels_last."
                + ("" if rest else " What it takes besides is bound: score.bind(args=…).")
                + ("" if fn.dtype else " A function gets the dtype of the sample, and a torch.nn.Module its own.")
            ) from error
        return fn.checked(returned, x)

    def slope(self, of: Tensor, by: Tensor, weights: Tensor) -> Tensor:
        """The gradient of a weighted sum, taken as programs take it."""
        try:
            return pulled([of], [by], [weights], True)[0]
        except Exception as error:
            raise ValueError(
                f"{self.name} fails where torch differentiates it twice, as every tangent does: "
                f"{type(error).__name__}: {str(error).rstrip('.')}. Give the module before torch.compile; "
                f"switch checkpointing off (use_checkpoint=False), or make it use_reentrant=False.{self.remedy}"
            ) from error

    @property
    def direction(self) -> Tensor:
        """One along which the sample is differentiated."""
        return self.other - self.x.detach()

    @property
    def step(self) -> float:
        """The step of differences."""
        return torch_library().finfo(self.x.dtype).eps ** (1 / 3)

    @property
    def rounding(self) -> float:
        """How much of a value its difference may round by."""
        return 10 * torch_library().finfo(self.x.dtype).eps / self.step

    def change(self, fn: Callable[[Tensor], Tensor]) -> Tensor:
        """The derivative of a function of the sample along the direction, by a difference."""
        ahead, behind = (fn(self.x.detach() + by * self.direction).detach() for by in (self.step, -self.step))
        return (ahead - behind) / (2 * self.step)

    @property
    def remedy(self) -> str:
        """What to do about functions with a backward of their own, where there are any."""
        names = {node.removesuffix("Backward") for node in self.own} - {"CheckpointFunction", "CompiledFunction"}
        if not names:
            return ""
        return (
            f" Write the backward of {', '.join(sorted(names))}, a torch.autograd.Function, in differentiable "
            "operations of torch, or take plain operations in place of it."
        )


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


def _check_precision(rows: _TwoRows, nodes: Sequence[Any]) -> None:
    """Refuses a graph with operations in half precision; a parameter that is read computes nothing."""
    computed = [node for node in nodes if "AccumulateGrad" not in node.name()]
    # torch documents this name in spite of its underscore.
    found = [about.dtype for node in computed for about in getattr(node, "_input_metadata", ())]
    rough = {str(dtype) for dtype in found if dtype.is_floating_point and dtype.itemsize < 4}
    if rough:
        raise TypeError(
            f"{rows.name} computes in {', '.join(sorted(rough))} inside, and a score is measured in float32 or "
            "float64: remove autocast and .half() inside; the pickles of EDM take force_fp32=True."
        )


def _check_slopes(rows: _TwoRows, first: Tensor, value: Tensor) -> Tensor | None:
    """Refuses a `value` that changes with the sample or the time and has no derivative by it, or a wrong one.

    Returns:
        The gradient by the sample, `None` where it does not change with that.
    """
    inputs, moved = {"x": rows.x}, {"x": rows.value(x=rows.other)}
    if rows.t.is_floating_point():
        inputs["the time"], moved["the time"] = rows.t, rows.value(t=rows.later)
    slopes = {by: rows.slope(value, inputs[by], rows.other) for by, to in moved.items() if not _near(to, first)}
    require(
        "x" not in slopes or bool(slopes["x"].any()),
        f"{rows.name} returns a value that changes with x and has no derivative: it detaches it, or works under "
        "torch.no_grad().",
    )
    require(
        "the time" not in slopes or bool(slopes["the time"].any()),
        f"{rows.name} returns a value that changes with the time ({rows.time_name}, which is continuous) and has no "
        "derivative: it rounds the time to integers. Say so by TorchCall(time=scorefp.score.whole_step_time).",
    )
    if "x" in slopes:
        _check_differences(rows, first, value)
    for by, slope in slopes.items():
        _check_tangent(rows, value, by, inputs[by], slope)
    return slopes.get("x")


def _check_differences(rows: _TwoRows, first: Tensor, value: Tensor) -> None:
    """Refuses a `value` whose derivative by the sample is not that of its differences."""
    # A square on both sides, so that one reverse pass does. Kinks of ReLU need the tolerance.
    change = rows.change(lambda x: rows.value(x=x))
    error = ((rows.slope(value, rows.x, change) * rows.direction).sum() - (change**2).sum()).item()
    size = change.norm().item()
    require(
        abs(error) <= 0.3 * size**2 + rows.rounding * first.norm().item() * size,
        f"{rows.name} returns a value whose derivative by x is not that of its differences: part of it is "
        "detached, rounded, or has a derivative of its own.",
    )


def _check_tangent(rows: _TwoRows, value: Tensor, by: str, at: Tensor, slope: Tensor) -> None:
    """Refuses a `value` whose tangent is not the transpose of its gradient `slope`: w J (J^T w) is a square."""
    weights = torch_library().zeros_like(value, requires_grad=True)
    tangent = rows.slope(rows.slope(value, at, weights), weights, slope.detach())
    square = (slope**2).sum().item()
    require(
        abs((tangent * rows.other).sum().item() - square) <= 0.01 * square,
        f"{rows.name} returns a value whose derivative by {by} is right in reverse and wrong as a tangent, which is "
        f"the derivative of a reverse pass: a backward in it computes outside of torch's graph.{rows.remedy}",
    )


def _check_second(rows: _TwoRows, slope: Tensor) -> None:
    """Refuses a gradient `slope` by the sample whose derivative is not that of its differences."""
    wanted = rows.change(lambda x: rows.slope(rows.value(x=x.requires_grad_()), x, rows.other))
    found = rows.slope(slope, rows.x, rows.direction)
    require(
        (found - wanted).norm().item() <= 0.3 * wanted.norm().item() + rows.rounding * slope.norm().item(),
        f"{rows.name} returns a value whose second derivatives by x are not those of its differences: a backward in "
        f"it computes outside of torch's graph.{rows.remedy}",
    )


def _is_own(node: Any) -> bool:
    """Whether a node of a graph has a backward that is not torch's: of Python, or of an extension in C++."""
    return isinstance(node, torch_library().autograd.function.BackwardCFunction) or "CppNode" in node.name()


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
