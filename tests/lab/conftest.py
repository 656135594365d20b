"""The golden vectors of the baselines."""

import json

import numpy as np
import pytest
import torch
from small_baselines import draw


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
