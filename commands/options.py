"""The options of all commands. `--help` and a typing error need neither torch nor PyAV nor numpy.

    from egodistill.commands import options

    options.predict_options(parser)                         # adds --student, --imu, ...

`settings` makes the options of the settings of a stage; `cli` builds the parsers, and finds what does the work.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..deploy.events import EVERY, Tracker
from ..engine.published import TEACHERS
from ..engine.recipes import EPIC_KITCHENS, PRECISIONS, PRESETS, Training
from ..support import files, tables
from ..support.defaults import (
    EXPORT_FORMATS,
    EXPORT_PRECISIONS,
    MAX_GAP,
    MAX_HOLD,
    SAMPLING,
    SPLIT_BY,
    STREAM_FRAMES,
    TIMEOUT,
)
from .paths import (
    ANY,
    CUSTOM,
    DOCUMENT,
    FILE,
    FOLDER,
    PAGE,
    PUBLISHED,
    STORE,
    STUDENT,
    TEACHER_MODEL,
    Made,
    Reads,
    Writes,
    custom_source,
    page_about,
)
from .settings import add_fields, positive_int

__all__ = [
    "DEFAULT_TEACHER",
    "QUICK_CLIPS",
    "STUDENT_FIELDS",
    "TRAINING_FIELDS",
    "name_value",
    "positive_int",
    "positive_seconds",
]

DEFAULT_TEACHER = "slowfast_8x8_r50"
STUDENT_FIELDS = ("num_frames", "image_encoder", "image_weights", "imu_encoder", "optional_inputs")  # of `train`
TRAINING_FIELDS = ("epochs", "batch_size", "learning_rate", "seed", "precision")
QUICK_CLIPS = 600  # segments that `train --quick` uses, about
REPLACED = "a model of other settings, which is trained anew, or a file that is not a result"


def positive_seconds(text: str) -> float:
    """Convert the text of an option to a time above 0, of at most a day."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 86400:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0, of at most a day (86400)")


def small_share(text: str) -> float:
    """Convert the text of an option to a share from 0 to 0.5."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 0.5:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a share from 0 to 0.5")


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
    """Add --imu, for `imu_files()`; its help names one choice more."""
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
    parser.add_argument("--reader", metavar="FILE.py:NAME", type=CUSTOM, action="append", help=text)
    text = "IMU format of your own: files with this suffix are read by a function path -> Imu; repeatable"
    role = Reads(files=custom_source, convert=suffix_and_name)
    parser.add_argument("--imu-reader", metavar=".SUFFIX=FILE.py:NAME", type=role, action="append", help=text)


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
    from .. import cameras  # which needs numpy

    try:
        cameras.axes_and_turn(text)
    except cameras.CameraError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def axes_option(parser: argparse.ArgumentParser) -> None:
    """Add --imu-axes; None stands for the axes that the recordings name, or a GoPro's."""
    text = (
        "axes of the IMU samples: the rotation that makes them a GoPro's, such as XZy, as `egodistill check` finds it "
        "(the columns that point left, to the user and up, small letters for the opposite), or a name for other axes "
        "(default: gopro)"
    )
    parser.add_argument("--imu-axes", metavar="AXES", type=axes, help=text)


def offsets_option(parser: argparse.ArgumentParser) -> None:
    """Add --imu-offsets."""
    text = "table of IMU clock offsets, written by `egodistill check --out`"
    parser.add_argument("--imu-offsets", metavar="CSV", type=FILE, help=text)


def choice_options(parser: argparse.ArgumentParser) -> None:
    """Add the choices of frames that are faster than exact ones; at most one may be given."""
    group = parser.add_mutually_exclusive_group()
    text = "use the nearest key frames: faster, but at slightly different times"
    group.add_argument("--key-frames", action="store_true", help=text)
    text = "use the frames that are cheapest to decode within this time of the exact ones, such as 0.25 (0: exact ones)"
    group.add_argument("--tolerance", metavar="SECONDS", type=float, help=text)


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
    text = "share of a clip that its IMU samples must cover (default: 0.95)"
    parser.add_argument("--min-coverage", metavar="SHARE", type=float, help=text)
    text = f"largest gap between IMU samples that counts as covered, in seconds (default: {MAX_GAP})"
    parser.add_argument("--max-gap", metavar="SECONDS", type=float, help=text)


def overwrite_option(parser: argparse.ArgumentParser, replaced: str = "a file that is not a result") -> None:
    """Add --overwrite, for `check_paths()`."""
    parser.add_argument("--overwrite", action="store_true", help=f"let an output replace {replaced}")


PRESET_HELP = {
    "epic": "the paper's for EPIC-KITCHENS",
    "ego4d": "the paper's for Ego4D",
    "demo": "for the demo's small world",
    "spectrum": "not the paper's: head motion as plain numbers, without stage 1",
    "filterbank": "the same, with numbers that tell more of real heads",
}


def preset_option(parser: Any, presets: Collection[str] = tuple(PRESETS)) -> None:
    """Add --preset, the name of a `Recipe` or of a protocol."""
    named = ", ".join(f"{name} ({PRESET_HELP[name]})" for name in presets)
    text = f"default settings: {named}; this help shows epic's"
    parser.add_argument("--preset", choices=tuple(presets), default="epic", help=text)


def store_options(parser: argparse.ArgumentParser, split: str, **more: Any) -> None:
    parser.add_argument("store", type=STORE, help="folder of a clip store, written by `egodistill prepare`", **more)
    parser.add_argument("--split", default=split, help="split of the store to use, or all")


def teacher_option(parser: argparse.ArgumentParser, more: str = "") -> None:
    """Add --teacher, for `chosen_teacher()`; `more` is added to its help."""
    text = f"name of the teacher whose outputs are in the store (default: the only one){more}"
    parser.add_argument("--teacher", metavar="NAME", help=text)


def custom_option(parser: Any) -> None:
    """Add --custom, the user's own classes for `load_student()` and its relatives."""
    text = "class of your own that the student's file names: an encoder, a fusion network or the student; repeatable"
    parser.add_argument("--custom", metavar="FILE.py:NAME", type=CUSTOM, action="append", default=[], help=text)


def device_option(parser: Any) -> None:
    """Add --device, which `cli` checks."""
    parser.add_argument("--device", help="cpu, cuda, ... (default: a GPU if there is one)")


def precision_option(parser: Any, default: str) -> None:
    """Add --precision."""
    text = "arithmetic; auto is bf16 on hardware that is fast at it, otherwise fp32; fp16 is for older GPUs"
    parser.add_argument("--precision", choices=PRECISIONS, default=default, help=text)


# ---------------------------------------------------------------------------------------------------------------
# Recordings and stores


def segment_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the annotation readers, for `read_segments()`."""
    parser.add_argument(
        "annotations",
        type=FILE,
        help="EPIC_100_train.csv of EPIC-KITCHENS, fho_main.json of Ego4D, an export of ELAN (tab-delimited text), "
        "BORIS (aggregated events) or Label Studio (JSON), or your own CSV table with the columns video,start,stop,"
        "label; without labels a folder of recordings, or a table without the column label",
    )
    root_options(parser)
    text = "drop classes with fewer segments (default: 2 for Ego4D, 1 for the other data sets)"
    parser.add_argument("--min-instances", metavar="N", type=positive_int, help=text)
    text = "seed of Ego4D's random split, and of that of whole recordings without labels (default: 0)"
    parser.add_argument("--split-seed", metavar="SEED", type=int, help=text)
    text = "use every K-th segment of each split, for a first look at large data"
    parser.add_argument("--subsample", metavar="K", type=positive_int, default=1, help=text)
    offsets_option(parser)
    text = (
        "share of the training wearers (of recordings, if fewer than 5 wearers are known) for the split calibration: "
        "no network learns from it, it decides how sure a model is (default: 0, of `train` 0.1)"
    )
    parser.add_argument("--calibration-share", metavar="SHARE", type=small_share, help=text)
    axes_option(parser)
    reader_options(parser)
    text = "notes about what looks wrong in the table, such as rows twice, are errors"
    parser.add_argument("--strict", action="store_true", help=text)
    text = "length of a clip (default: 64/30, the paper's)"
    parser.add_argument("--clip-seconds", metavar="SECONDS", type=positive_seconds, help=text)
    text = (
        "add N clips of the class (none) from parts of training recordings that no segment covers, where all that "
        "happens has a label; with --subsample K, one in K of them"
    )
    parser.add_argument("--background", metavar="N", type=positive_int, help=text)
    text = "take --background also where segments cover less than a tenth of a recording, and of Ego4D"
    parser.add_argument("--sparse", action="store_true", help=text)
    group = parser.add_argument_group("recordings without labels")
    group.add_argument("--stride", metavar="SECONDS", type=float, help="step between clips (default: a clip's length)")
    text = "split whole recordings, or stretches of each with just over a clip between them (default: recording)"
    group.add_argument("--split-by", choices=SPLIT_BY, help=text)
    text = "share of the recordings, or of each, that is for testing (default: 0.3)"
    group.add_argument("--test-share", metavar="SHARE", type=float, help=text)


def segments_options(parser: argparse.ArgumentParser) -> None:
    segment_options(parser)
    parser.add_argument("--classes", metavar="N", type=positive_int, default=20, help="list the N largest classes")


def check_options(parser: argparse.ArgumentParser) -> None:
    text = "videos, folders of videos, or annotation files for all their videos; none: only --imu is checked"
    parser.add_argument("videos", nargs="*", metavar="VIDEO", type=FILE, help=text)
    root_options(parser)
    imu_option(parser)
    offset_option(parser)
    axes_option(parser)
    reader_options(parser)
    parser.add_argument("--no-offset", action="store_true", help="do not estimate the offset of the IMU's clock")
    text = "largest offset to search for, in seconds (default: 2)"
    parser.add_argument("--max-offset", metavar="SECONDS", type=positive_seconds, help=text)
    text = (
        "write the reliable offsets, and the axes where they are wrong, to a table for `prepare --imu-offsets`; rows "
        "of other recordings, and rows that were written by hand, stay"
    )
    role = Writes(ours=(rb"\A(\xef\xbb\xbf)?video,imu_offset(,[^\n]*)?\r?\n",))
    parser.add_argument("--out", metavar="CSV", type=role, help=text)
    text = (
        "draw the sensors beside the motion of the picture, as PNG or SVG, and say whether axes and clock look right; "
        "several recordings get numbers, such as check-1.png"
    )
    role = Writes(itself=False, beside=lambda path, a: getattr(a, "pictures", ()))
    parser.add_argument("--plot", metavar="PICTURE", type=role, help=text)
    overwrite_option(parser)


def films_in(out: str, a: argparse.Namespace) -> list[Made]:
    """Return the videos and tables of `convert`; it keeps those that are there."""
    from ..recordings import copies  # which needs PyAV

    films = (copies.converted_files(name, out) for name in a.recordings)
    return [Made(path, ANY) for path in dict.fromkeys(itertools.chain(*films))]


def convert_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recordings", nargs="+", metavar="VRS", type=FILE, help="recordings of Project Aria glasses")
    role, text = Writes(beside=films_in, folder=True), "folder for the videos and IMU tables"
    parser.add_argument("--out", metavar="FOLDER", type=role, required=True, help=text)
    text = (
        "scale pictures down to this many pixels on the shorter side, such as 256, which decode much faster than the "
        "1408 of the glasses (default: as recorded)"
    )
    parser.add_argument("--size", metavar="PIXELS", type=positive_int, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace existing videos and tables")


def copies_in(out: str, videos: Sequence[str]) -> dict[str, Path]:
    """Return {video: its copy in a folder}."""
    return {video: Path(out, f"{Path(video).stem}.mp4") for video in videos}


def transcode_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("videos", nargs="+", metavar="VIDEO", type=FILE, help="videos to copy")
    role = Writes(beside=lambda out, a: [Made(copy, ANY) for copy in {*copies_in(out, a.videos).values()}], folder=True)
    parser.add_argument("--out", metavar="FOLDER", type=role, required=True, help="folder for the copies")
    text = "shorter side of the copy, in pixels"
    parser.add_argument("--short-side", metavar="PIXELS", type=positive_int, default=256, help=text)
    text = "insert a key frame every N frames"
    parser.add_argument("--keyframe-every", metavar="N", type=positive_int, default=12, help=text)
    text = "CRF of x264: lower values give better, larger files"
    parser.add_argument("--quality", metavar="CRF", type=int, default=23, help=text)
    parser.add_argument("--measure", action="store_true", help="measure how much faster the copy can be read")
    parser.add_argument("--overwrite", action="store_true", help="replace existing copies")


def prepare_options(parser: argparse.ArgumentParser) -> None:
    segment_options(parser)
    parser.add_argument("--out", metavar="STORE", type=FOLDER, required=True, help="folder of the clip store")
    text = "number of frames per clip for students; several numbers store several sets"
    parser.add_argument("--num-frames", metavar="N", type=positive_int, nargs="+", default=[1], help=text)
    text = "height and width of these frames"
    parser.add_argument("--frame-size", metavar="PIXELS", type=positive_int, default=224, help=text)
    text = f"how these frames are chosen; one or more of {', '.join(SAMPLING)}"
    parser.add_argument("--sampling", metavar="RULE", choices=SAMPLING, nargs="+", default=["uniform"], help=text)
    choice_options(parser)
    text = "also store T frames per clip for video teachers (default: none)"
    parser.add_argument("--clip-frames", metavar="T", type=positive_int, help=text)
    text = "height and width of the teachers' frames (default: 224)"
    parser.add_argument("--clip-size", metavar="PIXELS", type=positive_int, help=text)
    rate_option(parser)
    parser.add_argument("--no-imu", action="store_true", help="do not store head motion")
    text = "store head motion alone, also of recordings without a video"
    parser.add_argument("--no-frames", action="store_true", help=text)
    limit_options(parser)
    bad_option(parser)
    parser.add_argument("--workers", metavar="N", type=positive_int, help="number of processes (default: all cores)")
    part_option(parser)
    text = "try clips again that failed in an earlier run, and all clips of files that have changed since"
    parser.add_argument("--retry-failed", action="store_true", help=text)
    group = parser.add_argument_group("one pass: run models while frames are in memory, and do not store these frames")
    group.add_argument("--teacher-file", metavar="FILE", type=TEACHER_MODEL, help=f"{TEACHER_FILE}; stores its outputs")
    text = "a published teacher of `egodistill teachers`: store its clips, or with --pretrained its outputs"
    group.add_argument("--architecture", metavar="NAME", help=text)
    text = "published weights of --architecture, or torchvision to download its own"
    group.add_argument("--pretrained", metavar="FILE", type=PUBLISHED, help=text)
    class_names_option(group)
    text = (
        "store image features instead of the end frames, for stage 1: the image encoder's weights, imagenet or a file"
    )
    role = Reads(words=("imagenet", "none"), remark="or imagenet")
    group.add_argument("--end-features", metavar="WEIGHTS", type=role, help=text)
    text = "the image encoder of --end-features, as of the student (default: resnet18)"
    group.add_argument("--image-encoder", metavar="NAME", help=text)
    group.add_argument("--batch-size", metavar="N", type=positive_int, help="clips per forward pass (default: 8)")
    text = "precision of these models; auto is bf16 on hardware that is fast at it (default: fp32)"
    group.add_argument("--precision", choices=("auto", "fp32", "bf16", "fp16"), help=text)
    group.add_argument("--device", metavar="NAME", help="device of these models (default: a GPU if there is one)")


def part_option(parser: argparse.ArgumentParser) -> None:
    text = "do the K-th of N parts, which may run at any time, on several machines, such as 3/16 (default: the whole)"
    parser.add_argument("--part", metavar="K/N", type=part, help=text)


def part(text: str) -> tuple[int, int]:
    """Return (rank, number of processes) of a part such as 3/16, which is process 2 of 16."""
    found = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with K from 1 to N, such as 3/16")
    return int(found[1]) - 1, int(found[2])


def status_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=STORE, help="folder of a clip store, finished or in progress")
    text = "measure the speed over this time, in seconds"
    parser.add_argument("--seconds", type=positive_seconds, default=2.0, help=text)
    text = "read all arrays, and compare each row with its checksum; damage ends with exit code 1"
    parser.add_argument("--verify", action="store_true", help=text)
    text = "remove the shards of clips that are in the table no more, and what killed processes left"
    parser.add_argument("--sweep", action="store_true", help=text)
    text = "first make the index anew of all shards; `prepare` with the table then gives it back labels and order"
    parser.add_argument("--rebuild", action="store_true", help=text)


# ---------------------------------------------------------------------------------------------------------------
# Training


def files_of_training(out: str, a: argparse.Namespace) -> Iterator[Made]:
    """Yield what a training writes: the model, and beside it the checkpoint and the log."""
    checkpoint = files.training_file(out)
    yield Made(out, (b"egodistill model",) if checkpoint.exists() else (rb'(?s)egodistill model.*trained_with\\": \{',))
    yield Made(checkpoint, (b"egodistill training",))
    yield Made(files.log_path(checkpoint), rule=partial(files.require_log, checkpoint))


MODEL = Writes((files.MODEL_SUFFIX,), itself=False, beside=files_of_training, stream=False)


def training_options(parser: argparse.ArgumentParser, stage: str, without: Sequence[str] = ()) -> None:
    """Add the settings of a stage (a field of `Recipe`) as options."""
    group = parser.add_argument_group("training")
    preset_option(group)
    add_fields(group, getattr(EPIC_KITCHENS, stage), without=without)
    device_option(group)


def validation_option(parser: argparse.ArgumentParser) -> None:
    """Add --validation, for `open_splits()`."""
    text = (
        "keep the weights of the epoch that is best on other clips: a split of the store, or a share of the training "
        "clips, such as 0.1, that is not trained on (of wearers; of videos or segments if these are too few)"
    )
    parser.add_argument("--validation", metavar="SPLIT|SHARE", type=split_or_share, help=text)


def split_or_share(text: str) -> str | float:
    """Convert the value of --validation: a number is a share, other words name a split."""
    try:
        share = float(text)
    except ValueError:
        return text
    if 0 < share <= 0.5:
        return share
    raise argparse.ArgumentTypeError(f"{text} is not a share above 0, of at most 0.5")


def student_options(parser: argparse.ArgumentParser, frames_alone: bool = True) -> None:
    """Add --init, --custom and the settings of a student, with --no-imu if it may read frames alone."""
    text = "start from the model in this file instead of building one; finetune: of other classes, too"
    parser.add_argument("--init", metavar="FILE", type=STUDENT, help=text)
    custom_option(parser)
    group = parser.add_argument_group("student")
    add_fields(group, EPIC_KITCHENS.student, without=["imu_encoder"])
    one = group.add_mutually_exclusive_group()
    add_fields(one, EPIC_KITCHENS.student, ["imu_encoder"])
    if frames_alone:
        text = "a model that reads frames alone (VisOnly and VisOnly-Distill of the paper): --imu-encoder none"
        none = {"action": "store_const", "const": None, "default": argparse.SUPPRESS}
        one.add_argument("--no-imu", dest="imu_encoder", help=text, **none)


def no_options(parser: argparse.ArgumentParser) -> None:
    """Add nothing: the command has no options."""


def finetune_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "train")
    parser.add_argument("--out", metavar="FILE", type=MODEL, required=True, help="file to write the model to")
    overwrite_option(parser, REPLACED)
    absent = {"default": argparse.SUPPRESS}  # An option that is not used is absent from the arguments.
    text = f"student, or a name from `egodistill teachers` (default: {DEFAULT_TEACHER})"
    parser.add_argument("--architecture", metavar="NAME", choices=("student", *TEACHERS), help=text, **absent)
    group = parser.add_argument_group("teacher")
    text = "published weights of the architecture, or torchvision to download its own (default: random weights)"
    group.add_argument("--pretrained", metavar="FILE", type=PUBLISHED, help=text, **absent)
    text = "name of the teacher, and of its outputs in a store (default: teacher)"
    group.add_argument("--name", help=text, **absent)
    text = "options of the network or its clips, such as drop_path=0.1 'depths=(1,1,1,1)'"
    group.add_argument(
        "--option", metavar="NAME=VALUE", nargs="+", action="extend", type=name_value, help=text, **absent
    )
    text = "train only the classifier; also of a student in the file of --init"
    parser.add_argument("--head-only", action="store_true", help=text)
    group.add_argument("--gradient-checkpointing", action="store_true", help="use less memory, but more time")
    student_options(parser)
    validation_option(parser)
    training_options(parser, "finetuning")


def name_value(text: str) -> tuple[str, Any]:
    """Convert "NAME=VALUE" to a pair; the value is a Python literal, or else text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    try:
        return name, ast.literal_eval(value)
    except (ValueError, SyntaxError):  # a word
        return name, value


def extract_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "all")
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--teacher-file", metavar="FILE", type=TEACHER_MODEL, help=TEACHER_FILE)
    text = "a published teacher, a name from `egodistill teachers`; with --pretrained"
    group.add_argument("--architecture", metavar="NAME", choices=tuple(TEACHERS), help=text)
    text = "published weights of --architecture, or torchvision to download its own"
    parser.add_argument("--pretrained", metavar="FILE", type=PUBLISHED, help=text)
    class_names_option(parser)
    part_option(parser)
    parser.add_argument("--name", help="name of the outputs in the store (default: the teacher's)")
    text = "crops per clip to average: centre; or left, centre, right"
    parser.add_argument("--views", type=int, choices=(1, 3), default=1, help=text)
    parser.add_argument("--batch-size", metavar="N", type=positive_int, default=8, help="clips per forward pass")
    text = "compute all outputs again, and replace those of another teacher; if interrupted, continue without it"
    parser.add_argument("--overwrite", action="store_true", help=text)
    precision_option(parser, "fp32")
    device_option(parser)


def student_training_options(parser: argparse.ArgumentParser, frames_alone: bool = True) -> None:
    """Add the options that `pretrain` and `distill` share, with --no-imu if the student may read frames alone."""
    store_options(parser, "train")
    teacher_option(parser)
    parser.add_argument("--out", metavar="FILE", type=MODEL, required=True, help="file to write the student to")
    overwrite_option(parser, REPLACED)
    student_options(parser, frames_alone)


def pretrain_options(parser: argparse.ArgumentParser) -> None:
    student_training_options(parser, frames_alone=False)  # Stage 1 trains the IMU encoder.
    # Image features are computed once, and no labels are read.
    training_options(parser, "pretraining", without=["crop", "jitter", "label_smoothing"])


def distill_options(parser: argparse.ArgumentParser) -> None:
    student_training_options(parser)
    validation_option(parser)
    training_options(parser, "distillation")
    text = "FILE.py:NAME, losses of your own: a class that inherits from egodistill.distillation.Distill"
    parser.add_argument("--objective", metavar="NAME", type=CUSTOM, help=text)


# ---------------------------------------------------------------------------------------------------------------
# Trained models

NOT_JSON = "{command} writes JSON; give a name that ends in {ends}"


def model_options(parser: argparse.ArgumentParser) -> None:
    """Add --student and --teacher-file, of which one is required."""
    group = parser.add_mutually_exclusive_group(required=True)
    text = "a trained student"
    group.add_argument("--student", metavar="FILE", type=STUDENT, help=text)
    group.add_argument("--teacher-file", metavar="FILE", type=TEACHER_MODEL, help=TEACHER_FILE)
    custom_option(parser)


def inference_options(parser: argparse.ArgumentParser) -> None:
    precision_option(parser, "auto")
    text = "use torch.compile: takes about a minute first, then runs faster"
    parser.add_argument("--compile", action="store_true", help=text)
    device_option(parser)


def without_option(parser: argparse.ArgumentParser) -> None:
    text = "leave out an input, for a student that was trained with --optional-inputs"
    parser.add_argument("--without", choices=("frames", "imu"), help=text)


def evaluate_options(parser: argparse.ArgumentParser) -> None:
    store_options(parser, "test", nargs="?")
    model_options(parser)
    without_option(parser)
    text = "also compare with this teacher's features in the store; clips without labels: with all its outputs"
    parser.add_argument("--teacher", metavar="NAME", help=text)
    role = Writes((".json",), (rb'\A\{\s*"format": "egodistill evaluation',), wrong=NOT_JSON)
    parser.add_argument("--out", metavar="JSON", type=role, help="write all results to this file")
    overwrite_option(parser)
    inference_options(parser)
    group = parser.add_argument_group("events on whole recordings, instead of clips of a store")
    text = "recordings in which all that happens has a label: a table of segments, annotations, or a store of them"
    group.add_argument("--recordings", metavar="TABLE", type=FILE, help=text)
    root_options(group)
    offsets_option(group)
    axes_option(group)
    reader_options(group)
    stride_option(group, "that of the student's thresholds, or {every:g}")
    event_start_option(group, "--recordings")
    text = "measure also where segments cover less than a tenth of a recording, and Ego4D"
    group.add_argument("--sparse", action="store_true", help=text)
    text = "choose thresholds that give the highest F1@50 on these recordings, and write them into the student's file"
    group.add_argument("--save-thresholds", action="store_true", help=text)


def stride_option(parser: Any, default: str) -> None:
    """Add --stride, the step between the clips of a recording."""
    text = f"step between clips (default: {default.format(every=EVERY)})"
    parser.add_argument("--stride", metavar="SECONDS", type=float, help=text)


def event_start_option(parser: Any, needed: str) -> None:
    """Add --event-start, for `events.choose_tracker()`."""
    text = f"with {needed}: probability at which an event begins; it ends below two thirds of it (default: that of the "
    text += f"student's file, or {Tracker.start:g})"
    parser.add_argument("--event-start", metavar="P", type=probability, help=text)


def exported_files(out: str, a: argparse.Namespace) -> Iterator[Made]:
    """Yield what `export` writes: one program or two, and beside each its description."""
    for path in files.pair_files(out) if a.pair else [Path(out)]:
        yield from (Made(path, None), Made(files.description_of(path), None))


def export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("student", metavar="STUDENT", type=STUDENT, help="file of a trained student")
    custom_option(parser)
    text = "file to write, .pt2 or .onnx; FILE.json describes its inputs"
    role = Writes(itself=False, beside=exported_files)
    parser.add_argument("--out", metavar="FILE", type=role, required=True, help=text)
    text = "export: a program for torch, slow in int8; aoti: compiled by AOTInductor, the fastest; onnx: ONNX"
    parser.add_argument("--format", choices=EXPORT_FORMATS, default="export", help=text)
    parser.add_argument(
        "--pair",
        action="store_true",
        help="write two programs for live inference: STEM.frame.pt2 (a picture) and STEM.motion.pt2 (the IMU "
        "samples and the kept image features) for --out STEM.pt2",
    )
    parser.add_argument("--precision", choices=EXPORT_PRECISIONS, default="fp32", help="weights and arithmetic")
    text = "exact number of clips per call (default: any); 1: faster"
    parser.add_argument("--batch-size", metavar="N", type=positive_int, help=text)
    text = "int8: clip store that gives the range of activations"
    parser.add_argument("--calibrate", metavar="STORE", type=STORE, help=text)
    text = "split of this store, or all (default: train)"
    parser.add_argument("--calibrate-split", metavar="SPLIT", help=text)
    text = "number of clips to calibrate with (default: 256)"
    parser.add_argument("--calibrate-clips", metavar="N", type=positive_int, help=text)
    text = "compare the file with the student on the clips of this store (default: the store of --calibrate)"
    parser.add_argument("--check", metavar="STORE", type=STORE, help=text)
    text = "split of this store, or all (default: test)"
    parser.add_argument("--check-split", metavar="SPLIT", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    tables.markdown_option(parser, DOCUMENT)


def measure_options(parser: argparse.ArgumentParser) -> None:
    several = {"metavar": "FILE", "nargs": "+", "default": []}
    parser.add_argument("--student", type=STUDENT, help="students, and other models that can be loaded", **several)
    custom_option(parser)
    parser.add_argument("--teacher-file", type=TEACHER_MODEL, help="your own: " + TEACHER_FILE, **several)
    measurement_options(parser)


def measurement_options(parser: argparse.ArgumentParser) -> None:
    """Add how to measure, for `measure_all()` and `report_costs()`."""
    parser.add_argument("--batch-size", metavar="N", type=positive_int, default=32, help="clips per forward pass")
    text = "time at most N forward passes of each model"
    parser.add_argument("--repeats", metavar="N", type=positive_int, default=10, help=text)
    text = "time at most this long per model, but at least two passes"
    parser.add_argument("--seconds", type=float, default=30, help=text)
    role = Writes((".json",), (rb'\A\{\s*"format": "egodistill measurement',), wrong=NOT_JSON)
    parser.add_argument("--out", metavar="JSON", type=role, help="write all results to this file")
    overwrite_option(parser)
    tables.markdown_option(parser, DOCUMENT)
    inference_options(parser)


def predict_options(parser: argparse.ArgumentParser) -> None:
    text = "video file of the recording, or folder of a Pupil Labs Neon; none: head motion alone, of --imu"
    parser.add_argument("video", nargs="?", type=FILE, help=text)
    parser.add_argument("--student", metavar="FILE", type=STUDENT, required=True, help="file of a trained student")
    custom_option(parser)
    without_option(parser)
    imu_option(parser)
    clock_options(parser)
    axes_option(parser)
    reader_options(parser)
    limit_options(parser)
    stride_option(parser, "a clip's length; with --events that of the student's thresholds, or {every:g}")
    parser.add_argument("--top", metavar="K", type=positive_int, default=3, help="print the K best classes")
    text = "give labels that last instead of single answers: printed, in --out and in --subtitles"
    parser.add_argument("--events", action="store_true", help=text)
    event_start_option(parser, "--events")
    choice_options(parser)
    role = Writes((".csv", ".json"), None, wrong="{name} must end in {ends}")
    parser.add_argument("--out", metavar="FILE", type=role, help="also write the results to this .csv or .json file")
    text = "also write a page for a browser: time line, frames, head motion, the least certain clips"
    role = Writes((".html", ".htm"), (PAGE.format("predict").encode(),))
    parser.add_argument("--html", metavar="FILE", type=role, help=text)
    text = "also write the best class of each clip as subtitles (.vtt), which players show over the video"
    role = Writes((".vtt",), (rb"\AWEBVTT - egodistill predict\n",))
    parser.add_argument("--subtitles", metavar="FILE", type=role, help=text)
    text = "show these labels on the page, too, and first what differs from them: a table of segments, or annotations"
    parser.add_argument("--labels", metavar="FILE", type=FILE, help=text)
    root_options(parser)
    text = "also write a small copy of the video (.mp4), which the page plays where a browser cannot play the video"
    parser.add_argument("--preview", metavar="FILE", type=Writes((".mp4",)), help=text)
    overwrite_option(parser, "an existing file, for --out also an earlier result")
    inference_options(parser)


# ---------------------------------------------------------------------------------------------------------------
# Live


def pair_or_student(word: str) -> list[str]:
    """Return the files of a pair or of a student."""
    pair = [str(file) for file in files.pair_files(word)] if word else []
    return pair if any(map(os.path.exists, pair)) else [*STUDENT.files(word)]


def of_camera(word: str) -> str:
    """Return the end of the message for the number of a camera, as OpenCV counts."""
    return f"; a camera is a device, such as /dev/video{word}" if word.isdigit() else ""


def live_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        nargs="?",
        type=Reads(remark=of_camera, files=lambda word: () if "://" in word else (word,)),
        help="video file, folder of a Pupil Labs Neon, address (rtsp://, http://, tcp://, udp://, ...), device "
        "(/dev/video0) or named pipe; none for a student that reads head motion alone",
    )
    parser.add_argument(
        "--student",
        metavar="FILE",
        type=Reads(files=pair_or_student),
        required=True,
        help="file of a trained student, or the name of a pair that `export --pair` wrote: NAME.pt2 for NAME.frame.pt2 "
        "and NAME.motion.pt2; a pair is code, so use only one whose source you trust",
    )
    custom_option(parser)
    without_option(parser)
    parser.add_argument("--every", metavar="SECONDS", type=float, default=EVERY, help="time between two answers")
    parser.add_argument(
        "--frames",
        choices=STREAM_FRAMES,
        default="centre",
        help="frames from the middle of the clip, as in training (the camera always runs), or the newest ones (it "
        "sleeps between two frame requests)",
    )
    text = "answer before the first frame, too: for a student that was trained with --optional-inputs"
    parser.add_argument("--before-frames", action="store_true", help=text)
    text = "time to wait for late samples and frames"
    parser.add_argument("--slack", metavar="SECONDS", type=float, default=0.05, help=text)
    parser.add_argument("--top", metavar="K", type=positive_int, default=3, help="number of best classes of an answer")
    coverage_options(parser)
    precision_option(parser, "auto")
    device_option(parser)
    group = parser.add_argument_group("frames")
    text = "with centre: largest distance from the middle (default: 0.5)"
    group.add_argument("--tolerance", metavar="SECONDS", type=float, help=text)
    text = "with newest: age above which a frame is not used (default: 4)"
    group.add_argument("--max-age", metavar="SECONDS", type=float, help=text)
    group.add_argument(
        "--period",
        metavar="SECONDS",
        type=float,
        help="with newest: time between two frame requests (default: a request when the head has moved fast; for a "
        "student without IMU, or with several frames, 2)",
    )
    group = parser.add_argument_group("IMU samples")
    form = '{"time": 1.25, "accel": [x, y, z], "gyro": [x, y, z]}'
    imu_option(group, f"; or -, on standard input a table with its header, or lines such as {form}")
    accel_option(group)
    axes_option(group)
    reader_options(group)
    group = parser.add_argument_group("clocks")
    clock_options(group)
    group.add_argument(
        "--frame-offset",
        metavar="SECONDS",
        type=float,
        default=0.0,
        help="a frame at t is at OFFSET + STRETCH * t on the clock of the samples: minus the offset of `egodistill "
        "check`, or the delay of a camera (negative) with --align arrival",
    )
    group.add_argument("--frame-stretch", metavar="FACTOR", type=float, default=1.0, help="see --frame-offset")
    group.add_argument(
        "--align",
        choices=("times", "arrival"),
        default="times",
        help="times: frames and samples are stamped by one clock; arrival: a camera and samples that arrive together "
        "were taken together, whatever their stamps",
    )
    group = parser.add_argument_group("run and output")
    group.add_argument("--fast", action="store_true", help="read a file as fast as possible; the answers are the same")
    group.add_argument("--seconds", metavar="N", type=positive_seconds, help="stop after N seconds")
    text = f"time without frames or samples after which a live source is lost (default: {TIMEOUT:g})"
    group.add_argument("--timeout", metavar="SECONDS", type=positive_seconds, help=text)
    text = "time for which an address that is lost is opened again and again; answers go on when it is back"
    group.add_argument("--reconnect", metavar="SECONDS", type=positive_seconds, help=text)
    group.add_argument("--events", action="store_true", help="give labels that last instead of single answers")
    event_start_option(group, "--events")
    group.add_argument("--json", action="store_true", help="print JSON lines in a terminal, too, as into a pipe")
    role = Writes((".jsonl",), None, wrong="{command} writes JSON lines; the name of {name} must end in {ends}")
    group.add_argument("--out", metavar="JSONL", type=role, help="also write the JSON lines to this file")
    overwrite_option(group, "an existing file, also an earlier result")


def probability(text: str) -> float:
    """Convert the text of an option to a probability."""
    with contextlib.suppress(ValueError):
        if 0.001 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a probability from 0.001 to 1")


# ---------------------------------------------------------------------------------------------------------------
# From recordings to a student, and the page about it


def report_page(source: str, a: argparse.Namespace) -> list[Made]:
    """Return the page in a folder of `train`, or about a file; --overwrite replaces no other."""
    page = Path(source, "report.html") if a.command == "train" else page_about(source)
    return [Made(page, rule=partial(files.check_output, page, ours=[PAGE.format("report").encode()]))]


RUN = Writes(folder=True, beside=report_page)


def train_options(parser: argparse.ArgumentParser) -> None:
    segment_options(parser)
    text = "folder for the clip store, models and results; it may be continued"
    parser.add_argument("--out", metavar="RUN", type=RUN, required=True, help=text)
    overwrite_option(parser, "models of other settings, which are trained anew")
    text = (
        "try clips again that failed, and prepare clips of changed files anew, with the models that learned from them"
    )
    parser.add_argument("--retry-failed", action="store_true", help=text)
    group = parser.add_argument_group("teacher (without one, the student learns from labels alone)")
    text = "a network of `egodistill teachers`, which is trained on the labels; without labels it needs --pretrained"
    group.add_argument("--architecture", metavar="NAME", choices=tuple(TEACHERS), help=text)
    text = "published weights that it starts from, or torchvision to download its own"
    group.add_argument("--pretrained", metavar="FILE", type=PUBLISHED, help=text)
    group.add_argument("--teacher-file", metavar="FILE", type=TEACHER_MODEL, help=TEACHER_FILE)
    text = "options of the network, such as 'depths=(1,1,1,1)'"
    group.add_argument("--option", metavar="NAME=VALUE", nargs="+", action="extend", type=name_value, help=text)
    text = "number and size of its frames (default: those of the network)"
    group.add_argument("--clip-frames", metavar="T", type=positive_int, help=text)
    group.add_argument("--clip-size", metavar="PIXELS", type=positive_int, help="height and width of its frames")
    group = parser.add_argument_group("student")
    add_fields(group, EPIC_KITCHENS.student, STUDENT_FIELDS)
    text = "height and width of its frames"
    group.add_argument("--frame-size", metavar="PIXELS", type=positive_int, default=224, help=text)
    rate_option(group)
    group = parser.add_argument_group("training")
    preset_option(group)
    add_fields(group, Training(), TRAINING_FIELDS)
    text = f"a first answer in minutes: 4 epochs, on at most about {QUICK_CLIPS} segments"
    group.add_argument("--quick", action="store_true", help=text)
    text = "also train the student on frames alone, and on labels alone, to compare"
    group.add_argument("--baselines", action="store_true", help=text)
    parser.add_argument("--no-check", dest="check", action="store_false", help="do not check clocks and axes")
    parser.add_argument("--workers", metavar="N", type=positive_int, help="processes that decode (default: all cores)")
    device_option(parser)
    group = parser.add_argument_group("what a clip may lack")
    limit_options(group)
    bad_option(group)
    parser.set_defaults(max_hold=None, max_bad=None)  # what is not given is left to `prepare`


def report_options(parser: argparse.ArgumentParser) -> None:
    text = "folder of `train`, for RUN/report.html; or a model (student.safetensors), for its curves and "
    text += "student.test.json in student.safetensors.html; or the JSON of `evaluate --out`"
    parser.add_argument("source", metavar="RUN", type=Writes(itself=False, beside=report_page), help=text)


# ---------------------------------------------------------------------------------------------------------------
# The demo


def synthesize_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("out", type=FOLDER, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world")
    text = "number of annotated actions of the training wearers"
    parser.add_argument("--train-acts", metavar="N", type=int, default=800, help=text)
    text = "number of annotated actions of the test wearers"
    parser.add_argument("--test-acts", metavar="N", type=int, default=400, help=text)
    text = "share of training actions with a wrong verb"
    parser.add_argument("--label-noise", metavar="SHARE", type=float, default=0.25, help=text)


def demo_options(parser: argparse.ArgumentParser) -> None:
    text = "folder for all files of the demo"
    parser.add_argument("--out", metavar="FOLDER", type=FOLDER, default="egodistill-demo", help=text)
    parser.add_argument("--seed", type=int, default=0, help="seed of the training")
    text = "seed of the world; tune settings on another one"
    parser.add_argument("--world-seed", metavar="SEED", type=int, default=0, help=text)
    text = "show in about a minute that every step runs, on few clips: no accuracies"
    parser.add_argument("--quick", action="store_true", help=text)
    add_fields(parser, Training(), ["precision"])
