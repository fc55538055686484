"""How terms are estimated on a batch: one evaluation of the score at the samples, one at further points of a share."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._checks import scalar
from .._precision import differs, products_round
from .._types import Event, Scalar
from ..calculus import AbstractStencil
from ..nn import full_precision
from ..score import AbstractScore
from ..score.score import linear_sde
from .perturbed import Perturbed

if TYPE_CHECKING:
    from .objective import AbstractTerm

_T = TypeVar("_T")
_Values = Float[Array, "rows *event"]


class Rows(NamedTuple):
    """The samples of a batch, each with a key for every term, its conditioning and its dropout key."""

    perturbed: Perturbed
    keys: Array
    args: Any
    model_key: Array | None


class _Part(NamedTuple):
    """A term, its place among the terms, and on how many rows it is evaluated."""

    term: "AbstractTerm"
    place: int
    share: int


def means(
    score: AbstractScore,
    terms: "Sequence[AbstractTerm]",
    every: Sequence[int],
    rows: Rows,
    step: Int[Array, ""] | None,
) -> list[Scalar]:
    """The mean of the weighted integrand of each term over its share of the batch, which is the batch's head.

    A term with `every` above one is evaluated at the steps whose number is a multiple of it, and counts so many times.
    """
    count = len(rows.perturbed.t)
    parts = [_Part(term, i, max(1, round(term.fraction * count))) for i, term in enumerate(terms)]
    always = [part for part, k in zip(parts, every, strict=True) if k == 1]
    value, estimates = _looked(score, always, rows, None)
    found = dict(zip([part.place for part in always], estimates, strict=True))
    for part, k in zip(parts, every, strict=True):
        if k > 1:
            assert step is not None
            found[part.place] = k * _sometimes(_alone(score, part, value, rows), step % k == 0)
    return [found[i] for i in range(len(parts))]


def _looked(
    score: AbstractScore, parts: Sequence[_Part], rows: Rows, value: _Values | None
) -> tuple[Float[Array, "looked *event"] | None, list[Scalar]]:
    """The score at the samples that some part looks at, and the estimate of each part.

    Args:
        score: The score.
        parts: The terms.
        rows: The batch.
        value: The score at the head of the batch, as far as it is known.
    """
    observed: list[Any] = []
    for part in parts:
        observe = lambda row, part=part: part.term.observe(_bound(score, row), row.perturbed, key=row.keys[part.place])
        own, more = eqx.filter_vmap(observe)(_head(rows, part.share))
        observed.append(more)
        # A network that was differentiated gave its value on the way.
        value = own if own is not None and len(own) > _length(value) else value
    if (top := max((part.share for part in parts), default=0)) > (known := _length(value)):
        rest = jax.vmap(lambda row: _bound(score, row)(row.perturbed.t, row.perturbed.x))(
            jax.tree.map(lambda leaf: leaf[known:top], rows)
        )
        value = rest if value is None else jnp.concatenate([value, rest])
    if value is None:
        return None, []
    observed = _combined(score, [part.share for part in parts], rows, value, observed)
    sde, estimates = linear_sde(score), list[Scalar]()
    for part, more in zip(parts, observed, strict=True):
        name = f"the integrand of {type(part.term).__name__}"
        integrand = lambda seen, s, more, part=part, name=name: (
            seen.weight * scalar(name, part.term.integrand(sde, seen, s, more))
        )
        head = _head((rows.perturbed, value), part.share)
        estimates.append(jnp.sum(eqx.filter_vmap(integrand)(*head, more)) / part.share)
    return value, estimates


def _combined(
    score: AbstractScore, shares: Sequence[int], rows: Rows, value: _Values, observed: list[Any]
) -> list[Any]:
    """What was observed, and what each stencil makes of the score at its points, one evaluation for all of a share."""
    held = {i: more for i, more in enumerate(observed) if isinstance(more, AbstractStencil)}
    if not held:
        return observed
    found = list(observed)
    # Where products round, the value is taken again, with those that it is subtracted from.
    again = full_precision(score) is not score or (value.dtype == jnp.float32 and products_round())
    for share in sorted({shares[i] for i in held}):
        here = {i: stencil for i, stencil in held.items() if shares[i] == share}

        def there(row: Rows, s: Event, stencils: list[AbstractStencil], share: int = share) -> list[Any]:
            looks = [stencil.points(s) for stencil in stencils]
            if again:
                looks.append((row.perturbed.t[None], row.perturbed.x[None]))
            t, x = (jnp.concatenate(parts) for parts in zip(*looks, strict=True))
            values = jnp.split(jax.vmap(_bound(score, row))(t, x), np.cumsum([len(t) for t, _ in looks])[:-1])
            s = values[-1][0] if again else s
            return [stencil.combined(s, near) for stencil, near in zip(stencils, values, strict=False)]

        near = eqx.filter_vmap(there)
        made = (differs(near) if again else near)(*_head((rows, value), share), list(here.values()))
        for i, more in zip(here, made, strict=True):
            found[i] = more
    return found


def _alone(score: AbstractScore, part: _Part, value: _Values | None, rows: Rows) -> Callable[[], Scalar]:
    """The estimate of one term, as a program and its arrays: those that a function closes over, such as parameters
    under `jax.grad`, have derivatives, and a rule of one's own finds them among its arguments alone.
    """

    def estimate() -> Scalar:
        _, (found,) = _looked(score, [part], rows, value)
        return found.astype(rows.perturbed.x0.dtype)

    return eqx.filter_closure_convert(estimate)


@eqx.filter_custom_vjp
def _sometimes(estimate: Callable[[], Scalar], on: Bool[Array, ""]) -> Scalar:
    """The estimate of a term where `on` is true, else zero.

    The gradient is taken where the value is: what a step without the term leaves behind for the backward pass is a zero
    for each parameter, not for each activation of the network.
    """
    taken = lambda: estimate()  # A function has a hash, which a program with arrays in lists has not.
    return jax.lax.cond(on, taken, lambda: jax.tree.map(jnp.zeros_like, jax.eval_shape(taken)))


@_sometimes.def_fwd
def _forward(perturbed: Any, estimate: Callable[[], Scalar], on: Bool[Array, ""]) -> tuple[Scalar, Any]:
    wanted, rest = eqx.partition(estimate, perturbed)

    def taken() -> tuple[Scalar, Any]:
        return jax.value_and_grad(lambda wanted: eqx.combine(wanted, rest)())(wanted)

    return jax.lax.cond(on, taken, lambda: jax.tree.map(jnp.zeros_like, jax.eval_shape(taken)))


@_sometimes.def_bwd
def _backward(grads: Any, cotangent: Scalar, perturbed: Any, *_: Any) -> Any:
    return jax.tree.map(lambda slope: cotangent * slope, grads)


def _bound(score: AbstractScore, row: Rows) -> AbstractScore:
    return score.bind(args=row.args, key=row.model_key)


def _length(value: _Values | None) -> int:
    return 0 if value is None else len(value)


def _head(tree: _T, count: int) -> _T:
    return jax.tree.map(lambda leaf: leaf[:count], tree)
