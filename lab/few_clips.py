"""Measure how accurate students are that learn from few labelled clips of the demo's world.

    OMP_NUM_THREADS=1 python -m lab.few_clips OUT --seeds 0,1,2        # about half an hour on one core

Students learn from labels alone (VisIMU: one frame and head motion), from all training clips, every second, fourth,
eighth and sixteenth; all take equally many optimizer steps. Finished jobs are lines of `--results`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import egodistill
from egodistill import data
from egodistill.support import files, tables
from lab import benches, demo, intervals, options

EVERY = (1, 2, 4, 8, 16)  # train on every n-th clip
RESULTS = Path(__file__).resolve().parent.parent / "results" / "few_clips.jsonl"


def run_job(out: Path, settings: demo.Demo, every: int, seed: int) -> dict:
    """Train and evaluate one student; return its accuracy in %, and how many clips of a class it learned from."""
    recipe = settings.protocol.recipe
    usual = recipe.finetuning
    recipe = recipe.with_training(epochs=every * usual.epochs, warmup_epochs=every * usual.warmup_epochs)
    protocol = replace(settings.protocol, recipe=recipe)
    bench = benches.Bench(str(out / "store"), str(out / f"every-{every}"), protocol, every=every)
    run = benches.Run("VisIMU", seed)
    bench.run([run])
    clips = bench.train_clips(data.ClipStore(bench.store))
    found = {"seed": seed, "every": every, "clips": len(clips), "classes": len(set(clips.labels.tolist()))}
    machine = {"processor": tables.processor(), "version": egodistill.__version__}
    return found | {"top1": 100 * bench.result(run)["top1"]} | machine


def report(path: Path, markdown: str | None) -> None:
    """Print the table of the finished jobs."""
    rows = []
    jobs = list(files.read_lines(path, "seed", "every", "top1"))
    for every in EVERY:
        some = [job for job in jobs if job["every"] == every]
        if len(some) < 2:  # an interval needs two
            continue
        clips, classes = some[0]["clips"], some[0]["classes"]
        mean = intervals.one_way([job["top1"] for job in some]).within(0, 100)
        cells = [f"{clips}", f"{classes}", f"{clips / classes:.1f}", f"{mean.mean:.1f}"]
        rows.append([*cells, f"{mean.low:.1f} to {mean.high:.1f}", f"{len(some)}"])
    header = ["training clips", "classes", "clips a class", "top-1 (%)", "95 % interval", "seeds"]
    tables.report(tables.Table(header, rows), "lab/few_clips.py", markdown, sys.argv)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the world, the store and the students")
    parser.add_argument("--seeds", type=options.parse_seeds, default="0,1,2")
    parser.add_argument("--quick", action="store_true", help="few clips and epochs, to try it")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="JSONL", help="accuracies of finished jobs")
    tables.markdown_option(parser)
    a = parser.parse_args()
    settings = demo.QUICK if a.quick else demo.DEMO
    done = {(line["seed"], line["every"]) for line in files.read_lines(a.results, "seed", "every")}
    jobs = [(seed, every) for seed in a.seeds for every in EVERY if (seed, every) not in done]
    if jobs:
        demo.make_store(settings, a.out)
    for seed, every in jobs:
        files.append_line(a.results, run_job(a.out, settings, every, seed))
    report(a.results, a.markdown)


if __name__ == "__main__":
    main()
