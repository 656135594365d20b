"""Measure what cheap frames cost in accuracy: students on exact frames, key frames and the frames cheapest to decode.

    python -m lab.evidence run --out EV                          # also trains the students; then:
    python -m lab.frame_choice measure --out EV                  # appends lines to results/frame_choice.jsonl
    python -m lab.frame_choice report --markdown results/frame_choice.md      # the table, from these lines alone

The students are those of one frame from world A's main comparison, which were trained on exact frames. The test clips
of a world are prepared once per choice of frames, and each student is evaluated on all of them. Videos have 20 frames a
second and a key frame every 2 s. Differences are paired by seed and wearer. Errors of time are those of the frames that
were read, compared with the times that were asked for; exact frames are up to one frame early.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from egodistill import data, evaluate
from egodistill.support import files, tables
from egodistill.world import behaviour
from lab import benches, contrasts, evidence, options
from lab.benches import Run
from lab.contrasts import Outcome
from lab.evidence_report import shared_seeds

LINES = evidence.RESULTS / "frame_choice.jsonl"
# {frames: options of `data.prepare()`}
CHOICES: dict[str, dict[str, Any]] = {
    "exact": {},
    "cheapest within 0.1 s": {"tolerance": 0.1},
    "cheapest within 0.25 s": {"tolerance": 0.25},
    "cheapest within 0.5 s": {"tolerance": 0.5},
    "key frames": {"exact": False},
}


def measure(out: Path, world: str, seeds: list[int]) -> None:
    """Append a line for each choice of frames and student of a seed that has none: which test clips it has right."""
    done = {
        (line["world"], line["frames"], line["seed"]) for line in files.read_lines(LINES, "world", "frames", "seed")
    }
    students = {seed: evidence.trained("A", out, Run("EgoDistill", seed, teacher=evidence.TEACHER)) for seed in seeds}
    segments = [one for one in evidence.segments_of(evidence.render(world, out)) if one.split == "test"]
    for name, choice in CHOICES.items():
        missing = [seed for seed in seeds if (world, name, seed) not in done]
        if not missing:
            continue
        store = data.prepare(
            segments,
            out / "frame-choice" / evidence.slug(f"{world} {name}"),
            num_frames=1,
            frame_size=evidence.PIXELS,
            ends=False,
            class_names=sorted(behaviour.VERBS),
            **choice,
        )
        errors = store.time_errors("frames_1")
        about = {"world": world, "frames": name, "mean_error": errors.mean(), "largest_error": errors.max()}
        for seed in missing:
            student = students[seed]
            student.exact, student.tolerance = choice.get("exact", True), choice.get("tolerance", 0.0)  # as the store
            record = benches.outcome_record(evaluate(student, store, progress=False), store)
            files.append_line(LINES, about | {"seed": seed} | record | evidence.origin_of_lines())
            print(f"world {world}, {name}, seed {seed}", flush=True)


def table(world: str) -> tables.Table:
    """Return accuracy and its difference to exact frames for each choice of frames in a world."""
    lines = [line for line in files.read_lines(LINES, "world", "frames", "seed") if line["world"] == world]
    found = {
        name: [
            Outcome(name, line["seed"], contrasts.unpack(line["correct"]), line["test"])
            for line in lines
            if line["frames"] == name
        ]
        for name in CHOICES
    }
    rows = []
    for name, some in found.items():
        if not some:
            continue
        gap = contrasts.difference(*shared_seeds(some, found["exact"]))
        line = next(line for line in lines if line["frames"] == name)
        cells = [f"{contrasts.accuracy(some):.1f}", "" if name == "exact" else str(gap)]
        cells += [f"{line['mean_error']:.3f}", f"{line['largest_error']:.3f}"]
        rows.append([name, *cells, str(gap.seeds)])
    header = ["frames", "top-1 (%)", "minus exact", "mean error of time (s)", "largest (s)", "seeds"]
    return tables.Table(header, rows)


def main() -> None:
    top = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = top.add_subparsers(dest="command", required=True)
    command = commands.add_parser("measure")
    command.add_argument("--out", type=Path, required=True, help="folder of evidence.py")
    command.add_argument("--world", choices=("A", "B"), default="A", help="whose test clips are read")
    command.add_argument("--seeds", type=options.parse_seeds, default=list(range(evidence.MAIN)))
    tables.markdown_option(commands.add_parser("report"))
    a = top.parse_args()
    if a.command == "measure":
        measure(a.out, a.world, a.seeds)
        return
    if not LINES.exists():
        raise SystemExit(f"{LINES}: there are no lines yet; run `frame_choice.py measure` first")
    origin = evidence.machines(files.read_lines(LINES, "processor"))
    for world in sorted({line["world"] for line in files.read_lines(LINES, "world")}):
        name = f"lab/frame_choice.py, world {world}"
        tables.report(table(world), name, a.markdown, sys.argv, origin=origin)


if __name__ == "__main__":
    main()
