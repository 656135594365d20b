"""What every command says about the paths that it is given, before it does anything."""

import argparse
import contextlib
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from egodistill.commands import cli
from egodistill.commands.paths import Reads, Writes

FOREIGN = b"my thesis"
PATHS = r"FILE|CSV|STORE|STUDENT|FOLDER|RUN|JSON|JSONL|VIDEO|VRS|PICTURE|SOURCE|WEIGHTS"


def make_inputs() -> None:
    """Write inputs that no reader accepts into the working folder."""
    for name in ("t.csv", "v.mp4", "v.vrs", "s.safetensors"):
        Path(name).write_text(f"of {name}")
    Path("store").mkdir()


def snapshot() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}


class Commands:
    """Commands, {name: what it needs, beginning with what it reads}, and the program that has them."""

    def __init__(self, needed, main=cli.main, program="egodistill"):
        self.needed, self.main, self.program = needed, main, program

    def line(self, command: str, more: str = "") -> list[str]:
        """The words of a command; of two inputs that exclude each other, the second stays."""
        needed = self.needed[command]
        needed = needed.replace("--student s.safetensors", "") if "--teacher-file" in more else needed
        return [*command.split(), *needed.split(), *more.split()]

    def inputs(self) -> Iterator[tuple[list[str], str]]:
        """Yield a command, where an input of it is missing, and that file: for each command and each of its inputs."""
        for command in self.needed:
            for name, _, role in cli.parse(self.line(command)).roles:
                for form in ("absent", "absent.py:x", "n=absent", ".x=absent.py:x") if isinstance(role, Reads) else ():
                    with contextlib.suppress(argparse.ArgumentTypeError):
                        value = role(form)
                        if found := [*role.files(value[-1] if isinstance(value, tuple) else value)]:
                            first = [*command.split(), form, *self.line(command)[len(command.split()) + 1 :]]
                            words = self.line(command, f"{name} {form}") if name.startswith("-") else first
                            yield words, found[0]
                            break

    def refusal(self, words: list[str], capsys) -> str:
        """Run a command that must fail and write nothing; return what it says."""
        before = snapshot()
        assert self.main(words) == 1
        assert snapshot() == before
        (said,) = capsys.readouterr().err.strip().splitlines()
        return said

    def check_input(self, words: list[str], file: str, capsys, monkeypatch) -> None:
        """An input is there, and can be read."""
        told = self.refusal(words, capsys)
        assert told.startswith(f"{self.program} {words[0]}: {file}: no such f")
        if "imagenet or none" in told:
            assert told.endswith(f"{file}: no such file; {words[-2]} takes a file, or imagenet or none")
        Path(file).write_text("locked")
        access = os.access
        monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (file, os.R_OK) and access(path, mode))
        told = f"{self.program} {words[0]}: {file}: cannot be read: Permission denied; give yourself the right"
        assert self.refusal(words, capsys).startswith(told)

    def check_kept(self, command: str, file: str, contents: list[bytes], capsys) -> None:
        """What is no earlier result stays: files with these contents."""
        for content in contents:
            Path(file).parent.mkdir(exist_ok=True)
            Path(file).write_bytes(content)
            told = self.refusal(self.line(command), capsys)
            assert told.startswith(f"{self.program} {command.split()[0]}: {file}: ")
            assert "already exists" in told or "the log of the training goes here" in told

    def made(self, command: str) -> list[Path]:
        """The files that a command says it writes."""
        a = cli.parse(self.line(command))
        roles = [(role, getattr(a, place), name) for name, place, role in a.roles if isinstance(role, Writes)]
        return [Path(one.path) for role, word, name in roles if word for one in role.made(word, a, name)]

    def check_twins(self, command: str, capsys) -> None:
        """No output is an input or another output, by the name of a link; also where only a file beside it is meant."""
        source = next((word for word in self.line(command) if Path(word).exists()), None)
        pairs = [(Path(source), path) for path in self.made(command)] if source else []
        for path, link in [*pairs, *itertools.combinations(self.made(command), 2)]:
            if path not in link.parents:
                link.parent.mkdir(exist_ok=True)
                link.symlink_to(path.absolute())
                kind = "an input" if str(path) == source else "an output"
                assert f": {link}: also {kind} of this command" in self.refusal(self.line(command), capsys)
                link.unlink()


def check_roles(command: str) -> None:
    """Every option that names a path has a role."""
    parser = argparse.ArgumentParser()
    cli.COMMANDS[command].options(parser)
    for action in parser._actions:
        named = re.search(rf"\b({PATHS})\b", str(action.metavar))
        named = named or (action.nargs != 0 and re.search(r"FILE\.py|, or a file", action.help or ""))
        if named or not action.option_strings:
            assert isinstance(action.type, (Reads, Writes)), action
