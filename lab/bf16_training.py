"""Compare the accuracy of networks that were trained in fp32 and in bf16, over paired seeds of the demo.

    OMP_NUM_THREADS=1 python -m lab.bf16_training OUT --seeds 0,1,2,3,4        # 20 minutes per seed on one core

For each seed, the demo's teacher, its student and the image encoder that the student starts from are trained in both
precisions, on the same clips. All networks are evaluated in fp32, on four times as many test clips as in the demo,
since the difference of two networks on 400 clips varies by two points. The interval is Student's t over the seeds.

A job is one seed in one precision. Its accuracies become a line of `--results`, a file of this repository, and jobs
that it holds are not repeated, so the seeds can be spread over days and machines. Within a job, a run that was
interrupted continues. `--report` only prints the table.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import egodistill
from egodistill.support import files, tables
from lab import benches, demo, intervals, options

PRECISIONS = ("fp32", "bf16")
RESULTS = Path(__file__).resolve().parent.parent / "results" / "bf16_training.jsonl"


def make_bench(out: Path, settings: demo.Demo, precision: str) -> benches.Bench:
    """Return the bench of one precision; both share a store."""
    settings = settings.with_training(precision=precision)
    teachers = {teacher_name(precision): settings.teachers[options.DEMO_TEACHER]}
    return benches.Bench(str(out / "store"), str(out / precision), settings.protocol, teachers=teachers)


def teacher_name(precision: str) -> str:
    return f"{precision}-{{seed}}"


def runs_of(precision: str, seed: int) -> list[benches.Run]:
    student = benches.Run("EgoDistill", seed, teacher=teacher_name(precision))
    return [replace(student, method="teacher"), student, benches.Run("VisIMU", seed)]


def run_job(out: Path, settings: demo.Demo, precision: str, seed: int) -> dict:
    """Train and evaluate the networks of a seed in one precision; return their accuracies in %, by method."""
    bench = make_bench(out, settings, precision)
    runs = runs_of(precision, seed)
    bench.run(runs)
    top1 = {run.method: 100 * bench.result(run)["top1"] for run in runs}
    machine = {"processor": tables.processor(), "version": egodistill.__version__}
    return {"seed": seed, "precision": precision, "top1": top1} | machine


def report(path: Path, markdown: str | None) -> None:
    """Print the table of the seeds that are finished in both precisions."""
    jobs = {(line["seed"], line["precision"]): line["top1"] for line in files.read_lines(path, "seed", "top1")}
    seeds = sorted({seed for seed, _ in jobs if all((seed, name) in jobs for name in PRECISIONS)})
    if len(seeds) < 2:
        print(f"{path}: {len(seeds)} seeds are finished, and an interval needs two")
        return
    found: dict[str, list[list[float]]] = {}  # {method: [[fp32, bf16] of a seed, ...]}
    for seed in seeds:
        exact, fast = (jobs[seed, name] for name in PRECISIONS)
        for method in exact:
            found.setdefault(method, []).append([exact[method], fast[method]])
        found.setdefault("mean of these", []).append([statistics.mean(one.values()) for one in (exact, fast)])
    rows = []
    for method, pairs in found.items():
        gain = intervals.one_way([fast - exact for exact, fast in pairs]).within(-100, 100)
        means = [f"{statistics.mean(column):.2f}" for column in zip(*pairs, strict=True)]
        rows.append([method, *means, f"{gain.mean:+.2f}", f"{gain.low:+.2f} to {gain.high:+.2f}", str(len(seeds))])
    header = ["network", "fp32 top-1 (%)", "bf16 top-1 (%)", "difference", "95 % interval", "seeds"]
    tables.report(tables.Table(header, rows), "lab/bf16_training.py", markdown, sys.argv)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="folder for the world, the store and the networks")
    parser.add_argument("--seeds", type=options.parse_seeds, default="0,1,2,3,4")
    parser.add_argument("--quick", action="store_true", help="few clips and epochs, to try it")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="JSONL", help="accuracies of finished jobs")
    parser.add_argument("--report", action="store_true", help="train nothing")
    tables.markdown_option(parser)
    a = parser.parse_args()
    settings = demo.QUICK if a.quick else demo.DEMO
    settings = replace(settings, test_acts=4 * settings.test_acts)
    done = {(line["seed"], line["precision"]) for line in files.read_lines(a.results, "seed", "precision")}
    jobs = [(seed, name) for seed in a.seeds for name in PRECISIONS if (seed, name) not in done]
    if jobs and not a.report:
        demo.make_store(settings, a.out)
        for seed, name in jobs:
            files.append_line(a.results, run_job(a.out, settings, name, seed))
    report(a.results, a.markdown)


if __name__ == "__main__":
    main()
