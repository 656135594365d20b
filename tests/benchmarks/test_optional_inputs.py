"""Which candidate for a student that may lack an input is picked, and by what."""

import importlib
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import Store, small

import egodistill
from egodistill.experiments import contrasts

SCRIPTS = Path(egodistill.__file__).parent / "benchmarks"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="no benchmarks beside the package: not a checkout")


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield importlib.import_module("optional_inputs")
    finally:
        sys.path.remove(str(SCRIPTS))


def test_a_line_says_what_is_right_with_each_mix(script):
    model = small(optional_inputs=True).eval()
    torch.nn.init.normal_(model.no_frames)
    torch.nn.init.normal_(model.no_imu)

    class Clips(Store):
        wearers = ["P1"] * 8

    clips = Clips(8)
    found = script.right_of(model, clips)
    frames, imu = (torch.from_numpy(clips.arrays[name]) for name in ("frames_1", "imu"))
    with torch.no_grad():
        wanted = {"both": model(frames, imu), "frames": model(frames, None), "imu": model(None, imu)}
    assert {*found} == {*wanted}
    for mix, output in wanted.items():
        np.testing.assert_array_equal(found[mix], output.logits.argmax(1).numpy() == clips.labels)
    assert {*script.right_of(small().eval(), clips)} == {"both"}
    assert {*script.right_of(small(imu_encoder=None).eval(), clips)} == {"frames"}


def test_the_formula_picks_the_best_at_the_tap_of_those_that_cost_little(script):
    names = [one.name for one in script.METHODS]

    def cells(changes, seeds=script.SEEDS):
        found = {}
        for (world, own), name, frames in itertools.product(seeds.items(), names, (1, 4)):
            shares = {"validation": {"both": 80.0, "frames": 70.0, "imu": 40.0}}
            shares["tap, not followed"] = {"both": 50.0, "frames": 60.0, "imu": 20.0}
            for (method, n, acts, mix), value in changes.items():
                if (method, n) == (name, frames):
                    shares[acts] = shares[acts] | {mix: value}
            right = {
                acts: {
                    mix: contrasts.pack({"P1": np.arange(1000) < 10 * share, "P2": np.arange(1000) < 10 * share})
                    for mix, share in own.items()
                }
                for acts, own in shares.items()
            }
            found[world, name, frames] = {seed: {"right": right} for seed in own}
        return found

    tap = "tap, not followed"
    assert script.picked(cells({})) == "picked: Vectors"  # the first of equal ones
    better = {("Zeros", 4, tap, "both"): 51.5, ("Vectors and a gate", 4, tap, "both"): 52.0}
    assert script.picked(cells(better)) == "picked: Zeros"  # within a point of the best, and before it
    for costs in (
        {("Zeros", 1, "validation", "both"): 79.4},
        {("Zeros", 4, "validation", "both"): 79.4},
        {("Zeros", 4, "validation", "frames"): 67.9},
    ):
        assert script.picked(cells(better | costs)) == "picked: Vectors and a gate"
    assert script.picked(cells(better | {("Zeros", 1, "validation", "both"): 79.6})) == "picked: Zeros"
    dear = {(name, 1, "validation", "both"): 70.0 for name in names if name != script.WINNER}
    assert script.picked(cells(dear)) == "picked: none"

    # Those that do not go on have no line but that of the first seed of D, four frames.
    four = ["Vectors, frames too", "Vectors, drawn", "Zeros", "Vectors and a gate"]
    few = cells({(name, 4, tap, "both"): 51.0 for name in four})
    for world, name, frames in list(few):
        if name in names[3:] and name not in four:
            few[world, name, frames] = {3: few["D", name, frames][3]} if (world, frames) == ("D", 4) else {}
    assert script.picked(few) == "picked: Vectors, frames too"
    del few["D", "Zeros", 1][4]
    assert script.picked(few) == "nothing is picked while Zeros or what it is compared with lacks a line of A or D"
    del few["D", "Vectors", 4]
    assert script.picked(few) == "nothing is picked while Vectors has no line of world D with four frames"
