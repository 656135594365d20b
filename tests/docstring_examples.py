"""The examples in docstrings, run in a folder with the files that they name (see examples.py)."""

import doctest
import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch


def documented(module: ModuleType, name: str) -> Iterator:
    """Yield each docstring of a module with examples, as a parameter of a test."""
    for found in doctest.DocTestFinder().find(module, name):
        if found.examples:
            yield pytest.param(found, id=found.name)


def run(found: doctest.DocTest, examples: Path, here: Path, needed: str | None, monkeypatch, capsys) -> None:
    """Raise AssertionError unless an example prints what it says, in a copy of the folder of the files."""
    if needed and importlib.util.find_spec(needed) is None:
        pytest.skip(f"needs {needed}")
    if not here.exists():
        shutil.copytree(examples, here)
    monkeypatch.chdir(here)
    found.globs = {"__name__": "__main__"}  # an example imports what it uses, so that it can be copied
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        failed = runner.run(found).failed
    assert not failed, capsys.readouterr().out
