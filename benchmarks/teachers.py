"""MotionFormer in the library's form and as released: how much faster, how much less memory, and is it the same?

    python benchmarks/teachers.py                                     # every cell; batch 8 takes long on a CPU
    python benchmarks/teachers.py --batch-sizes 1 --value-steps original projected --repeats 1

Both forms have the same weights (random ones) and see the same random clips. Each measurement is a process of its own,
and the two forms take turns, so that a busy machine disturbs both. Of a form, the fastest round counts, and in it the
median of its repeats. Memory is the peak of a forward pass without gradients: on a GPU what torch allocated, on a CPU
the resident memory of the process. "Peak" has weights and everything else in it, "above idle" is what the pass added.
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout's egodistill, installed or not.

from egodistill import batches, runtime, teachers

FORMS = {"released": False, "library": True}


def resident(key: str) -> float:
    """Resident memory in MB: "VmRSS" now, "VmHWM" at its highest since the last `forget()`."""
    status = Path("/proc/self/status")
    if not status.exists():  # Without /proc only the highest ever is known, so "above idle" is too small.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1e3


def forget() -> None:
    """Begin anew to look for the highest resident memory (man 5 proc, clear_refs)."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


@torch.no_grad()
def measure(form: str, value_step: str, batch_size: int, precision: str, device: str, repeats: int) -> dict:
    """Seconds and MB of one form, and a feature."""
    small = teachers.load("motionformer_16x4", None, 2, size=32, width=96, depth=1, fast=FORMS[form], progress=False)
    small.to(device)(batches.example_inputs(small)[0].to(device))  # Libraries take memory when they are first used.
    torch.manual_seed(0)
    teacher = teachers.load("motionformer_16x4", value_step=value_step, fast=FORMS[form], progress=False).to(device)
    clip = batches.example_inputs(teacher, batch_size)[0].to(device)
    cuda = device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    forget()
    idle = torch.cuda.memory_allocated() / 1e6 if cuda else resident("VmRSS")
    times = []
    for _ in range(repeats + 1):  # The first one warms up.
        began = time.perf_counter()
        with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
            feature = teacher(clip).feature
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() / 1e6 if cuda else resident("VmHWM")
    return {
        "seconds": float(torch.tensor(times[1:]).median()),
        "peak": peak,
        "above": peak - idle,
        "feature": feature[0].float().tolist(),
    }


def ratio(old: dict, new: dict, key: str) -> str:
    return f"{old[key] / new[key]:.2f}"


def main() -> None:
    devices = ["cpu"] + ["cuda"] * torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--precisions", nargs="+", choices=("fp32", "bf16"), help="fp32, and bf16 where it is fast")
    parser.add_argument("--value-steps", nargs="+", choices=("original", "projected"), default=["original"])
    parser.add_argument("--devices", nargs="+", choices=("cpu", "cuda"), default=devices)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--one", help=argparse.SUPPRESS)  # What a process of its own is to measure, as JSON.
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return

    names = {"cpu": f"cpu, {torch.get_num_threads()} threads"}
    if "cuda" in devices:
        names["cuda"] = torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, MotionFormer 16x4, {', '.join(names[device] for device in arguments.devices)}")
    print("device | values | batch | precision | s released | s library | ratio | MB released | MB library | ratio")
    print("    | MB above idle released | MB above idle library | ratio | greatest difference of a feature")
    for device in arguments.devices:
        fast, reason = runtime.bf16_speed(torch.device(device))
        precisions = arguments.precisions or (["fp32", "bf16"] if fast else ["fp32"])
        print(f"{device} in {' and '.join(precisions)}: {reason}")
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
                    cells = (device, value_step, batch_size, precision)
                    cells += (f"{old['seconds']:.3f}", f"{new['seconds']:.3f}", ratio(old, new, "seconds"))
                    cells += (f"{old['peak']:.0f}", f"{new['peak']:.0f}", ratio(old, new, "peak"))
                    cells += (f"{old['above']:.0f}", f"{new['above']:.0f}", ratio(old, new, "above"), f"{apart:.1e}")
                    print(" | ".join(map(str, cells)), flush=True)


if __name__ == "__main__":
    main()
