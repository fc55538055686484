"""Lower bounds of the error of a score by regression on test fields [N1]."""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

from .._batches import apart, in_batches
from .._checks import count, function, kind, random_key, require, same_shape, sample, single_or_better
from .._module import AbstractModule
from .._precision import measures
from .._types import Key, Scalar, Time
from ..calculus import AbstractProbes, Exact
from ..integrals import Estimate
from ..integrals.estimate import mean_of
from ..score import AbstractScore
from ..score.score import linear_sde, measured_at
from ..sde import AbstractLinearSDE
from ._basis import Derivatives, Features, basis_of

LEAST_FOLDS = 3
"""One that measures, and two of those that fit, one of which chooses the ridge of the other."""

_RIDGES = 1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e3
"""In units of the mean square of a field; the least is above the rounding of float32 for thousands of fields."""


class ScoreErrorBound(AbstractModule):
    r"""Lower bounds of the mean square error of a score at one time, in $1/\text{length}^2$.

    Args:
        gradient: Of $E\|Pe\|^2$, the part of the error that is a gradient.
        whole: Of $E\|e\|^2$.
    """

    gradient: Estimate
    whole: Estimate


@measures
def score_error_bound(
    score: AbstractScore,
    t: Time,
    x: Float[Array, "n *event"],
    *,
    key: Key,
    noise: Float[Array, "n *event"] | None = None,
    waves: int = 16,
    features: Features | None = None,
    trace: AbstractProbes = Exact(),
    folds: int = 4,
    batch_size: int = 256,
) -> ScoreErrorBound:
    r"""Lower bounds of the error $e = s - \nabla\log q_t$ of a score from samples $x \sim q_t$, without the true score
    [N1]. By Stein's identity $E\langle e, v\rangle = E[\langle s, v\rangle + \nabla\cdot v]$ for every test field $v$,
    and so

    $$ E\big[2(\langle s, v\rangle + \nabla\cdot v) - \|v\|^2\big] = 2E\langle e, v\rangle - E\|v\|^2 \le E\|e\|^2, $$

    with equality at $v = e$. For gradients $v = \nabla\psi$ the right-hand side is $E\|Pe\|^2$, the part of the error
    that is a gradient in $L^2(q_t)$: the one that moves marginals. The rest, $e - Pe$, is the part of the score that no
    potential explains.

    **The fields** are $\nabla\sum_k w_k\psi_k$ for the gradient part and $\sum_k W_k\psi_k$ with vectors $W_k$ for the
    whole. The functions $\psi_k$ are the half square, the entries (of samples of up to 256 elements), random waves in
    the scale of the samples, and `features`. The bound is as good as they are: it sees nothing of an error that none
    of their fields has a share in.

    **Cross-fitting.** The samples are parted into folds. Of each the mean is taken with a field fitted on the others,
    by ridge regression; the ridge is the one with the largest mean over folds left out in turn. The mean is linear in
    the samples of its fold and the field is fixed there, so that its expectation is never above the error: there is no
    bias to correct. It is near zero for the exact score, mostly below it, and negative values are no error. The
    standard error is that of the mean over samples; it leaves out that a sample helps to fit the fields of the other
    folds, which matters where a sample has more elements than there are samples. With few samples take few waves.

    **With the noise** of $x = \alpha x_0 + \sigma\epsilon$ at hand the mean of
    $\langle\epsilon/\sigma, v\rangle - \nabla\cdot v$, which is zero, is added with the share $\sigma^2/(\alpha^2 +
    \sigma^2)$: the variance is that of Stein's identity where the data dominate, and that of denoising score matching,
    which is far smaller there, where the noise does.

    Samples are independent, and independent of the score: data that it was not trained on, each with one noise.

    Args:
        score: Any score.
        t: The time.
        x: Samples of $q_t$, stacked along the leading axis.
        key: A random key.
        noise: The noise of each, for a linear SDE; `None` where it is not known.
        waves: How many frequencies, each with its cosine and sine.
        features: Further functions as `features(t, x)` of one sample with a value of any shape, such as the score
            itself or the hidden layer of its network.
        trace: `Exact()` or `Hutchinson(samples, law)` for the Laplacians of `features`.
        folds: How many, at least three.
        batch_size: How many samples are taken at once.

    Returns:
        Two estimates with their standard errors over the samples.

    Raises:
        TypeError: if `x` or `noise` is not floating or of half precision, `features` no function of `(t, x)`, or there
            is noise and the SDE has no Gaussian kernel.
        ValueError: if there are fewer than two samples a fold or fewer than three folds, shapes differ, a sample is not
            finite, or the time is outside the horizon.

    Example:
        >>> import jax, scorefp as sfp
        >>> x = jax.random.normal(jax.random.key(0), (2000, 2))
        >>> wrong = sfp.Score(lambda t, x: -1.3 * x, sfp.VP())  # E‖e‖² = 0.3² · 2
        >>> found = sfp.stein.score_error_bound(wrong, 0.5, x, key=jax.random.key(1))
        >>> bool(abs(found.gradient.value - 0.18) < 3 * found.gradient.error)
        True
    """
    x = single_or_better("x", sample("x", x))
    require(x.ndim >= 1, f"x has shape {x.shape}; it holds samples along a leading axis.")
    kind("trace", trace, AbstractProbes)
    check_settings(waves, features, folds)
    batch_size = count("batch_size", batch_size, 1)
    require(
        len(x) >= 2 * folds, f"x holds {len(x)} samples; {folds} folds need two each at least, and many more to fit."
    )
    t, _ = measured_at(score, t, x[0])
    key = random_key("score_error_bound", key)
    drive, rest = scores(score, t, x, batch_size), jnp.ones((), x.dtype)
    if noise is not None:
        noise = single_or_better("noise", sample("noise", noise)).astype(x.dtype)
        same_shape("noise", noise.shape, "x", x.shape)
        drive, rest = driven(linear_sde(score), t, drive, noise)
    gradient, whole = lower_bounds(
        t, x, drive, rest, key, waves=waves, features=features, trace=trace, folds=folds, batch_size=batch_size
    )
    return ScoreErrorBound(mean_of(gradient), mean_of(whole))


def check_settings(waves: int, features: Features | None, folds: int) -> None:
    """Refuses settings out of range or of another kind."""
    count("waves", waves, 0)
    count("folds", folds, LEAST_FOLDS)
    if features is not None:
        function("features", features, "t, x", "It is a function of the time and one sample, such as the score itself.")


def driven(
    sde: AbstractLinearSDE, t: Scalar, score: Float[Array, "n *event"], noise: Float[Array, "n *event"]
) -> tuple[Float[Array, "n *event"], Scalar]:
    r"""The two factors of $E\langle e, v\rangle = E[\langle\text{first}, v\rangle + \text{second}\,\nabla\cdot v]$
    with the noise of the samples known.
    """
    share = jax.nn.sigmoid(-sde.log_snr(t)).astype(score.dtype)
    return score + share / sde.sigma(t).astype(score.dtype) * noise, 1 - share


@eqx.filter_jit
def scores(score: AbstractScore, t: Scalar, x: Float[Array, "n *event"], batch_size: int) -> Float[Array, "n *event"]:
    """The score at each sample."""
    return in_batches(lambda i: score(t, x[i]), len(x), batch_size)


@eqx.filter_jit
def lower_bounds(
    t: Scalar,
    x: Float[Array, "n *event"],
    drive: Float[Array, "n *event"],
    rest: Scalar,
    key: Key,
    *,
    waves: int,
    features: Features | None,
    trace: AbstractProbes,
    folds: int,
    batch_size: int,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """The values of each sample whose means are the bounds of the gradient part and of the whole error.

    Args:
        t: The time.
        x: Samples.
        drive: The first factor of `driven` of each: without noise its score.
        rest: The second factor: without noise one.
        key: A random key.
        waves: As in `score_error_bound`.
        features: Likewise.
        trace: Likewise.
        folds: Likewise.
        batch_size: Likewise.
    """
    n, basis = len(x), basis_of(x, waves, features, apart(key))

    def at(i: Int[Array, ""]) -> tuple[Derivatives, Float[Array, " D"]]:
        return basis(t, x[i], trace, jr.fold_in(key, i)), drive[i].ravel()

    def terms(i: Int[Array, ""]) -> _Terms:
        found, pull = at(i)
        return _Terms(
            found.gradient,
            (found.gradient @ pull + rest * found.laplacian)[:, None],
            found.value[:, None],
            jnp.outer(found.value, pull) + rest * found.gradient,
        )

    gradients, fields = _sums(terms, n, folds, batch_size)
    potential, matrix = _fitted(*gradients)[..., 0], _fitted(*fields)

    def value(i: Int[Array, ""]) -> tuple[Scalar, Scalar]:
        (found, pull), w, W = at(i), potential[i % folds], matrix[i % folds]
        v, u = w @ found.gradient, found.value @ W
        divergences = w @ found.laplacian, jnp.sum(W * found.gradient)
        return (
            2 * (v @ pull + rest * divergences[0]) - v @ v,
            2 * (u @ pull + rest * divergences[1]) - u @ u,
        )

    return in_batches(value, n, batch_size)


class _Terms(NamedTuple):
    """Of one sample, or of several: fields, whose inner products are those of the regression, and their functionals;
    of gradients, and of functions times vectors, of which the entries of a vector share their inner products.
    """

    gradients: Float[Array, "*n K D"]
    of_gradients: Float[Array, "*n K 1"]
    values: Float[Array, "*n K 1"]
    of_fields: Float[Array, "*n K D"]


_Sum: TypeAlias = tuple[Float[Array, "_ _"], Float[Array, "_ _"]]
_Sums: TypeAlias = tuple[Float[Array, "folds _ _"], Float[Array, "folds _ _"]]


def _sums(terms: Callable[[Int[Array, ""]], _Terms], n: int, folds: int, batch_size: int) -> tuple[_Sums, _Sums]:
    """Sums over the samples of each fold, over the number of all samples: of the inner products and the functionals of
    gradients, and of those of functions times vectors. Sample $i$ is in fold $i$ modulo `folds`.
    """
    size = min(batch_size, math.ceil(n / folds))
    batches = math.ceil(n / folds / size)

    def of_batch(fold: Int[Array, ""], batch: Int[Array, ""]) -> tuple[_Sum, _Sum]:
        index = fold + folds * (batch * size + jnp.arange(size))
        counted = (index < n)[:, None, None] / n
        found = jax.vmap(terms)(jnp.minimum(index, n - 1))

        def both(fields: Float[Array, "b K D"], functionals: Float[Array, "b K R"]) -> _Sum:
            return jnp.einsum("bkd,bld->kl", fields, counted * fields), jnp.sum(counted * functionals, axis=0)

        return both(found.gradients, found.of_gradients), both(found.values, found.of_fields)

    def of_fold(fold: Int[Array, ""]) -> tuple[_Sum, _Sum]:
        def add(total: tuple[_Sum, _Sum], batch: Int[Array, ""]) -> tuple[tuple[_Sum, _Sum], None]:
            return jax.tree.map(jnp.add, total, of_batch(fold, batch)), None

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(of_batch, fold, fold))
        return jax.lax.scan(add, zeros, jnp.arange(batches))[0]

    return jax.lax.map(of_fold, jnp.arange(folds))


def _fitted(gram: Float[Array, "folds K K"], functional: Float[Array, "folds K R"]) -> Float[Array, "folds K R"]:
    r"""For each fold the coefficients that maximise $2\operatorname{tr}(b^\top w) - \operatorname{tr}(w^\top G w)$ less
    the ridge, over the others; the ridge is the one that does best on these, each left out in turn.
    """
    folds = len(gram)
    squares = jnp.diagonal(gram.sum(axis=0))
    seen = squares > jnp.finfo(gram.dtype).tiny
    unit = jnp.where(seen, jax.lax.rsqrt(jnp.where(seen, squares, 1)), 0)
    gram, functional = gram * unit[:, None] * unit, functional * unit[:, None]
    ridges = jnp.asarray(_RIDGES, gram.dtype)

    def fit(ridge: Scalar, *left_out: Int[Array, ""]) -> Float[Array, "K R"]:
        """The coefficients from the folds but for some."""
        kept = jnp.all(jnp.arange(folds)[:, None] != jnp.stack(left_out), axis=1).astype(gram.dtype)
        matrix = jnp.tensordot(kept, gram, 1) + ridge * jnp.eye(gram.shape[-1], dtype=gram.dtype)
        return cho_solve(cho_factor(matrix, lower=True), jnp.tensordot(kept, functional, 1))

    def gains(case: tuple[Int[Array, "2"], Scalar]) -> Float[Array, "2"]:
        """What a fit without two folds has on each of them."""
        pair, ridge = case
        w = fit(ridge, *pair)
        found = jax.vmap(lambda fold: jnp.sum(w * (2 * functional[fold] - gram[fold] @ w)))(pair)
        return jnp.where(jnp.isfinite(found), found, -jnp.inf)

    first, second = np.triu_indices(folds, 1)
    pairs = np.stack([first, second], axis=1)
    cases = np.repeat(pairs, len(ridges), axis=0), np.tile(_RIDGES, len(pairs))
    found = jax.lax.map(gains, (jnp.asarray(cases[0]), jnp.asarray(cases[1], gram.dtype)))
    found = found.reshape(len(pairs), len(ridges), 2)
    # The gain on the second of a pair is one of a fit without the first, and chooses the ridge of the first.
    total = jnp.zeros((folds, len(ridges)), gram.dtype).at[first].add(found[..., 1]).at[second].add(found[..., 0])
    chosen = ridges[jnp.argmax(total, axis=1)]
    final = jax.lax.map(lambda case: fit(*case), (chosen, jnp.arange(folds)))
    return unit[:, None] * final
