"""lab/whole_recordings.py: its protocol, its choices, and world E in miniature from rendering to the report."""

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import small_benches
from commandline import ROOT

from egodistill import data, predict
from egodistill.deploy.events import Event, events
from egodistill.inference import Prediction
from egodistill.world import synthetic

SMALL = {"train_acts": 30, "validation_acts": 24, "test_acts": 24, "train_wearers": 1, "validation_wearers": 2}


@pytest.fixture
def script(fresh, monkeypatch, tmp_path):
    """The module, for a small world, with a repository of its own instead of results/."""
    evidence = fresh("evidence")
    small_benches.small_world(monkeypatch, evidence, tmp_path / "repository" / "results")
    module = fresh("whole_recordings")
    changes = {"WORLD": module.WORLD | SMALL | {"test_wearers": 2}, "ALONE": 2, "SEEDS": [0]}
    changes |= {"HALF": module.HALF | {"test_acts": 16, "test_wearers": 2}, "EXPORTS": {"export, fp32": "fp32"}}
    changes |= {"SURE": ("student", "export, fp32"), "Bench": functools.partial(module.Bench, shows_accuracy=False)}
    for name, value in changes.items():
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr("egodistill.datasets.background.SPARSE", 0.0)  # what so few acts cover is chance
    return module


def commit(script):
    script.evidence.write_protocol(script.PROTOCOL, script.content())
    small_benches.commit(script.evidence.RESULTS.parent)


# --- The protocol


def test_a_protocol_is_committed_before_anything_is_rendered(script, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="there is none"):
        script.make(tmp_path / "out")
    commit(script)
    with pytest.raises(SystemExit, match="is written already"):
        script.evidence.write_protocol(script.PROTOCOL, script.content())
    monkeypatch.setitem(script.GOALS, "F1@50, at least", 20.0)
    with pytest.raises(SystemExit, match=r"differs from the settings of this script \(goals"):
        script.make(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_cells_have_what_is_tested(script):
    named = {run.method for run in script.CELLS.values()}
    assert {name for pair in script.CONTRASTS for name, _ in pair} <= named | {"winner"}
    assert {smoothing for pair in script.CONTRASTS for _, smoothing in pair} == script.SMOOTHING.keys()
    assert len(script.CONTRASTS) <= 6 and len(script.UNLABELLED) == 4 and script.NAMES[-1] == "(none)"
    steps = {name: script.CHANGES[name]["epochs"] * share for name, share in ((script.BOTH, 1.5), (script.MORE, 2))}
    assert all(abs(script.CHANGES[script.THRESHOLD]["epochs"] - one) <= 0.5 for one in steps.values())


def test_recordings_of_the_world_are_dense_and_with_half_of_their_rows_they_are_refused(script):
    """The planted fault "background inside actions"."""
    covered = []
    for k in range(20):
        recording = synthetic.RenderedRecording(f"P{k + 1:02d}_101", 40, 3, first=40 * k, unlabelled=script.UNLABELLED)
        plan, known = recording.draw(), {int(row[0].rsplit("_", 1)[1]) for row in recording.rows()}
        lengths = [act.length for number, act in enumerate(plan.acts) if number in known]
        covered.append([sum(lengths) / plan.duration, sum(lengths[::2]) / plan.duration])
    whole, half = np.array(covered).T
    assert whole.min() > 0.1 > half.min()


# --- Events and choices


def test_events_are_read_back_as_they_were_written(script):
    some = [Event(1.0666, 3.3166, "open", 0.9), Event(171.07, 175.5, script.NAMES[-2], 0.5)]
    assert [one[:3] for one in script.unpack(script.pack(some))] == [(1.07, 3.32, "open"), (171.07, 175.5, "wash")]
    assert script.pack([]) == "" and script.unpack("") == []


def answers(script, scores, segments=(), split="calibration"):
    recording = SimpleNamespace(video="P99_101.MP4", duration=20.0)
    return script.Answers(script.Whole(recording, segments, split), 0.5 * np.arange(len(scores)), np.array(scores))


def test_smoothing_is_the_mean_of_neighbours_and_causal_looks_back_alone(script):
    scores = np.eye(len(script.NAMES))[[0, 0, 1, 0]]
    for name, third in (("", 1.0), ("two-sided", 1 / 3), ("causal", 1 / 2)):
        before, after = script.SMOOTHING[name]
        said = answers(script, scores).said(before, after)
        assert dict(said[2].classes)[script.NAMES[1]] == pytest.approx(third)
        assert dict(said[1].classes)[script.NAMES[1]] == pytest.approx(1 / 3 if after else 0)
    assert answers(script, np.zeros((2, len(script.NAMES)))).said()[1] == Prediction(0.5, 0.5 + 64 / 30, [])


def test_answers_inside_actions_are_judged_by_the_real_classes(script):
    segments = [data.Segment("a", "x.mp4", 2.0, 4.0, script.NAMES[3])]
    scores = np.zeros((10, len(script.NAMES)))
    scores[:, script.NOTHING], scores[:4, 3], scores[4:, 2] = 0.6, 0.4, 0.4
    found = answers(script, scores, segments)
    assert np.flatnonzero(found.labels == 3).tolist() == [2, 3, 4, 5]  # 2 to 4 s are the middles of 1 to 2.5 s on
    assert script.inside([found]) == [2, 4]


def test_thresholds_are_not_chosen_on_the_test(script):
    held = [(one.whole, one.said()) for one in (answers(script, np.eye(len(script.NAMES)), split="test"),)]
    with pytest.raises(SystemExit, match="not on the split test"):
        script.choose(held)


def test_the_winner_is_that_of_the_formula(script):
    def found(**f1):
        lines = {
            name: {"inside, validation": [right, 100], "smoothing": {"": {"validation": value}}}
            for name, (right, value) in f1.items()
        }
        return {(name, ""): [script.Found(0, line, {})] for name, line in lines.items()}

    assert script.winner(found(Threshold=(80, 20), Student=(79, 54.5), Both=(79, 55), Uniform=(79, 50))) == "Student"
    assert script.winner(found(Threshold=(80, 20), Student=(78, 55), Both=(79, 50), Uniform=(79, 52))) == "Uniform"
    assert script.winner(found(Threshold=(80, 20), Student=(60, 50), Both=(61, 55), Uniform=(60, 50))) == "Both"
    assert script.winner(found(Threshold=(80, 20), Student=(79, 55), Both=(79, 50))) is None


# --- The world in miniature


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_lines_have_all_events_and_the_report_reads_them(script, tmp_path, capsys):
    commit(script)
    out = tmp_path / "out"
    script.run(out, [0], list(script.CELLS))
    path = script.evidence.path_of("E")
    before = path.read_bytes()
    script.run(out, [0], list(script.CELLS))  # nothing is left
    assert path.read_bytes() == before and len(before.splitlines()) == len(script.CELLS)
    world = script.make(out)
    check_world(script, world)
    check_networks(script, out, world)
    lines = {line["run"]["method"]: line for line in script.finished().values() if "smoothing" in line}
    model = script.trained(out, world, script.CELLS["both"])
    for smoothing, own in lines["Both"]["smoothing"].items():
        if smoothing:
            continue
        thresholds = {name: value for name, value in own["thresholds"].items() if name != "stride"}
        for one in world.whole["test"]:
            said = list(predict(model, one.recording, stride=0.5, top=15, device="cpu", precision="fp32"))
            found = list(events(said, **thresholds))
            assert script.pack(found) == own["events"][one.name]
    assert all(one.label != "(none)" for line in lines.values() for one in all_events(script, line))
    capsys.readouterr()
    script.report(str(tmp_path / "r.md"))
    printed = capsys.readouterr().out
    assert (tmp_path / "r.md").read_text().count("| --- |") == 5 and "the winner is" in printed
    found = script.results()
    assert script.metric(found["True labels", ""], "f1_50").mean() > 60
    f1 = script.metric(found["Both", ""], "f1_50")
    (row,) = [row for row in script.methods(found).rows if row[:2] == ["Both", ""]]
    assert f1.shape == (1, 2) and row[5].split()[0] == f"{f1.mean():.1f}"


def all_events(script, line):
    return [one for own in line["smoothing"].values() for text in own["events"].values() for one in script.unpack(text)]


def check_world(script, world):
    """Wearers are in one split, background lies outside of segments, and what is described is what was drawn."""
    wearers = {split: {one.wearer for one in some} for split, some in world.whole.items()}
    assert wearers.pop("alone") == wearers["test"] and sum(map(len, wearers.values())) == 1 + 2 + 2
    assert len(set.union(*wearers.values())) == 5 and {"train", "validation", "calibration"} < wearers.keys()
    store, own = world.store, {one.name: one.segments for some in world.whole.values() for one in some}
    for split, share in (("train", 1.0), ("test", 0.5), ("calibration", 0.5)):
        view = store.split(split)
        labelled = script.is_labelled(view)
        assert (~labelled).sum() == pytest.approx(share * labelled.sum(), abs=1.1)
        for row in np.flatnonzero(~labelled):
            clip = view.clips[row]
            segments = own[Path(clip["video"]).stem]
            assert all(clip["stop"] < one.start or one.stop < clip["start"] for one in segments)
    known = json.loads(script.RECORDINGS.read_text())
    for one in world.whole["test"]:
        about = known["recordings"][one.name]
        assert [script.NAMES[k] for *_, k in about["acts"]] == [segment.label for segment in one.segments]
        busy = [span for kind in ("unlabelled act", "idle hand") for span in about[kind]]
        assert all(b < start or stop < a for a, b in busy for start, stop, _ in about["acts"])


def check_networks(script, out, world):
    """Who learns what: clips, what the teacher is made to say, and who never says "(none)"."""
    bench, nothing = script.bench_of(out), script.NOTHING
    train = world.store.split("train")
    counts = {name: script.is_labelled(bench.splits(run)[0]) for name, run in script.CELLS.items() if name != "truth"}
    assert counts["plain"].all() and counts["threshold"].all() and len(counts["more"]) == len(train)
    assert (~counts["both"]).sum() == pytest.approx((~counts["more"]).sum() / 2, abs=0.6)
    labelled = script.is_labelled(train)
    plain, lent, even = (train.read(f"{name}-0.logits", slice(None)) for name in ("plain", "lent", "even"))
    assert (lent[~labelled].argmax(1) == nothing).all() and (lent[:, nothing] > even[:, nothing])[~labelled].all()
    assert np.array_equal(lent[labelled][:, :nothing], plain[labelled][:, :nothing])
    assert np.ptp(even[~labelled][:, :nothing]) == 0 and (even.argmax(1) != nothing).all()
    for name in ("threshold", "uniform"):
        kept = np.load(next((out / "E" / "answers" / script.CELLS[name].name).glob("P30*.npz")))
        assert kept["scores"][:, nothing].max() < 1e-6


def test_the_published_goals_are_what_the_lines_say():
    """Shares, means and the winner, counted anew from the events of results/E.jsonl."""
    results = ROOT / "results"
    truth = json.loads((results / "E-recordings.json").read_text())["recordings"]
    lines = [json.loads(text) for text in (results / "E.jsonl").read_text().splitlines()]
    hours = {}  # by wearer
    for name, one in truth.items():
        hours[name[:3]] = hours.get(name[:3], 0) + one["seconds"] / 3600

    def numbers(line):
        """F1@50 and unmatched events per hour of each wearer."""
        hit, said, real = (dict.fromkeys(hours, 0) for _ in range(3))
        for name, text in line["smoothing"][""]["events"].items():
            cut = [text[k : k + 10] for k in range(0, len(text), 10)]
            found = [(int(x[:4], 16) / 100, int(x[4:8], 16) / 100, int(x[8:], 16)) for x in cut]
            acts = [tuple(act) for act in truth[name]["acts"]]
            said[name[:3]] += len(found)
            real[name[:3]] += len(acts)
            for event in found:
                same = [act for act in acts if act[2] == event[2]]
                shared = [max(0, min(event[1], a[1]) - max(event[0], a[0])) for a in same]
                half = [s / (event[1] - event[0] + a[1] - a[0] - s) >= 0.5 for s, a in zip(shared, same, strict=True)]
                if any(half):
                    hit[name[:3]] += 1
                    acts.remove(same[half.index(True)])
        f1 = np.mean([200 * hit[who] / (said[who] + real[who]) for who in hours])
        return f1, np.mean([(said[who] - hit[who]) / hours[who] for who in hours])

    def mean(method):
        chosen = [one for one in lines if one["run"]["method"] == method and "smoothing" in one]
        assert len(chosen) == 3
        return np.mean([numbers(line) for line in chosen], 0)

    student, threshold, teacher = map(mean, ("Student", "Threshold", "teacher"))
    shown = (results / "whole_recordings.md").read_text()
    goals = shown.split("recordings.py, goals -->")[1]
    reached = {
        row.split(" | ")[0].strip("| "): row.split(" | ")[2] for row in goals.splitlines() if row.count(" | ") == 2
    }
    assert reached["F1@50, at least"].startswith(f"{student[0]:.1f} (")
    shares = {
        "F1@50, share of that of the teacher with (none), at least": student[0] / teacher[0],
        "unmatched events per hour, share of Threshold's, at most": student[1] / threshold[1],
    }
    for goal, share in shares.items():
        assert reached[goal].startswith(f"{share:.2f}; above the goal: ")
    quiet = [one["smoothing"][""]["alone"]["without an event"] for one in lines if one["run"]["method"] == "Student"]
    assert reached["of 100 recordings of unlabelled objects alone, without an event, at least"].startswith(
        f"{np.mean(quiet):.0f}"
    )
    assert "goal; the winner is Student" in goals
