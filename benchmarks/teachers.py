"""Compare MotionFormer in this library's form with the released form: time, memory, and difference of the features.

    python benchmarks/teachers.py                                     # all cases; batch 8 takes long on a CPU
    python benchmarks/teachers.py --batch-sizes 1 --value-steps original projected --repeats 1

Both forms have the same random weights and see the same random clips. Each measurement is a separate process, and the
two forms take turns, so a busy machine disturbs both. The result of a form is its fastest round, and in it the median
of the repeats. Memory is the peak of a forward pass without gradients: on a GPU, the memory that torch allocated; on a
CPU, the resident memory of the process. "peak" includes the weights, "beyond the weights" is what the pass added.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import teachers
from egodistill.engine import batches, runtime
from egodistill.support import tables

FORMS = {"released": False, "library": True}


def resident(key: str) -> float:
    """Return the resident memory in MB: "VmRSS" now, "VmHWM" the peak since the last `reset_peak()`."""
    status = Path("/proc/self/status")
    if not status.exists():  # Without /proc only the peak of the whole process is known.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1e3


def reset_peak() -> None:
    """Reset the peak of the resident memory (man 5 proc, clear_refs)."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


@torch.no_grad()
def measure(form: str, value_step: str, batch_size: int, precision: str, device: str, repeats: int) -> dict:
    """Return the seconds and MB of one form, and a feature."""
    small = teachers.load("motionformer_16x4", None, 2, size=32, width=96, depth=1, fast=FORMS[form], progress=False)
    small.to(device)(batches.example_inputs(small)[0].to(device))  # Libraries allocate memory at their first use.
    torch.manual_seed(0)
    teacher = teachers.load("motionformer_16x4", value_step=value_step, fast=FORMS[form], progress=False).to(device)
    clip = batches.example_inputs(teacher, batch_size)[0].to(device)
    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    reset_peak()
    idle = torch.cuda.memory_allocated() / 1e6 if cuda else resident("VmRSS")
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            feature = teacher(clip).feature
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() / 1e6 if cuda else resident("VmHWM")
    return {
        "seconds": float(torch.tensor(times[1:]).median()),
        "peak": peak,
        "above": peak - idle,
        "feature": feature[0].float().tolist(),
    }


def cells(old: dict, new: dict, key: str, digits: int) -> list[str]:
    """Return the values of both forms, and their ratio."""
    return [f"{old[key]:.{digits}f}, {new[key]:.{digits}f}", f"{old[key] / new[key]:.1f}"]


def main() -> None:
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument(
        "--precisions", nargs="+", choices=("fp32", "bf16"), help="default: fp32, and bf16 if it is fast"
    )
    parser.add_argument("--value-steps", nargs="+", choices=("original", "projected"), default=["original"])
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), default=devices)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what a child process measures, as JSON
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return

    print(f"MotionFormer 16x4, {torch.get_num_threads()} threads")
    for device in arguments.devices:
        fast, reason = runtime.bf16_speed(torch.device(device))
        precisions = arguments.precisions or (["fp32", "bf16"] if fast else ["fp32"])
        print(f"{device} in {' and '.join(precisions)}: {reason}", file=sys.stderr)
        rows = []
        for value_step in arguments.value_steps:
            for batch_size in arguments.batch_sizes:
                for precision in precisions:
                    found = {form: [] for form in FORMS}
                    for _ in range(arguments.rounds):
                        for form in FORMS:
                            what = {"form": form, "value_step": value_step, "batch_size": batch_size, "device": device}
                            what |= {"precision": precision, "repeats": arguments.repeats}
                            command = [sys.executable, __file__, "--one", json.dumps(what)]
                            run = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                            found[form].append(json.loads(run.stdout))
                    old, new = (min(found[form], key=lambda one: one["seconds"]) for form in FORMS)
                    apart = max(abs(a - b) for a, b in zip(old["feature"], new["feature"], strict=True))
                    what = [f"{batch_size}", value_step, precision]
                    measured = [
                        *cells(old, new, "seconds", 3),
                        *cells(old, new, "peak", 0),
                        *cells(old, new, "above", 0),
                    ]
                    rows.append([*what, *measured, f"{apart:.1e}"])
                    print(" | ".join(rows[-1]), file=sys.stderr)
        header = [
            "batch",
            "values",
            "precision",
            "seconds: released, ours",
            "ratio",
            "peak MB: released, ours",
            "ratio",
        ]
        header += ["MB beyond the weights: released, ours", "ratio", "feature difference"]
        machine = torch.cuda.get_device_name() if device == "cuda" else None
        table = tables.Table(header, rows)
        tables.report(table, "benchmarks/teachers.py", arguments.markdown, sys.argv, machine=machine)


if __name__ == "__main__":
    main()
