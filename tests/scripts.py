"""Run a script with its smallest settings, and read the tables that it writes into a document."""

import functools
import json
import re
import sys
from types import SimpleNamespace

from egodistill.support import files
from egodistill.world import synthetic


def read_tables(document):
    """Return the tables of a document, {name of the section: (header, rows)}."""
    found = {}
    for name, body in re.findall(r"(?ms)^<!-- ([^/].*?) -->$(.*?)^<!-- /", document.read_text(encoding="utf-8")):
        lines = [line for line in body.splitlines() if line.startswith("|")]
        header, _, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
        found[name] = (header, rows)
    return found


def only(found):
    """Return header and rows of the only table."""
    ((header, rows),) = found.values()
    return header, rows


def number(cell):
    return float(cell.split(" ")[0])


def replies(answers):
    """Return a replacement of `subprocess.run()` for scripts that measure in child processes."""
    return lambda command, **options: SimpleNamespace(stdout=json.dumps(answers(command[2:])), returncode=0)


def make_small(monkeypatch) -> None:
    """Let worlds be rendered in this process, and small."""
    monkeypatch.setattr(files, "available_cores", lambda: 1)
    monkeypatch.setattr(synthetic, "render", functools.partial(synthetic.render, size=(32, 32)))
    monkeypatch.setenv("GOMP_SPINCOUNT", "3000")  # benchmarks/recording.py would set it


def program(module, path, monkeypatch, tmp_path):
    """Return a function that runs the `main` of a script with some words, and returns its tables by section."""

    def main(*words):
        document = tmp_path / "document.md"
        document.unlink(missing_ok=True)
        monkeypatch.setattr(sys, "argv", [path, *map(str, words), "--markdown", str(document)])
        module.main()
        return read_tables(document)

    return main
