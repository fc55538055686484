"""What a training step compiles to for an NVIDIA H200, on a machine that has none.

    pip install jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2 nvidia-cuda-nvcc-cu12
    python benchmarks/compiled.py --out docs/assets

The steps of `accelerator.py --size card` go through XLA for the card and through ptxas; nothing runs, so that no row is
a time of the card. Of each step:

* **products**: the operations of convolutions and matrix products, those on padding too, by what the card multiplies:
  bfloat16, TF32, or full float32, which its matrix units do not do. NVIDIA's data sheet of the H200 has 989, 494 and 67
  TFLOP/s. Of a lazy penalty those of a step that has it.
* **traffic**: the bytes that the kernels read and write, by XLA's count; the card moves 4,800 GB/s.
* **kernels** of the loop, and the **memory** of the program.

`jax.experimental.topologies` describes the card to XLA by XLA's own specification of it. Choices that XLA makes by
trying kernels on the card are left out (`--xla_gpu_autotune_level=0`). Checks of values are, too (`EQX_ON_ERROR=nan`):
a program with calls of the host does not compile without its device. Keys are fixed.
"""

import os

os.environ |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_gpu_autotune_level=0", "EQX_ON_ERROR": "nan"}

import math
import re
import time
from collections import Counter
from typing import Any

import accelerator
import equinox as eqx
import jax
from _timing import Row, arguments, machine, report, table
from jax._src import xla_bridge
from jax.experimental import topologies

import scorefp as sfp

CARD = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
  block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 151397597184 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64 device_vendor: "NVIDIA Corporation"
  device_address_bits: 64 pcie_bandwidth: 34359738368 ecc_enabled: true name: "NVIDIA H200 141GB HBM3e"
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0" dnn_version: "9.10.0"
}
platform_name: "CUDA" dnn_version_info { major: 9 minor: 10 patch: 0 } runtime_version { major: 12 minor: 8 patch: 0 }
device_description_str: "NVIDIA H200 141GB HBM3e"
"""
"""The specification of the card in XLA (`xla/backends/gpu/target_config/specs`), without its tables of rates."""

TABLE = """\
| program | precision | TFLOP in bfloat16 | TF32 | float32 | traffic, GB | kernels | GB held | compiled in s |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| {program} | {precision} | {half:.2f} | {tf32:.2f} | {full:.2f} | {moved:.1f} | {kernels} | {held:.1f} | {secs:.0f} |
"""

PRODUCT = re.compile(
    r"stablehlo\.(?:convolution.*?dim_numbers = \[.*?\]x\[(?P<kernel>.*?)\]|dot_general.*?contracting_dims = "
    r"\[(?P<over>[\d, ]*)\]).*?(?:precision = \[|precision_config = \[#stablehlo<precision )(?P<precision>\w+).*?"
    r": \(tensor<(?P<first>[^>]*)>, tensor<(?P<second>[^>]*)>\) -> tensor<(?P<out>[^>]*)>"
)
"""A product in StableHLO, with the axes of a kernel or those that it sums over, and the shapes."""

KERNEL = re.compile(r"^  (?:ROOT )?%\S+ = .*? (?:fusion|custom-call|copy|reduce|scatter|sort)\(", re.MULTILINE)


def sizes(shape: str) -> tuple[list[int], str]:
    """The lengths of the axes of a tensor, and its dtype."""
    *lengths, dtype = shape.split("x")
    return [int(length) for length in lengths], dtype


def products(text: str) -> Counter[str]:
    """The operations of the products of a StableHLO program, by what an NVIDIA card multiplies."""
    found = Counter[str]()
    for product in PRODUCT.finditer(text):
        (first, dtype), (second, _), (out, _) = (sizes(product[name]) for name in ("first", "second", "out"))
        if product["kernel"]:
            summed = math.prod(second) // second[product["kernel"].split(", ").index("o")]
        else:
            summed = math.prod(first[int(axis)] for axis in product["over"].split(",") if axis.strip())
        kind = "half" if dtype != "f32" else "full" if product["precision"] == "HIGHEST" else "tf32"
        found[kind] += 2 * math.prod(out) * summed
    return found


def kernels(text: str) -> int:
    """How many instructions of the loop of an optimised program are launched: those of no fusion, and not its entry."""
    fused = set(re.findall(r"fusion\(.*calls=%([\w.-]+)", text))
    parts = re.split(r"^(?=%|ENTRY)", text, flags=re.MULTILINE)
    named = ((re.split(r"[ (]", part)[0].lstrip("%"), part) for part in parts)
    return sum(len(KERNEL.findall(part)) for name, part in named if name not in {"ENTRY", *fused})


def row(precision: str, program: str, training: accelerator.Training) -> Row:
    begin = sum(os.times()[:4])
    training.compile()
    seconds = sum(os.times()[:4]) - begin
    module = training.run.runtime_executable().hlo_modules()[0]
    cost: Any = jax._src.lib.xla_client._xla.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module)
    found = products(training.lowered.as_text())
    return {
        "program": program,
        "precision": precision,
        **{kind: found[kind] / 1e12 for kind in ("half", "tf32", "full")},
        "moved": cost["bytes accessed"] / 1e9,
        "kernels": kernels(training.run.as_text()),
        "held": training.memory,
        "secs": seconds,
    }


def main() -> None:
    options = arguments(__doc__, 1, "compiled").parse_args()
    known = xla_bridge.canonicalize_platform
    # The plugin calls itself CUDA where JAX 0.10 asks for a GPU; and it is the card that rounds products.
    xla_bridge.canonicalize_platform = lambda platform: "cuda" if platform == "gpu" else known(platform)
    jax.default_backend = lambda: "gpu"
    card = topologies.get_topology_desc("h200", platform="cuda", target_config=CARD, topology="1x1x1").devices[0]
    there = jax.sharding.SingleDeviceSharding(card)
    accelerator.Program.placed = staticmethod(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=there) if eqx.is_array(leaf) else leaf
    )
    rows, size, begin = list[Row](), accelerator.SIZES["card"], time.perf_counter()
    for precision, dtype in accelerator.PRECISIONS.items():
        for program, loss in accelerator.LOSSES.items():
            rows.append(row(precision, program, accelerator.Training(accelerator.unet(size, dtype), loss, size)))
            print(table(TABLE, rows).splitlines()[-1], f" after {time.perf_counter() - begin:.0f} s", flush=True)
    note = f"For an NVIDIA H200 by {machine(sfp)}; seconds are those of a processor. No card was at hand."
    report("compiled", table(TABLE, rows), rows, note, options.out)


if __name__ == "__main__":
    main()
