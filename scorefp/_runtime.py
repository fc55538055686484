"""A warning where the installed compiler is known to give wrong numbers."""

import importlib.metadata
import os
import re
import warnings

_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
_FIRST, _LAST = (0, 10, 2), (0, 12, 0)


def warn_of_wrong_sums() -> None:
    """Warns about jaxlib 0.10.2 to 0.12.0 on CPUs, unless the fusion at fault is switched off.

    0.10.1 sums rightly; 0.12.0 is the newest that was tried. They fuse a reduction with two elementwise functions of
    one kind and confuse their arguments: `log(2 * t) * sum(log(t)[:, None] * x, 1)` is then silently wrong (compare
    github.com/jax-ml/jax, issues 39103 and 39257). The flag has to be set before jax starts, so the library cannot set
    it and does not touch jax's configuration.
    """
    version = importlib.metadata.version("jaxlib")
    release = tuple(map(int, re.findall(r"\d+", version)[:3]))
    if not _FIRST <= release <= _LAST or _FLAG in os.environ.get("XLA_FLAGS", ""):
        return
    warnings.warn(
        f"jaxlib {version} compiles some sums wrongly on CPUs (github.com/jax-ml/jax/issues/39103): "
        f"silently wrong numbers are possible. Set the environment variable XLA_FLAGS={_FLAG} (with nothing after the "
        "equals sign) before Python starts.",
        RuntimeWarning,
        stacklevel=3,
    )
