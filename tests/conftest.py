"""Settings and fixtures shared by all tests.

jaxtyping and beartype check every signature of the package while the tests run: `--jaxtyping-packages` in
pyproject.toml installs the import hook before anything imports `scorefp`, in each worker too.
"""

import gc
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

# Read when jax first makes a backend; empty, as `make test-device` has it, it is what jax finds. The workers share the
# cores; one thread each is the fastest.
if os.environ.setdefault("JAX_PLATFORMS", "cpu") == "cpu":
    # These leave XLA's optimiser out, write each program in one piece, and build kernels without MLIR: most of the time
    # goes into compiling programs that run once, and this halves it. jaxlib 0.12 does not know the last of them, and
    # refuses to start on a flag that it does not know. All stand before the word without dashes, at which XLA stops
    # reading. The flag for right sums comes from the import of scorefp, as for every user.
    os.environ["XLA_FLAGS"] = (
        "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1 "
        + (
            "--xla_cpu_use_fusion_emitters=false "
            if importlib.metadata.version("jaxlib").startswith(("0.10.", "0.11."))
            else ""
        )
        + "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    )
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import jax.random as jr
import jaxtyping
import pytest
from hypothesis import settings
from jaxtyping import PRNGKeyArray

# A module of helpers is collected for its docstrings, and this one imports PyTorch.
collect_ignore = [] if importlib.util.find_spec("torch") else ["helpers/torch_unet.py"]

# Compiling takes longer than hypothesis allows an example; a fixed choice of examples gives the same run twice.
settings.register_profile("scorefp", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("scorefp")

# Traces are many small objects that stay; to go through them all again and again takes a seventh of the time.
gc.set_threshold(200_000, 50, 1000)

_left_out = pytest.StashKey[int]()


@pytest.fixture
def x64() -> Iterator[None]:
    """Float64 inside one test: `@pytest.mark.usefixtures("x64")`, or `pytestmark` for a whole module.

    Arrays made at import time, by `parametrize` for example, are made outside of it: pass plain numbers or
    functions there.
    """
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked() -> Iterator[None]:
    """What a user sees, without the checks of types that come with the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def getkey(request: pytest.FixtureRequest) -> Callable[[], PRNGKeyArray]:
    """A function that gives a new random key at each call, the same ones at each run of the same test."""
    state = jr.key(int.from_bytes(request.node.name.encode(), "big") % (2**31 - 1))

    def next_key() -> PRNGKeyArray:
        nonlocal state
        state, key = jr.split(state)
        return key

    return next_key


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Every example of a docstring is quick."""
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker(pytest.mark.quick)


def pytest_deselected(items: list[pytest.Item]) -> None:
    """Counts the slow tests that this run leaves out."""
    if items:
        stash = items[0].config.stash
        slow = sum(item.get_closest_marker("slow") is not None for item in items)
        stash[_left_out] = stash.get(_left_out, 0) + slow


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker hands its count to the main process."""
    workeroutput = getattr(session.config, "workeroutput", None)
    if workeroutput is not None:
        workeroutput["slow_left_out"] = session.config.stash.get(_left_out, 0)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """The main process takes the count; all workers collect the same tests."""
    node.config.stash[_left_out] = getattr(node, "workeroutput", {}).get("slow_left_out", 0)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Says at the end of each run what it did not run."""
    count = config.stash.get(_left_out, 0)
    if count:
        terminalreporter.write_line(f"{count} slow tests are not part of this run: make test-slow", yellow=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The root folder of the repository."""
    return Path(__file__).parent.parent


@pytest.fixture(scope="session")
def example(root: Path) -> Iterator[Callable[[str], ModuleType]]:
    """A function that imports a script of `examples/` by its name; the script finds its neighbours there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "examples")
        yield importlib.import_module
