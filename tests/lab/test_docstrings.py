"""Docstrings of the lab: their examples print what they say, with the files of the library's examples, and sound."""

import importlib

import docstring_examples
import pytest
from commandline import ROOT

MODULES = sorted(path.stem for path in (ROOT / "lab").glob("[!_]*.py"))
OPTIONAL = {"lab.figures.draw": "matplotlib"}  # examples that need an extra


@pytest.fixture(scope="session")
def examples(once):
    from examples import make

    from egodistill import data
    from lab import audio

    def make_with_sound(folder):
        made = make(folder)
        audio.add_sound(data.ClipStore(made / "store"), progress=False)
        return made

    return once("lab-examples", lambda folder: make_with_sound(folder / "made"))


def documented():
    for name in MODULES:
        yield from docstring_examples.documented(importlib.import_module(f"lab.{name}"), f"lab.{name}")


@pytest.mark.parametrize("found", list(documented()))
def test_example_prints_what_it_says(found, examples, tmp_path, monkeypatch, capsys):
    docstring_examples.run(found, examples, tmp_path / "here", OPTIONAL.get(found.name), monkeypatch, capsys)
