"""lab/evidence.py and evidence_report.py: the plan, the protocol, and tables from lines, without training."""

import functools
import hashlib
import json
import operator
import re
import subprocess
import sys
import types
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import small_benches
from miniature import same

from egodistill import data
from egodistill.support import files, tables
from egodistill.world import behaviour, synthetic
from lab import benches, contrasts
from lab.benches import Run


@pytest.fixture
def scripts(fresh, monkeypatch, tmp_path):
    """The two modules, with an empty repository instead of results/."""
    evidence, report = (fresh(name) for name in ("evidence", "evidence_report"))
    monkeypatch.setattr(evidence, "RESULTS", tmp_path / "repository" / "results")
    evidence.RESULTS.mkdir(parents=True)
    for words in (["init", "-q"], ["config", "user.email", "a@b"], ["config", "user.name", "a"]):
        subprocess.run(["git", "-C", str(evidence.RESULTS.parent), *words], check=True)
    return evidence, report


def tuned(evidence, best=(1e-3, 6)):
    for method in evidence.TUNED:
        for rate, epochs in evidence.TRIED:
            top1 = 0.9 if (rate, epochs) == best else 0.5
            line = {"method": method, "frames": evidence.TUNED[method], "learning_rate": rate, "epochs": epochs}
            files.append_line(evidence.RESULTS / "tuning.jsonl", line | {"top1": top1})
            other = line | {"frames": 3, "learning_rate": 9.0, "top1": 1.0}  # of another number of frames
            files.append_line(evidence.RESULTS / "tuning.jsonl", other)


def commit(evidence):
    for words in (["add", "-A"], ["commit", "-qm", "x"]):
        subprocess.run(["git", "-C", str(evidence.RESULTS.parent), *words], check=True)


def test_every_method_gets_the_same_settings_and_the_edge_is_extended(scripts):
    evidence, _ = scripts
    assert evidence.wanted({}) == evidence.TRIED and len(evidence.TRIED) == 6
    for best, more in (
        ((1e-3, 6), []),
        ((5e-4, 6), [(2.5e-4, 6)]),
        ((2e-3, 6), [(4e-3, 6)]),
        ((1e-3, 12), [(1e-3, 24)]),
        ((2e-3, 12), [(4e-3, 12), (2e-3, 24)]),
    ):
        done = {setting: 0.9 if setting == best else 0.5 for setting in evidence.TRIED}
        assert evidence.wanted(done) == [*evidence.TRIED, *more]


def test_a_protocol_waits_for_the_settings_beyond_the_edge(scripts):
    evidence, _ = scripts
    tuned(evidence, best=(2e-3, 12))
    for setting in ((4e-3, 12), (2e-3, 24)):
        with pytest.raises(
            SystemExit, match=rf"EgoDistill: settings \[\({setting[0]:g}, {setting[1]}\).*not tried yet"
        ):
            evidence.freeze()
        for method in evidence.TUNED:
            line = {"method": method, "frames": evidence.TUNED[method]}
            line |= {"learning_rate": setting[0], "epochs": setting[1], "top1": 0.1}
            files.append_line(evidence.RESULTS / "tuning.jsonl", line)
    evidence.freeze()


def test_the_protocol_is_written_once_from_all_settings_and_counts_from_its_commit(scripts, monkeypatch, capsys):
    evidence, _ = scripts
    with pytest.raises(SystemExit, match="there is none"):
        evidence.committed_digest()
    with pytest.raises(SystemExit, match=r"EgoDistill: settings .* are not tried yet"):
        evidence.freeze()
    tuned(evidence)
    evidence.freeze()
    written = evidence.RESULTS / "protocol.json"
    protocol = json.loads(written.read_text())
    assert protocol["changes"] == {key: {"learning_rate": 0.001, "epochs": 3} for key in [*evidence.TUNED, "stage 1"]}
    assert len(protocol["primary"]) <= 12 and len(protocol["cells"]) == len(evidence.cells())
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    assert evidence.seed_of_b(digest) == int(digest[:8], 16) and str(int(digest[:8], 16)) in capsys.readouterr().out
    with pytest.raises(SystemExit, match="is written already"):
        evidence.freeze()
    with pytest.raises(SystemExit, match="commit it first"):
        evidence.committed_digest()
    commit(evidence)
    assert evidence.committed_digest() == digest
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "MAIN", evidence.MAIN + 1)  # a seed more than the protocol says
        with pytest.raises(SystemExit, match=r"differs from the settings of this script \(cells"):
            evidence.committed_digest()
    with pytest.raises(SystemExit, match=r"this script \(a value that is null, true or false\)"):
        evidence.agreed(written, lambda record: record | {"more": None})
    written.write_text(written.read_text() + "\n")
    with pytest.raises(SystemExit, match="commit it first"):
        evidence.committed_digest()


def test_cells_cover_the_primary_contrasts_with_the_seeds_that_were_promised(scripts):
    evidence, report = scripts
    plan = evidence.cells()
    assert len(plan) == len(set(plan)) == len({(cell.world, cell.run) for cell in plan})
    assert {cell.world for cell in [*plan, *evidence.described()]} == set(evidence.WORLDS)
    assert [cell.part for cell in plan[:5]] == ["main"] * 5
    for world in ("A", "B"):
        for pair in evidence.PRIMARY:
            seeds = [
                {
                    cell.run.seed
                    for cell in plan
                    if (cell.world, replace(cell.run, seed=0)) == (world, report.run_of(*one))
                }
                for one in pair
            ]
            assert len(seeds[0] & seeds[1]) >= evidence.SMALL, pair
            if pair[1][0] in ("VisOnly-Distill", "EgoDistill", "VisIMU"):
                assert len(seeds[0] & seeds[1]) == evidence.MAIN, pair
    groups = list(evidence.groups(plan, 2))
    assert sorted(map(plan.index, functools.reduce(operator.iadd, groups, []))) == list(range(len(plan)))
    assert [plan.index(group[0]) for group in groups] == sorted(plan.index(group[0]) for group in groups)
    assert all(len({(cell.part, cell.world) for cell in group}) == 1 for group in groups)
    seeds = [sorted({cell.run.seed for cell in group}) for group in groups]
    assert seeds[:2] == [[0, 1], [2, 3, 4]] and all(len(group) > 1 for group in seeds)


class FakeBench:
    """Instead of training: every EgoDistill is right on all segments but the first, others on the even ones."""

    def __init__(self, world, out, protocol):
        self.out, self.store, self.trained = str(out), "store", []

    def path(self, run, suffix):
        return Path(self.out, f"{run.name}{suffix}".replace("/", "-"))

    def run(self, runs, jobs, done):
        self.trained += runs
        record = {"digest": "t", "class_names": sorted(behaviour.VERBS), "wearers": {}}
        for number, wearer in enumerate(("P30", "P31", "P32")):
            classes = [(k + number) % 20 for k in range(20)]
            record["wearers"][wearer] = {"ids": [f"{wearer}_{k}" for k in range(20)], "classes": classes}
        files.write_json(Path(self.out, contrasts.SEGMENTS_FILE), record)
        for run in (Run("start"), *runs):  # first a dependency, which has no line
            done(run)

    def result(self, run):
        right = np.arange(20) > run.seed if run.method in ("EgoDistill", "teacher") else np.arange(20) % 2 == 0
        correct = contrasts.pack(dict.fromkeys(("P30", "P31", "P32"), right))
        confusion = np.diag(np.full(20, 3)).tolist()
        return {"top1": float(right.mean()), "seconds": 60.0, "test": "t", "correct": correct, "confusion": confusion}


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_lines_come_as_cells_are_done_and_tables_need_nothing_else(scripts, monkeypatch, tmp_path, capsys):
    evidence, report = scripts
    tuned(evidence)
    evidence.freeze()
    commit(evidence)
    benches = []

    def bench_of(world, out, settings):
        augmented = evidence.AUGMENTED if world.endswith("an augmented VisIMU") else {}
        assert settings.changes["VisIMU"] == {"learning_rate": 1e-3, "epochs": 3} | augmented
        benches.append(FakeBench(world, tmp_path / world, settings))
        return benches[-1]

    made = []
    monkeypatch.setattr(evidence, "make", lambda world, out: made.append(world))
    monkeypatch.setattr(evidence, "bench_of", bench_of)
    before = FakeBench("A", tmp_path / "before", None)
    monkeypatch.setattr(evidence, "teacher_bench", lambda out: before)
    files.write_json(before.path(Run("teacher", 1, teacher=evidence.TEACHER), ".json"), {})
    monkeypatch.setattr(evidence, "gmacs", lambda bench, run: 0.1 * run.frames)
    reused = []
    monkeypatch.setattr(
        evidence, "reuse", lambda source, target, run: reused.append((source.out, target.out, run.name))
    )
    monkeypatch.setattr(
        evidence.data, "ClipStore", lambda path: type("S", (), {"class_names": sorted(behaviour.VERBS)})
    )
    monkeypatch.setattr(evidence, "labels_repeated", lambda bench, teacher, truth: 0.25)
    monkeypatch.setattr(evidence, "outputs_record", lambda store, name: {"fingerprint": f"weights of {name}"})
    evidence.run(tmp_path, 1, 0, evidence.chosen())
    assert not benches and "Time is up" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="--seeds 7: not in the plan, which has 0, 1, 2, 3, 4"):
        evidence.chosen([1, 7])
    with pytest.raises(SystemExit, match=r"--parts age: not in the plan, which has main, rivals, .*, ages, table 2"):
        evidence.chosen(parts=["main", "age"])
    with pytest.raises(SystemExit, match="no cell of these seeds, parts, worlds and name"):
        evidence.chosen(name="without-x")
    with pytest.raises(SystemExit, match="--worlds C: not in the plan, which has A, B, A with clean"):
        evidence.chosen(worlds=["B", "C"])
    apart = evidence.chosen(parts=["main", "controls"], worlds=["B", "A with clean labels"])
    assert {(cell.part, cell.world) for cell in apart} == {("main", "B"), ("controls", "A with clean labels")}
    assert [cell.run.seed for cell in evidence.chosen(parts=["table 1"], name="without-gt")] == [0, 1, 2, 3, 4]
    evidence.run(tmp_path, 1, 9, evidence.chosen([1], ["ages", "table 1"]))
    assert {cell.part for cell in evidence.chosen([1], ["ages"])} == {"ages"}
    found = [
        (line["part"], line["run"]["seed"]) for world in evidence.WORLDS for line in evidence.finished(world).values()
    ]
    assert set(found) == {("ages", 1), ("table 1", 1)} and len(found) == 2 + 6
    evidence.run(tmp_path, 1, 9, evidence.chosen([1]))
    plan = [*evidence.cells(), *evidence.described()]
    assert sum(len(bench.trained) for bench in benches) == sum(cell.run.seed == 1 for cell in plan)
    evidence.run(tmp_path, 1, 9, evidence.chosen())
    notes = capsys.readouterr().out
    trained = [run for bench in benches for run in bench.trained]
    assert len(trained) == len(plan) and set(made) == set(evidence.WORLDS)
    evidence.run(tmp_path, 1, 9, evidence.chosen())
    assert len([run for bench in benches for run in bench.trained]) == len(plan)  # nothing twice
    with monkeypatch.context() as patch:  # a process that was started before another one had finished these cells
        patch.setattr(evidence, "groups", lambda plan, jobs: [[cell for cell in evidence.cells() if cell.world == "B"]])
        evidence.run(tmp_path, 1, 9, evidence.chosen())
    assert benches.pop().trained  # they were asked for again, and have no second line
    assert len(list(files.read_lines(evidence.path_of("B"), "name"))) == len(evidence.finished("B"))
    sources = {str(tmp_path / world): str(tmp_path / evidence.source_of(world)) for world in evidence.WORLDS}
    names = [f"seed-{seed}/{name}" for seed in range(3) for name in (f"slowfast-{seed}", "start")]
    earlier = (str(tmp_path / "before"), str(tmp_path / "A"), "seed-1/slowfast-1")  # that of seed 1 was trained before
    expected = {(one, other, name) for other, one in sources.items() if one != other for name in names} | {earlier}
    assert set(reused) == expected and len(reused) - reused.count(earlier) == len(expected) - 1
    lines = list(evidence.finished("A").values())
    assert len(lines) == len([cell for cell in plan if cell.world == "A"])
    protocol = hashlib.sha256((evidence.RESULTS / "protocol.json").read_bytes()).hexdigest()
    assert {line["protocol"] for line in lines} == {protocol} and {line["things"] for line in lines} == {1.0}
    assert evidence.machines(lines) == tables.short_processor()
    both = [{"processor": "Intel(R) Xeon(R) Processor"}, {"processor": "AMD EPYC"}, {"processor": "AMD EPYC"}]
    assert evidence.machines(both) == "AMD EPYC, Intel Xeon"
    assert all(line.get("repeats") == (0.25 if line["run"]["method"] == "teacher" else None) for line in lines)
    table = report.primary("A")
    rows = {tuple(row[:2]): row for row in table.rows}
    row = rows["EgoDistill, N = 1", "VisIMU, N = 1"]
    assert row[2].startswith("+35.0")  # 17 of 20 in the mean over five seeds, against 10
    assert row[7:] == ["+9.9", "+3.8", "5"] and row[6] == "0.005"
    assert rows["EgoDistill, N = 4", "EgoDistill, N = 1"][2] == "+0.0 (+0.0 to +0.0)"
    others = {tuple(row[:2]): row[2:] for row in report.described("A").rows}
    assert len(others) == len(report.described("B").rows) + 4 == 8
    assert others["EgoDistill, clean labels", "augmented VisIMU, clean labels"][0].startswith("+40.0")
    assert (
        others["augmented VisIMU", "VisIMU"][0].startswith("+0.0 ") and others["augmented VisIMU", "VisIMU"][-1] == "3"
    )
    assert others["VisOnly-Distill, N = 2", "EgoDistill, N = 1"][0].startswith("-35.0")
    accuracy = {tuple(row[:2]): row for row in report.accuracies("A").rows}
    assert accuracy["VisIMU", "1"][2].startswith("50.0") and accuracy["VisIMU", "1"][-1] == "5"
    assert accuracy["VisOnly", "2"][-1] == "3" and accuracy["EgoDistill", "1"][-3] == "100.0"
    verbs = report.classes("A").rows
    points = [float(row[2].split()[0]) for row in verbs]
    assert len(points) == 20 and points == sorted(points, reverse=True) and points[0] > points[-1]
    assert np.mean(points) == pytest.approx(35.0, abs=0.1)  # each verb is as frequent as another
    doses = report.doses("A").rows
    assert [row[:2] for row in doses] == [[n, share] for n in "124" for share in ("0 %", "50 %", "100 %")]
    assert {row[-1] for row in doses} == {"5"}
    assert [path.name for path in report.dose_figure(("A", "B"), tmp_path / "dose")] == ["dose.png", "dose.svg"]
    assert "cyclic, world B" in (tmp_path / "dose.svg").read_text()
    gaps = [float(row[k].split()[0]) for row in doses[:3] for k in (4, 7)]  # two verbs, two verbs, and four
    weights = np.repeat([1, 1, 2], 2)
    pairs = [points[k] for k, row in enumerate(verbs) if row[1] != "single"]
    assert np.average(gaps, weights=weights) == pytest.approx(np.mean(pairs), abs=0.1)
    gains = report.stage_1("A").rows
    assert [row[0] for row in gains] == ["10 %"] * 4 + ["25 %"] * 4 + ["100 %"] * 3
    assert {row[3] for row in gains} == {"", "+0.0 (+0.0 to +0.0)"} and {row[6] for row in gains} == {"3"}
    assert {row[4] for row in gains} == {"", "+0.0, +0.0, +0.0"}
    reversal = [[float(number) for number in row[5].split(", ")] for row in gains]
    assert all(row == reversal[0] == sorted(row, reverse=True) for row in reversal) and len(set(reversal[0])) > 1
    teachers = report.teachers().rows
    assert [row[0] for row in teachers] == ["slowfast", "x3d", "mvit", "mvit-long", "motionformer-p8"]
    assert {row[4] for row in teachers} == {"25.0"}
    assert [row[11] for row in teachers] == ["5", "3", "3", "3", "3"]
    assert [row[10] for row in teachers] == ["+45.0, +40.0, +35.0, +30.0, +25.0", *4 * ["+45.0, +40.0, +35.0"]]
    assert [float(row[9].split()[0]) for row in teachers] == [35.0, *4 * [40.0]]
    assert all(row[2:4] == row[6:8] and row[2] != row[3] for row in teachers)  # a student is right where its teacher is
    again = set(re.findall(r"note: (\S+) is trained again, because its weights are not in", notes))
    assert {"seed-0/slowfast-0", "seed-1/slowfast-1"} <= again <= {f"seed-{k}/slowfast-{k}" for k in range(5)}
    assert {line.get("teacher") for line in lines if line["run"]["method"] == "VisIMU"} == {None}
    assert {line["teacher"] for line in lines if "mvit-2" in line["name"]} == {"weights of mvit-2"}
    assert [row[0] for row in report.frame_choices().rows] == ["uniform", "random", "first", "last", "centre"]
    assert {row[2] for row in report.frame_choices().rows} == {"", "+0.0 (+0.0 to +0.0)"}
    assert report.frame_choices().rows[3][3:5] == ["-10.7", "-3.0"]  # the paper's, of the last frames
    one = [row for row in report.ablation("A").rows if row[0] == "without L_KD"]
    assert one[0][2] == "+0.0 (+0.0 to +0.0)" and one[0][3] == "3"
    assert [row[3] for row in report.ablation("A").rows if row[0] == "without L_GT"] == ["5"]
    assert report.inputs_of("EgoDistill", 1, evidence.BLURRED) == "N = 1, shutter of 1/50 s + head motion"
    assert report.inputs_of("VisOnly-Distill", 1, evidence.BLURRED) == "N = 1, shutter of 1/50 s"
    for inputs, value in (("N = 1", 60.0), ("N = 4", 80.0), ("N = 1 + head motion", 50.0), ("N = 2 + sound", 90.0)):
        line = {"kinds": {"reversal": value, "cyclic": value, "single": 100.0}, "error": 0.5}
        for coupling, less in ((1.0, 0.0), (0.5, 20.0)):
            kinds = {kind: number - less for kind, number in line["kinds"].items()}
            path = evidence.RESULTS / "ceilings.jsonl"
            files.append_line(path, {"inputs": inputs, "coupling": coupling} | line | {"kinds": kinds})
    assert report.ceilings()["N = 4"] == (pytest.approx(84), 0.5) and report.ceilings(0.5)["N = 1"][0] == 48
    told = {tuple(row[:2]): row[3] for row in report.accuracies("A").rows}
    assert told["VisOnly", "1"] == "68.0" and told["AdaFuse", "4"] == "84.0" and told["VisIMU", "1"] == "60.0"
    assert told["EgoDistill", "1"] == "60.0 (exceeded)"  # these made-up students are right in 85 %
    assert told["ListenToLook", "2"] == "92.0" and told["VisOnly", "2"] == told["teacher", ""] == ""
    controls = {tuple(row[:2]): row[2:] for row in report.controls().rows}
    assert list(controls) == [("A", "1"), ("A", "2"), *((w, "1") for w in evidence.CONTROLS), (evidence.BLURRED, "2")]
    assert [row[-1] for row in controls.values()] == ["5", "5", *["3"] * 7]
    assert [row[1].split(" ")[0] for row in controls.values()] == [
        "60.0",
        "",
        "68.0",
        "60.0",
        "60.0",
        "60.0",
        "40.0",
        "",
        "",
    ]
    assert {row[1].endswith("(exceeded)") for row in controls.values() if row[1]} == {True}
    gains = [row[3][:5] for row in controls.values()]
    assert gains == ["+35.0", "+35.0", *["+40.0"] * 7]  # 18 of 20 in three seeds
    assert [row[6][:5] for row in controls.values()] == [*gains[:1], "+40.0", *gains[2:8], ""]
    kinds = [[float(cell.split()[0]) for cell in row[4:6]] for row in controls.values()]
    single = [points[k] for k, row in enumerate(verbs) if row[1] == "single"]
    assert kinds[0][0] != kinds[0][1]
    assert 0.4 * sum(kinds[0]) + 0.2 * np.mean(single) == pytest.approx(35.0, abs=0.1)
    assert [path.name for path in report.figure("A", tmp_path / "a")] == ["a.png", "a.svg"]
    assert "3 test wearers, up to 5 seeds" in (tmp_path / "a.svg").read_text()
    again = ("seed-2/egodistill-n1-slowfast-2-share-0.25", "seed-1/visonly-distill-n1-mvit-1")
    every = list(files.read_lines(evidence.path_of("A"), "name"))
    every = [line | ({"teacher": "another"} if line["name"] in again else {}) for line in every]
    content = evidence.path_of("A").read_text()
    evidence.path_of("A").write_text("".join(json.dumps(line) + "\n" for line in every))
    assert [row[6] for row in report.stage_1("A").rows[4:8]].count("2") == 1  # trained again, so not paired
    assert [row[11] for row in report.teachers().rows] == ["5", "3", "2", "3", "3"]
    evidence.path_of("A").write_text(content)
    evidence.print_plan()
    assert "0.0 core hours are left, and 0 cells" in capsys.readouterr().out
    with evidence.path_of("B").open() as file:
        first = json.loads(file.readline())
    files.append_line(evidence.path_of("B"), first | {"seconds": 1.0})  # the same answers: the same line twice
    assert report.primary("B").rows
    files.append_line(evidence.path_of("B"), first | {"top1": 2.0})
    with pytest.raises(SystemExit, match=rf"B\.jsonl: two lines of {first['name']} have other answers"):
        report.primary("B")
    about = evidence.RESULTS / "A-segments.json"
    files.write_json(about, files.read_json(about) | {"digest": "u"})
    with pytest.raises(SystemExit, match=r"A\.jsonl: seed-\S+ is a result on other test segments than .*A-segments"):
        report.primary("A")
    files.append_line(evidence.path_of("A"), lines[0] | {"name": "seed-9/x", "protocol": "another"})
    with pytest.raises(SystemExit, match=r"A\.jsonl: 1 lines, such as seed-9/x, are of another protocol than"):
        report.primary("A")


@pytest.mark.parametrize(
    ("world", "source"),
    [
        ("A with an augmented VisIMU", "A"),
        ("A with clean labels and an augmented VisIMU", "A-with-clean-labels"),
    ],
)
def test_an_augmented_visimu_learns_from_the_clips_of_another_world(world, source, scripts, monkeypatch, tmp_path):
    evidence, _ = scripts
    tuned(evidence)
    evidence.freeze()
    monkeypatch.setattr(evidence.synthetic, "render", lambda path, **settings: path)
    monkeypatch.setattr(evidence, "segments_of", lambda rendered: [])
    monkeypatch.setattr(evidence.data, "prepare", lambda segments, path, **options: types.SimpleNamespace(path=path))
    heard = []
    monkeypatch.setattr(evidence.audio, "add_sound", lambda store: heard.append(store.path))
    assert evidence.make(world, tmp_path) == tmp_path / source / "store" == heard[0]
    monkeypatch.setattr(benches.Bench, "__post_init__", lambda bench: None)
    bench = evidence.bench_of(world, tmp_path, evidence.settings_of(world))
    assert bench.store == str(tmp_path / source / "store")
    assert bench.out == str(tmp_path / evidence.slug(world) / "runs")
    plain = replace(bench, protocol=evidence.settings_of("A"))
    for method, added in (("VisIMU", evidence.AUGMENTED), ("VisOnly", {})):
        assert bench.settings(Run(method)) == replace(plain.settings(Run(method)), checkpoint=mock.ANY, **added)


def test_gain_within_a_thing_is_split_by_whether_the_head_follows(scripts):
    """A made-up EgoDistill is right where the head follows, and wrong elsewhere; frames alone are always wrong."""
    evidence, report = scripts
    tuned(evidence)
    evidence.freeze()
    classes, follow = sorted(behaviour.VERBS), {}
    segments = {"digest": "t", "class_names": classes, "wearers": {}}
    for wearer in ("P30", "P31"):
        videos = [f"{wearer}_{number}" for number in range(101, 106)]
        acts = [
            (video, k, act)
            for video in videos
            for k, act in enumerate(synthetic.RenderedRecording(video, 40).draw().acts)
        ]
        about = {"ids": [f"{video}_{k}" for video, k, _ in acts]}
        about["classes"] = [classes.index(behaviour.VERBS[act.verb]) for *_, act in acts]
        segments["wearers"][wearer] = about
        follow[wearer] = np.array([np.hypot(*act.turn) > 0 for *_, act in acts])
    files.write_json(evidence.RESULTS / "A-segments.json", segments)
    for method in ("EgoDistill", "VisOnly-Distill"):
        for run in (replace(report.run_of(method, 1), seed=seed) for seed in range(2)):
            correct = {wearer: right & (method == "EgoDistill") for wearer, right in follow.items()}
            line = {"name": run.name, "run": asdict(run), "correct": contrasts.pack(correct), "test": "t"}
            files.append_line(evidence.path_of("A"), line | {"protocol": evidence.digest()})
    rows = report.within_things("A").rows
    assert [row[:4] for row in rows] == [
        ["1", thing, kind, follows]
        for thing, kind in (("tap", "reversal"), ("carrot", "cyclic"))
        for follows in ("does not", "follows")
    ]
    assert [row[4:6] for row in rows] == [["0.0", "0.0"], ["100.0", "0.0"]] * 2
    assert [row[6] for row in rows] == ["+0.0 (+0.0 to +0.0)", "+100.0 (+100.0 to +100.0)"] * 2
    segments["wearers"]["P31"]["classes"].reverse()
    files.write_json(evidence.RESULTS / "A-segments.json", segments)
    with pytest.raises(SystemExit, match="P31_101: the acts that are drawn today are not those of the lines"):
        report.within_things("A")


def test_teachers_learn_from_a_part_of_the_clips_once(scripts, monkeypatch, tmp_path):
    evidence, report = scripts
    tuned(evidence)
    evidence.freeze()
    commit(evidence)
    made = []

    def bench_of(world, folder, settings, /, **options):
        made.append((Path(options["out"]).name, options["every"], *options["teachers"]))
        bench = FakeBench(world, options["out"], settings)
        bench.run = lambda runs: None
        share = {4: 0.5, 2: 0.75}[options["every"]]
        correct = contrasts.pack({wearer: np.arange(20) < 20 * share for wearer in ("P30", "P31")})
        bench.result = lambda run: {"correct": correct, "top1": 0, "test": "t", "precision": "bf16", "seconds": 1}
        return bench

    monkeypatch.setattr(evidence, "bench_of", bench_of)
    monkeypatch.setattr(evidence, "labels_repeated", lambda bench, teacher, truth: 0.25)
    evidence.curve(tmp_path, ["x3d-{seed}"])
    evidence.curve(tmp_path, ["x3d-{seed}"])
    assert made == [("every-4", 4, "x3d-every-4-{seed}"), ("every-2", 2, "x3d-every-2-{seed}")]
    assert report.teacher_curve().rows == report.frame_choices().rows == []  # nothing to compare with
    all_clips = contrasts.Outcome("x3d", 0, {wearer: np.arange(20) < 18 for wearer in ("P30", "P31")}, "t")
    known = {Run("teacher", teacher="x3d-{seed}"): [replace(all_clips, seed=1), all_clips]}
    monkeypatch.setattr(report, "outcomes", lambda world: known)
    table = report.teacher_curve()
    assert table.header == ["teacher", "1,200 clips", "2,400 clips", "4,800 clips"]
    assert [[cell.split()[0] for cell in row] for row in table.rows] == [["x3d", "50.0", "75.0", "90.0"]]


def test_things_are_counted_whichever_verb_is_named(scripts, monkeypatch):
    evidence, _ = scripts
    names = sorted(behaviour.VERBS)
    monkeypatch.setattr(evidence.data, "ClipStore", lambda path: type("S", (), {"class_names": names}))
    confusion = np.zeros((20, 20), int)
    confusion[names.index("open"), names.index("close")] = 3  # a cupboard
    confusion[names.index("open"), names.index("wash")] = 1
    bench = type("B", (), {"store": "x"})
    assert evidence.things_right({"confusion": confusion.tolist()}, bench) == pytest.approx(0.75)
    confusion[names.index("wash"), names.index("wash")] = 1  # so 1 of 4 verbs where the thing is right
    confusion[names.index("pour"), names.index("pour")] = 9  # a thing with one verb has none to confuse
    assert evidence.verbs_right({"confusion": confusion.tolist()}, bench) == pytest.approx(0.25)


def test_wrong_labels_that_a_teacher_repeats_are_counted(scripts, monkeypatch, tmp_path):
    evidence, _ = scripts
    names = ["open", "close", "wash"]
    truth = tmp_path / "true_verbs.csv"
    truth.write_text("narration_id,verb\na,open\nb,open\nc,wash\nd,close\n")

    class Clips:
        class_names, clips, labels = names, [{"id": name} for name in "abcd"], np.array([0, 1, 1, 0])

        def __init__(self, path):
            pass

        def __len__(self):
            return 4

        def split(self, name):
            assert name == "train"
            return self

        def read(self, name, rows):  # says: open, close (repeated), wash, open (repeated)
            assert name == "slowfast-2.logits" and len(rows) == 4
            return np.eye(3)[[0, 1, 2, 0]]

    monkeypatch.setattr(evidence.data, "ClipStore", Clips)
    teacher = Run("teacher", 2, teacher="slowfast-{seed}")
    assert evidence.labels_repeated(type("B", (), {"store": "x"}), teacher, truth) == pytest.approx(2 / 3)


def test_head_motion_is_exchanged_among_the_same_thing_and_wearer(scripts):
    evidence, _ = scripts
    things, segments = {}, []
    for k in range(24):
        wearer, split = ("P01", "P02")[k % 2], ("train", "test")[k // 12]
        name, start = f"{wearer}_{k}", 10.0 * k
        things[name] = ("cupboard", "pan")[k // 2 % 2]
        segments.append(
            data.Segment(name, f"{name}.mp4", start, start + 1 + k / 10, "x", f"{name}.csv", split, 0.25, 1.5, wearer)
        )
    found = evidence.exchange(segments, things)
    by_file = {segment.imu: segment for segment in segments}
    for own, other in zip(segments, found, strict=True):
        source = by_file[other.imu]
        assert source.id != own.id and things[source.id] == things[own.id]
        assert (source.wearer, source.split) == (own.wearer, own.split)
        middle, theirs = (own.start + own.stop) / 2, (source.start + source.stop) / 2
        stamp = (theirs - source.imu_offset) / source.imu_stretch  # of the reading in the middle of the other act
        assert other.imu_offset + other.imu_stretch * stamp == pytest.approx(middle)
        assert (other.video, other.start, other.label) == (own.video, own.start, own.label)
    assert sorted(other.imu for other in found) == sorted(by_file)  # each once
    assert evidence.exchange(segments, things) == found


def test_a_line_keeps_what_a_run_is(scripts):
    run = Run("EgoDistill", 2, 4, "slowfast-{seed}", ("kd",))
    line = json.loads(json.dumps(asdict(run)))
    assert Run(**{**line, "without": tuple(line["without"])}) == run
    assert {method for method in benches.METHODS if method not in ("STTS T0.8-S0.9", "STTS full")} >= set(
        scripts[0].TUNED
    )


def test_a_bench_has_its_own_folder_where_one_is_given(scripts, tmp_path):
    evidence, _ = scripts
    usual = evidence.bench_of("A with clean labels", tmp_path, evidence.GENERAL)
    assert usual.out == str(tmp_path / "A-with-clean-labels" / "runs") and usual.test == "test"
    tuned = evidence.bench_of("A", tmp_path, evidence.GENERAL, out="elsewhere", test="validation", teachers={})
    assert (tuned.out, tuned.test, tuned.validation, tuned.teachers) == ("elsewhere", "validation", "validation", {})
    assert tuned.store == str(tmp_path / "A" / "store")


@pytest.fixture
def small(scripts, monkeypatch):
    """The evidence of a world of 38 clips of 32 pixels, whose networks are trained in seconds."""
    evidence, _ = scripts
    acts = {"train_acts": 16, "validation_acts": 2, "test_acts": 20}
    wearers = {"train_wearers": 2, "validation_wearers": 1, "test_wearers": 2}
    monkeypatch.setattr(evidence, "WORLD", acts | wearers)
    monkeypatch.setattr(evidence, "PROTOCOL_WORLDS", {name: {} for name in evidence.PROTOCOL_WORLDS})
    monkeypatch.setattr(evidence, "WORLDS", {name: {} for name in evidence.WORLDS})
    monkeypatch.setattr(evidence, "FRAMES", (1,))
    monkeypatch.setattr(evidence, "PIXELS", 32)
    monkeypatch.setattr(evidence, "GENERAL", small_benches.PROTOCOL)
    monkeypatch.setattr(evidence, "TEACHERS", {evidence.TEACHER: small_benches.TEACHERS["slowfast"]})
    for module, name in ((evidence.synthetic, "render"), (evidence.data, "prepare")):
        quiet = functools.partial(getattr(module, name), workers=1, progress=False)
        monkeypatch.setattr(module, name, functools.partial(quiet, size=(32, 32)) if name == "render" else quiet)
    monkeypatch.setattr(evidence, "bench_of", functools.partial(evidence.bench_of, progress=False))
    tuned(evidence)
    evidence.freeze()
    commit(evidence)
    return evidence


def published_in(evidence, folder, world, *names):
    """Train cells of a world, which writes their lines; return the lines of the world."""
    plan = [cell for cell in evidence.chosen([0], worlds=[world]) if cell.run.name in names]
    evidence.run(folder, 1, 9, plan)
    assert set(names) <= set(evidence.finished(world))
    return evidence.path_of(world).read_text()


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_a_line_is_made_again_beside_the_published_one(small, tmp_path, capsys):
    evidence, names = small, ("seed-0/slowfast-0", "seed-0/egodistill-n1-slowfast-0", "seed-0/visimu-n1")
    before = published_in(evidence, tmp_path / "first", "A", *names)
    capsys.readouterr()
    published_in(evidence, tmp_path / "first", "A", *names)
    assert "Nothing to train: all 3 of these cells have a line. `run --again LINE`" in capsys.readouterr().out
    evidence.print_lines("egodistill")
    (row,) = capsys.readouterr().out.splitlines()[2:]
    assert row.split()[:2] == ["A/seed-0/egodistill-n1-slowfast-0", "main"]
    assert float(row.split()[3]) == pytest.approx(1.0, abs=0.06)  # the world's rendering; these networks take no time
    with pytest.raises(SystemExit, match=r"egodistill-n1-slowfast-0: its network was in .*first before.*\.json$"):
        evidence.again("A/seed-0/egodistill-n1-slowfast-0", tmp_path / "first", 1)
    capsys.readouterr()
    evidence.again("A/seed-0/egodistill-n1-slowfast-0", tmp_path / "second", 1)
    printed = capsys.readouterr().out
    needs = ["world A, rendered", "clips of world A", "teacher seed-0/slowfast-0"]
    needs += ["image network that students start from, seed-0/start", "seed-0/stage-1-n1-slowfast-0", names[1]]
    assert [row.rpartition("  ")[0].rstrip() for row in printed.splitlines()[2:8]] == needs and "There" not in printed
    assert re.search(r"About 1\.\d core hours in .*second\. If it is interrupted, the same command", printed)
    assert printed.index("About 1.") < printed.index("[1/4]")  # said before it begins
    agree = re.findall(r"(?m)^A/(\S+): \d+\.\d % published, \d+\.\d % now; 20 of 20 bits agree \(100\.0 %\)$", printed)
    assert agree == list(names[:2])  # the same seed on the same machine
    assert evidence.path_of("A").read_text() == before and f"{evidence.path_of('A')} is as before." in printed
    made = list(files.read_lines(tmp_path / "second" / "again" / "A.jsonl", "name"))
    assert [line["name"] for line in made] == list(names[:2])
    assert [line["correct"] for line in made] == [json.loads(line)["correct"] for line in before.splitlines()[:2]]
    evidence.again("A/seed-0/egodistill-n1-slowfast-0", tmp_path / "second", 1, replaces=True)
    printed = capsys.readouterr().out
    assert "About 0.0 core hours" in printed and printed.count("% in the folder, not trained again; 20 of 20") == 2
    assert f"replaces that of {evidence.path_of('A')}." in printed
    after = [json.loads(line) for line in evidence.path_of("A").read_text().splitlines()]
    assert after == [*map(json.loads, before.splitlines()[:1]), made[1], *map(json.loads, before.splitlines()[2:])]
    assert len(list(files.read_lines(tmp_path / "second" / "again" / "A.jsonl"))) == 2  # not a second time


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_a_line_of_a_varied_world_needs_networks_of_the_other_one(small, tmp_path, capsys):
    """They are taken over: a store of other frames has none from which students' image network could be trained."""
    evidence, name = small, "seed-0/visimu-n1"
    first = tmp_path / "first"
    published_in(evidence, first, "A", "seed-0/slowfast-0", name)
    before = published_in(evidence, first, evidence.EXCHANGED, name)
    capsys.readouterr()
    evidence.again(f"A-with-exchanged-head-motion/{name}", tmp_path / "second", 1)
    printed = capsys.readouterr().out
    assert "slowfast" not in printed and "A/seed-0/visimu-n1:" not in printed  # neither is needed
    assert printed.count("] seed-0/start") == printed.count("] seed-0/visimu-n1") == 1
    assert "clips of world A-with-exchanged-head-motion" in printed and "20 of 20 bits agree" in printed
    assert evidence.path_of(evidence.EXCHANGED).read_text() == before
    runs = [tmp_path / "second" / world / "runs" / "seed-0" for world in ("A", "A-with-exchanged-head-motion")]
    assert same(*(folder / "start.safetensors" for folder in runs))
    assert [path.name for path in runs[0].glob("*.safetensors")] == ["start.safetensors"]


def test_agreement_counts_bits_of_the_same_segments(scripts, tmp_path):
    evidence, _ = scripts
    one = {"name": "x", "top1": 0.5, "test": "t", "correct": contrasts.pack({"P30": [1, 1, 0, 0], "P31": [1, 0]})}
    two = one | {"top1": 2 / 3, "correct": contrasts.pack({"P30": [1, 1, 1, 1], "P31": [0, 0]})}
    assert evidence.agreement(one, two, "now") == "50.0 % published, 66.7 % now; 3 of 6 bits agree (50.0 %)"
    assert evidence.agreement(one, two | {"test": "u"}, "now").endswith("66.7 % now, on other test segments")
    files.append_line(tmp_path / "A.jsonl", one)
    with pytest.raises(SystemExit, match=r"A\.jsonl: not changed, because x is now a result on other test segments"):
        evidence.replace_line(tmp_path / "A.jsonl", two | {"test": "u"})
    evidence.replace_line(tmp_path / "A.jsonl", two)
    assert list(files.read_lines(tmp_path / "A.jsonl")) == [json.loads(json.dumps(two))]


def test_a_name_of_no_line_is_refused_with_similar_ones(scripts, monkeypatch, capsys):
    evidence, _ = scripts
    tuned(evidence)
    evidence.freeze()
    about = {
        "correct": {},
        "protocol": evidence.digest(),
        "commit": "c0ffee",
        "part": "main",
        "top1": 0.5,
        "seconds": 60,
    }
    for run in (Run("VisIMU"), Run("teacher", teacher="older-{seed}")):
        files.append_line(evidence.path_of("A"), {"name": run.name, "run": asdict(run), **about})
    assert evidence.cell_named("A/seed-0/visimu-n1").run == Run("VisIMU")
    for name, message in (
        (
            "A/seed-0/visimu",
            r"not the name of a line; `evidence\.py lines` shows them; similar ones are A/seed-0/visimu-n1",
        ),
        ("!", r"not the name of a line; `evidence\.py lines` shows them$"),
        ("A/seed-1/visimu-n1", "has no line yet; `run` without --again trains it"),
        ("A/seed-0/older-0", "the plan has no such cell any more; its line is of commit c0ffee"),
    ):
        with pytest.raises(SystemExit, match=f"^{name}: {message}"):
            evidence.cell_named(name)
    for words, message in (
        (["--again", "A/seed-0/visimu-n1", "--seeds", "1"], "--again names one line"),
        (["--replace"], "--replace belongs to --again"),
    ):
        monkeypatch.setattr(sys, "argv", ["evidence.py", "run", "--out", "EV", *words])
        with pytest.raises(SystemExit):
            evidence.main()
        assert message in capsys.readouterr().err


def test_holm_steps_down(scripts):
    holm = scripts[1].holm
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # R: p.adjust
    assert holm([0.6, 0.9]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]
    for p in np.random.default_rng(0).uniform(0, 0.1, (50, 6)):
        accepted, rejected = False, []  # the procedure as its author gives it
        for k, index in enumerate(np.argsort(p)):
            accepted = accepted or p[index] > 0.05 / (6 - k)
            rejected += [] if accepted else [index]
        assert sorted(np.flatnonzero(np.array(holm(p)) <= 0.05)) == sorted(rejected)
