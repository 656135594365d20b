"""Runs and benches: names, settings, what is trained again, several processes."""

import argparse
import contextlib
import functools
import inspect
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import ROOT
from miniature import group_size, same
from painted import relabel
from small_baselines import small_adafuse
from small_benches import PROTOCOL
from waiting import LIMIT, until

import egodistill
import lab.demo
from egodistill import (
    EPIC_KITCHENS,
    DataError,
    EgoDistill,
    EgoDistillError,
    StudentSettings,
    Training,
    data,
    distillation,
    inference,
    teachers,
)
from egodistill.datasets.store_files import StoreFiles
from egodistill.distillation import DistillationSettings, PretrainingSettings
from egodistill.engine.image_encoders import DownloadError
from egodistill.recordings.spec import ClipSpec
from egodistill.support import custom, files
from lab import adafuse, benches, listen_to_look, paper, protocols, stts
from lab.__main__ import main
from lab.benches import STAGE_1_LOSSES, Bench, Run
from lab.paper import ABLATIONS
from lab.protocols import PROTOCOLS


def bench_of(demo, out=None, **options) -> Bench:
    return Bench(str(demo.out / "store"), str(out or demo.out), PROTOCOL, progress=False, **options)


def test_runs_have_names_of_their_own():
    every = [
        Run("teacher", teacher="x-{seed}"),
        Run("start"),
        Run("VisOnly"),
        Run("VisOnly", frames=2),
        Run("VisOnly", 1),
        *(Run("EgoDistill", teacher="x-{seed}", without=lacking) for lacking in ABLATIONS.values()),
        Run("EgoDistill", teacher="y"),
        Run("EgoDistill", teacher="x-{seed}", sampling="first"),
        Run("EgoDistill", teacher="x-{seed}", share=0.1),
        Run("EgoDistill", teacher="x-{seed}", share=0.1, stage_1_on="share"),
        Run("EgoDistill", teacher="x-{seed}", share=1.0),
        Run("stage 1", teacher="x-{seed}"),
        *(Run(method) for method in benches.BASELINES),
    ]
    names = [run.name for run in every]
    assert len(set(names)) == len(names)
    assert Run("EgoDistill", 3, 4, "x-{seed}").name == "seed-3/egodistill-n4-x-3"
    assert Run("STTS T0.5-S0.7").name == "seed-0/stts-t0.5-s0.7-n1"  # no blanks, nothing that climbs out


def test_each_loss_is_left_out_by_name(tmp_path):
    bench = Bench("store", str(tmp_path))
    changed = {"kd": {"alpha": 0.0}, "gt": {"alpha": 1.0}, "l1": {"beta": 0.0}, "nce": {}}
    paper = bench.settings(Run("EgoDistill", teacher="t")).record()
    assert paper == EPIC_KITCHENS.distillation.record()
    for loss, change in changed.items():
        settings = bench.settings(Run("EgoDistill", teacher="t", without=(loss,)))
        assert type(settings) is DistillationSettings and settings.record() == paper | change
    for loss, wanted in (("nce", (0.0, 1.0)), ("pretrain_l1", (1.0, 0.0)), ("kd", (1.0, 1.0))):
        run = benches.stage_1(Run("EgoDistill", teacher="t", without=(loss,)))
        settings = bench.settings(run)
        assert type(settings) is PretrainingSettings and (settings.nce_weight, settings.l1_weight) == wanted
        assert run.name == Run("stage 1", teacher="t", without=() if loss == "kd" else (loss,)).name
    assert {type(bench.settings(Run(method))) for method in ("VisOnly", "VisIMU", "AdaFuse")} == {Training}
    assert type(bench.settings(Run("ListenToLook", teacher="t"))) is DistillationSettings
    ego4d = replace(bench, protocol=PROTOCOLS["ego4d"]).settings(Run("EgoDistill", teacher="t"))
    assert (ego4d.tau, ego4d.epochs, ego4d.decay_epochs) == (10.0, 150, (90, 120))


def test_what_is_the_runs_own_is_not_the_recipes(tmp_path):
    """Seed, device, checkpoint and progress."""
    recipe = EPIC_KITCHENS.with_training(precision="auto", seed=5, device="meta", checkpoint="x", progress=False)
    bench = Bench("store", str(tmp_path), protocols.Protocol(recipe), device="cpu")
    settings = bench.settings(Run("VisOnly", seed=3))
    assert (settings.seed, settings.device, settings.progress) == (3, "cpu", True)
    assert settings.checkpoint == tmp_path / "seed-3" / "visonly-n1.safetensors.training"
    assert settings.precision == "auto"  # decided when the training begins


def test_the_time_left_is_that_of_runs_of_the_same_method_or_of_other_students(tmp_path):
    bench = Bench("store", str(tmp_path), PROTOCOLS["demo"], teachers={"t": lab.demo.DEMO.teachers["x3d"]})
    teacher, first, second, other = Run("teacher", teacher="t"), Run("VisOnly"), Run("VisOnly", 1), Run("VisIMU")
    runs = [teacher, first, second, other]
    for run, seconds in ((teacher, 500.0), (first, 60.0)):
        assert bench.time_left(runs, runs[runs.index(run) :]) == ""  # nothing is known about students
        bench.path(run).parent.mkdir(exist_ok=True)
        files.write_json(bench.path(run, ".json"), {"seconds": seconds})
    assert bench.time_left(runs, [second, other]) == ", about 2:00 left"
    files.write_json(bench.path(second, ".json"), {"seconds": 120.0})
    assert bench.time_left(runs, {other}, jobs=2) == ", about 0:45 left" and bench.time_left(runs, []) == ""


def test_a_run_is_trained_by_the_stage_of_its_settings(monkeypatch):
    calls = []
    for name in ("finetune", "pretrain_imu", "distill"):
        monkeypatch.setattr(
            distillation, name, lambda *given, _name=name, **named: calls.append((_name, *given, named))
        )
    run, recipe = Run("EgoDistill", 3, teacher="t-{seed}"), EPIC_KITCHENS
    for stage in (recipe.finetuning, recipe.pretraining, recipe.distillation):
        Bench("store", "out").fit(run, "model", "store", stage)
    taught = {"teacher": "t-3"}
    assert calls == [
        ("finetune", "model", "store", recipe.finetuning, {"validation": None}),
        ("pretrain_imu", "model", "store", recipe.pretraining, taught | {"teacher_rows": None}),
        ("distill", "model", "store", recipe.distillation, taught),
    ]


def test_runs_with_a_share_of_the_teachers_outputs_take_equally_many_steps(demo, monkeypatch):
    bench = bench_of(demo)
    clips = len(bench.train_clips(data.ClipStore(bench.store)))
    whole = Run("EgoDistill", teacher="slowfast-{seed}", share=0.25)
    arms = {
        "none": replace(whole, without=STAGE_1_LOSSES),
        "nce": replace(whole, without=("pretrain_l1",)),
        "all": whole,
        "share": replace(whole, stage_1_on="share"),
    }
    steps, seen = {}, {}
    for name, run in arms.items():
        total = 0
        for part in [run] if name == "none" else [run, benches.stage_1(run)]:
            train, _ = bench.splits(part)
            settings = bench.settings(part)
            total += settings.epochs * -(-len(train) // settings.batch_size)
            seen[name, part.method] = len(train)
        steps[name] = total
    share = round(0.25 * clips)
    assert seen == {
        ("none", "EgoDistill"): share,
        **{(name, "EgoDistill"): share for name in ("nce", "all", "share")},
        ("nce", "stage 1"): clips,
        ("all", "stage 1"): clips,
        ("share", "stage 1"): share,
    }
    most = max(bench.settings(part).batch_size for part in (whole, benches.stage_1(whole)))
    assert max(steps.values()) - min(steps.values()) <= max(1, -(-share // 2) // most + 1), steps
    rows = [benches.taught_rows(replace(whole, share=s), clips) for s in (0.1, 0.25, 1.0)]
    assert (rows[0] <= rows[1]).all() and rows[2].all() and rows[0].sum() == round(0.1 * clips)
    assert (rows[1] != benches.taught_rows(replace(whole, seed=1), clips)).any()
    calls = []
    monkeypatch.setattr(distillation, "pretrain_imu", lambda *given, **named: calls.append(named["teacher_rows"]))
    for name in ("all", "share"):
        part = benches.stage_1(arms[name])
        bench.fit(part, None, bench.splits(part)[0], bench.settings(part))
    assert (calls[0] == rows[1]).all() and calls[1] is None


def test_baselines_are_by_default_those_of_their_papers():
    """The fields of their settings are arguments of their constructors, with the same defaults."""
    for settings, kind in (
        (protocols.AdaFuseSettings(), adafuse.AdaFuse),
        (protocols.STTSSettings(), stts.STTS),
        (protocols.ListenToLookSettings(), listen_to_look.ListenToLook),
    ):
        arguments = inspect.signature(kind.__init__).parameters
        assert asdict(settings) == {name: arguments[name].default for name in asdict(settings)}


def test_image_networks_see_every_clip_as_often(tmp_path):
    """Without ImageNet's weights networks of the students' kind have a trained start, others train for longer."""
    for name, factor in (("demo", 2), ("epic", 1)):
        bench = Bench("store", str(tmp_path), PROTOCOLS[name])
        epochs = bench.protocol.recipe.finetuning.epochs
        for run in (
            Run("VisOnly"),
            Run("EgoDistill", teacher="t", without=STAGE_1_LOSSES),
            Run("ListenToLook", teacher="t"),
        ):
            assert bench.settings(run).epochs == epochs
            assert bench.dependencies(run) == [Run("start")] * (factor - 1)
        for run in (Run("AdaFuse"), Run("STTS full")):
            assert bench.settings(run).epochs == factor * epochs and bench.dependencies(run) == []
        assert bench.settings(Run("start")).epochs == epochs
        pretrained = Run("EgoDistill", teacher="t")
        assert bench.dependencies(pretrained) == [replace(pretrained, method="stage 1")]
    mobile = StudentSettings(image_encoder="mobilenet_v3_small", image_weights=None)
    protocol = replace(PROTOCOLS["demo"], recipe=replace(PROTOCOLS["demo"].recipe, student=mobile))
    bench = Bench("store", str(tmp_path), protocol)
    assert bench.dependencies(Run("ListenToLook", teacher="t")) == []  # Its network is another one then.
    assert protocols.ListenToLookSettings().image_encoder == "resnet18"
    assert protocols.ListenToLookSettings(width=32).image_encoder is None


def test_listen_to_look_begins_with_the_students_image_network(demo):
    """The same feature for the same frame: catches layers that went to each other's place."""
    bench, run = bench_of(demo), Run("ListenToLook", 1, 2, "slowfast-{seed}")
    start = EgoDistill.load(demo.out / "seed-1" / "start.safetensors")
    model = bench.build(run, data.ClipStore(bench.store)).eval()
    frames = torch.randint(256, (3, 2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        seen = model.image(model.pixels(frames).flatten(0, 1))
        assert torch.allclose(seen, start.encode_frames(frames, 2).flatten(0, 1), atol=1e-5) and seen.std() > 1e-3


def test_adafuse_is_pressed_to_save_as_hard_at_any_size():
    """The weighted cost of computing everything, at the start of training, is that of the released one."""
    options = {"weights": None, "num_frames": 4, "frame_size": 64}
    small = benches.build_adafuse(8, options | {"width": 16, "depths": (1, 1, 1, 1)})
    assert small.efficiency_weight * small.frame_macs / 1e9 == pytest.approx(0.125 * 4.147)
    with torch.device("meta"):
        released = benches.build_adafuse(62, options | {"frame_size": 224})
    assert released.efficiency_weight == 0.125


@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc, to see which processes are left")
def test_the_cost_of_decisions_counts_every_clip():
    model = small_adafuse().eval()
    with benches.record_policy_gmacs(model) as gmacs:
        for count in (3, 1):
            model(torch.randint(256, (count, 4, 3, 32, 32), dtype=torch.uint8))
            assert gmacs[-1] == pytest.approx(count * model.gflops().upb)
    assert len(gmacs) == 2


def test_processes_end_with_the_one_that_began_them(demo, tmp_path):
    """Also where it is killed: each would keep half a gigabyte forever."""
    code = (
        "import sys; from lab import benches as e; from small_benches import PROTOCOL\n"
        "if __name__ == '__main__':\n"
        "    runs = [e.Run(m, frames=2) for m in ('AdaFuse', 'STTS full')]\n"
        "    e.Bench(*sys.argv[1:], PROTOCOL).run(runs, jobs=2)\n"
    )
    (tmp_path / "script.py").write_text(code)
    path = os.pathsep.join(map(str, (ROOT, *Path(__file__).parents[:2])))
    command = [sys.executable, tmp_path / "script.py", demo.out / "store", tmp_path / "out"]
    parent = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)

    try:
        until(lambda: list((tmp_path / "out").rglob("*.training")))  # At work.
        parent.kill()
        parent.wait(LIMIT)
        until(lambda: group_size(parent.pid) == 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)


def test_a_process_without_work_ends():
    process = multiprocessing.get_context("spawn").Process(target=benches.init_worker, args=(1, {}))
    process.start()
    try:
        process.join(LIMIT)
        assert process.exitcode == 0
    finally:
        process.kill()


@pytest.mark.slow("two processes that train")
def test_two_processes_in_one_folder_share_the_runs(demo, tmp_path):
    """Each run is trained once; the process that comes second waits for it."""
    code = (
        "import sys; from lab import benches as e; from small_benches import PROTOCOL\n"
        "e.Bench(*sys.argv[1:], PROTOCOL).run([e.Run('AdaFuse', frames=2), e.Run('VisOnly'), e.Run('VisIMU')])\n"
    )
    path = os.pathsep.join(map(str, (ROOT, *Path(__file__).parents[:2])))
    command = [sys.executable, "-c", code, demo.out / "store", tmp_path / "out"]
    options = {"env": os.environ | {"PYTHONPATH": path}, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, **options) for _ in range(2)]
    printed = [process.communicate(timeout=LIMIT)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    trained = [text.count("top-1") for text in printed]
    assert sum(trained) == 4, printed  # with the start of the students
    for run in (Run("VisOnly"), Run("VisIMU")):
        assert same(tmp_path / "out" / f"{run.name}.safetensors", demo.out / f"{run.name}.safetensors")
    assert not [file for file in (tmp_path / "out").rglob("*") if file.suffix in (".lock", ".part", ".training")]


@pytest.mark.slow("two processes that train")
def test_a_failure_ends_the_other_processes(demo, tmp_path):
    runs, bench = [Run("AdaFuse", frames=1), Run("AdaFuse", frames=2)], bench_of(demo, tmp_path)
    bench.path(runs[0]).parent.mkdir()
    bench.path(runs[0]).write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"adafuse-n1\.safetensors"):
        bench.run(runs, jobs=2)


def test_what_cannot_be_built_is_refused_before_the_folder_is_begun(store, tmp_path, monkeypatch):
    def offline(*args, **options):
        raise DownloadError("no network", "bring it")

    monkeypatch.setattr("egodistill.engine.image_encoders.download_weights", offline)
    weights = replace(PROTOCOL.recipe.student, image_encoder="resnet18", image_weights="imagenet")
    recipe = replace(PROTOCOL.recipe, student=weights)
    bench = Bench(store.path, str(tmp_path / "out"), replace(PROTOCOL, recipe=recipe), progress=False)
    with pytest.raises(DownloadError):
        bench.run([Run("AdaFuse"), Run("VisOnly")])
    with pytest.raises(DataError, match="has no 3 frames per clip"):
        bench.run([Run("AdaFuse"), Run("AdaFuse", frames=3)])
    assert not (tmp_path / "out").exists()
    Bench(store.path, str(tmp_path / "out"), PROTOCOL, progress=False).run([Run("AdaFuse")])


def test_runs_that_need_labels_are_refused_before_anything_is_trained(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "s")
    bench = Bench(str(tmp_path / "s"), str(tmp_path / "out"), PROTOCOL, progress=False)
    named = {one.id: one.label for one in StoreFiles(tmp_path / "s").segments}
    for split, run, words in (
        ("test", Run("VisOnly"), "s: 4 clips of the split 'test' have no label, so no accuracy"),
        ("train", Run("VisOnly"), "s: seed-0/start is trained on labels, but no clip of the split 'train' has"),
        ("train", Run("AdaFuse"), "s: seed-0/adafuse-n1 is trained on labels"),
        ("train", Run("VisOnly-Distill", teacher="t"), "s: seed-0/start is trained on labels"),
    ):
        relabel(tmp_path / "s", lambda one, split=split: None if one["split"] == split else named[one["id"]])
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        with pytest.raises(DataError, match=words):
            bench.run([run])
        assert not list((tmp_path / "out").glob("seed-*"))


def test_a_missing_teacher_is_told_before_anything_is_trained(demo, tmp_path):
    runs = [Run("AdaFuse", frames=2), Run("ListenToLook", teacher="nobody")]
    with pytest.raises(ValueError, match=r"has no array 'nobody\.feature'"):
        bench_of(demo, tmp_path).run(runs)
    for run, words in (
        (Run("egodistill", teacher="t"), "there is no method 'egodistill'. Did you mean EgoDistill"),
        (Run("EgoDistill"), r"give Run\('EgoDistill', teacher=NAME\)"),
        (Run("stage 1"), r"give Run\('stage 1', teacher=NAME\)"),
    ):
        with pytest.raises(ValueError, match=words):
            bench_of(demo, tmp_path).run([run])
    with pytest.raises(EgoDistillError, match=r"give a list of them: \[run\]"):
        bench_of(demo, tmp_path).run(Run("VisIMU"))
    assert not list(tmp_path.rglob("seed-*"))


class FakeStore:
    """What a bench asks of a store."""

    class_names = ("a", "b", "c")
    settings = {"frame_size": 40, "exact": False, "clip_frames": 4, "clip_size": 32}  # noqa: RUF012
    specs = {"clip": ClipSpec(frames=4, size=32, crop=True, seconds=1.5)}  # noqa: RUF012

    def read(self, name, index):
        assert name == "t-3.feature"
        return np.zeros((1, 24))


@pytest.mark.parametrize(
    ("method", "imu", "width"),
    [("VisOnly", None, 10), ("VisIMU", "cnn", 10), ("VisOnly-Distill", None, 24), ("stage 1", "cnn", 24)],
)
def test_a_student_is_built_for_the_clips_of_the_store_and_its_teacher(monkeypatch, method, imu, width):
    monkeypatch.setattr(Bench, "has_start", lambda self, run: False)
    student = StudentSettings(1, "resnet10x4", None, hidden=8, fusion_layers=1, imu_vector="mean", feature_dim=10)
    bench = Bench("store", "out", replace(PROTOCOLS["epic"], recipe=replace(EPIC_KITCHENS, student=student)))
    run = Run(method, 3, frames=2, teacher="t-{seed}" if width == 24 else None, sampling="last")
    model = bench.build(run, FakeStore())
    expected = {"num_frames": 2, "imu_encoder": imu, "feature_dim": width, "frame_size": 40, "sampling": "last"}
    expected |= {"exact": False, "num_classes": 3, "hidden": 8, "fusion_layers": 1, "imu_vector": "mean"}
    assert expected.items() <= model.arguments.items()


def test_a_teacher_is_built_for_the_clips_of_the_store():
    how = protocols.TeacherRecipe("mvit_b_16x4", Training(), options={"width": 8, "depths": (1, 1)}, narrow=True)
    torch.manual_seed(0)
    teacher = benches.build_teacher(how, "own", FakeStore())
    assert (teacher.clip_spec.seconds, teacher.clip_spec.frames, teacher.clip_spec.size) == (1.5, 4, 32)
    assert (teacher.name, teacher.class_names) == ("own", ["a", "b", "c"])
    assert teacher.net.arguments["width"] == 8 and teacher.net.arguments["frames"] == 4


def test_narrow_transformers_start_with_weights_of_their_width():
    torch.manual_seed(0)
    teacher = teachers.load("mvit_b_16x4", None, 3, frames=8, size=64, width=32, depths=(1, 1), progress=False)
    before = teacher.classifier.weight.clone()
    benches.init_narrow(teacher, teacher.classifier)
    for name, layer in teacher.named_modules():
        if isinstance(layer, torch.nn.Linear) and layer is not teacher.classifier:
            assert float(layer.weight.detach().std()) == pytest.approx(0.6 / layer.in_features**0.5, rel=0.1), name
    positions = torch.cat([teacher.net.pos_embed_spatial.flatten(), teacher.net.pos_embed_temporal.flatten()])
    assert float(positions.detach().std()) == pytest.approx(0.2, rel=0.1)
    assert torch.equal(teacher.classifier.weight, before)


def test_the_seed_of_a_run_decides_its_start_weights_and_training(monkeypatch, tmp_path):
    seen = []

    class Enough(Exception):
        pass

    def fit(self, run, model, store, settings, validation):
        seen.append((torch.rand(1).item(), settings.seed, settings.checkpoint, settings.device))
        raise Enough

    monkeypatch.setattr(Bench, "fit", fit)
    monkeypatch.setattr(Bench, "splits", lambda self, run: (None, None))
    monkeypatch.setattr(Bench, "build", lambda self, run, store: argparse.Namespace())
    bench = Bench("store", str(tmp_path), PROTOCOLS["epic"], device="cpu")
    for seed in (0, 5, 5):
        with pytest.raises(Enough):
            bench.train_and_evaluate(Run("VisOnly", seed))
    (first, *_), (second, *about), (third, *_) = seen
    assert first != second == third
    assert about == [5, tmp_path / "seed-5" / "visonly-n1.safetensors.training", "cpu"]


def test_a_method_of_frames_alone_is_recorded_as_0_5_wrote_it():
    """So a bench that was begun before continues."""
    method = protocols.Method("Frames", functools.partial(EgoDistill, imu_encoder=None, aggregator="concat"))
    bound = {"use_imu": {"value": "False"}, "aggregator": {"value": "'concat'"}}
    assert method.record()["build"] == {"name": "EgoDistill", "arguments": [bound]}


def test_settings_of_a_method_change_its_training_alone(tmp_path):
    changes = {"VisIMU": {"epochs": 7}, "stage 1": {"learning_rate": 0.5}, "STTS T0.5-S0.7": {"epochs": 9}}
    protocol = replace(PROTOCOLS["demo"], changes=changes)
    plain, bench = Bench("store", str(tmp_path), PROTOCOLS["demo"]), Bench("store", str(tmp_path), protocol)
    for run in [Run(method, teacher="t") for method in ("stage 1", *benches.METHODS)]:
        assert bench.settings(run) == replace(plain.settings(run), **changes.get(run.method, {}))
    assert protocol.record() != PROTOCOLS["demo"].record()
    with pytest.raises(ValueError, match="changes the training of 'VisImu'; methods are teacher, start, stage 1, Vis"):
        Bench("store", str(tmp_path), replace(protocol, changes={"VisImu": {"epochs": 7}}))
    slow = Bench("store", str(tmp_path), replace(protocol, changes={"VisIMU": {"learning_rat": 7}}))
    with pytest.raises(TypeError, match="did you mean 'learning_rate'"):
        slow.settings(Run("VisIMU"))
    with pytest.raises(ValueError, match="every must be a whole number, 1 <= every; got 0"):
        Bench("store", str(tmp_path), every=0)


def test_a_part_of_the_clips_and_the_best_epoch_of_a_teacher(demo, tmp_path, monkeypatch):
    seen = {}

    def fit(self, run, model, store, settings, validation):
        seen[run.method] = (store.clips, None if validation is None else validation.clips)
        raise KeyboardInterrupt

    monkeypatch.setattr(Bench, "fit", fit)
    slowfast = {"slowfast-{seed}": lab.demo.QUICK.teachers["slowfast"]}
    bench = bench_of(demo, tmp_path, every=3, validation="test", teachers=slowfast)
    for run in (Run("teacher", teacher="slowfast-{seed}"), Run("start")):
        with pytest.raises(KeyboardInterrupt):
            bench.run([run])
    store = data.ClipStore(demo.out / "store")
    assert seen == {
        "teacher": (store.split("train").clips[::3], store.split("test").clips),
        "start": (store.split("train").clips[::3], None),
    }
    with pytest.raises(ValueError, match=r"clips\.train was 6 and is now 16"):
        bench_of(demo, tmp_path, validation="test").check_folder()


def test_a_teacher_is_known_by_its_recipe(demo, tmp_path, monkeypatch):
    recipe = lab.demo.QUICK.teachers["slowfast"]
    bench, run = bench_of(demo, tmp_path, teachers={"x-{seed}": recipe}), Run("teacher", teacher="x-{seed}")
    files.write_json(bench.path(run, ".json"), {"recipe": recipe.record()})
    assert not bench.is_done(run)  # its outputs are missing
    for other in (replace(recipe, training=replace(recipe.training, learning_rate=0.5)), replace(recipe, narrow=True)):
        with pytest.raises(
            ValueError, match=r"x-0.json: .*recipe.*Give the teacher another name, or use another folde"
        ):
            replace(bench, teachers={"x-{seed}": other}).is_done(run)
    files.write_json(bench.path(run, ".json"), {})  # of an earlier version
    assert not replace(bench, teachers={"x-{seed}": other}).is_done(run)


def test_a_run_is_known_by_the_outputs_of_the_clips_that_it_trains_on(monkeypatch):
    names = ["imu", "t-3.feature", "t-3.logits"]

    class Part:
        def __init__(self, path, split=None):
            self.names, self.name = names, split

        def split(self, name):
            return Part(None, name)

        def fingerprints(self, reads):
            return dict.fromkeys(reads, f"of {self.name}")

    monkeypatch.setattr(data, "ClipStore", Part)
    bench, run = Bench("store", "out", train="half", test="rest"), Run("EgoDistill", 3, teacher="t-{seed}")
    assert bench.provenance(run) == {"outputs": {"t-3.feature": "of half", "t-3.logits": "of half"}}
    assert bench.provenance(Run("VisOnly", 3)) == bench.provenance(replace(run, method="teacher")) == {}
    names.remove("t-3.logits")
    assert bench.provenance(run) == {}


def test_the_weights_of_a_protocol_are_the_files_of_students_and_baselines(tmp_path):
    files = [str(tmp_path / name) for name in ("d.pth", "a.pth", "c.pth", "b.pth")]
    for file in files:
        Path(file).touch()
    protocol = PROTOCOLS["epic"]
    assert protocol.weight_files() == PROTOCOLS["demo"].weight_files() == []  # names of torchvision's, and none
    student = replace(protocol.recipe.student, image_weights=files[0])
    protocol = replace(
        protocol,
        recipe=replace(protocol.recipe, student=student),
        adafuse=replace(protocol.adafuse, weights=files[1]),
        stts=replace(protocol.stts, weights=files[2]),
        listen_to_look=replace(protocol.listen_to_look, weights=files[3]),
    )
    assert protocol.weight_files() == sorted(files)
    assert replace(protocol, adafuse=protocol.stts).weight_files() == sorted([files[0], *files[2:]])


def test_a_folder_of_before_the_shift_of_head_motion_continues(demo, tmp_path):
    changes = {"VisOnly": {"augment": egodistill.Augment(crop=0.2)}}
    bench = Bench(str(demo.out / "store"), str(tmp_path), replace(PROTOCOLS["demo"], changes=changes))
    bench.check_folder()
    record = files.read_json(tmp_path / "bench.json")
    assert record["protocol"]["changes"]["VisOnly"]["augment"].pop("shift") == 0.0
    files.write_json(tmp_path / "bench.json", record)
    bench.check_folder()
    moved = {"VisOnly": {"augment": egodistill.Augment(crop=0.2, shift=0.1)}}
    with pytest.raises(DataError, match=r"augment\.shift was 0\.0 and is now 0\.1"):
        replace(bench, protocol=replace(PROTOCOLS["demo"], changes=moved)).check_folder()


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_folder_is_for_the_clips_of_both_splits(monkeypatch, tmp_path, split):
    prints = {"train": "a", "test": "b"}

    class Part:
        class_names = ("x", "y")

        def __init__(self, path, fingerprint=""):
            self.fingerprint = fingerprint

        def __len__(self):
            return 3

        def split(self, name):
            return Part(None, prints[name])

    monkeypatch.setattr(paper.contrasts, "segments_record", lambda view: {"digest": ""})
    monkeypatch.setattr(data, "ClipStore", Part)
    bench = Bench("store", str(tmp_path), PROTOCOLS["demo"])
    bench.check_folder()
    bench.check_folder()
    prints[split] = "c"
    with pytest.raises(ValueError, match=rf"fingerprint of the clips\.{split} was '[ab]' and is now 'c'"):
        bench.check_folder()


# --- Methods of one's own

METHODS = """
from functools import partial

import torch
from torch import nn

from egodistill import EgoDistill, Output, distill, finetune
from lab.protocols import Method


class Plain(nn.Module):
    inputs = ("frames", "imu")

    def __init__(self, num_classes, *, feature_dim, num_frames, **others):
        super().__init__()
        self.num_frames, self.body = num_frames, nn.Linear(6, feature_dim)
        self.classifier = nn.Linear(feature_dim, num_classes)

    def forward(self, frames, imu):
        feature = self.body(imu.mean(1)) + frames.float().mean((1, 2, 3, 4))[:, None] / 255
        return Output(feature, self.classifier(feature))


def gently(model, store, settings, *, teacher):
    distill(model, store, settings, teacher=teacher, learning_rate=1e-4)


def loop(model, store, settings, *, teacher):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for rows in torch.arange(len(store)).split(8):
        inputs = [torch.from_numpy(store.read(name, rows.numpy())) for name in ("frames_1", "imu", f"{teacher}.logits")]
        model(*inputs[:2]).logits.sub(inputs[2]).square().mean().backward()
        optimizer.step()


same = Method("Ours", EgoDistill, pretrain=True)
looped = Method("Looped", Plain, loop, start=False)
labels = Method("Labels", EgoDistill, finetune)
narrow = Method("Narrow", partial(EgoDistill, imu_width=2), pretrain=True)
plain = Method("Plain", Plain, gently, start=False)
unfit = Method("Unfit", Plain)
"""


@pytest.fixture
def own_methods(tmp_path, monkeypatch):
    """A function: names -> the methods of these names, whose file is imported."""
    (tmp_path / "mine").mkdir()
    file = tmp_path / "mine" / "methods_of_mine.py"
    file.write_text(METHODS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(custom, "FILES", {})
    monkeypatch.delitem(sys.modules, file.stem, raising=False)
    yield lambda *names: [custom.resolve(f"{file}:{name}") for name in names]
    sys.modules.pop(file.stem, None)


def test_a_method_that_is_the_papers_has_its_bits(demo, tmp_path, own_methods):
    bench = bench_of(demo, tmp_path / "out", methods=own_methods("same", "labels"))
    taught, labels = Run("Ours", teacher="slowfast-{seed}"), Run("Labels")
    bench.run([taught, labels])
    for run, papers in ((taught, Run("EgoDistill", teacher=taught.teacher)), (labels, Run("VisIMU"))):
        assert same(bench.path(run), demo.out / f"{papers.name}.safetensors"), run
        assert bench.result(run)["top1"] == files.read_json(demo.out / f"{papers.name}.json")["top1"]
    assert bench.path(Run("stage 1 of Ours", teacher=taught.teacher)).exists()


@pytest.mark.slow("a comparison in processes")
def test_methods_of_ones_own_stand_in_a_comparison(demo, tmp_path, own_methods, capsys, monkeypatch):
    """In processes of their own, too; with intervals; and their networks are loaded as they were evaluated."""
    methods, teacher = own_methods("narrow", "plain", "looped"), "slowfast-{seed}"
    out, file = tmp_path / "out", tmp_path / "mine" / "methods_of_mine.py"
    monkeypatch.setitem(PROTOCOLS, "demo", PROTOCOL)
    monkeypatch.setattr(inference, "measure", functools.partial(inference.measure, batch_size=2, repeats=1))
    words = (
        f"compare {demo.out}/store --teacher {teacher} --out {out} --preset demo --seeds 0,1 --num-frames 1 --jobs 2"
    )
    command = [*words.split(), "--methods", "VisOnly", *(f"{file}:{name}" for name in ("narrow", "plain", "looped"))]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "Narrow minus each other" in printed and "Plain minus each other method" in printed
    content = files.read_json(out / "compare.json")
    assert [row["method"] for row in content["rows"]] == ["teacher", "VisOnly", "Narrow", "Plain", "Looped"]
    pairs = [(one["first"]["method"], one["second"]["method"]) for one in content["differences"]]
    order = ["VisOnly", "Narrow", "Plain", "Looped"]
    assert pairs == [(first, second) for k, first in enumerate(order) for second in order[:k]]
    bench = bench_of(demo, out, methods=methods)
    test = data.ClipStore(bench.store).split("test")
    for run in (Run(name, 1, teacher=teacher) for name in order[1:]):
        found = inference.evaluate(bench.load(run), test, precision="fp32", progress=False)
        assert found.top1 == bench.result(run)["top1"], run
    assert bench.load(Run("Narrow", 1, teacher=teacher)).imu_dim == 2 * egodistill.IMU_SAMPLES
    assert (out / "compare.png").stat().st_size > 1000
    file.write_text(METHODS + "# changed\n")
    bench.run([Run("Narrow", 0, teacher=teacher)])  # a partial of ours: its arguments are compared
    for gone in (".csv", ".json"):  # as one would do who reads half of the advice
        bench.path(Run("Plain", 0, teacher=teacher), gone).unlink(missing_ok=True)
        with pytest.raises(DataError, match=r"plain-n1-slowfast-0.method.json: was begun with other .*: build.file"):
            bench.run([Run("Plain", 0, teacher=teacher)])


def test_what_is_no_method_is_refused(demo, tmp_path, own_methods, capsys):
    methods = {one.name: one for one in own_methods("same", "plain", "unfit")}
    taken = ("EgoDistill", "visonly", "Stage 1", "start", "STTS full", "-", "", "stage 1 of a talk")
    with pytest.raises(ValueError, match="finetune\\(\\) has no teacher"):
        replace(methods["Ours"], stage=distillation.finetune)
    with pytest.raises(ValueError, match=r"Ours: stage must take .* teacher"):
        replace(methods["Ours"], stage=lambda model, store, settings: None)
    short = replace(methods["Ours"], build=lambda num_classes: EgoDistill(num_classes))
    misspelt = replace(methods["Ours"], build=functools.partial(EgoDistill, imu_encodr=torch.nn.Flatten))
    for unfit in (short, misspelt):
        with pytest.raises(ValueError, match="Ours: build does not take the arguments of EgoDistill"):
            bench_of(demo, tmp_path / "short", methods=[unfit]).run([Run("Ours", teacher="slowfast-{seed}")])

    def fails(num_classes, **others):
        return EgoDistill("many", **others)

    with pytest.raises(ValueError, match="got 'many'"):
        bench_of(demo, tmp_path / "fails", methods=[replace(methods["Ours"], build=fails)]).run(
            [Run("Ours", teacher="slowfast-{seed}")]
        )
    with pytest.raises(ValueError, match="give a name, and functions"):
        replace(methods["Ours"], build=3)
    slopes = [protocols.describe_function(functools.partial(EgoDistill, act=torch.nn.LeakyReLU(k))) for k in (0.1, 0.9)]
    assert slopes[0] != slopes[1]
    for name in taken:
        with pytest.raises(ValueError, match=r"cannot have the name .* give another"):
            bench_of(demo, tmp_path, methods=[replace(methods["Ours"], name=name)])
    with pytest.raises(ValueError, match="cannot have the name 'plain'"):
        bench_of(demo, tmp_path, methods=[methods["Plain"], replace(methods["Ours"], name="plain")])
    bench = bench_of(demo, tmp_path / "out", methods=[methods["Unfit"]])
    with pytest.raises(ValueError, match=r"Unfit: its image_encoder is not that of the students.*start=False"):
        bench.run([Run("Unfit", teacher="slowfast-{seed}")])
    local = replace(methods["Plain"], build=lambda *given, **named: None)
    with pytest.raises(ValueError, match="Plain: other processes cannot read its functions"):
        bench_of(demo, tmp_path / "other", methods=[local]).run([Run("Plain", teacher="t")], jobs=2)
    file = tmp_path / "mine" / "methods_of_mine.py"
    for name, words in (("Plain", "is a type, not a method"), ("nothing", "has no nothing")):
        command = f"compare {demo.out}/store --teacher slowfast-0 --out {tmp_path}/c --methods {file}:{name}"
        assert main(command.split()) == 1
        assert words in capsys.readouterr().err


SPECTRUM = """
from torch import nn

class Spectrum(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, imu):
        return self.layer(imu.abs().mean(1))
"""


def test_a_bench_trains_students_with_networks_of_ones_own(store, tmp_path):
    (tmp_path / "my_networks.py").write_text(SPECTRUM)
    recipe = PROTOCOL.recipe
    student = replace(recipe.student, imu_encoder=f"{tmp_path / 'my_networks.py'}:Spectrum")
    own = replace(PROTOCOL, recipe=replace(recipe, student=student))
    bench = Bench(str(store.path), str(tmp_path / "out"), own, progress=False)
    bench.run([Run("VisIMU")])
    assert type(bench.load(Run("VisIMU")).imu_encoder).__name__ == "Spectrum"
    assert "imu_encoder" in student.custom() and "imu_encoder" not in recipe.student.custom()


def test_a_teacher_whose_outputs_are_lost_is_not_done(store, tmp_path):
    shutil.copytree(store.path, tmp_path / "s")
    copy = data.ClipStore(tmp_path / "s")
    bench = Bench(str(copy.path), str(tmp_path / "out"), teachers={"t-{seed}": {}})
    run = Run("teacher", teacher="t-{seed}")
    bench.path(run, ".json").parent.mkdir(parents=True)
    bench.path(run, ".json").write_text("{}")
    for what in ("feature", "logits"):
        assert not bench.is_done(run)
        copy.add(f"t-0.{what}", (2,), np.float32)
        assert not bench.is_done(run)
        copy.write(f"t-0.{what}", np.arange(len(copy)), np.zeros((len(copy), 2), np.float32))
    assert bench.is_done(run)


def test_precision_and_time_of_a_training_are_in_its_log(tmp_path):
    rows = [{"epoch": 1, "precision": "bf16", "clips_per_second": 4.0}]
    rows += [{"epoch": 2, "precision": "fp16", "clips_per_second": 8.0}]
    rows += [{"epoch": 3, "precision": "fp16", "clips_per_second": 0.0}]  # its last step was done before
    for row in rows:
        files.append_line(tmp_path / "half.jsonl", row)
    assert benches.logged_precision(tmp_path / "half.pt") == "fp16"
    assert benches.logged_seconds(tmp_path / "half.pt", 16) == 4.0 + 2.0
    assert benches.logged_seconds(tmp_path / "none.pt", 16) == 0
    with pytest.raises(EgoDistillError, match=r"none\.jsonl: names no precision .* delete"):
        benches.logged_precision(tmp_path / "none.pt")
