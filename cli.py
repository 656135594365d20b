"""The command line: one command for each step, and `demo`, which runs them all on a small world.

    egodistill demo                                              # everything, on a small rendered world
    egodistill prepare segments.csv --out store --clip-frames 16
    egodistill finetune store --out teacher.pt                   # a teacher, on labels
    egodistill extract store --teacher-file teacher.pt
    egodistill pretrain store --teacher teacher --out imu.pt     # stage 1
    egodistill distill store --teacher teacher --init imu.pt --out student.pt
    egodistill evaluate store --student student.pt
    egodistill predict walk.mp4 --student student.pt
    egodistill compare store --teacher teacher --out comparison  # all methods, accuracy against cost
    egodistill export student.pt --out student.pt2               # for a device

`egodistill COMMAND --help` lists a command's options. Each training command can be killed and given again: it goes
on where it was. This is the only file that knows all the others.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import faulthandler
import importlib
import os
import sys
from collections.abc import Iterator

import egodistill

__all__ = ["main"]

# What each command does.
COMMANDS = {
    "demo": "the paper's comparison on a small rendered world, in ten minutes",
    "synthesize": "render a small egocentric world in EPIC-KITCHENS' layout",
    "segments": "show what annotations hold, and what is left out",
    "check": "look at recordings: IMU, gaps, offset to the picture, faults",
    "transcode": "make working copies that are quick to read",
    "prepare": "decode every clip once, into a clip store",
    "status": "what a store holds, what failed and why, how fast it grows",
    "teachers": "list the video models that can teach, and what they cost",
    "finetune": "train a teacher or a student on a store's labels",
    "extract": "write a teacher's features and logits into a store",
    "pretrain": "stage 1: teach the IMU encoder by itself (section 3.4)",
    "distill": "stage 2: distil the teacher into a student (section 3.3)",
    "evaluate": "per-video top-1 of a student or teacher",
    "compare": "all methods of the paper's Figure 3, accuracy against cost",
    "ablate": "what each loss and the choice of frames give (Tables 1 and 4)",
    "export": "write a student as one file for a device",
    "measure": "multiply-adds, parameters and run time: the paper's Table 3 on this machine, or models of your own",
    "predict": "classify a recording, clip by clip",
}
# The module that has the options of a command; `model_commands` has those of all others.
MODULES = dict.fromkeys(("segments", "check", "transcode", "prepare", "status"), "commands")
MODULES |= dict.fromkeys(("demo", "synthesize", "compare", "ablate"), "demo")


def main(argv: list[str] | None = None) -> int:
    """Run a command and return the exit code. An error that the user can mend is one line on stderr, no traceback."""
    if sys.__stderr__ is not None and not faulthandler.is_enabled():
        faulthandler.enable(sys.__stderr__)  # a crash inside a library names the line of ours that called it
    for stream in (sys.stdout, sys.stderr):  # A letter that the terminal's encoding lacks is shown as \u043f.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        return run_command(argv)
    except OSError as error:
        if not is_closed_pipe(error):
            raise
        return 128 + 13  # What a shell makes of SIGPIPE.
    finally:
        drop_closed_output()


def run_command(argv: list[str] | None) -> int:
    arguments = parse(argv)
    if arguments.command in SHARED or "MASTER_ADDR" not in os.environ:
        return run_parsed(arguments)
    if int(os.environ.get("RANK", 0)):
        return 0
    with environment("WORLD_SIZE", "1"):  # Nobody is there to be met.
        return run_parsed(arguments)


@contextlib.contextmanager
def environment(name: str, value: str) -> Iterator[None]:
    """Set a variable of the environment inside the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def run_parsed(arguments: argparse.Namespace) -> int:
    try:
        arguments.run(arguments)
        leave_processes()
    except (ValueError, OSError) as error:
        if is_closed_pipe(error):
            raise
        if is_first_failure(error):
            print(f"\negodistill {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        if is_first_failure(error):
            print("\ninterrupted; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0


# Under torchrun the first process does the other commands alone.
SHARED = ("prepare", "finetune", "extract", "pretrain", "distill")


def is_first_failure(error: BaseException) -> bool:
    """Return whether to print an error: under torchrun that of the process that failed first."""
    known = getattr(error, "is_first_failure", None)  # a training stage asks before it wakes up the others
    if known is None:
        from egodistill import runtime  # Here, since it needs torch; a command has imported it already.

        known = runtime.is_first_failure()
    return known


def leave_processes() -> None:
    """End the connections to the other processes of a training."""
    from egodistill import runtime

    runtime.leave_processes()


# What a pipe whose reader has gone gives, as in `egodistill ... | head -1`: on Windows "invalid argument" as well.
CLOSED_PIPE = {errno.EPIPE} | ({errno.EINVAL} if os.name == "nt" else set())


def is_closed_pipe(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in CLOSED_PIPE and error.filename is None


def drop_closed_output() -> None:
    """Drop what stdout or stderr still hold for a reader that has gone: the interpreter would complain at its end."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError as error:
            if is_closed_pipe(error):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return the arguments of the command line; `run` is the function to call with them.

    The options of a command are added when it is called: some need torch, and a list of the commands does not.
    """
    argv = sys.argv[1:] if argv is None else argv
    parser = argparse.ArgumentParser(prog="egodistill", description=__doc__.split("\n")[0])
    parser.add_argument("--version", action="version", version=f"egodistill {egodistill.__version__}")
    parsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        parsers.add_parser(name, help=text, description=text, formatter_class=HelpWithDefaults)
    called = next((word for word in argv if not word.startswith("-")), None)
    if called in COMMANDS:
        module = importlib.import_module(f"egodistill.{MODULES.get(called, 'model_commands')}")
        add_options, run = module.COMMANDS[called]
        add_options(parsers.choices[called])
        parsers.choices[called].set_defaults(run=run)
    return parser.parse_args(argv)


class HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """Help that names the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.required or action.default is None or action.default is False or action.default == []
        return action.help if says_nothing else super()._get_help_string(action)


if __name__ == "__main__":
    sys.exit(main())
