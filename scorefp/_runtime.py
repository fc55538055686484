"""A warning where the installed compiler is known to give wrong numbers."""

import os
import warnings

import jax
import jaxlib

_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
_AFFECTED = {"0.10.2", "0.11.0"}


def warn_of_wrong_sums() -> None:
    """Warns about jaxlib 0.10.2 and 0.11.0 on CPUs, unless the fusion at fault is switched off.

    They fuse a reduction with two elementwise functions of one kind and confuse their arguments:
    `log(2 * t) * sum(log(t)[:, None] * x, 1)` is then silently wrong (github.com/jax-ml/jax, issues 39103 and 39257). The
    flag has to be set before jax starts, so the library cannot set it and does not touch jax's configuration.
    """
    if jaxlib.__version__ not in _AFFECTED or _FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    if any(name != "cpu" for name in (jax.config.jax_platforms or "cpu").split(",")):
        return
    warnings.warn(
        f"jaxlib {jaxlib.__version__} compiles some sums wrongly on CPUs (github.com/jax-ml/jax/issues/39103): "
        f"silently wrong numbers are possible. Set the environment variable XLA_FLAGS={_FLAG} (with nothing after the "
        "equals sign) before Python starts, or install another jaxlib.",
        RuntimeWarning,
        stacklevel=3,
    )
