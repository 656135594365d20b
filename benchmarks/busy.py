"""Measure how other programs on the machine slow down a training, with several ways to use the cores.

    python benchmarks/busy.py                  # about ten minutes

Each way is a set of environment variables of a process that takes training steps of the demo's teacher, a 3-D ResNet,
or of its student. The processes take turns: first on the machine as it is, which should be quiet, then beside as many
processes that compute without end as there are cores. Numbers are steps per second of wall-clock time, medians over
the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill.support import files, tables

CORES = files.available_cores()
WAYS: dict[str, dict[str, str]] = {
    "torch's default": {},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
    "GOMP_SPINCOUNT=3000 (the commands)": {"GOMP_SPINCOUNT": "3000"},
    "GOMP_SPINCOUNT=30000": {"GOMP_SPINCOUNT": "30000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
NETWORKS = ("teacher", "student")


def take_steps(network: str, seconds: float) -> float:
    """Return the training steps per second of a network of the demo."""
    import torch
    from torch.nn import functional as F

    from egodistill import teachers
    from egodistill.commands import demo

    torch.manual_seed(0)
    if network == "teacher":
        size = {"frames": demo.DEMO.clip_frames, "size": demo.DEMO.pixels, "seconds": 64 / 30}
        names = [str(k) for k in range(8)]
        model = teachers.load("slowfast_8x8_r50", class_names=names, progress=False, **size, **demo.SLOWFAST)
        inputs = (torch.randint(256, (16, demo.DEMO.clip_frames, 3, 64, 64), dtype=torch.uint8),)
    else:
        model = demo.DEMO.recipe.student.build(8, frame_size=demo.DEMO.pixels)
        inputs = (torch.randint(256, (32, 1, 3, 64, 64), dtype=torch.uint8), torch.randn(32, 422, 6))
    optimizer = torch.optim.AdamW(model.train().parameters(), fused=True)
    labels, steps, start_time = torch.arange(len(inputs[0])) % 8, -1, 0.0
    while steps < 1 or time.perf_counter() - start_time < seconds:
        if steps == 0:  # after one step to warm up
            start_time = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(*inputs).logits, labels).backward()
        optimizer.step()
        steps += 1
    return steps / (time.perf_counter() - start_time)


@contextlib.contextmanager
def load(processes: int) -> Iterator[None]:
    """Keep this many other processes busy inside the block."""
    code = "import torch; torch.set_num_threads(1); x = torch.ones(512, 512)\nwhile True: x @ x"
    busy = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0, help="seconds of training per measurement")
    parser.add_argument("--ways", nargs="+", choices=tuple(WAYS), default=tuple(WAYS))
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)  # in a child process
    tables.markdown_option(parser)
    a = parser.parse_args()
    if a.network:
        print(json.dumps(take_steps(a.network, a.seconds)))
        return
    found: dict[tuple[str, str, int], list[float]] = {}
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    for busy in (0, CORES):
        with load(busy):
            for _ in range(a.rounds):
                for network in NETWORKS:
                    for way in a.ways:
                        command = [sys.executable, __file__, "--network", network, "--seconds", str(a.seconds)]
                        done = subprocess.run(command, env=plain | WAYS[way], check=True, stdout=subprocess.PIPE)
                        found.setdefault((way, network, busy), []).append(json.loads(done.stdout))
                        print(busy, network, way, found[way, network, busy][-1], file=sys.stderr, flush=True)
    rows = [
        [way, *(f"{statistics.median(found[way, network, busy]):.2f}" for network in NETWORKS for busy in (0, CORES))]
        for way in a.ways
    ]
    header = ["threads", *(f"{network}, {when}" for network in NETWORKS for when in ("quiet", f"{CORES} busy"))]
    tables.report(tables.Table(header, rows), "benchmarks/busy.py", a.markdown, sys.argv)


if __name__ == "__main__":
    main()
