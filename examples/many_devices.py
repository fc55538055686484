"""Training on many devices: one script for one CPU, several devices, several processes, GPUs and TPU slices.

    python examples/many_devices.py                # all devices of this machine: one CPU, eight GPUs
    python examples/many_devices.py --devices 4    # a CPU that passes for four devices
    python examples/many_devices.py --processes 2  # two processes on this machine, joined by jax.distributed
    python examples/many_devices.py --cluster      # started on every machine, by Slurm, Open MPI or on a TPU slice

It trains a small network on scikit-learn's digits, read on the host: each process reads its rows of every batch. Then
it trains again on one device and prints how far the parameters are from each other. With `--cluster` there is no single
process to do so; `--out` writes the parameters, and `--against` compares with those of another run.
"""

import argparse
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import _cells
import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
from jax.sharding import Mesh

import scorefp as sfp
from scorefp import data, train

BATCH = 128


def trained(mesh: Mesh | None, steps: int) -> np.ndarray:
    """The parameters after training on the devices of a mesh. This function knows nothing of how many there are."""
    digits = data.digits("train")
    source = data.OnHost(data.Dataset(np.asarray(digits.values, np.uint8), digits.quantisation))
    network = sfp.nn.MLP(digits.shape, width=128, key=jr.key(0))
    run = train.fit(
        sfp.NoiseScore(network, sfp.VP(), data_std=digits.std),
        sfp.DSM(),
        source,
        optimizer=optax.adam(1e-3),
        steps=steps,
        key=jr.key(1),
        batch_size=BATCH,
        mesh=mesh,
        callbacks=(tell,),
        report_every=max(1, steps // 4),
        progress=False,
    )
    leaves = jax.tree.leaves(eqx.filter(run.last.network, eqx.is_inexact_array))
    return np.concatenate([np.ravel(leaf) for leaf in leaves])


def tell(report: train.Report) -> None:
    """Called on the first process only."""
    print(f"step {report.step:4}: loss {report.metrics['loss']:.6f}", flush=True)


def compared(found: np.ndarray, one: np.ndarray) -> None:
    difference, largest = np.abs(found - one).max(), np.abs(one).max()
    print(f"largest difference of a parameter: {difference:.1e}; largest parameter: {largest:.1f}")


def on_all_devices(options: argparse.Namespace) -> np.ndarray:
    mesh = sfp.data_mesh()
    if jax.process_index() == 0:
        kind = jax.devices()[0].device_kind
        print(f"processes: {jax.process_count()}, devices: {mesh.size} ({kind})")
        print(f"{BATCH} samples a step, {train.per_device_batch(BATCH, mesh)} a device", flush=True)
    found = trained(mesh, options.steps)
    if options.out is not None and jax.process_index() == 0:
        np.save(options.out, found)
    return found


def in_processes(options: argparse.Namespace) -> np.ndarray:
    """The parameters of the same script in several processes on this machine, devices shared out among them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "parameters.npy"
        command = [sys.executable, __file__, "--steps", str(options.steps), "--out", str(out), "--address", address]
        command += ["--processes", str(options.processes), "--devices", str(options.devices)]
        children = [subprocess.Popen([*command, "--process", str(i)]) for i in range(options.processes)]
        if any(child.wait() for child in children):
            raise SystemExit("a process failed; what it says stands above.")
        return np.load(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--devices", type=int, default=0, help="devices a CPU passes for, in each process; 0: as it is")
    parser.add_argument("--processes", type=int, default=1, help="processes on this machine")
    parser.add_argument("--process", type=int, help="which of them this is; without it, the script starts them")
    parser.add_argument("--address", help="where the first process listens")
    parser.add_argument("--cluster", action="store_true", help="several machines, which JAX finds by itself")
    parser.add_argument("--out", type=Path, help="a .npy file for the parameters")
    parser.add_argument("--against", type=Path, help="a .npy file with the parameters of another run")
    options = parser.parse_args()
    _cells.keep_compiled()
    if options.devices > 0:
        jax.config.update("jax_num_cpu_devices", options.devices)
    if options.cluster:
        jax.distributed.initialize()
    elif options.process is not None:
        jax.distributed.initialize(options.address, options.processes, options.process)
    started_here = options.processes > 1 and options.process is None
    found = in_processes(options) if started_here else on_all_devices(options)
    if options.against is not None:
        compared(found, np.load(options.against))
    elif jax.process_count() == 1:
        print("on one device:")
        compared(found, trained(None, options.steps))


if __name__ == "__main__":
    main()
