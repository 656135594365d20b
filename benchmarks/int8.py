"""Show where the int8 student spends its time: one clip on one core, part by part.

    pip install ".[export]"
    python benchmarks/int8.py                                # the paper's student, random weights and clips
    DNNL_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 python benchmarks/int8.py       # imitate an older processor

The student is compiled for one clip with a time stamp around each kernel. A part's time is the sum of its kernels'
medians over the rounds. The convolutions include the rounding of their outputs and the residual additions. The last row
is the processor time of the file as `egodistill export` writes it.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill
from egodistill.commands.options import positive_int
from egodistill.deploy import export
from egodistill.support import tables

PARTS = ["preprocessing", "stem", "max pool", "stage 1", "stage 2", "stage 3", "stage 4", "IMU branch", "fusion"]
STRIDES = {2: "stem", 4: "stage 1", 8: "stage 2", 16: "stage 3", 32: "stage 4"}
KERNELS = ("aoti_torch_", "graph_", "quantized::")
LAYERS = {  # of the student
    "image_encoder.conv1": "stem",
    **{f"image_encoder.layer{k}": f"stage {k}" for k in (1, 2, 3, 4)},
    "imu_encoder": "IMU branch",
    "fusion": "fusion",
    "classifier": "fusion",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=positive_int, default=100, help="rounds of timing")
    tables.markdown_option(parser)
    a = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = EgoDistill(62, image_weights=None).eval()
    inputs = export.model_inputs(model, 1)
    with tempfile.TemporaryDirectory() as folder:
        options = {"format": "aoti", "precision": "int8", "batch_size": 1}
        export.export(model, Path(folder, "student.pt2"), **options)
        (total,) = export.milliseconds([export.load_exported(Path(folder, "student.pt2"))], inputs, a.repeats)
        with torch._inductor.config.patch({"cpp.enable_kernel_profile": True}):
            export.export(model, Path(folder, "profiled.pt2"), **options)
        kernels = profile_kernels(export.load_exported(Path(folder, "profiled.pt2")), inputs, a.repeats)
    table = parts_table(model, inputs, kernels, total)
    machine = f"{tables.short_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    tables.report(table, "benchmarks/int8.py", a.markdown, sys.argv, machine=machine)
    print(f"residual additions take {residual_additions(kernels):.2f} ms, as part of the convolutions")


class Kernel(NamedTuple):
    """One step of the compiled program."""

    name: str
    part: str
    milliseconds: float  # Median over the rounds.


def profile_kernels(run: nn.Module, inputs: tuple[torch.Tensor, ...], repeats: int) -> list[Kernel]:
    """Return the kernels in their order, after three rounds that do not count."""
    for _ in range(3):
        run(*inputs)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        for _ in range(repeats):
            run(*inputs)
    events = [event for event in profiler.events() if event.cpu_parent is None and event.name.startswith(KERNELS)]
    events.sort(key=lambda event: event.time_range.start)
    count, size = len(events) // repeats, inputs[0].shape[-1]
    return [
        Kernel(
            events[k].name,
            part_of(events[k], size),
            statistics.median(event.time_range.elapsed_us() / 1e3 for event in events[k::count]),
        )
        for k in range(count)
    ]


def parts_table(
    model: EgoDistill, inputs: tuple[torch.Tensor, ...], kernels: list[Kernel], total: float
) -> tables.Table:
    """Return time, share and rate of each part, of what is outside of the kernels, and of the whole program."""
    macs = macs_of_parts(model, inputs)
    rows, inside = [], 0.0
    for part in PARTS:
        times = [kernel.milliseconds for kernel in kernels if kernel.part == part]
        rows.append([part, str(len(times)), *cells(sum(times), total), *rate(macs.get(part), sum(times))])
        inside += sum(times)
    rows.append(["outside of the kernels", "", *cells(total - inside, total), "", ""])
    rows.append(["all", str(len(kernels)), *cells(total, total), *rate(sum(macs.values()), total)])
    return tables.Table(["part", "kernels", "ms", "share (%)", "GMACs", "GMACs per second"], rows)


def residual_additions(kernels: list[Kernel]) -> float:
    """Return the milliseconds by which the convolutions with a residual addition are slower than those without."""
    more = 0.0
    for stage in ("stage 1", "stage 2", "stage 3", "stage 4"):
        own = [kernel for kernel in kernels if kernel.part == stage]
        without = max(kernel.milliseconds for kernel in own if "binary" not in kernel.name)  # equal in all else
        more += sum(kernel.milliseconds - without for kernel in own if "binary" in kernel.name)
    return more


def cells(spent: float, total: float) -> list[str]:
    return [f"{spent:.2f}", f"{100 * spent / total:.1f}"]


def rate(macs: int | None, spent: float) -> list[str]:
    return ["", ""] if macs is None else [f"{macs / 1e9:.3f}", f"{macs / 1e6 / spent:.0f}"]


def part_of(kernel: FunctionEvent, size: int) -> str:
    """Return the part of a kernel: that of a convolution follows from the shape of its output, others from the name."""
    if "qconv" in kernel.name:
        (shape,) = [
            child.concrete_inputs[0] if child.name == "aten::empty" else child.input_shapes[0]
            for child in kernel.cpu_children
            if child.name in ("aten::empty", "aten::clone")
        ]
        return "IMU branch" if shape[2] == 1 else STRIDES[size // shape[3]]
    if "max_pool" in kernel.name:
        return "max pool"
    if "gelu" in kernel.name or "replication_pad" in kernel.name or "convolution" in kernel.name:
        return "IMU branch"
    return "preprocessing" if "div" in kernel.name else "fusion"


def macs_of_parts(model: EgoDistill, inputs: tuple[torch.Tensor, ...]) -> dict[str, int]:
    """Return the multiply-accumulate operations of the convolutions and fully connected layers in the compiled file."""
    macs, plain = dict.fromkeys(LAYERS.values(), 0), export.Plain(model).model
    for prefix, part in LAYERS.items():
        for layer in plain.get_submodule(prefix).modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.register_forward_hook(functools.partial(add_macs, macs, part))
    with torch.no_grad():
        plain(*inputs)
    return macs


def add_macs(macs: dict[str, int], part: str, layer: nn.Module, inputs: object, output: torch.Tensor) -> None:
    macs[part] += output.numel() * layer.weight[0].numel()


if __name__ == "__main__":
    main()
