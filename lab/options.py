"""The options of the lab's commands; their results have the names and places that `egodistill` gave them before."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path

from egodistill.commands.options import (
    device_option,
    measurement_options,
    name_value,
    positive_int,
    preset_option,
    teacher_option,
)
from egodistill.commands.paths import CUSTOM, DOCUMENT, FOLDER, STORE, TEACHER_MODEL, Made, Writes
from egodistill.commands.settings import IMAGE_WEIGHTS, add_fields
from egodistill.engine.recipes import Training
from egodistill.support import tables
from egodistill.support.errors import DataError
from lab.benches import METHODS
from lab.costs import TABLE_3
from lab.protocols import PROTOCOLS

DEMO_TEACHER = "slowfast"
DEMO_TEACHERS = ("slowfast", "x3d", "mvit", "motionformer")
CHANGES = ("epochs", "batch_size", "precision")  # settings that `compare` and `ablate` change in every training


def results_in(out: str, a: argparse.Namespace) -> list[Made]:
    """Return the results of `compare` and `ablate` in a folder."""
    ends = (".json", ".csv", ".png", ".svg") if a.command == "compare" else (".json", ".csv")
    return [Made(path, rule=partial(require_free, path)) for path in (Path(out, a.command + end) for end in ends)]


def require_free(path: Path) -> None:
    """Raise DataError if a folder that holds no runs has a file with the name of a result."""
    if path.exists() and not path.with_name("bench.json").exists():
        raise DataError(f"{path}: already exists, and {path.parent} holds no runs; give another --out")


def experiment_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that `compare` and `ablate` share, for `build_bench()`."""
    parser.add_argument("store", type=STORE, help="folder of a clip store with the splits train and test")
    teacher_option(parser, "; {seed} in it stands for the seed")
    text = "folder for weights and results; finished runs in it are reused"
    role = Writes(beside=results_in, folder=True)
    parser.add_argument("--out", metavar="FOLDER", type=role, required=True, help=text)
    seeds_option(parser, "0,1,2")
    preset_option(parser, PROTOCOLS)
    add_fields(parser, Training(), CHANGES)
    parser.add_argument(
        "--pretrained",
        metavar="NAME=FILE",
        nargs="+",
        action="extend",
        default=[],
        type=replace(IMAGE_WEIGHTS, convert=name_value),
        help="initial weights of the image networks: students=resnet18.pth AdaFuse=resnet50.pth STTS=... "
        "ListenToLook=..., or NAME=none for random weights (default: downloaded by torchvision; random with "
        "--preset demo)",
    )
    jobs_option(parser)
    tables.markdown_option(parser, DOCUMENT)
    device_option(parser)


def seeds_option(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--seeds", type=parse_seeds, default=default, help="seeds of the training runs, such as 0,1,2")


def jobs_option(parser: argparse.ArgumentParser) -> None:
    text = "number of runs at the same time; they share the cores"
    parser.add_argument("--jobs", metavar="N", type=positive_int, default=1, help=text)


def parse_seeds(text: str) -> list[int]:
    """Convert "0,1,2" to a list without duplicates."""
    if not all(part.isdecimal() and int(part) < 2**63 for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of integers such as 0,1,2, each below 2**63")
    return list(dict.fromkeys(map(int, text.split(","))))


def compare_options(parser: argparse.ArgumentParser) -> None:
    experiment_options(parser)
    text = "numbers of frames per clip (default: those of 1, 2, 4 that the store has)"
    parser.add_argument("--num-frames", metavar="N", type=positive_int, nargs="+", help=text)
    names = ", ".join(METHODS)
    text = f"one or more of {names}, or FILE.py:NAME for a `Method` of your own (default: all)"
    parser.add_argument("--methods", nargs="+", metavar="NAME", type=CUSTOM, help=text)
    text = "file of the teacher, to measure its cost (default: one trained in --out)"
    parser.add_argument("--teacher-file", metavar="FILE", type=TEACHER_MODEL, help=text)


def ablate_options(parser: argparse.ArgumentParser) -> None:
    experiment_options(parser)
    text = "number of frames per clip in Table 4"
    parser.add_argument("--num-frames", metavar="N", type=positive_int, default=4, help=text)


def demo_options(parser: argparse.ArgumentParser) -> None:
    text = "folder for all files of the demo"
    parser.add_argument("--out", metavar="FOLDER", type=FOLDER, default="lab-demo", help=text)
    seeds_option(parser, "0")
    text = "seed of the world; tune settings on another one"
    parser.add_argument("--world-seed", metavar="SEED", type=int, default=0, help=text)
    parser.add_argument(
        "--teachers",
        metavar="NAMES",
        default=DEMO_TEACHER,
        help=f"teachers to distill from, starting with {DEMO_TEACHER}: a list such as {DEMO_TEACHER},x3d, or all "
        f"({', '.join(DEMO_TEACHERS)}; takes hours, the paper's Table 2)",
    )
    text = "show in about a minute that every step runs, on few clips: no accuracies"
    parser.add_argument("--quick", action="store_true", help=text)
    text = "initial weights of the image encoders: imagenet, none (random), or a file (default: none)"
    parser.add_argument("--image-weights", metavar="NAME", type=IMAGE_WEIGHTS, help=text)
    add_fields(parser, Training(), ["precision"])
    jobs_option(parser)
    text = "draw no figure (results.png and .svg)"
    parser.add_argument("--no-plot", dest="plot", action="store_false", help=text)
    tables.markdown_option(parser, DOCUMENT)


def table3_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", metavar="NAME", nargs="+", choices=TABLE_3, help="rows of Table 3 (default: all)")
    measurement_options(parser)


def sound_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=STORE, help="folder of a clip store")
