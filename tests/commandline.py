"""Commands in the tests' own process, and stand-ins for what they call."""

import re
import shlex
from pathlib import Path

import numpy as np
import torch
from toys import Store

import egodistill
from egodistill import EgoDistill, data, distillation
from egodistill.commands import cli, paths, training
from egodistill.engine import runtime

ROOT = Path(egodistill.__file__).parent


def run(capsys, *command, main=cli.main) -> str:
    """Run a command that has to succeed; returns what it printed."""
    code = main([str(part) for part in command])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    for suggested in re.findall(r"(?m)^ +(?:egodistill|python -m lab) (.*)$", printed.out):
        cli.parse(shlex.split(suggested.replace("NAME", "x3d_m")))  # a command, with all that it requires
    return printed.out


def any_input(monkeypatch):
    """Let inputs be missing that stand-ins would read."""
    monkeypatch.setattr(paths.Reads, "found", lambda self, word, name: [word])


def auto() -> str:
    """The precision that "auto" stands for on this machine."""
    return runtime.pick_precision(torch.device("cpu"), "auto")


def small_student(folder) -> Path:
    options = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 8, "frame_size": 32}
    EgoDistill(2, class_names=["walk", "run"], feature_dim=128, **options).save(folder / "other.safetensors")
    return folder / "other.safetensors"


def spy_on_stages(monkeypatch) -> list:
    """Return a list that gets (stage, model, settings, other arguments) of each training, in place of the training."""
    calls = []

    def stage(name):
        def train(model, store, settings, **named):
            calls.append((name, model, settings, named))
            model.trained_with = {"about": {}, "history": []}  # as of a training
            model.save(settings.out)
            return [{"loss": 1.0, "top1": 0.5, "matching": 0.5}]

        return train

    for name in ("finetune", "distill", "pretrain_imu"):
        monkeypatch.setattr(distillation, name, stage(name))
    monkeypatch.setattr(training, "open_split", lambda path, split: ToyClips())
    any_input(monkeypatch)
    return calls


class ToyClips(Store):
    """Clips in memory with the settings of a store."""

    def __init__(self):
        super().__init__(8, size=32)
        self.settings, self.specs = {"frame_size": 32}, {}
        self.splits = ["test", "train"]

    def done(self, name):
        """All rows are written."""
        return np.ones(len(self), bool)

    def split(self, name):
        """All rows are of each split."""
        return self


class Clips(ToyClips):
    """... opened from a path, with clips for a teacher."""

    def __init__(self, *opened):
        super().__init__()
        self.opened, self.path = opened, opened[0]
        self.specs = {"clip": data.ClipSpec(frames=4, size=32, seconds=1.5)}
        self.arrays |= dict.fromkeys(("frames_4", "audio"), self.arrays["frames_1"])
        self.arrays["clip"] = np.zeros((8, 4, 3, 32, 32), np.uint8)
