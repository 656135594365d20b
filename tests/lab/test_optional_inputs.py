"""lab/optional_inputs.py: which candidate is picked; world F in miniature, from freeze to report."""

import itertools
import json
import subprocess

import numpy as np
import pytest
import small_benches
import torch
from toys import Store, small

from lab import contrasts, intervals


@pytest.fixture
def script(fresh, monkeypatch, tmp_path):
    """The module, for a small world, with a repository of its own instead of results/."""
    evidence = fresh("evidence")
    results = tmp_path / "repository" / "results"
    small_benches.small_world(monkeypatch, evidence, results)
    module = fresh("optional_inputs")
    few = {"test_acts": 16, "test_wearers": 2}
    for name, value in {"TAP": module.TAP | few, "HALF": module.HALF | few, "SEEDS_OF_F": 1, "SEEDS_OF_TAP": 2}.items():
        monkeypatch.setattr(module, name, value)
    return module


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
    assert script.picked(cells({})) == "Vectors"  # the first of equal ones
    better = {("Zeros", 4, tap, "both"): 51.5, ("Vectors and a gate", 4, tap, "both"): 52.0}
    assert script.picked(cells(better)) == "Zeros"  # within a point of the best, and before it
    for costs in (
        {("Zeros", 1, "validation", "both"): 79.4},
        {("Zeros", 4, "validation", "both"): 79.4},
        {("Zeros", 4, "validation", "frames"): 67.9},
    ):
        assert script.picked(cells(better | costs)) == "Vectors and a gate"
    assert script.picked(cells(better | {("Zeros", 1, "validation", "both"): 79.6})) == "Zeros"
    dear = {(name, 1, "validation", "both"): 70.0 for name in names if name != script.WINNER}
    assert script.picked(cells(dear)) == "none is picked"

    # Those that do not go on have no line but that of the first seed of D, four frames.
    four = ["Vectors, frames too", "Vectors, drawn", "Zeros", "Vectors and a gate"]
    few = cells({(name, 4, tap, "both"): 51.0 for name in four})
    for world, name, frames in list(few):
        if name in names[3:] and name not in four:
            few[world, name, frames] = {3: few["D", name, frames][3]} if (world, frames) == ("D", 4) else {}
    assert script.picked(few) == "Vectors, frames too"
    del few["D", "Zeros", 1][4]
    assert script.going_on(few) == four
    assert script.picked(few) == "nothing is picked while Zeros or what it is compared with lacks a line of A or D"
    del few["D", "Vectors", 4]
    assert script.picked(few) == "nothing is picked while the first seed of world D lacks a line with four frames"


# --- The protocol of world F


def test_what_was_not_picked_is_not_tested(script, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="no candidate to test: nothing is picked"):
        script.freeze()
    with pytest.raises(SystemExit, match="there is none"):
        script.make("F", tmp_path / "out")
    monkeypatch.setattr(script, "picked", lambda cells: "Vectors")
    script.freeze()
    with pytest.raises(SystemExit, match="is written already"):
        script.freeze()
    subprocess.run(["git", "init", "-q", script.evidence.RESULTS.parent], check=True)
    with pytest.raises(SystemExit, match="commit it first"):
        script.make("F", tmp_path / "out")
    small_benches.commit(script.evidence.RESULTS.parent)
    monkeypatch.setattr(script, "SEEDS_OF_TAP", 3)
    with pytest.raises(SystemExit, match="differs from the settings of this script"):
        script.make("F", tmp_path / "out")


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_world_f_from_freeze_to_report(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(script, "picked", lambda cells: "Vectors and a product")
    script.freeze()
    small_benches.commit(script.evidence.RESULTS.parent)
    out = tmp_path / "out"
    script.screen("F", out, None, list(script.CHANGES))
    lines = [json.loads(line) for line in script.path_of("F").read_text().splitlines()]
    runs = {(line["run"]["method"], line["run"]["frames"], line["run"]["seed"]): line for line in lines}
    names, own = ["Spectrum", "Frames with augmentation", "Vectors", "Vectors and a product"], "Vectors and a product"
    four = {(name, 4, seed) for name in names for seed in (0, 1)}
    one = {(name, 1, 0) for name in [*names, "Head motion alone"]}
    assert {*runs} == four | one and len(lines) == 13
    assert {line["run"]["teacher"].format(seed=line["run"]["seed"]) for line in lines} == {"slowfast-0"}
    assert {*runs[own, 1, 0]["right"]} == {"test", "half the coupling"}
    assert {*runs[own, 4, 1]["right"]} == {"test", "tap, followed", "tap, not followed"}
    assert {*runs[own, 4, 1]["right"]["test"]} == {"both", "frames", "imu"}
    worlds = {name: json.loads((out / name / "world" / "world.json").read_text()) for name in ("F", "tap-F", "half-F")}
    assert {one["seed"] for one in worlds.values()} == {int(runs[own, 1, 0]["protocol"][:8], 16)}
    assert [one["coupling"] for one in worlds.values()] == [worlds["tap-F"]["coupling"]] * 2 + [0.5]
    script.screen("F", out, None, list(script.CHANGES))  # nothing is left to do
    before = script.path_of("F").read_text()
    assert len(before.splitlines()) == 13
    script.path_of("F").write_text(before + before.splitlines()[0] + "\n")
    with pytest.raises(SystemExit, match="has two lines of one network"):
        script.report(None)
    script.path_of("F").write_text(before)

    capsys.readouterr()
    script.report(None)
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    def percent(method, frames, seed, acts, mix):
        bits = contrasts.unpack(runs[method, frames, seed]["right"][acts][mix])
        return np.array([100 * bits[wearer].mean() for wearer in sorted(bits)])

    gaps = [
        percent(own, 4, seed, "tap, not followed", "both")
        - (
            percent("Spectrum", 4, seed, "tap, not followed", "both")
            + percent("Frames with augmentation", 4, seed, "tap, not followed", "frames")
        )
        / 2
        for seed in (0, 1)
    ]
    of_own, of_plain = shown.index(f"goals of {own}"), shown.index("goals of Vectors")
    rows = [line for line in shown if "tap, not followed" in line and "Spectrum and Frames" in line]
    assert len(rows) == 2 and str(intervals.two_way(gaps)) in rows[0]  # of the candidate first, then of the control
    gaps = [
        percent(own, 4, seed, "tap, not followed", "both") - percent("Vectors", 4, seed, "tap, not followed", "both")
        for seed in (0, 1)
    ]
    (row,) = (line for line in shown[of_own:of_plain] if line.startswith("tap, not followed 4 both Vectors"))
    assert str(intervals.two_way(gaps)) in row
    gap = percent("Vectors", 1, 0, "test", "imu") - percent("Head motion alone", 1, 0, "test", "imu")
    (row,) = (line for line in shown[of_plain:] if line.startswith("test 1 imu"))
    found = intervals.two_way([gap])
    assert str(found) in row and (" yes " in row) == (found.low > -2.5) and "above -2.5" in row
    gaps = [
        percent("Vectors", 4, seed, "tap, not followed", "frames")
        - percent("Frames with augmentation", 4, seed, "tap, not followed", "frames")
        for seed in (0, 1)
    ]
    (row,) = (line for line in shown if line.startswith("Vectors frames Frames with augmentation"))
    assert str(intervals.two_way(gaps)) in row


def test_a_goal_holds_if_its_interval_is_above_the_limit(script, monkeypatch):
    def cells(own):
        found = {}
        for name, shares in (("Vectors", own), (script.WINNER, [80.0] * 3)):
            bits = {f"P{k}": np.arange(1000) < 10 * share for k, share in enumerate(shares)}
            line = {"right": {"test": {"both": contrasts.pack(bits)}}}
            found["F", name, 4] = {0: line, 1: line}
        return found

    (goal,) = (one for one in script.GOALS if (one.acts, one.frames, one.mix) == ("test", 4, "both"))
    monkeypatch.setattr(script, "GOALS", [goal])
    for own, held in (([81.0, 82.0, 81.5], "yes"), ([80.5, 80.6, 80.4], "no"), ([79.0, 84.0, 81.5], "no")):
        table = script.goals(cells(own), "Vectors")
        (row,) = table.rows
        assert dict(zip(table.header, row, strict=True))["held"] == held, row
    assert script.difference({}, "Vectors", goal) is None
