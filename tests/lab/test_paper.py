"""The paper's experiments: what each run is made of, what is done again and what is not, tables and figure."""

import argparse
import contextlib
import csv
import functools
import io
import json
import pickle
import re
import shutil
import socket
import urllib.error
from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
from commandline import any_input
from miniature import same, unfinished
from painted import reindex, relabel
from small_benches import PROTOCOL, miniature

import lab.demo
from egodistill import EPIC_KITCHENS, EgoDistill, data, distillation, inference, teachers
from egodistill.engine import batches, models
from lab import adafuse, baselines, benches, contrasts, intervals, paper
from lab.__main__ import main
from lab.benches import STAGE_1_LOSSES, Bench, Run
from lab.paper import ABLATIONS
from lab.protocols import PROTOCOLS


def bench_of(demo, out=None, **options) -> Bench:
    return Bench(str(demo.out / "store"), str(out or demo.out), PROTOCOL, progress=False, **options)


# --- What a run is


def test_variants_of_stts_that_are_one_at_this_size_are_one_run(demo):
    bench = bench_of(demo)
    methods = [run.method for run in paper.comparison(bench, teacher="t", seeds=(0,))]
    assert methods.count("EgoDistill") == 3 and methods.count("AdaFuse") == 1
    assert [method for method in methods if method in benches.STTS_METHODS] == ["STTS T0.5-S0.7", "STTS full"]
    large = replace(bench, protocol=PROTOCOL)
    store = data.ClipStore(bench.store)
    kept = {}
    for size in (64, 224):
        store.settings["frame_size"] = size
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "ClipStore", lambda path: store)
            kept[size] = [paper.kept_tokens(large, method, 4) for method in benches.STTS_METHODS]
    assert kept[64] == [(1, 3), (1, 3), (2, 0)] and kept[224] == [(1, 12), (1, 13), (2, 0)]
    with pytest.raises(ValueError, match="unknown method 'Ego'"):
        paper.comparison(bench, teacher="t", methods=["Ego"])


# --- Commands, on the store and the runs of the demo


@pytest.fixture
def small(monkeypatch):
    """`--preset demo` is the miniature's."""
    miniature(monkeypatch.setattr, cores=1)
    monkeypatch.setitem(PROTOCOLS, "demo", PROTOCOL)


def compare_in(demo, folder):
    """`compare` in a copy of the demo, with what it printed, and which files were there before."""
    demo = demo.copied(folder / "out")
    before = {path: path.stat().st_mtime_ns for path in demo.out.rglob("seed-*/*")}
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        miniature(patch.setattr, cores=1)
        patch.setitem(PROTOCOLS, "demo", PROTOCOL)
        assert main(COMPARE.format(demo.out).split()) == 0
    demo.compared = printed.getvalue(), before
    return demo


@pytest.fixture(scope="module")
def demo(demo, once):
    """The demo, with what `compare` has added to its folder."""
    return once("compared", functools.partial(compare_in, demo))


@pytest.fixture
def compared(demo):
    return demo.compared


COMPARE = (
    "compare {0}/store --teacher slowfast-{{seed}} --out {0} --preset demo --seeds 0,1 --num-frames 1 2 "
    "--methods VisOnly-Distill EgoDistill ListenToLook AdaFuse"
)


@pytest.mark.slow("a comparison")
def test_compare_takes_what_the_demo_has_trained(demo, compared):
    printed, before = compared
    assert {path: path.stat().st_mtime_ns for path in before} == before
    made = {f"{path.parent.name}/{path.stem}" for path in demo.out.rglob("seed-*/*.safetensors") if path not in before}
    wanted = {
        f"seed-{seed}/{name.format(seed)}"
        for seed in (0, 1)
        for name in (
            "visonly-distill-n2-slowfast-{0}",
            "stage-1-n2-slowfast-{0}",
            "egodistill-n2-slowfast-{0}",
            "listentolook-n1-slowfast-{0}",
            "listentolook-n2-slowfast-{0}",
            "adafuse-n2",
        )
    }
    assert made == wanted
    assert f"[12/12] {max(wanted)}" in printed or printed.count("/12] ") == 12
    assert not unfinished(demo.out)


def test_compare_writes_what_it_prints(demo, compared):
    printed, _ = compared
    content = json.loads((demo.out / "compare.json").read_text())
    rows = {(row["method"], row["frames"]): row for row in content["rows"]}
    assert set(rows) == {
        ("teacher", 1),
        *((name, n) for name in ("VisOnly-Distill", "EgoDistill", "ListenToLook") for n in (1, 2)),
        ("AdaFuse", 2),
    }
    test = data.ClipStore(demo.out / "store").split("test")
    for (method, _frames), row in rows.items():
        run = Run(**row["run"] | {"without": tuple(row["run"]["without"])})
        both = [models.load_any(demo.out / (replace(run, seed=seed).name + ".safetensors")) for seed in (0, 1)]
        top1 = [100 * inference.evaluate(model, test, precision="fp32", progress=False).top1 for model in both]
        assert row["top1_seeds"] == pytest.approx(top1), method
        assert row["top1"] == pytest.approx(np.mean(top1)) and row["std"] == pytest.approx(np.std(top1, ddof=1))
        gmacs = inference.count_macs(both[0], torch.device("cpu")) / 1e9
        if method == "AdaFuse":  # What its policies need, in the mean over the seeds.
            files = [demo.out / f"seed-{seed}" / "adafuse-n2.json" for seed in (0, 1)]
            gmacs = np.mean([json.loads(file.read_text())["gmacs"] for file in files])
        assert row["gmacs"] == pytest.approx(gmacs)
        assert row["params"] == sum(p.numel() for p in both[0].parameters()) and row["ms_per_clip"] > 0
        cells = [method, row["inputs"], f"{row['gmacs']:.3f}", f"{row['params'] / 1e6:.2f}"]
        assert any(line.split("  ")[0] == method and all(c in line for c in cells) for line in printed.splitlines())
    assert rows["ListenToLook", 1]["inputs"] == "1 frame + sound" and rows["AdaFuse", 2]["inputs"] == "2 frames"
    assert rows["teacher", 1]["inputs"] == "16 frames"
    with open(demo.out / "compare.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(rows)
    for line in lines[1:]:
        row = rows[line["method"], int(line["frames"])]
        assert float(line["top1"]) == row["top1"] and float(line["gmacs"]) == row["gmacs"]
        assert int(line["params"]) == row["params"]
        interval = row["interval"]
        assert [float(line[name]) for name in ("mean_of_wearers", "low", "high")] == [
            interval[name] for name in ("mean", "low", "high")
        ]
    assert (demo.out / "compare.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (demo.out / "compare.svg").read_text()


def table_of(demo, name: str) -> np.ndarray:
    """The accuracy (%) of each seed and wearer of a run, from its weights."""
    test, rows = data.ClipStore(demo.out / "store").split("test"), []
    for seed in (0, 1):
        model = models.load_any(demo.out / f"seed-{seed}" / f"{name.format(seed)}.safetensors")
        found = inference.evaluate(model, test, precision="fp32", progress=False)
        wearers = np.array(test.wearers)
        rows.append([100 * found.correct.numpy()[wearers == wearer].mean() for wearer in sorted(set(wearers))])
    return np.array(rows)


def test_compare_prints_and_writes_paired_differences(demo, compared):
    printed, _ = compared
    found = json.loads((demo.out / "compare.json").read_text())["differences"]
    others = [(one["second"]["method"], one["second"]["frames"]) for one in found]
    assert others == [(name, n) for name in ("VisOnly-Distill", "ListenToLook") for n in (1, 2)] + [("AdaFuse", 2)]
    assert all(
        (one["first"]["method"], one["first"]["frames"]) == ("EgoDistill", n)
        for one, (_, n) in zip(found, others, strict=True)
    )
    names = ["visonly-distill-n{}-slowfast-{{}}", "listentolook-n{}-slowfast-{{}}", "adafuse-n{}"]
    names = dict(zip(("VisOnly-Distill", "ListenToLook", "AdaFuse"), names, strict=True))
    table = printed[printed.index("EgoDistill minus each other method") :]
    assert "95 % intervals over 2 seeds and 3 wearers" in table.split("\n")[0]
    for (method, frames), one in zip(others, found, strict=True):
        mine, other = (table_of(demo, name.format(frames)) for name in ("egodistill-n{}-slowfast-{{}}", names[method]))
        expected, given = intervals.two_way(mine - other).within(-100, 100), one["interval"]
        assert (given["mean"], given["low"], given["high"]) == pytest.approx(
            (expected.mean, expected.low, expected.high)
        )
        cells = [method, str(frames), f"{expected.mean:+.1f}", f"{expected.low:+.1f} to {expected.high:+.1f}"]
        assert any(re.split("  +", line) == cells for line in table.splitlines()), cells


def test_accuracies_have_intervals(demo, compared):
    rows = json.loads((demo.out / "compare.json").read_text())["rows"]
    for method, name in (("EgoDistill", "egodistill-n2-slowfast-{}"), ("teacher", "slowfast-{}")):
        row = [one for one in rows if one["method"] == method][-1]
        expected, given = intervals.two_way(table_of(demo, name)).within(0, 100), row["interval"]
        assert (given["mean"], given["low"], given["high"]) == pytest.approx(
            (expected.mean, expected.low, expected.high)
        )
        assert (given["seeds"], given["wearers"]) == (2, 3)


def test_outcomes_know_the_classes_and_can_be_grouped(demo, compared):
    bench, runs = bench_of(demo), [Run("AdaFuse", seed, frames=2) for seed in (0, 1)]
    test = data.ClipStore(demo.out / "store").split("test")
    outcome = bench.outcome(runs[0])
    assert outcome.name == runs[0].name and outcome.seed == 0
    labels = [test.class_names[k] for k in test.labels]
    for wearer, names in outcome.classes.items():
        assert list(names) == [label for label, other in zip(labels, test.wearers, strict=True) if other == wearer]
    outcomes = [bench.outcome(run) for run in runs]
    assert contrasts.accuracy(outcomes).mean == pytest.approx(table_of(demo, "adafuse-n2").mean())
    assert contrasts.accuracy(outcomes, groups={"all": test.class_names}) == contrasts.accuracy(outcomes)


def test_results_of_an_earlier_version_are_read_and_compare_says_what_is_missing(
    demo, compared, small, tmp_path, capsys
):
    out = tmp_path / "out"
    shutil.copytree(demo.out, out, ignore=shutil.ignore_patterns("world", "store"))
    for path in [*out.glob("seed-*/*.json")]:
        record = {
            name: value for name, value in json.loads(path.read_text()).items() if name not in ("test", "correct")
        }
        path.write_text(json.dumps(record))
    (out / "segments.json").unlink()
    command = COMPARE.format(demo.out).replace(f"--out {demo.out}", f"--out {out}")
    assert main(command.split()) == 0
    printed = capsys.readouterr().out
    assert "/12]" not in printed  # nothing was trained
    assert "No intervals of the differences between methods: " in printed and "an earlier version" in printed
    content = json.loads((out / "compare.json").read_text())
    assert content["differences"] == [] and {row["interval"] is None for row in content["rows"][1:]} == {True}
    assert (out / "segments.json").read_text() == (demo.out / "segments.json").read_text()
    lost = out / "seed-0" / "adafuse-n2.json"
    before = json.loads(lost.read_text())
    lost.unlink()  # as the message says
    bench_of(demo, out).run([Run("AdaFuse", frames=2)])
    assert json.loads(lost.read_text())["top1"] == before["top1"] and bench_of(demo, out).outcome(
        Run("AdaFuse", frames=2)
    )


def test_files_of_others_are_neither_read_nor_replaced(demo, small, tmp_path, capsys):
    compare = COMPARE.format(demo.out).replace(f"--out {demo.out}", "--out OUT")
    ablate = f"ablate {demo.out / 'store'} --teacher slowfast-{{seed}} --out OUT --preset demo --seeds 0"
    for command, name, told in (
        (compare, "compare.csv", "compare.csv: already exists, and"),
        (ablate, "ablate.json", "ablate.json: already exists, and"),
        (compare, "bench.json", "bench.json: is no file of a bench"),
        (ablate, "segments.json", "segments.json: is no file of a bench"),
    ):
        (out := tmp_path / name).mkdir()
        (out / name).write_text('{"mine": 1}')
        assert main(command.replace("OUT", str(out)).split()) == 1
        assert told in capsys.readouterr().err and (out / name).read_text() == '{"mine": 1}'
        assert not list(out.glob("seed-*"))


def test_adafuse_costs_what_its_decisions_need(demo, compared):
    model = baselines.Baseline.load(demo.out / "seed-0" / "adafuse-n2.safetensors")
    test = data.ClipStore(demo.out / "store").split("test")
    each = []
    for k in range(len(test)):
        model(torch.from_numpy(test.read("frames_2", [k])))
        each.append(model.gflops().upb)
    found = json.loads((demo.out / "seed-0" / "adafuse-n2.json").read_text())["gmacs"]
    assert found == pytest.approx(np.mean(each), rel=1e-5) and found < model.gflops().dense


def test_compare_given_again_trains_nothing(demo, small, tmp_path, monkeypatch, capsys):
    for name in ("finetune", "distill", "pretrain_imu"):
        monkeypatch.setattr(distillation, name, lambda *_, **__: pytest.fail("trained again"))
    demo = demo.copied(tmp_path / "out")
    # One whose judgement is missing (killed in between) is judged and not trained again.
    judged = demo.out / "seed-1" / "adafuse-n2.json"
    before = json.loads(judged.read_text())
    judged.unlink()
    assert main(COMPARE.format(demo.out).split()) == 0
    assert "[1/1] seed-1/adafuse-n2" in capsys.readouterr().out
    assert json.loads(judged.read_text())["top1"] == before["top1"]


def test_teacher_is_judged_by_what_lies_in_the_store(demo):
    row = paper.teacher_row(bench_of(demo, demo.out / "elsewhere"), "slowfast-{seed}", [0, 1])
    test = data.ClipStore(demo.out / "store").split("test")
    for seed in (0, 1):
        teacher = teachers.Teacher.load(demo.out / f"seed-{seed}" / f"slowfast-{seed}.safetensors")
        found = inference.evaluate(teacher, test, precision="fp32", progress=False)
        assert row.top1_seeds[seed] == pytest.approx(100 * found.top1)
    assert row.gmacs is None and row.params is None  # nobody said which network it is
    one = paper.teacher_row(bench_of(demo), "slowfast-1", [0, 1])  # without {seed} the same for all
    assert one.top1_seeds == row.top1_seeds[1:] and one.std is None


@pytest.fixture(scope="module")
def sampled(demo, tmp_path_factory):
    """The demo's clips in a store with three choices of two frames, and with what a teacher of the demo says."""
    segments = data.read_epic_kitchens(demo.out / "world" / "EPIC_100_train.csv", demo.out / "world")
    clip = data.ClipStore(demo.out / "store").specs["clip"]
    options = {"num_frames": (1, 2), "frame_size": 32, "clip_frames": clip.frames, "clip_size": clip.size, "workers": 1}
    path = tmp_path_factory.mktemp("sampled") / "s"
    store = data.prepare(segments, path, sampling=("uniform", "first", "last"), progress=False, **options)
    teachers.extract(teachers.Teacher.load(demo.out / "seed-0" / "slowfast-0.safetensors"), store, progress=False)
    return store


@pytest.mark.slow("trains eleven students")
def test_ablate_makes_tables_1_and_4(small, sampled, capsys):
    out = sampled.path.parent / "out"  # Not that of the demo, whose store has other arrays.
    command = f"ablate {sampled.path} --teacher slowfast-{{seed}} --out {out} --preset demo --seeds 0"
    assert main([*command.split(), "--num-frames", "2"]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((out / "ablate.json").read_text())["rows"]
    assert [row["run"]["without"] for row in rows[1:8]] == [list(part) for part in ABLATIONS.values()]
    assert rows[0]["method"] == "VisIMU"
    assert [row["run"]["sampling"] for row in rows[8:]] == ["uniform", "first", "last"]
    assert all(row["gmacs"] is None for row in rows)  # they are all of one size
    for name, row in zip(["labels and IMU only (VisIMU)", *ABLATIONS], rows[:8], strict=True):
        assert f"{name}  " in printed and any(
            line.startswith(name) and line.endswith(f" {row['top1']:.1f}") for line in printed.splitlines()
        )
    folder = out / "seed-0"
    pairs = [("egodistill-n1-slowfast-0", f"egodistill-n1-slowfast-0-without-{loss}") for loss in ("kd", "l1", "gt")]
    pairs += [("stage-1-n1-slowfast-0", f"stage-1-n1-slowfast-0-without-{loss}") for loss in STAGE_1_LOSSES]
    pairs += [("egodistill-n2-slowfast-0-first", "egodistill-n2-slowfast-0-last")]
    assert not any(same(folder / f"{one}.safetensors", folder / f"{other}.safetensors") for one, other in pairs)
    assert main(command.split()) == 0  # of four frames the store has none
    assert "Table 4 is left out" in capsys.readouterr().out


def test_runs_see_the_frames_of_their_rule(demo, sampled):
    """Of one store, by a view that goes through copying and splitting as any other."""
    bench = replace(bench_of(demo), store=str(sampled.path))
    assert [run.sampling for run in paper.frame_choices(bench, "slowfast-0", seeds=(0,), frames=2)] == [
        "uniform",
        "first",
        "last",
    ]
    run = Run("VisOnly", frames=2, sampling="first")
    train, test = bench.splits(run)
    model = bench.build(replace(run, sampling="first", method="VisIMU"), train)
    assert (model.sampling, model.exact) == ("first", True)
    twin = pickle.loads(pickle.dumps(test))
    assert np.array_equal(
        twin.select([2]).read("frames_2_first", [0]), sampled.split("test").read("frames_2_first", [2])
    )
    assert (test.read("frames_2_first", [0]) != test.read("frames_2", [0])).any()
    assert batches.arrays_of(model, test) == ["frames_2_first", "imu"]
    with pytest.raises(ValueError, match="--num-frames 2 --sampling centre"):
        bench.splits(replace(run, sampling="centre"))


@pytest.mark.slow("two processes that train")
def test_runs_in_processes_give_the_same(demo, compared, tmp_path, capsys):
    """Two at a time, in processes of their own: the same weights, bit by bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2 * threads)  # So each of the two has as many as those that ran here.
    runs = [Run("AdaFuse", frames=2), Run("ListenToLook", teacher="slowfast-{seed}")]
    told, bench = [], bench_of(demo, tmp_path)
    try:
        bench.run(runs, jobs=2, done=lambda run: told.append((run, bench.is_done(run))))
    finally:
        torch.set_num_threads(threads)
    assert {run for run, _ in told} == set(bench.with_dependencies(runs)) and all(ready for _, ready in told)
    bench.run(runs, done=told.append)  # finished ones are named at once
    assert told[-3:] == bench.with_dependencies(runs) and len(told) == 6
    assert capsys.readouterr().out.count("/3] seed-0/") == 3  # and ListenToLook's start
    for run in runs:
        assert same(tmp_path / f"{run.name}.safetensors", demo.out / f"{run.name}.safetensors")
        found, before = (json.loads((out / f"{run.name}.json").read_text()) for out in (tmp_path, demo.out))
        assert found["top1"] == before["top1"]
    assert not unfinished(tmp_path)


def test_finished_runs_are_of_the_same_clips_and_outputs(demo, tmp_path):
    """A result is not taken for one of another store, teacher or file of weights."""
    store, out = tmp_path / "store", tmp_path / "out"
    shutil.copytree(demo.out / "store", store)
    weights = tmp_path / "weights.safetensors"
    torch.save({}, weights)
    protocol = replace(PROTOCOL, adafuse=replace(PROTOCOL.adafuse, weights=str(weights)))
    bench = Bench(str(store), str(out), protocol, progress=False)
    run = Run("VisOnly-Distill", teacher="slowfast-0")
    bench.run([run])
    bench.run([run])
    torch.save({"a": 1}, weights)
    with pytest.raises(ValueError, match=r"bench.json: .*weights\.safetensors was '\d+ bytes, .* Use another folder"):
        bench.run([run])
    torch.save({}, weights)
    features = data.ClipStore(store).read("slowfast-0.feature", slice(None))
    data.ClipStore(store).write("slowfast-0.feature", slice(None), features + 1)
    with pytest.raises(ValueError, match=rf"{run.name}\.json: .*outputs slowfast-0\.feature was .* Delete it"):
        bench.run([run])
    data.ClipStore(store).write("slowfast-0.feature", slice(None), features)
    bench.run([run])
    reindex(store, checksum=lambda sums: sums[::-1])
    with pytest.raises(ValueError, match=r"bench.json: .*fingerprint of the clips\.train was"):
        bench.run([run])


# --- Errors


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--preset epic", "bench.json: was begun with other settings: protocol.recipe.student.image_encoder was"),
        ("--preset demo --pretrained STTS=x.pth", "protocol.stts.weights was None and is now 'x.pth'"),
        ("--epochs 3", "protocol.recipe.finetuning.epochs was 2 and is now 3"),
        ("--methods EgoDistill Ego", "unknown method 'Ego'"),
        ("--pretrained AdaFuses=x.pth", "--pretrained is for students, AdaFuse, STTS or ListenToLook; got 'AdaFuses'"),
        ("--teacher nobody --methods EgoDistill --out {new}", "has no array 'nobody.feature'"),
        ("--num-frames 3 --methods VisOnly --out {new}", "`egodistill prepare --num-frames 3` writes them"),
    ],
)
def test_errors_of_compare_name_the_way_out(demo, small, tmp_path, capsys, monkeypatch, options, says):
    any_input(monkeypatch)
    command = f"compare {demo.out}/store --teacher slowfast-{{seed}} --out {demo.out} --preset demo --seeds 0"
    assert main([*command.split(), *options.format(new=tmp_path / "new").split()]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize("words", ["compare s --methods VisIMU", "ablate s"])
def test_a_comparison_of_clips_without_labels_is_refused(words, taught, capsys):
    relabel(taught / "s", lambda segment: None)
    assert main([*words.split(), *"--teacher small --preset demo --out x".split()]) == 1
    assert "is trained on labels, but no clip" in capsys.readouterr().err


def test_the_way_out_without_a_network_is_an_option(taught, monkeypatch, capsys):
    def offline(*_, **options):
        raise urllib.error.URLError(socket.gaierror(-2, "Name or service not known"))

    monkeypatch.setenv("TORCH_HOME", "cache")  # empty
    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", offline)
    assert main("compare s --out o --methods VisOnly --num-frames 1 --seeds 0".split()) == 1
    said = capsys.readouterr().err
    file = r"https://download\.pytorch\.org/models/resnet18-\w+\.pth"
    told = rf"\(Name or service not known\)\. Without a network connection, bring {file} to cache\W+hub\W+checkpoints"
    way = "--pretrained NAME=FILE, or NAME=none for random weights; NAME: students, AdaFuse, STTS, ListenToLook"
    assert re.search(f"{told}, or give {re.escape(way)}", said) and "Errno" not in said and said.count("\n") == 2


def test_weights_and_epochs_reach_the_bench():
    command = "compare s --teacher t --out o --epochs 7 --batch-size 5 --precision bf16"
    command += " --pretrained students=r18.pth STTS=none"
    with pytest.MonkeyPatch.context() as patch:
        given = []
        any_input(patch)
        patch.setattr(lab.demo, "run_compare", given.append)
        assert main(command.split()) == 0
    protocol = lab.demo.build_bench(given[0]).protocol
    assert protocol.recipe.student.image_weights == "r18.pth" and protocol.stts.weights is None
    assert protocol.adafuse.weights == "imagenet"  # the paper's, where nothing else is said
    changes = {"epochs": 7, "batch_size": 5, "precision": "bf16"}
    assert protocol.recipe == replace(EPIC_KITCHENS, student=protocol.recipe.student).with_training(**changes)
    assert PROTOCOLS["epic"].recipe.finetuning.epochs == 50  # untouched


@pytest.mark.parametrize("command", ["compare", "ablate"])
def test_presets_reach_the_bench(command, monkeypatch):
    """They mean the same recipe as in the commands that train one model."""
    given = []
    any_input(monkeypatch)
    monkeypatch.setattr(lab.demo, f"run_{command}", given.append)
    for name, wanted in PROTOCOLS.items():
        assert main([command, *"s --teacher t --out o --preset".split(), name]) == 0
        protocol = lab.demo.build_bench(given[-1]).protocol
        assert protocol == wanted and protocol.recipe == distillation.PRESETS[name]
    with pytest.raises(SystemExit):  # of a student that it lacks
        main([command, *"s --teacher t --out o --preset spectrum".split()])


# --- Files


def test_load_knows_all_kinds_of_files(demo, compared):
    folder = demo.out / "seed-0"
    kinds = {"slowfast-0": teachers.Teacher, "visonly-n1": EgoDistill, "adafuse-n2": adafuse.AdaFuse}
    for name, kind in kinds.items():
        assert type(models.load_any(folder / f"{name}.safetensors")) is kind


# --- Numbers by an independent computation, and options that arrive


def test_a_row_has_mean_and_sample_standard_deviation_over_its_seeds():
    found = [
        {"top1": 0.5, "per_class": {"a": 0.25, "b": 1.0}, "precision": "fp32"},
        {"top1": 0.8, "per_class": {"a": 0.75, "b": 0.5}, "precision": "bf16"},
        {"top1": 0.6, "per_class": {"a": 0.5, "b": 0.0}},
    ]
    row = paper.row(Run("VisIMU", frames=2), found, "2 frames + IMU", 1.5, None)
    mean = (50 + 80 + 60) / 3
    assert row.precision == "bf16, fp32"  # of two machines; unknown for the third
    assert row.top1 == pytest.approx(mean) and row.top1_seeds == pytest.approx([50, 80, 60])
    assert row.std == pytest.approx((((50 - mean) ** 2 + (80 - mean) ** 2 + (60 - mean) ** 2) / 2) ** 0.5)
    assert row.per_class == pytest.approx({"a": 50, "b": 50}) and (row.gmacs, row.params) == (1.5, None)
    assert paper.row(Run("VisIMU"), found[:1], "1 frame", None, None).std is None


def test_rows_and_hours_are_those_of_all_seeds(monkeypatch, tmp_path):
    results = {0: (0.5, 1.0, 1800), 1: (0.7, 3.0, 5400)}  # top-1, GMACs, seconds

    def result(self, run):
        top1, gmacs, seconds = results[run.seed]
        return {"top1": top1, "per_class": {}, "seconds": seconds, "gmacs": gmacs}

    monkeypatch.setattr(Bench, "result", result)
    monkeypatch.setattr(Bench, "load", lambda self, run: argparse.Namespace(inputs=("frames",), num_frames=4))
    bench = Bench("store", str(tmp_path), PROTOCOLS["epic"])
    runs = [Run("AdaFuse", seed, frames=4) for seed in (0, 1)]
    (row,) = paper.rows(bench, runs, costs=False)
    assert (row.gmacs, row.top1, row.inputs) == (2.0, pytest.approx(60), "4 frames")
    assert bench.hours(runs) == pytest.approx((1800 + 5400) / 3600)


def test_each_teacher_is_compared_with_its_own_students(monkeypatch):
    bench = argparse.Namespace(outcome=lambda run: run.name, methods=[])
    monkeypatch.setattr(contrasts, "difference", lambda first, second: (first[0], second[0]))
    taught = [Run(method, teacher=name) for name in "ab" for method in ("EgoDistill", "VisOnly-Distill")]
    found = [(one.first.teacher, one.second.method) for one in paper.leads(bench, [*taught, Run("VisIMU")])]
    methods = ("VisOnly-Distill", "VisIMU")
    assert sorted(found) == sorted((name, method) for name in "ab" for method in methods)


def test_compare_leaves_out_what_the_store_is_not_enough_for(demo, capsys):
    bench, store = bench_of(demo), data.ClipStore(demo.out / "store")
    assert set(benches.METHODS) - set(lab.demo.fitting_methods(bench, store, 4)) <= {"ListenToLook"}
    capsys.readouterr()
    found = lab.demo.fitting_methods(bench, store, 1)
    assert "STTS full" in found and "STTS T0.5-S0.7" not in found
    assert "STTS T0.5-S0.7 is left out: time_ratio=0.5 keeps 0 of the 1 temporal tokens" in capsys.readouterr().out
