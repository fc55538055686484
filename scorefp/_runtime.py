"""Right sums from a compiler that is known to give wrong ones."""

import importlib.metadata
import os
import re
import warnings

import jax
import jax.numpy as jnp
import numpy as np

_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
_KEEP = "SCOREFP_KEEP_XLA_FLAGS"
_FIRST, _LAST = (0, 10, 2), (0, 12, 0)


def set_right_sums() -> None:
    """Keeps jaxlib 0.10.2 to 0.12.0 from compiling some sums wrongly on CPUs.

    0.10.1 sums rightly; 0.12.0 is the newest that was tried. They fuse a reduction with two elementwise functions of
    one kind and confuse their arguments: `log(2 * t) * sum(log(t)[:, None] * x, 1)` is then silently wrong (compare
    github.com/jax-ml/jax, issues 39103 and 39257). XLA reads its flags when jax starts, at the first array. Before
    that, the flag that switches the fusion off goes into `XLA_FLAGS`, in front of what stands there; after it, a sum is
    compiled and compared. Other versions, and a setting of the flag by the user, are left alone.

    Raises:
        ImportError: if jax started before on CPUs and sums wrongly.
    """
    version, flags = importlib.metadata.version("jaxlib"), os.environ.get("XLA_FLAGS", "").strip()
    release = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if not _FIRST <= release <= _LAST or _FLAG in flags:
        return
    start = f"Set the environment variable XLA_FLAGS={_FLAG}= (with nothing after the equals sign) before Python starts"
    told = f"jaxlib {version} compiles some sums wrongly on CPUs (github.com/jax-ml/jax/issues/39103)"
    # What does not begin with dashes is the name of a file of flags.
    if os.environ.get(_KEEP) or (flags and not flags.startswith("-")):
        warnings.warn(f"{told}: silently wrong numbers are possible. {start}.", RuntimeWarning, stacklevel=3)
    elif not _started():
        os.environ["XLA_FLAGS"] = f"{_FLAG}= {flags}".strip()
    elif jax.default_backend() == "cpu" and not _sums_rightly():
        raise ImportError(f"{told}, and jax started before scorefp was imported. Import scorefp first. Or: {start}.")


def _started() -> bool:
    """Whether jax has read its flags; where it no longer tells, it is taken to have."""
    from jax._src import xla_bridge

    return getattr(xla_bridge, "backends_are_initialized", lambda: True)()


def _sums_rightly() -> bool:
    """Whether the smallest case of the fault, which needs a few thousand rows, comes out right."""
    t, x = np.linspace(1e-3, 1.0, 4096, dtype=np.float32), np.ones((4096, 2), np.float32)
    sums = jax.jit(lambda t, x: jnp.log(2 * t) * jnp.sum(jnp.log(t)[:, None] * x, axis=1))
    # Lowered by hand: a call would become part of the function that jax traces, where the import stands in one.
    return np.allclose(sums.lower(t, x).compile()(t, x), 2 * np.log(2 * t) * np.log(t), atol=1e-2)
