"""Measure what cheap frames cost in accuracy: one student on exact frames, key frames and the cheapest frames.

    python benchmarks/frame_choice.py student.pt world/EPIC_100_train.csv world

The annotated clips are prepared once per choice of frames, and the student is evaluated on each store. Differences are
paired: the same segments, with an interval from a bootstrap over segments. The student is the same in all rows, trained
on the frames that its own file names. Errors of time are those of the frames that it read, compared with the times that
it asked for; exact frames are up to one frame early.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill, annotations, batches, clips, data, evaluate, tables

DRAWS = 10_000


def interval(differences: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the mean over segments, by a bootstrap."""
    rng = np.random.default_rng(0)
    picked = rng.integers(0, len(differences), (DRAWS, len(differences)))
    low, high = np.quantile(differences[picked].mean(1), (0.025, 0.975))
    return float(low), float(high)


def right_answers(student: EgoDistill, store: data.ClipStore, precision: str) -> dict[str, bool]:
    """Return {segment: whether the student's answer is right}."""
    spec = next(spec for spec in store.specs.values() if spec.frames)
    student.exact, student.tolerance = spec.exact, spec.tolerance  # else the store would be refused
    found = evaluate(student, store, precision=precision, progress=False)
    names = list(dict.fromkeys(clip["id"] for clip in store.clips))
    return dict(zip(names, (found.scores.argmax(1) == found.labels).tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("student", metavar="STUDENT", help="file of a trained student")
    parser.add_argument("annotations", metavar="ANNOTATIONS")
    parser.add_argument("root", metavar="ROOT", help="folder with the videos and IMU files")
    parser.add_argument("--split", default="test")
    parser.add_argument("--tolerance", type=float, nargs="+", default=[0.25], help="seconds")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--out", metavar="FOLDER", help="keep the stores there (default: a temporary folder)")
    tables.markdown_option(parser)
    arguments = parser.parse_args()
    student = EgoDistill.load(arguments.student)
    spec = batches.clip_spec_of(student)
    segments = [s for s in annotations.read_annotations(arguments.annotations, arguments.root) if s.label]
    segments = [s for s in segments if arguments.split in (s.split, "all")]
    choices = {"exact frames": {}, "key frames": {"exact": False}}
    choices |= {f"cheapest frame within {t:g} s": {"tolerance": t} for t in arguments.tolerance}
    rows, exact = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, choice in choices.items():
            store = data.prepare(
                segments,
                Path(arguments.out or temporary, name.replace(" ", "_")),
                num_frames=student.num_frames,
                frame_size=spec.size,
                sampling=spec.sampling,
                ends=False,
                imu="imu" in student.inputs,
                class_names=student.class_names,
                **choice,
            )
            right = right_answers(student, store, arguments.precision)
            exact = exact or right
            both = [segment for segment in exact if segment in right]
            errors = store.time_errors(clips.frames_name(spec))
            cells = ["", ""]
            if right is not exact:
                differences = np.array([100.0 * (right[segment] - exact[segment]) for segment in both])
                low, high = interval(differences)
                cells = [f"{differences.mean():+.2f}", f"{low:+.2f} to {high:+.2f}"]
            top1 = f"{100 * np.mean(list(right.values())):.2f}"
            rows.append([name, str(len(right)), top1, *cells, f"{errors.mean():.3f}", f"{errors.max():.3f}"])
    header = ["frames", "segments", "top-1 (%)", "difference", "95 % interval", "mean error of time (s)", "largest (s)"]
    tables.report(tables.Table(header, rows), "benchmarks/frame_choice.py", arguments.markdown, sys.argv)


if __name__ == "__main__":
    main()
