"""Fixtures of the lab: its demo in miniature, its scripts, and the golden vectors of the baselines."""

import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_baselines import draw

LAB = Path(__file__).resolve().parents[2] / "lab"
SCRIPTS = [path.stem for path in LAB.glob("[!_]*.py") if "\nif __name__ ==" in path.read_text(encoding="utf-8")]


@pytest.fixture(scope="session")
def demo(once):
    """A finished `python -m lab demo` of two seeds in miniature."""
    from small_benches import Demo

    return once("lab-demo", lambda folder: Demo(folder / "out", "0,1"))


@pytest.fixture
def fresh():
    """A function that imports a script by its name, with constants of its own that a test may change."""
    forget_scripts()
    yield lambda name: importlib.import_module(f"lab.{name}")
    forget_scripts()


def forget_scripts():
    import lab

    for name in SCRIPTS:
        sys.modules.pop(f"lab.{name}", None)
        vars(lab).pop(name, None)


@pytest.fixture(scope="module")
def golden(sample_data):
    """A function: (part of a released model) -> its weights, and one: file name -> its vectors."""
    folder = sample_data.parent / "reference" / "baselines"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"needs the golden vectors of the released code in {folder}")
    manifest = json.loads((folder / "manifest.json").read_text())["models"]

    def weights(model):
        state = {}
        for key, (shape, kind) in manifest[model].items():
            if kind.startswith("alias:"):
                continue
            if kind == "zero":
                state[key] = torch.tensor(0)
                continue
            normal = draw(key).standard_normal(shape)
            value = {
                "plain": lambda n=normal: 0.02 * n,
                "norm": lambda n=normal: 1 + 0.02 * n,
                "var": lambda k=key, s=shape: 1 + 0.1 * draw(k).random(s),
            }[kind]()
            state[key] = torch.tensor(np.asarray(value, np.float32))
        for key, (_, kind) in manifest[model].items():
            if kind.startswith("alias:"):
                state[key] = state[kind.removeprefix("alias:")]
        return state

    return weights, lambda name: np.load(folder / f"{name}.npz")
