"""The command line: one command per step, and `demo`, which runs all steps on a small rendered world.

    egodistill demo
    egodistill prepare segments.csv --out store --clip-frames 16
    egodistill finetune store --out teacher.safetensors
    egodistill extract store --teacher-file teacher.safetensors
    egodistill pretrain store --teacher teacher --out imu.safetensors
    egodistill distill store --teacher teacher --init imu.safetensors --out student.safetensors
    egodistill evaluate store --student student.safetensors
    egodistill predict walk.mp4 --student student.safetensors
    egodistill live walk.mp4 --student student.safetensors

`egodistill COMMAND --help` describes a command and its options. A training command that was interrupted continues when
it is run again. The commands are in the other modules of this folder, which are imported when needed.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import importlib
import os
import re
import signal
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

from ..support import custom, files
from ..support.errors import EgoDistillError, NoteWarning, describe_error, did_you_mean
from ..support.tables import printable
from ..support.version import __version__
from . import options
from .interrupts import interruptible
from .paths import TRAINING, Reads, Writes, check_paths

__all__ = ["main"]


class Command(NamedTuple):
    """A command: `run_NAME(arguments)` of its module, which is not imported to parse its options."""

    about: str  # what it does
    example: str
    options: Callable[[argparse.ArgumentParser], None]
    module: str
    share: str = ""  # what each of {} processes of torchrun does; "": process 0 does the whole
    left: str = ""  # pattern of what an interrupted run leaves below --out, or in the store, and continues from
    grows: bool = False  # whether it writes each row of --out at once; the others write it at the end
    offline: str = ""  # how it is given what could not be downloaded; "": as the error says


EACH_BATCH = "computes 1/{} of each batch and waits for the others"
COMMANDS = {
    "demo": Command(
        "run the paper's main comparison on a small rendered world, in five to eight minutes",
        "egodistill demo",
        options.demo_options,
        "egodistill.commands.demo",
        left="*",
    ),
    "synthesize": Command(
        "render a small egocentric data set in the layout of EPIC-KITCHENS",
        "egodistill synthesize world",
        options.synthesize_options,
        "egodistill.commands.demo",
        left="*",
    ),
    "segments": Command(
        "summarize annotations: segments per class and split, and what is left out",
        "egodistill segments EPIC_100_train.csv --root /videos/EPIC-KITCHENS",
        options.segments_options,
        "egodistill.commands.recordings",
    ),
    "convert": Command(
        "convert recordings of Project Aria glasses to videos and IMU tables",
        "egodistill convert walk.vrs --out films",
        options.convert_options,
        "egodistill.commands.recordings",
        left="*",
    ),
    "check": Command(
        "check recordings: IMU coverage, gaps, clock offset, faults",
        "egodistill check walk.mp4 --imu walk.csv",
        options.check_options,
        "egodistill.commands.recordings",
    ),
    "transcode": Command(
        "make small copies of videos that are fast to read",
        "egodistill transcode walk.mp4 --out small",
        options.transcode_options,
        "egodistill.commands.recordings",
        left="*",
    ),
    "prepare": Command(
        "decode each clip once and write it to a clip store",
        "egodistill prepare segments.csv --out store --clip-frames 16",
        options.prepare_options,
        "egodistill.commands.recordings",
        share="decodes 1/{} of the clips",
        left="store.json",
        offline="--end-features FILE",
    ),
    "status": Command(
        "show how many clips of a store are ready, which failed and why",
        "egodistill status store",
        options.status_options,
        "egodistill.commands.recordings",
    ),
    "train": Command(
        "run every step from recordings to a student in one folder",
        "egodistill train segments.csv --out run --architecture swin3d_t --pretrained torchvision",
        options.train_options,
        "egodistill.commands.pipeline",
        left="*",
    ),
    "report": Command(
        "write a page about what `train` made, RUN/report.html, or about a model or an evaluation",
        "egodistill report run",
        options.report_options,
        "egodistill.commands.report",
    ),
    "teachers": Command(
        "list the available video models, with their size and cost",
        "egodistill teachers",
        options.no_options,
        "egodistill.commands.teachers",
    ),
    "finetune": Command(
        "train a teacher or a student on labels alone",
        "egodistill finetune store --architecture x3d_m --pretrained x3d_m.pyth --out teacher.safetensors",
        options.finetune_options,
        "egodistill.commands.training",
        share=EACH_BATCH,
    ),
    "extract": Command(
        "run a teacher on a store and add its features and logits to it",
        "egodistill extract store --teacher-file teacher.safetensors",
        options.extract_options,
        "egodistill.commands.training",
        share="computes one batch of {}",
        left="shards/*/*.sums.npy",
    ),
    "pretrain": Command(
        "stage 1: pretrain the IMU encoder (section 3.4 of the paper)",
        "egodistill pretrain store --teacher teacher --out imu.safetensors",
        options.pretrain_options,
        "egodistill.commands.training",
        share=EACH_BATCH,
    ),
    "distill": Command(
        "stage 2: distill a teacher into a student (section 3.3 of the paper)",
        "egodistill distill store --teacher teacher --init imu.safetensors --out student.safetensors",
        options.distill_options,
        "egodistill.commands.training",
        share=EACH_BATCH,
    ),
    "evaluate": Command(
        "evaluate a student or teacher: top-1 accuracy, or without labels agreement with a teacher",
        "egodistill evaluate store --student student.safetensors",
        options.evaluate_options,
        "egodistill.commands.models",
    ),
    "export": Command(
        "export a student to one file that runs without this library",
        "egodistill export student.safetensors --out student.onnx --format onnx",
        options.export_options,
        "egodistill.commands.models",
    ),
    "measure": Command(
        "measure cost and run time of the models in the paper's Table 3, or of your own models",
        "egodistill measure --student student.safetensors",
        options.measure_options,
        "egodistill.commands.models",
    ),
    "predict": Command(
        "classify a recording clip by clip",
        "egodistill predict walk.mp4 --imu walk.csv --student student.safetensors",
        options.predict_options,
        "egodistill.commands.models",
        grows=True,
    ),
    "live": Command(
        "classify a camera, or a file at real speed, as it comes",
        "my_imu | egodistill live /dev/video0 --imu - --align arrival --student student.safetensors",
        options.live_options,
        "egodistill.commands.live",
        grows=True,
    ),
}


def main(argv: list[str] | None = None, program: str = "egodistill") -> int:
    """Run a command, and return the exit code.

    An error that the user can fix (ValueError, OSError) is one line on stderr and exit code 1. Unknown commands and
    options, and --help, raise SystemExit.

    >>> from egodistill.commands import cli
    >>> code = cli.main(["status", "store", "--seconds", "0.1"])
    split  ok  failed  missing
    -----  --  ------  -------
    train  16       0        0
    test    6       0        0
    3 shards complete
    <BLANKLINE>
    step            clips  clips per second  time left
    -----------  --------  ----------------  ---------
    prepare      22 of 22                 -          -
    extract x3d  22 of 22                 -          -
    >>> code
    0
    """
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # After a crash inside a library, print the Python line that called it.
    end_cleanly()
    let_threads_sleep()
    for stream in (sys.stdout, sys.stderr):  # Print letters that the terminal's encoding lacks as \u043f.
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        return run_command(sys.argv[1:] if argv is None else argv, program)
    except OSError as error:
        if not is_closed_pipe(error):
            raise
        return 128 + 13  # The exit code that a shell reports for SIGPIPE.
    finally:
        drop_closed_output()


def end_cleanly() -> None:
    """Let SIGTERM and SIGHUP end this process as Ctrl-C does, so that temporary files are removed.

    Not under torchrun, whose processes must end at once, and not where the caller has other handlers or ignores them.
    """
    if "MASTER_ADDR" in os.environ or threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows has no SIGHUP.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, lambda number, frame: sys.exit(128 + number))


def let_threads_sleep() -> None:
    """Let torch's threads sleep soon when they wait for each other, if other programs are running.

    By default a waiting thread spins for milliseconds and takes its core from the thread that it waits for. Beside busy
    programs, a training took 1.6 to 3.3 times as long; on a quiet Xeon, threads that sleep cost up to a fifth
    (`benchmarks/busy.py`). torch's OpenMP library on Linux reads the variable when torch is imported. A setting in the
    user's environment is kept.
    """
    decided = "torch" in sys.modules or "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ
    if not decided and files.other_programs_run():
        os.environ["GOMP_SPINCOUNT"] = "3000"


def run_command(argv: list[str], program: str) -> int:
    arguments = parse(argv, program)
    if part := getattr(arguments, "part", None):
        if "MASTER_ADDR" in os.environ:
            return print_error(EgoDistillError("--part: torchrun makes the parts; leave it out"), arguments) or 1
        with environment("RANK", str(part[0])), environment("WORLD_SIZE", str(part[1])):
            return run_parsed(arguments)
    if COMMANDS[arguments.command].share or not (os.environ.get("WORLD_SIZE") and "MASTER_ADDR" in os.environ):
        return run_parsed(arguments)
    if os.environ.get("RANK", "0") != "0":
        print_share(arguments)
        return 0
    with environment("WORLD_SIZE", "1"):  # The other processes have exited.
        return run_parsed(arguments)


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def command_module(command: str) -> ModuleType:
    """Import and return the module of a command."""
    return importlib.import_module(COMMANDS[command].module)


def run(arguments: argparse.Namespace) -> None:
    """Do the work of a command."""
    getattr(command_module(arguments.command), f"run_{arguments.command}")(arguments)


def run_parsed(arguments: argparse.Namespace) -> int:
    try:
        print_share(arguments)
        check_paths(arguments)
        check_device(arguments)
        command_module(arguments.command)  # its imports take long, and Ctrl-C may leave during them
        grows = COMMANDS[arguments.command].grows and arguments.out
        lock = files.output_lock(arguments.out) if grows else contextlib.nullcontext()
        with notes_as_lines(), interruptible(), lock:
            arguments.run(arguments)
        if torch_distributed := sys.modules.get("egodistill.engine.distributed"):  # else torch was not needed
            torch_distributed.leave_processes()
    except Exception as error:
        known = isinstance(error, (ValueError, OSError))
        place = custom.place(error, last=known)
        if is_closed_pipe(error) or not (known or place):
            raise
        if is_first_failure(error):
            told = EgoDistillError(f"{place}: {type(error).__name__}: {error}") if place else error
            print_error(told, arguments)
        return 1
    except KeyboardInterrupt as error:
        if is_first_failure(error):
            print(f"\ninterrupted{to_continue(arguments)}", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def notes_as_lines() -> Iterator[None]:
    """Print each note of the library once, as the other output of commands, and not as a warning of Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", NoteWarning)
        usual, said = warnings.showwarning, set()

        def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, NoteWarning):
                usual(message, category, *where, **more)
            elif str(message) not in said:
                print(f"note: {printable(str(message))}")
                said.add(str(message))

        warnings.showwarning = show
        yield


def to_continue(arguments: argparse.Namespace) -> str:
    """Return how an interrupted command continues; "" if nothing is left to continue from."""
    command, how = arguments.command, ""
    if command in TRAINING:
        left = files.training_file(arguments.out).exists()
    else:
        anew = getattr(arguments, "overwrite", False)
        folder = Path(arguments.store if command == "extract" else getattr(arguments, "out", None) or "")
        pattern = COMMANDS[command].left
        left = bool(pattern) and any(folder.glob(pattern)) and (not anew or command == "extract")
        how = " without --overwrite" if anew else ""
    return f"; run the same command again{how} to continue from here" if left else ""


def print_error(error: Exception, arguments: argparse.Namespace) -> None:
    """Print an error on stderr; some commands name their own option for weights that cannot be downloaded."""
    text, command = describe_error(error), arguments.command
    weights, offline = sys.modules.get("egodistill.engine.image_encoders"), COMMANDS[command].offline
    if weights and isinstance(error, weights.DownloadError) and offline:
        text = f"{vars(error)['problem']}, or give {offline}"
    text = re.sub(rf"^{command}(_imu)?: ", "", text)  # the stage of a training
    print(f"\n{arguments.words[0]} {command}: {text}", file=sys.stderr)


def check_device(arguments: argparse.Namespace) -> None:
    """Raise EgoDistillError for a --device that torch cannot use: before the work, and as one line."""
    if getattr(arguments, "device", None):
        from ..engine import runtime

        runtime.pick_device(arguments.device)


def print_share(arguments: argparse.Namespace) -> None:
    """Print to stderr which share of the work is this process's: RANK and WORLD_SIZE may be those of another job.

    Not under torchrun, which starts the others, too. Raise DataError if they are not a share.
    """
    command, share = arguments.command, COMMANDS[arguments.command].share
    rank, count = files.environment_share().values()
    if count > 1 and "TORCHELASTIC_RUN_ID" not in os.environ and (share or "MASTER_ADDR" in os.environ):
        does = (share or "does nothing, because process 0 does the whole").format(count)
        what, way_out = f"RANK={rank} and WORLD_SIZE={count}", ", or unset RANK and WORLD_SIZE"
        if getattr(arguments, "part", None):
            what, way_out = f"part {rank + 1} of {count}", ""
        whole = f"for the whole, run the others, too{way_out}"
        print(f"{arguments.words[0]} {command}: {what}: this process {does}; {whole}", file=sys.stderr)


def is_first_failure(error: BaseException) -> bool:
    """Return whether to print an error: under torchrun only the process that failed first does."""
    known = getattr(error, "is_first_failure", None)  # set by a training stage before it unblocks the other ranks
    if known is None and "MASTER_ADDR" in os.environ:
        from ..engine import distributed

        known = distributed.is_first_failure()
    return known is not False


# Errors of a pipe whose reader has exited, as in `egodistill ... | head -1`; Windows may report "invalid argument".
CLOSED_PIPE = {errno.EPIPE} | ({errno.EINVAL} if os.name == "nt" else set())


def is_closed_pipe(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in CLOSED_PIPE and error.filename is None


def drop_closed_output() -> None:
    """Discard output for a reader that has exited, or a terminal that is gone, so that Python does not complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            gone = error.errno == errno.EIO and stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)
            if is_closed_pipe(error) or gone:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parse(argv: list[str], program: str = "egodistill") -> argparse.Namespace:
    """Return the parsed arguments, with `run`, the function of the command, `words`, the command line, and `roles`.

    Only the command that was called gets its options.
    """
    parser = Parser(
        prog=program,
        description="Distill video models into students that see a few frames and the motion of the head.",
        epilog=f"Start with `{program} demo`. `{program} COMMAND --help` describes a command.",
        formatter_class=CommandHelp,
    )
    parser.add_argument("--version", action="version", version=f"egodistill {__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        about = f"{command.about[0].upper()}{command.about[1:]}. Example:\n\n    {command.example}"
        parsers.add_parser(name, help=command.about, description=about, formatter_class=CommandHelp)
    called = next((word for word in argv if not word.startswith("-")), None)
    if not argv:
        parser.print_help(sys.stderr)
        parser.exit(2)
    if called is not None and called not in COMMANDS:
        parser.error(f"there is no command {called!r}{did_you_mean(called, COMMANDS)}")
    if called in COMMANDS:
        COMMANDS[called].options(parsers.choices[called])
        known = ("--help", *re.findall(r"--[\w-]+", parsers.choices[called].format_usage()))
        roles = parsers.choices[called].roles()
        parsers.choices[called].set_defaults(run=run, words=[program, *argv], roles=roles)
        for word in (word.partition("=")[0] for word in argv if len(word) > 2 and word.startswith("--")):
            if word == "--imu-offset" and word not in known and "--imu-offsets" in known:
                where = "in the column imu_offset of its segments, or in the table of --imu-offsets"
                parsers.choices[called].error(f"there is no option {word}; give the clock of a recording {where}")
            if not any(option.startswith(word) for option in known):
                why = did_you_mean(OPTION_ALIASES.get(word, word), known)
                parsers.choices[called].error(f"there is no option {word}{why}")
        parser.error = parsers.choices[called].error  # of words that are left: names the command
    return parser.parse_args(argv)


# What other programs call options.
OPTION_ALIASES = {
    "--lr": "--learning-rate",
    "--output": "--out",
    "--bs": "--batch-size",
    "--json": "--out",
    "--csv": "--out",
}
OPTION_ALIASES |= {"--vtt": "--subtitles"}


class Parser(argparse.ArgumentParser):
    """A parser whose errors are a line, and not the usage of twenty options before it."""

    def roles(self) -> list[tuple[str, str, Any]]:
        """Return (name, place among the arguments, role) of each option whose words are paths."""
        options = [action for action in self._actions if isinstance(action.type, (Reads, Writes))]
        return [("".join(option.option_strings) or option.dest, option.dest, option.type) for option in options]

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += did_you_mean(str(value), map(str, action.choices or ()))
            raise

    def error(self, message: str) -> NoReturn:
        if number := re.match(r"argument .*?(--[\w-]+): invalid (int|float) value: (.*)", message):
            unit = self._option_string_actions[number[1]].metavar
            kind = "a whole number" if number[2] == "int" else f"a number{' of seconds' if unit == 'SECONDS' else ''}"
            message = f"argument {number[1]}: {number[3]} is not {kind}"
        if left := re.match("unrecognized arguments: (.*)", message):
            takes = " and one ".join(action.dest for action in self._actions if not action.option_strings)
            first = [f", such as {action.option_strings[0]}" for action in self._actions[1:2] if action.option_strings]
            takes = f"one {takes}" if takes else f"nothing without an option{''.join(first)}"
            message = f"{left[1]}: left over; it takes {takes}"
        self.exit(2, f"\n{self.prog}: {message}\n`{self.prog} --help` lists what it takes\n")


class CommandHelp(argparse.RawDescriptionHelpFormatter):
    """Help that shows defaults, except None, empty ones, and those of options without a value."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog)
        self._action_max_length = 14  # argparse does not count the indentation of the commands

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        hidden = action.required or default is None or action.nargs == 0 or default in ([], argparse.SUPPRESS)
        if hidden or not action.help or "(default: " in action.help:
            return action.help
        shown = " ".join(map(str, default)) if isinstance(default, list) else str(default)
        return f"{action.help} (default: {shown.replace('%', '%%')})"


if __name__ == "__main__":
    sys.exit(main())
