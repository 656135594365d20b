"""The demo in miniature: the same steps on 22 clips of 32 pixels; killed and continued."""

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from commandline import ROOT
from miniature import STAGES, Demo, file_of, group_size, miniature, same, unfinished, weights
from waiting import LIMIT

import egodistill.commands.demo
import egodistill.support.files
from egodistill import EgoDistill, data, inference, teachers
from egodistill.commands import cli, evaluations
from egodistill.world import behaviour

MODELS = ["EgoDistill", "VisOnly-Distill", "VisIMU", "VisOnly", "teacher"]


def test_a_demo_begins_in_a_folder_that_a_desktop_has_looked_at(tmp_path):
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "Thumbs.db").touch()
    egodistill.commands.demo.check_output_folder(tmp_path, {"pixels": 1})
    assert json.loads((tmp_path / "demo.json").read_text()) == {"pixels": 1}


def test_demo_trains_what_the_paper_compares(demo):
    """Stages in order, each on the training clips alone, each from the right start."""
    imu = ("frames", "imu")
    expected = [
        ("finetune", ("clip",)),
        ("finetune", imu[:1]),
        ("finetune", imu[:1]),
        ("finetune", imu),
        ("distill", imu[:1]),
        ("pretrain_imu", imu),
        ("distill", imu),
    ]
    assert [call[:2] for call in demo.calls] == expected
    for stage, (name, _, start, splits, settings, named) in zip(STAGES, demo.calls, strict=True):
        assert splits == {"train"} and settings.seed == 0
        wanted = {"out": file_of(demo.out, stage)}
        assert named == wanted | ({} if name == "finetune" else {"teacher": "slowfast"})
        if stage not in ("teacher", "start"):
            origin = "stage 1" if stage == "EgoDistill" else "start"
            trained = weights(file_of(demo.out, origin))
            keys = [key for key in trained if origin == "stage 1" or key.startswith("image_encoder")]
            assert keys and all(torch.equal(start[key], trained[key]) for key in keys)
    assert data.ClipStore(demo.out / "store").done("slowfast.logits").all()
    teacher = teachers.Teacher.load(file_of(demo.out, "teacher"))
    widths = {name: EgoDistill.load(file_of(demo.out, name)).feature_dim for name in MODELS if name != "teacher"}
    of_labels, distilled = demo.results["demo"]["recipe"]["student"]["feature_dim"], {"EgoDistill", "VisOnly-Distill"}
    assert widths == {name: teacher.feature_dim if name in distilled else of_labels for name in widths}
    outputs = json.loads((demo.out / "store" / "slowfast.teacher.json").read_text())
    assert outputs["precision"] == "fp32"  # on every machine, as each of the models is evaluated


def evaluated(demo) -> dict:
    """Return what each model of a demo answers on the test clips, computed from its file."""
    test, found = data.ClipStore(demo.out / "store").split("test"), {}
    for name in MODELS:
        load = teachers.Teacher.load if name == "teacher" else EgoDistill.load
        model = load(file_of(demo.out, name))
        found[name] = model, inference.evaluate(model, test, precision="fp32", progress=False)
    return found


def test_demo_reports_each_model(demo):
    """The numbers of results.json are those of the files, and the printed ones stand beside their model."""
    rows, test = demo.results["models"], data.ClipStore(demo.out / "store").split("test")
    assert list(rows) == MODELS and demo.results["class_names"] == list(test.class_names)
    assert demo.results["demo"]["train_acts"] == 16 and demo.results["demo"]["recipe"]["finetuning"]["seed"] == 0
    costs = demo.printed[demo.printed.index("\nmodel  ") : demo.printed.index("\nTop-1 accuracy of one seed")]
    told = demo.printed[demo.printed.index("\nTop-1 accuracy of one seed") :]
    for name, (model, found) in evaluated(demo).items():
        row, answers = rows[name], rows[name]["answers"]
        said = found.scores.argmax(1).tolist()
        assert [one["said"] for one in answers] == said and [one["label"] for one in answers] == found.labels.tolist()
        assert [one["id"] for one in answers] == [clip["id"] for clip in test.clips]
        assert [one["wearer"] for one in answers] == list(test.wearers)
        top1 = np.mean([one["said"] == one["label"] for one in answers])
        assert top1 == pytest.approx(found.top1)
        cost = inference.measure(model, batch_size=2, repeats=1, precision="fp32")
        assert (row["gmacs"], row["params"], row["precision"]) == (cost.gmacs, cost.params, "fp32")
        cells = [name, f"{cost.gmacs:.4f}", f"{cost.params:,}", f"{row['ms_per_clip']:.2f}"]
        assert re.search(rf"(?m)^{' +'.join(map(re.escape, cells))} *$", costs), (cells, costs)
        assert re.search(rf"(?m)^  {name}: {100 * top1:.1f} % of the test segments are right \(6 segments of 3", told)
    ratio = rows["teacher"]["gmacs"] / rows["EgoDistill"]["gmacs"]
    assert f"The student needs {ratio:.0f} times fewer multiply-adds than its teacher." in demo.printed
    # The costs at the paper's size, and the definition beside them.
    assert "SlowFast 8x8 R50 (34.6 M parameters): 50.31 GMACs" in demo.printed
    assert "EgoDistill, ResNet-18, one frame (20.6 M parameters): 1.86 GMACs" in demo.printed
    assert "half of what torch's FlopCounterMode counts" in demo.printed
    assert f"All files are written to {demo.out}/" in demo.printed and str(demo.out / "results.json") in told
    assert not unfinished(demo.out)


def test_demo_says_what_its_numbers_are_worth(demo):
    """Beside the answers of no model, the differences to the student, and what the world allows."""
    told = demo.printed[demo.printed.index("\nTop-1 accuracy of one seed") :]
    lines = dict(line.strip().split(": ", 1) for line in told.splitlines() if ": " in line and line.startswith("  "))
    found = {name: result.top1 for name, (_, result) in evaluated(demo).items()}
    labels = data.ClipStore(demo.out / "store").split("test").labels
    (always,) = (text for name, text in lines.items() if name.startswith("always '"))
    assert always == f"{100 * np.bincount(labels).max() / len(labels):.1f} %"
    for name in MODELS[1:]:
        gain = 100 * (found["EgoDistill"] - found[name])
        assert lines[f"EgoDistill minus {name}"].startswith(f"{gain:+.1f} points (6 segments of 3 wearers: too few")
    limits = behaviour.bounds(things=egodistill.commands.demo.DEMO.things)
    one, both = (100 * limits[name] for name in ("one frame", "one frame and head motion"))
    best = f"The best possible accuracy here is {one:.0f} % from one frame and {both:.0f} % from one frame and head"
    assert best in told and f"3 of {len(behaviour.THINGS)} objects" in told


def test_a_demo_of_many_wearers_has_intervals(monkeypatch, tmp_path, capsys):
    """Of twelve wearers, of whom the student knows more acts than the others: by Student's t over wearers."""
    rng, results = np.random.default_rng(0), []
    for name, share in {"EgoDistill": 0.8, "VisOnly": 0.4}.items():
        answers = [
            {"id": f"{wearer}_{k}", "wearer": f"P{wearer}", "label": 0, "said": int(rng.random() > share)}
            for wearer in range(12)
            for k in range(20)
        ]
        results.append(evaluations.Result(name, {"class_names": ["cut", "put"], "answers": answers}))
    found = dict(evaluations.findings(results))
    own, others = (evaluations.by_wearer(one, one.right) for one in results)
    gains = [own[wearer] - others[wearer] for wearer in own]
    half = 2.2009852 * np.std(gains, ddof=1) / 12**0.5  # of eleven degrees of freedom
    ends = f"{np.mean(gains) - half:+.1f} to {np.mean(gains) + half:+.1f} over 12 wearers"
    assert found["EgoDistill minus VisOnly"] == f"{np.mean(gains):+.1f} points (95 % interval {ends})"


def test_a_quick_demo_shows_costs_and_steps_and_no_accuracies(demo, tmp_path):
    demo = demo.copied(tmp_path / "out")
    quick = Demo(demo.out, "--quick")
    trained = quick.printed[quick.printed.index("\n3. Train") :]
    assert "%" not in trained and "op-1" not in trained
    lines = {line.split()[0]: line.split() for line in trained.splitlines() if line.strip()}
    for name, row in quick.results["models"].items():
        assert lines[name][1:] == [f"{row['gmacs']:.4f}", f"{row['params']:,}", f"{row['ms_per_clip']:.2f}"]
    assert "Every step ran: 22 clips decoded, 7 networks trained.\n" in trained and "no accuracies" in trained


def test_demo_given_again_redoes_nothing_and_says_the_same(demo, tmp_path):
    demo = demo.copied(tmp_path / "out")
    ends = ("*.MP4", "*-accl.csv", "*.npy", "*.safetensors", "*.jsonl")
    work = [path for end in ends for path in demo.out.rglob(end)]
    assert len(work) > 40
    before = {path: path.stat().st_mtime_ns for path in work}
    again = Demo(demo.out)
    assert {path: path.stat().st_mtime_ns for path in work} == before
    for name, row in again.results["models"].items():
        assert row["answers"] == demo.results["models"][name]["answers"]
    told = [
        text[text.index("\nTop-1 accuracy of one seed") : text.index("\nWrote ")]
        for text in (demo.printed, again.printed)
    ]
    assert told[0] == told[1]


def test_the_command_that_comes_next_labels_a_recording_of_a_test_wearer(demo, tmp_path):
    (command,) = re.findall(r"(?m)^ +egodistill (predict .*)$", demo.printed)
    *words, page = shlex.split(command)
    assert words[-1] == "--html" and page == str(demo.out / "predict.html")
    out = tmp_path / "labels.csv"
    assert cli.main([*words, str(tmp_path / "p.html"), "--out", str(out)]) == 0
    assert "P30_1" in command and len(out.read_text().splitlines()) > 2 and (tmp_path / "p.html").exists()


@pytest.mark.slow("trains the demo once more")
def test_the_seed_is_of_every_training_and_of_every_start(demo, tmp_path):
    other = Demo(tmp_path / "out", "--seed", "1")
    assert {call[4].seed for call in other.calls} == {1}
    for stage in STAGES:
        assert not same(file_of(other.out, stage), file_of(demo.out, stage)), stage
    here, there = (data.ClipStore(one.out / "store") for one in (other, demo))
    assert here.fingerprint == there.fingerprint  # the world is the same


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("", "train_acts was 16 and is now 800"),
        ("--quick", "train_acts was 16 and is now 48"),
        ("--world-seed 1", "world_seed was 0 and is now 1"),
        ("--seed 1", "teaching.seed was 0 and is now 1"),
    ],
)
def test_demo_of_other_settings_is_refused(words, told, demo, monkeypatch, capsys):
    if "seed" in words:  # of the size of the small one
        miniature(monkeypatch.setattr, cores=1)
    before = sorted(demo.out.rglob("*"))
    assert cli.main(["demo", "--out", str(demo.out), *words.split()]) == 1
    said = capsys.readouterr().err
    assert "demo.json: was begun with other settings: " in said and told in said
    assert (
        said.strip().endswith("Choose another --out, or delete the folder.") and sorted(demo.out.rglob("*")) == before
    )


def test_a_quick_demo_differs_from_the_demo_in_size_alone():
    found = egodistill.support.files.differences(
        egodistill.commands.demo.DEMO.record(), egodistill.commands.demo.QUICK.record()
    )
    stages = ["teaching", *(f"recipe.{stage}" for stage in ("finetuning", "pretraining", "distillation"))]
    size = {"train_acts", "test_acts", "test_wearers", "recipe.pretraining.batch_size"}
    assert set(found) == size | {f"{stage}.epochs" for stage in stages}


# --- Kill and go on


def die_on(event: str, told: str, time_: int) -> None:
    """SIGKILL this process just before the nth time that it does `event` with arguments `told`."""
    seen = 0

    def hook(name, arguments):
        nonlocal seen
        if name == event and told in str(arguments):
            seen += 1
            if seen == time_:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def die_while_rendering() -> None:
    """... as soon as the first recording is there, with two processes at work on others."""

    def update(self, done, note=""):
        if self.title == "render" and done:
            os.kill(os.getpid(), signal.SIGKILL)

    egodistill.support.files.Progress.update = update


MOMENTS = {
    "before its note is there": lambda: die_on("os.rename", "/demo.json'", 1),
    "while rendering": die_while_rendering,
    "while decoding": lambda: die_on("subprocess.Popen", "data.fill_bundle", 2),
    "in the teacher's second step": lambda: die_on("os.rename", "/teacher.safetensors.training'", 2),
    "between the teacher's features and its logits": lambda: die_on("os.rename", "/00000/slowfast.logits.npy'", 1),
    "with the start saved and its progress not yet removed": lambda: die_on(
        "os.remove", "/start.safetensors.training'", 1
    ),
    "in stage 1, between two epochs": lambda: die_on("os.rename", "/imu.safetensors.training'", 4),
    "in the last step of stage 2": lambda: die_on("os.rename", "/egodistill.safetensors.training'", 6),
    "with all trained and nothing written": lambda: die_on("os.rename", "/results.json'", 1),
}


def killed_again_and_again(out: str, threads: str) -> None:
    """A demo killed at each of MOMENTS and started again, as a program of its own: prints for each
    moment the signal that ended it and the number of processes that it left behind."""
    torch.set_num_threads(int(threads))
    miniature(setattr, cores=2)
    for arm in MOMENTS.values():
        child = os.fork()  # Before any computing, so that there are no threads to lose.
        if child == 0:
            os.setsid()
            arm()
            os._exit(cli.main(["demo", "--quick", "--out", out]))
        _, status = os.waitpid(child, 0)
        end = time.monotonic() + 60
        while (left := group_size(child)) and time.monotonic() < end:
            time.sleep(0.05)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, left, flush=True)


@pytest.fixture(scope="module")
def killed(demo, tmp_path_factory) -> tuple[Path, dict[str, list[int]]]:
    """A demo that was killed at each of MOMENTS: its folder; moment -> (signal, processes left)."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork and SIGKILL")
    out = tmp_path_factory.mktemp("killed") / "out"
    code = "import sys, test_demo; test_demo.killed_again_and_again(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(out), str(torch.get_num_threads())]
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests", Path(__file__).parent)))
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if re.fullmatch(r"\d+ \d+", line)]
    assert len(lines) == len(MOMENTS), done.stdout + done.stderr
    ends = [[int(number) for number in line.split()] for line in lines]
    return out, dict(zip(MOMENTS, ends, strict=True))


@pytest.mark.slow("kills a demo at nine moments")
def test_demo_killed_anywhere_ends_with_the_same_bits(demo, killed):
    out, ends = killed
    assert {moment for moment, end in ends.items() if end[0] == signal.SIGKILL} == set(MOMENTS)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    last = Demo(out)
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")} == before  # what was finished stays
    for stage in STAGES:
        assert same(file_of(out, stage), file_of(demo.out, stage)), stage
    for name, row in last.results["models"].items():
        assert row["answers"] == demo.results["models"][name]["answers"]
    assert not unfinished(out)


@pytest.mark.slow("kills a demo at nine moments")
def test_demo_killed_leaves_no_process_behind(killed):
    """A process of the rendering that outlives its parent would keep half a gigabyte forever."""
    assert {moment: left for moment, (_, left) in killed[1].items() if left} == {}
