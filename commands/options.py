"""What the options of several commands have in common: their types, checks and groups, and what --out may replace.

    from egodistill.commands import options

    parser.add_argument("--workers", type=options.positive_int)
    options.limit_options(parser)                           # --min-coverage, --max-gap, ...
    options.reject(options.given_flags(arguments, "stride"), "only for recordings without labels")

This module does not import torch; `settings` has the options that need it.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..imu import MAX_GAP
from ..recordings import clips
from ..support.errors import DataError
from ..video import MAX_HOLD
from .paths import FILE, OWN, Reads, own_source

__all__ = [
    "LIMITS",
    "accel_option",
    "axes_option",
    "clock_options",
    "coverage_options",
    "given_flags",
    "imu_files",
    "imu_option",
    "keyword_arguments",
    "limit_options",
    "offset_option",
    "positive_int",
    "positive_seconds",
    "reader_options",
    "reject",
    "report_notes",
    "suggest",
    "suggest_training",
    "teachers_in",
    "use_readers",
    "without_suggestions",
]


def positive_int(text: str) -> int:
    """Convert the text of an option to an integer of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def positive_seconds(text: str) -> float:
    """Convert the text of an option to a time above 0, of at most a day."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 86400:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, of at most a day (86400)")


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
    """Print the command that follows for a store with training clips.

    Args:
        store: The clip store.
        teacher: Name of the outputs that were written last; None: those of any teacher.
        architecture: The teacher whose clips the store has, if it is known.
    """
    if "train" not in store.splits:
        return
    if teacher := teacher or next(iter(teachers_in(store)), None):
        taught = (store.path, "--teacher", teacher)
        if "imu" in store.names:
            suggest("pretrain", *taught, "--out", "imu.pt")
        else:
            suggest("distill", *taught, "--no-imu", "--out", "student.pt")
    elif (store.labels >= 0).any():
        model = architecture if "clip" in store.names else "student"
        words = ("--architecture", model) if model else ()
        if model == "student" and not any(name.startswith("frames_") for name in store.names):
            words = (*words, "--image-encoder", "none")
        suggest("finetune", store.path, *words, "--out", "student.pt" if model == "student" else "teacher.pt")
    elif "clip" in store.names:
        suggest("extract", store.path, "--architecture", architecture or "NAME", "--pretrained", "FILE")
    else:  # nothing in it can be learned: no labels, and no clips for a teacher
        suggest("prepare", "RECORDINGS", "--out", "NEW", "--architecture", "swin3d_t", "--pretrained", "torchvision")


TEACHER_FILE = "a trained teacher, written by `egodistill finetune`; or FILE.py:NAME, a function that returns one"


def class_names_option(parser: Any) -> None:
    """Add --class-names to a parser or a group of options."""
    text = "names of the classes of --pretrained, one per line in the order of its logits (default: Kinetics-400's)"
    parser.add_argument("--class-names", metavar="FILE", type=FILE, help=text)


def root_options(parser: argparse.ArgumentParser) -> None:
    text = "folder with videos and IMU files of a data set or a labelling tool (default: folder of the annotations)"
    parser.add_argument("--root", metavar="FOLDER", type=FILE, help=text)
    text = "read one tier of ELAN, subject of BORIS or annotator of Label Studio (default: all, unless they overlap)"
    parser.add_argument("--tier", metavar="NAME", help=text)


def imu_option(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add --imu, for `imu_files()`.

    Args:
        parser: The parser, or a group of it.
        more: A further choice that the help names.
    """
    parser.add_argument(
        "--imu",
        nargs="+",
        metavar="CSV",
        type=Reads(words=("-",)),
        help=f"IMU of the video: one table, or one for the accelerometer and one for the gyroscope{more} (default: "
        "tables beside the video, or telemetry in it)",
    )


def suffix_and_name(text: str) -> tuple[str, str]:
    """Return the parts of a value of --imu-reader, such as ".log=FILE.py:NAME"."""
    suffix, equals, name = text.partition("=")
    if not (equals and suffix.startswith(".") and name):
        raise argparse.ArgumentTypeError(f"{text!r}: give .SUFFIX=FILE.py:NAME")
    return suffix.lower(), name


def reader_options(parser: Any) -> None:
    """Add --reader and --imu-reader, for `use_readers()`."""
    text = "camera of your own: a function path -> Recording or None, which is asked before the others; repeatable"
    parser.add_argument("--reader", metavar="FILE.py:NAME", type=OWN, action="append", help=text)
    text = "IMU format of your own: files with this suffix are read by a function path -> Imu; repeatable"
    role = Reads(files=own_source, convert=suffix_and_name)
    parser.add_argument("--imu-reader", metavar=".SUFFIX=FILE.py:NAME", type=role, action="append", help=text)


def use_readers(a: argparse.Namespace) -> None:
    """Import the functions of --reader and --imu-reader, and use them in this process."""
    if getattr(a, "imu", None):
        reject(given_flags(a, "reader"), "finds the IMU itself; leave out --imu, or --reader")
    clips.use_parts({"readers": a.reader or (), "imu_readers": dict(a.imu_reader or ())})


def offset_option(parser: argparse.ArgumentParser) -> None:
    """Add --imu-offset."""
    text = "add this to the times of the IMU samples"
    parser.add_argument("--imu-offset", metavar="SECONDS", type=float, default=0.0, help=text)


def clock_options(parser: argparse.ArgumentParser) -> None:
    """Add --imu-offset and --imu-stretch."""
    offset_option(parser)
    text = "multiply the times of the IMU samples by this"
    parser.add_argument("--imu-stretch", metavar="FACTOR", type=float, default=1.0, help=text)


def accel_option(parser: argparse.ArgumentParser) -> None:
    """Add --zero-accel."""
    parser.add_argument("--zero-accel", action="store_true", help="fill in zeros if a recording has no accelerometer")


def axes(text: str) -> str:
    """Return the value of --imu-axes. Raise ArgumentTypeError unless it is a turn or a name."""
    try:
        clips.read_axes(text)
    except DataError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("imu_axes: ")) from error
    return text


def axes_option(parser: argparse.ArgumentParser) -> None:
    """Add --imu-axes; None stands for the axes that the recordings name, or a GoPro's."""
    text = (
        "axes of the IMU samples: the rotation that makes them a GoPro's, such as XZy, as `egodistill check` finds it "
        "(the columns that point left, to the user and up, small letters for the opposite), or a name for other axes "
        "(default: gopro)"
    )
    parser.add_argument("--imu-axes", metavar="AXES", type=axes, help=text)


def imu_files(a: argparse.Namespace) -> Any:
    """Return the value of --imu: one path, a pair, or None."""
    return a.imu if a.imu is None or len(a.imu) > 1 else a.imu[0]


def report_notes(recording: clips.Recording) -> None:
    """Print on stderr what is unusual about the IMU samples of a recording."""
    source = clips.name_files(recording.imu_source)
    if notes := [note.removeprefix(f"{Path(source).name}: ") for note in recording.motion().notes]:
        print(f"note: {source}: {'; '.join(notes)}", file=sys.stderr)


def choice_options(parser: argparse.ArgumentParser) -> None:
    """Add the choices of frames that are faster than exact ones; at most one may be given."""
    group = parser.add_mutually_exclusive_group()
    text = "use the nearest key frames: faster, but at slightly different times"
    group.add_argument("--key-frames", action="store_true", help=text)
    text = "use the frames that are cheapest to decode within this time of the exact ones, such as 0.25 (0: exact ones)"
    group.add_argument("--tolerance", metavar="SECONDS", type=float, help=text)


# What a clip may lack; options of `data.prepare()` and `inference.predict()`.
LIMITS = ("zero_accel", "min_coverage", "max_gap", "max_hold")


def limit_options(parser: argparse.ArgumentParser) -> None:
    """Add the options in `LIMITS`."""
    accel_option(parser)
    coverage_options(parser)
    parser.add_argument(
        "--max-hold",
        metavar="SECONDS",
        type=float,
        default=MAX_HOLD,
        help="longest time that one frame may be on screen, in seconds; longer is a hole in the recording (default: "
        f"{MAX_HOLD})",
    )


def rate_option(parser: argparse.ArgumentParser) -> None:
    """Add --imu-rate."""
    text = "rate of a clip's head motion (default: 198, the paper's)"
    parser.add_argument("--imu-rate", metavar="HZ", type=float, help=text)


def bad_option(parser: argparse.ArgumentParser) -> None:
    """Add --max-bad."""
    text = "stop if more than this share of clips fails (default: 0.1)"
    parser.add_argument("--max-bad", metavar="SHARE", type=float, default=0.1, help=text)


def coverage_options(parser: argparse.ArgumentParser) -> None:
    """Add --min-coverage and --max-gap."""
    parser.add_argument(
        "--min-coverage",
        metavar="SHARE",
        type=float,
        help="share of a clip that its IMU samples must cover (default: 0.95)",
    )
    parser.add_argument(
        "--max-gap",
        metavar="SECONDS",
        type=float,
        help=f"largest gap between IMU samples that counts as covered, in seconds (default: {MAX_GAP})",
    )


def overwrite_option(parser: argparse.ArgumentParser, replaced: str = "a file that is not a result") -> None:
    """Add --overwrite, for `check_paths()`."""
    parser.add_argument("--overwrite", action="store_true", help=f"let an output replace {replaced}")
