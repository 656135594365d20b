"""What commands do with the options that were given: keyword arguments, refusals, the command to run next.

    from egodistill.commands import given

    given.reject(given.given_flags(arguments, "stride"), "only for recordings without labels")
    data.prepare(segments, arguments.out, **given.keyword_arguments(arguments, *given.LIMITS))

This module imports PyAV only where it opens recordings.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..deploy.events import Tracker
    from ..inference import Prediction
    from ..recordings.recording import Recording

__all__ = [
    "LIMITS",
    "given_flags",
    "single_input_text",
    "imu_files",
    "keyword_arguments",
    "note_single_inputs",
    "note_thresholds",
    "reject",
    "report_notes",
    "suggest",
    "suggest_training",
    "teachers_in",
    "use_readers",
    "without_suggestions",
]

# What a clip may lack; options of `data.prepare()` and `inference.predict()`.
LIMITS = ("zero_accel", "min_coverage", "max_gap", "max_hold")


def keyword_arguments(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that are not None as keyword arguments; the others keep the defaults of the function."""
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def given_flags(arguments: argparse.Namespace, *names: str) -> list[str]:
    """Return those of these options that were given, as flags, such as "--max-gap"."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) not in (None, False)]


def reject(flags: Sequence[str], reason: str) -> None:
    """Raise ValueError if there are options that would be ignored or that contradict another one."""
    if flags:
        raise ValueError(f"{', '.join(flags)}: {reason}")


SUGGESTS = [True]  # whether `suggest()` prints; the last value counts


@contextlib.contextmanager
def without_suggestions() -> Iterator[None]:
    """Let `suggest()` print nothing inside the block: what follows is decided already."""
    SUGGESTS.append(False)
    try:
        yield
    finally:
        SUGGESTS.pop()


def suggest(*words: Any) -> None:
    """Print the next command of `egodistill`, as one would type it; words in capital letters stand for others."""
    if SUGGESTS[-1]:
        print(f"Next:\n  {shlex.join(['egodistill', *map(str, words)])}")


def teachers_in(store: Any) -> list[str]:
    """Return the names of the teachers that have outputs for a clip of a store."""
    arrays = [name for name in store.names if name.endswith(".logits") and store.done(name).any()]
    return [name.removesuffix(".logits") for name in arrays]


def suggest_training(store: Any, teacher: str | None = None, architecture: str | None = None) -> None:
    """Print the command that follows for a store with training clips, with a teacher's outputs (None: of any)."""
    if "train" not in store.splits:
        return
    if teacher := teacher or next(iter(teachers_in(store)), None):
        taught = (store.path, "--teacher", teacher)
        if "imu" in store.names:
            suggest("pretrain", *taught, "--out", "imu.safetensors")
        else:
            suggest("distill", *taught, "--no-imu", "--out", "student.safetensors")
    elif (store.labels >= 0).any():
        model = architecture if "clip" in store.names else "student"
        words = ("--architecture", model) if model else ()
        if model == "student" and not any(name.startswith("frames_") for name in store.names):
            words = (*words, "--image-encoder", "none")
        name = "student" if model == "student" else "teacher"
        suggest("finetune", store.path, *words, "--out", f"{name}.safetensors")
    elif "clip" in store.names:
        suggest("extract", store.path, "--architecture", architecture or "NAME", "--pretrained", "FILE")
    else:  # nothing in it can be learned: no labels, and no clips for a teacher
        suggest("prepare", "RECORDINGS", "--out", "NEW", "--architecture", "swin3d_t", "--pretrained", "torchvision")


def use_readers(a: argparse.Namespace) -> None:
    """Import the functions of --reader and --imu-reader, and use them in this process."""
    from ..recordings.recording import use_parts

    if getattr(a, "imu", None):
        reject(given_flags(a, "reader"), "finds the IMU itself; leave out --imu, or --reader")
    use_parts({"readers": a.reader or (), "imu_readers": dict(a.imu_reader or ())})


def imu_files(a: argparse.Namespace) -> Any:
    """Return the value of --imu: one path, a pair, or None."""
    return a.imu if a.imu is None or len(a.imu) > 1 else a.imu[0]


def report_notes(recording: Recording) -> None:
    """Print on stderr what is unusual about the IMU samples of a recording."""
    from ..support.names import name_files

    source = name_files(recording.imu_source)
    if notes := [note.removeprefix(f"{Path(source).name}: ") for note in recording.motion().notes]:
        print(f"note: {source}: {'; '.join(notes)}", file=sys.stderr)


def single_input_text(had: Sequence[str], reads: Collection[str]) -> str:
    """Return "frames alone" or "imu alone" for an answer from one input of a student that reads more; else ""."""
    return f"{had[0]} alone" if len(had) == 1 < len(reads) else ""


def note_single_inputs(path: str, clips: Iterable[Prediction], reads: Collection[str]) -> None:
    """Print on stderr how many clips of a recording were classified from one of the inputs that a student reads."""
    counts = Counter(single_input_text(one.inputs, reads) for one in clips if not one.problem)
    for what in sorted(filter(None, counts)):
        print(f"note: {path}: {counts[what]} of {counts.total()} clips were classified from {what}", file=sys.stderr)


def note_thresholds(tracker: Tracker, whose: str) -> None:
    """Print on stderr when an event begins and ends, and whose thresholds these are."""
    print(f"note: an event {tracker}: thresholds {whose}", file=sys.stderr)
