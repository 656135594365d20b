"""lab/better_student.py on a world of 40 clips: from the protocol to the report."""

import functools
import json
import subprocess

import numpy as np
import pytest
import small_benches
from commandline import ROOT

from egodistill import data
from lab import contrasts


@pytest.fixture
def script(fresh, monkeypatch, tmp_path):
    """The module, for a small world, with a repository of its own instead of results/."""
    evidence = fresh("evidence")
    results = tmp_path / "repository" / "results"
    small_benches.small_world(monkeypatch, evidence, results)
    module = fresh("better_student")
    monkeypatch.setattr(module, "TAP", module.TAP | {"test_acts": 24})
    quiet = functools.partial(module.benches.Bench, progress=False)
    monkeypatch.setattr(module.benches, "Bench", quiet)
    git("init", "-q", at=results.parent)
    return module


def git(*words, at):
    names = ["-c", "user.email=a@b", "-c", "user.name=a"]
    subprocess.run(["git", "-C", str(at), *names, *words], check=True)


def test_a_protocol_is_written_once_and_counts_from_its_commit(script, monkeypatch):
    with pytest.raises(SystemExit, match="there is none"):
        script.digest()
    script.evidence.write_protocol(script.PROTOCOL, script.content())
    with pytest.raises(SystemExit, match="is written already"):
        script.evidence.write_protocol(script.PROTOCOL, script.content())
    with pytest.raises(SystemExit, match="commit it first"):
        script.digest()
    git("add", "-A", at=script.PROTOCOL.parent)
    git("commit", "-qm", "x", at=script.PROTOCOL.parent)
    assert script.seed() == int(script.digest()[:8], 16)
    committed = json.loads((ROOT / "results" / "protocol-student.json").read_text())
    assert script.content()["methods"] == committed["methods"]
    monkeypatch.setitem(script.CHANGES[script.WINNER], "epochs", 10)
    with pytest.raises(SystemExit, match=r"differs from the settings of this script \(changes\.Spectrum\.epochs"):
        script.digest()


def test_the_cells_cover_what_is_claimed(script):
    plan = script.cells()
    assert len(plan) == len(set(plan))
    for where, *pair in script.PRIMARY:
        world = script.HALF if where == script.HALF else "D"
        for method, frames in pair:
            seeds = {run.seed for at, run in plan if (at, run.method, run.frames) == (world, method, frames)}
            assert len(seeds) == (script.SMALL if world == script.HALF else script.MAIN)
    assert len(script.PRIMARY) <= 9


def test_the_winner_is_that_of_the_formula(script):
    found = {name: one for name, one in script.SCREENED.items() if len(one) == 4 and not name.startswith("frames")}
    floor = script.SCREENED["frames alone, pictures changed"]["tap"] - 5
    sums = {name: sum(one.values()) - one["tap"] for name, one in found.items() if one["tap"] >= floor}
    near = [name for name, total in sums.items() if total >= max(sums.values()) - 0.5]
    assert max(near, key=lambda name: found[name]["tap"]) == "spectrum, shift, concat"
    build = next(method.build for method in script.METHODS if method.name == script.WINNER)
    assert build.keywords == {"imu_encoder": "spectrum", "aggregator": "concat"}
    assert script.CHANGES[script.WINNER]["augment"].shift > 0


def test_a_contrast_gains_nothing_by_others_that_have_no_lines(script, monkeypatch):
    gap = script.Interval(1.0, 0.5, 1.5, 6.0, 0.01, seeds=2, wearers=20)
    known = script.PRIMARY[0][1:]
    monkeypatch.setattr(script, "gap_of", lambda found, where, *pair: gap if pair == known and where == "D" else None)
    (row,) = script.differences({}, script.PRIMARY, tested=True).rows
    assert row[4] == "0.070"  # seven times


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_lines_have_the_tap_and_the_clock_and_the_report_reads_them(script, tmp_path, capsys):
    script.evidence.write_protocol(script.PROTOCOL, script.content())
    git("add", "-A", at=script.PROTOCOL.parent)
    git("commit", "-qm", "x", at=script.PROTOCOL.parent)
    out = tmp_path / "out"
    for world in ("D", script.EXCHANGED, script.LATER):
        script.run(world, out, [0], 99)
    wanted = {run.name for world, run in script.cells() if world == "D" and run.seed == 0}
    lines = script.finished("D")
    assert lines.keys() == wanted
    clips = data.ClipStore(out / "tap" / "store").split("test")
    follows = script.head_follows("tap", out, clips)
    for name, line in lines.items():
        assert ("tap" in line) == ("-n4-" in name)
        assert ("clock" in line) == (name in ("seed-0/paper-n1-slowfast-0", "seed-0/spectrum-n1-slowfast-0"))
    later = script.finished(script.LATER)
    assert [name for name, line in later.items() if "clock" in line] == ["seed-0/paper-with-augmentation-n1-slowfast-0"]
    assert [name for name, line in later.items() if "tap" in line] == ["seed-0/paper-with-all-tricks-n4-slowfast-0"]
    again = later.keys() & lines.keys()  # the student of D, not another one
    assert len(again) == 1 and all(later[name]["correct"] == lines[name]["correct"] for name in again)
    assert all(line["test"] == lines["seed-0/slowfast-0"]["test"] for line in later.values()) and len(later) == 3
    tap = lines["seed-0/spectrum-n4-slowfast-0"]["tap"]
    counts = [sum(map(len, contrasts.unpack(tap[name]).values())) for name in ("followed", "not followed")]
    assert counts == [follows.sum(), (~follows).sum()] and len(follows) == 24
    model = script.bench_of("D", out).load(script.Run(script.WINNER, 0, 1, script.SLOWFAST)).eval()
    test = data.ClipStore(out / "D" / "store").split("test")
    (right,) = script.right_of(model, test)
    bits = contrasts.unpack(lines["seed-0/spectrum-n1-slowfast-0"]["correct"])
    assert (np.concatenate(list(bits.values())) == right).all()
    assert (script.shifted("D", out, 0.0) == test.read("imu", range(len(test)))).all()
    late = script.shifted("D", out, 0.1)
    motion = data.read_imu(script.evidence.segments_of(script.world_of("D", out))[-1].imu)
    assert np.array_equal(late[-1], motion.on_clock(0.1).window(test.clips[-1]["start"], min_coverage=0.0))
    before = script.path_of("D").read_bytes()
    script.run("D", out, [0], 99)  # nothing is left
    assert script.path_of("D").read_bytes() == before
    capsys.readouterr()
    script.report(str(tmp_path / "r.md"))
    printed = capsys.readouterr().out
    assert all(text in printed for text in ("p (Holm)", "tap, not followed", "D, X3D", "wrong clocks"))
    found = script.outcomes()
    frames, plain, late = (
        contrasts.accuracy(found[where, method, 1]).mean
        for where, method in (("D", script.FRAMES), ("D", script.WINNER), ("clock, 0.1 s", script.WINNER))
    )
    rows = {(row[0], row[1]): row for row in script.clocks(found).rows}
    assert rows[script.WINNER, "+0.1"][3] == f"{late - frames:+.1f}"
    assert rows[script.WINNER, "0"][2].split()[0] == f"{plain:.1f}" and len(rows) == 3 * (1 + len(script.SHIFTS))
    assert len(found["D", script.TRICKS, 1]) == len(found["D", script.MORE, 1]) == 1
    assert (tmp_path / "r.md").read_text().count("| --- |") == 4
    drawn = (script.FIGURES / "clocks.svg").read_text()
    assert all(f"<!-- {name} -->" in drawn for name in (*script.CLOCKED, script.FRAMES))


def test_a_curve_of_wrong_clocks_has_the_same_seeds_everywhere(script):
    """The second baseline was put on wrong clocks with fewer seeds than it has on right ones."""
    right = {True: np.ones(4, bool), False: np.zeros(4, bool)}
    some = [contrasts.Outcome("", seed, {"P30": right[seed > 0], "P31": right[True]}) for seed in range(3)]
    found = {("D", script.TRICKS, 1): some, ("D", script.FRAMES, 1): some}
    found |= {(f"clock, {shift} s", script.TRICKS, 1): [some[0]] for shift in script.SHIFTS}
    assert {tuple(one.seed for one in outcomes) for outcomes in script.clocked(found, script.TRICKS).values()} == {(0,)}
    assert {row[2].split()[0] for row in script.clocks(found).rows} == {"50.0"}  # that of seed 0
    assert script.clocked(found, script.WINNER) == {}


@pytest.mark.slow("a benchmark at the paper's size")
def test_cost_counts_head_motion_with_its_share_of_the_fusion(script, capsys):
    script.cost(None, 10, ["export"], ["fp32"])
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    # 40.5 million of the paper's network and 6,752 numbers times 1,024; 45 columns for 422 samples of 6 channels.
    assert ["paper", "47.39"] in rows and ["spectrum", f"{(198 * 1024 + 45 * 422 * 6) / 1e6:.2f}"] in rows
    assert any(row[:2] == ["export", "fp32"] and float(row[4]) > 0 for row in rows)
