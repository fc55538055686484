"""What a run is warned of before its first step: data of another scale than its model or its process, idle dropout, a
label that stands for none and is one, networks that training parts.
"""

import math
import warnings
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Shaped

from .._describe import described
from ..data import OnHost
from ..dataset import Dataset, Quantisation
from ..dataset.dataset import mean_square
from ..nn import MLP, ScalarMLP, UNet
from ..score import AbstractScore, NetworkPotential, NetworkScore
from ..sde import AbstractLinearSDE

_FAR = 3.0
"""The ratio of two scales from which on a warning is given."""
_ENTRIES = 2**22
"""How many entries of data in memory are looked at."""


def scale_of(values: Shaped[np.ndarray, "n *event"], quantisation: Quantisation | None) -> float:
    """The root mean square of the entries as the model sees them; of a large set, from every so many samples of it."""
    most = max(1, _ENTRIES // max(1, math.prod(values.shape[1:])))
    return math.sqrt(mean_square(np.asarray(values[:: math.ceil(len(values) / most)]), quantisation))


def warn_of_scale(model: AbstractScore, scale: float) -> None:
    """Warns once where data of this root mean square are far from the `data_std` of a model, and once where the
    process does not drown them in noise.
    """
    std = model.data_std if isinstance(model, NetworkScore | NetworkPotential) else None
    if scale > 0 and std is not None:
        std = float(np.sqrt(np.mean(np.square(np.asarray(std, np.float64)))))
        if not 1 / _FAR <= scale / std <= _FAR:
            _warn(
                f"the root mean square of the data is {scale:.3g}, and data_std of the model is {std:.3g}: the network "
                f"gets inputs, and is asked for values, of another size than one. Give data_std={scale:.3g}, which is "
                "data.std, or scale the data."
            )
    sde = model.sde
    if isinstance(sde, AbstractLinearSDE):
        left, noise = float(sde.alpha(sde.t1)) * scale, float(sde.sigma(sde.t1))
        if noise < _FAR * left:
            _warn(
                f"at t1 = {sde.t1} {described(sde)} leaves data of root mean square {left:.3g} in noise of standard "
                f"deviation {noise:.3g}: samples begin at the noise alone, which is not where the data end. Scale the "
                f"data down, or give the process more noise, {_FAR:g} times its data at least."
            )


def warn_of_dropout(model: AbstractScore, dropout: bool) -> None:
    """Warns where a network drops entries when it gets a key, and gets none; and where it gets one for nothing.

    What a network of others does with a key is not known.
    """
    rate = max((_rate(node) for node in _all(model)), default=0.0)
    if rate > 0 and not dropout:
        _warn(
            f"the network has dropout = {rate:g}, and fit was called with dropout=False: it gets no key and drops "
            "nothing. Give fit dropout=True, or the network dropout=0."
        )
    own = isinstance(model, NetworkScore | NetworkPotential) and isinstance(model.network, MLP | ScalarMLP | UNet)
    if dropout and own and rate == 0:
        _warn(
            "the network has dropout = 0, and fit was called with dropout=True: it gets a key and drops nothing. Give "
            "the network a share, as MLP(..., dropout=0.1) does, or fit dropout=False."
        )


def warn_of_null(null: Any, data: Any) -> None:
    """Warns where what stands for no conditioning is the conditioning of some samples in memory."""
    data = data.dataset if isinstance(data, OnHost) else data
    if null is None or not isinstance(data, Dataset) or data.args is None:
        return
    rows = [
        np.all(np.reshape(np.asarray(leaf) == np.asarray(none), (len(data), -1)), axis=1)
        for leaf, none in zip(jax.tree.leaves(data.args), jax.tree.leaves(null), strict=True)
    ]
    same = int(np.all(rows, axis=0).sum())
    if same > 0:
        _warn(
            f"label_dropout.null is the conditioning of {same} of {len(data)} samples: the unconditional score and "
            "that of these samples are trained as one. Give a null that no sample has, but where these are samples "
            "without a label."
        )


def warn_of_ties(params: Any) -> None:
    """Warns where one array stands in several places of the trained ones."""
    ids = [id(leaf) for leaf in jax.tree.leaves(params)]
    twice = len(ids) - len(set(ids))
    if twice > 0:
        _warn(
            f"{twice} of {len(ids)} trained arrays of the model stand in it more than once, and training makes them "
            "different ones: one network in two parts of a composition becomes two. Train it alone and compose "
            "afterwards, or tie what is to stay one by eqx.nn.Shared."
        )


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=4)  # through the function here and fit


def _rate(node: Any) -> float:
    """The share of entries that a layer drops."""
    if isinstance(node, eqx.nn.Dropout):
        return 0.0 if node.inference else float(node.p)
    rate = getattr(node, "dropout", 0.0) if isinstance(node, eqx.Module) else 0.0
    return rate if isinstance(rate, float) else 0.0


def _all(model: Any) -> list[Any]:
    """The nodes of a model, from the whole to the parts."""
    nodes = list[Any]()

    def note(node: Any) -> bool:
        nodes.append(node)
        return False

    jax.tree.leaves(model, is_leaf=note)
    return nodes
