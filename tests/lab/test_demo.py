"""The demo in miniature: the same steps on 22 clips of 32 pixels; killed and continued."""

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import pytest
import torch
from commandline import ROOT
from miniature import group_size, same, unfinished, weights
from small_benches import STAGES, Demo, file_of, miniature
from waiting import LIMIT

import egodistill.support.files
import lab.demo
from egodistill import EgoDistill, data, inference, teachers
from egodistill.commands import cli
from lab import benches, intervals, paper, protocols
from lab.__main__ import main
from lab.options import parse_seeds


def test_a_demo_begins_in_a_folder_that_a_desktop_has_looked_at(tmp_path):
    (tmp_path / ".DS_Store").touch()
    (tmp_path / "Thumbs.db").touch()
    lab.demo.check_output_folder(tmp_path, {"pixels": 1})
    assert json.loads((tmp_path / "demo.json").read_text()) == {"pixels": 1}


def test_demo_trains_what_the_paper_compares(demo):
    """Stages in order, each on the training clips alone, each from the right start."""
    imu = ("frames", "imu")
    expected = [
        ("finetune", ("clip",)),
        ("finetune", imu[:1]),
        ("pretrain_imu", imu),
        ("distill", imu),
        ("distill", imu[:1]),
        ("finetune", imu),
        ("finetune", imu[:1]),
    ]
    assert [call[:2] for call in demo.calls] == 2 * expected
    for k, (name, _, start, splits, settings, named) in enumerate(demo.calls):
        seed, number = divmod(k, len(STAGES))
        stage = list(STAGES)[number]
        assert splits == {"train"} and settings.seed == seed
        assert settings.checkpoint == Path(f"{file_of(demo.out, stage, seed)}.training")
        wanted = {"validation": None} if name == "finetune" else {"teacher": f"slowfast-{seed}"}
        assert named == wanted | ({"teacher_rows": None} if name == "pretrain_imu" else {})
        if stage not in ("teacher", "start"):
            origin = "stage 1" if stage == "EgoDistill" else "start"
            trained = weights(file_of(demo.out, origin, seed))
            keys = [key for key in trained if origin == "stage 1" or key.startswith("image_encoder")]
            assert keys and all(torch.equal(start[key], trained[key]) for key in keys)
    assert not same(*(file_of(demo.out, "EgoDistill", seed) for seed in (0, 1)))


def test_demo_reports_each_model(demo):
    """results.json has its schema, its numbers are those of the files, the table has them all."""
    rows, about = demo.rows, demo.results["about"]
    assert set(rows) == set(STAGES) - {"start", "stage 1"}
    assert about["seeds"] == [0, 1] and about["quick"] is False
    both = "1 frame + IMU"
    inputs = {"EgoDistill": both, "VisIMU": both, "teacher": "16 frames"}
    test = data.ClipStore(demo.out / "store").split("test")
    table = demo.printed[demo.printed.index("Top-1 accuracy (%)") :]
    for name, row in rows.items():
        assert row["inputs"] == inputs.get(name, "1 frame")
        load = teachers.Teacher.load if name == "teacher" else EgoDistill.load
        runs = [load(file_of(demo.out, name, seed)) for seed in (0, 1)]
        found = [inference.evaluate(model, test, precision="fp32", progress=False) for model in runs]
        top1 = [100 * one.top1 for one in found]
        assert row["top1_seeds"] == pytest.approx(top1)
        assert (row["top1"], row["std"]) == pytest.approx((mean(top1), stdev(top1)))
        for verb, share in row["per_class"].items():
            assert share == pytest.approx(100 * mean(one.per_class[verb] for one in found))
        cost = inference.measure(runs[0], batch_size=2, repeats=1)
        assert (row["gmacs"], row["params"]) == (cost.gmacs, cost.params) and row["ms_per_clip"] > 0
        cells = [
            name,
            row["inputs"],
            f"{cost.gmacs:.3f}",
            f"{cost.params / 1e6:.2f} M",
            f"{row['ms_per_clip']:.2f}",
            "fp32",
            f"{mean(top1):.1f} ± {stdev(top1):.1f}",
        ]
        assert re.search(rf"(?m)^{' +'.join(map(re.escape, cells))}$", table), (cells, table)
    assert "deviation of 2 seeds" in table
    # The costs at the paper's size, and the definition beside them.
    assert "SlowFast 8x8 R50 (34.6 M parameters): 50.31 GMACs" in table
    assert "EgoDistill, ResNet-18, one frame (20.6 M parameters): 1.86 GMACs" in table
    assert "half of what torch's FlopCounterMode counts" in table
    assert f"All files are written to {demo.out}/" in demo.printed
    assert not unfinished(demo.out)


def test_demo_draws_its_result(demo, tmp_path, drawn):
    """Beside the results; with what the inputs tell at best, and the paired differences, which intervals hide."""
    assert (demo.out / "results.png").read_bytes().startswith(b"\x89PNG") and "results.png" in demo.printed
    shares = {"EgoDistill": (72.0, "1 frame + IMU"), "VisOnly": (50.0, "1 frame"), "teacher": (84.0, "16 frames")}
    rows = [
        paper.Row(name, 1, inputs, share, None, [share], 0.1 + share / 1000, None, None, {}, benches.Run(name))
        for name, (share, inputs) in shares.items()
    ]
    lead = intervals.Interval(22.0, 18.0, 28.0, 5.0, 0.01, 2, 12)
    found = [paper.Contrast(benches.Run("EgoDistill"), benches.Run("VisOnly"), lead)]
    files = lab.demo.draw_demo(rows, found, lab.demo.DEMO.things, tmp_path / "results")
    assert [file.name for file in files] == ["results.png", "results.svg"]
    (axes,) = drawn[0].axes
    assert axes.get_title().splitlines() == [
        "Accuracy against cost, 95 % intervals over 2 seeds and 12 wearers",
        "EgoDistill minus VisOnly: +22.0 points (+18.0 to +28.0)",
    ]
    points = {tuple(np.round(line.get_xydata()[0], 3)) for line in axes.lines if len(line.get_xydata())}
    assert {(0.15, 60.0), (0.172, 90.0), (0.184, 84.0)} <= points and (0.184, 60.0) not in points


def test_a_quick_demo_shows_costs_and_steps_and_no_accuracies(demo, tmp_path, drawn):
    demo = demo.copied(tmp_path / "out")
    file_of(demo.out, "VisOnly", 0).with_suffix(".json").unlink()  # it is evaluated again
    quick = Demo(demo.out, "0,1", "--quick")
    assert quick.results["about"]["quick"] is True and quick.calls == []
    assert re.search(r"\[1/1\] seed-0/visonly-n1.*\n    trained and evaluated \(", quick.printed)
    trained = quick.printed[quick.printed.index("\n3. Train") :]
    assert "%" not in trained and "top-1" not in trained
    lines = [line.split() for line in quick.printed[quick.printed.index("\nCosts\n") :].splitlines()]
    found = {line[0]: line for line in lines if line and line[0] in quick.rows}
    for name, row in quick.rows.items():
        assert f"{row['gmacs']:.3f}" in found[name] and f"{row['ms_per_clip']:.2f}" in found[name]
    store = data.ClipStore(demo.out / "store")
    clips = f"{len(store.split('train'))} train and {len(store.split('test'))} test clips"
    assert f"Every step ran: {clips} decoded, 14 networks trained and evaluated." in quick.printed
    assert "no accuracies are shown" in quick.printed and not drawn


def test_demo_given_again_redoes_nothing_and_says_the_same(demo, tmp_path, drawn):
    demo = demo.copied(tmp_path / "out")
    ends = ("*.MP4", "*-accl.csv", "*.npy", "*.safetensors")
    work = [path for end in ends for path in demo.out.rglob(end)]
    assert len(work) > 40
    before = {path: path.stat().st_mtime_ns for path in work}
    again = Demo(demo.out, "0,1", "--no-plot")
    assert again.calls == [] and not drawn and "results.png" not in again.printed
    assert {path: path.stat().st_mtime_ns for path in work} == before
    for name, row in again.rows.items():
        assert row["top1_seeds"] == demo.rows[name]["top1_seeds"]
        assert re.search(rf"(?m)^{name} .* ± \d", again.printed)


def test_the_command_that_comes_next_labels_a_recording_of_a_test_wearer(demo, tmp_path, capsys):
    (command,) = re.findall(r"(?m)^ +egodistill (predict .*)$", demo.printed)
    *words, page = shlex.split(command)
    assert words[-1] == "--html" and page == str(demo.out / "predict.html")
    out = tmp_path / "labels.csv"
    assert main([*words, str(tmp_path / "p.html"), "--out", str(out)]) == 0
    assert "P30_1" in command and len(out.read_text().splitlines()) > 2 and (tmp_path / "p.html").exists()


def test_the_comparison_that_comes_next_has_the_seeds_of_the_demo(demo):
    bench = benches.Bench(str(demo.out / "store"), str(demo.out))
    asked = cli.parse(lab.demo.compare_words(bench, "slowfast-{seed}", [0, 1]))
    outputs = {f"{asked.teacher.format(seed=seed)}.feature" for seed in asked.seeds}
    assert asked.seeds == [0, 1] and asked.preset == "demo" and outputs <= set(data.ClipStore(asked.store).names)


@pytest.mark.slow("trains the demo with two more teachers")
def test_demo_with_more_teachers(demo, tmp_path, capsys):
    """Only the distilled students are trained from another teacher, and from its outputs; a table has them all."""
    demo = demo.copied(tmp_path / "out")
    more = Demo(demo.out, "0", "--teachers", "all")
    assert [call[0] for call in more.calls] == 2 * ["finetune", "pretrain_imu", "distill", "distill"]
    taught = [named["teacher"] for name, *_, named in more.calls if name != "finetune"]
    assert taught == 3 * ["x3d-0"] + 3 * ["motionformer-0"]
    rates = [settings.learning_rate for name, *_, settings, _ in more.calls if name == "finetune"]
    assert rates == [0.02, 1e-3]  # each teacher's own
    narrow = more.calls[4][2]
    assert narrow["net.blocks.0.mlp.fc1.weight"].std() == pytest.approx(0.6 / 16**0.5, rel=0.2)  # not 0.02
    folder = demo.out / "seed-0"
    teacher = teachers.Teacher.load(folder / "x3d-0.safetensors")
    students = [EgoDistill.load(folder / f"{name}-n1-x3d-0.safetensors") for name in ("visonly-distill", "egodistill")]
    assert teacher.clip_spec.seconds == data.CLIP_SECONDS  # not the 2.67 s of the published one
    assert type(teacher.net).__name__ == "X3D" and students[1].feature_dim == teacher.feature_dim == 16
    test = data.ClipStore(demo.out / "store").split("test")
    found = [inference.evaluate(model, test, precision="fp32", progress=False) for model in (teacher, *students)]
    assert [more.rows[f"{name} x3d"]["top1"] for name in ("teacher", "VisOnly-Distill", "EgoDistill")] == [
        pytest.approx(100 * one.top1) for one in found
    ]
    row = r" +".join(f"{100 * one.top1:.1f}" for one in found)
    assert re.search(rf"(?m)^x3d +\d\.\d+ +\d\.\d\d M +{row}$", more.printed), more.printed
    assert main(["demo", "--quick", "--teachers", "x3d"]) == 1
    assert "begins with slowfast" in capsys.readouterr().err


def test_seeds_are_numbers_with_commas(capsys):
    for text in ("0,x", f"0,{2**63}"):
        with pytest.raises(SystemExit):
            cli.parse(["demo", "--out", "new", "--seeds", text])
        assert f"'{text}' is not a list of integers such as 0,1,2" in capsys.readouterr().err
    assert parse_seeds("3,0,3") == [3, 0]  # a seed is not counted twice


def test_demo_says_in_which_precision_each_network_was_trained(demo):
    runs = {name: json.loads((demo.out / f"seed-0/{name}.json").read_text()) for name in ("slowfast-0", "visonly-n1")}
    assert {run["precision"] for run in runs.values()} == {"fp32"} == {row["precision"] for row in demo.results["rows"]}
    assert "trained in" in demo.printed


def test_demo_of_other_settings_is_refused(demo, capsys):
    """The folder holds a quick one."""
    assert main(["demo", "--out", str(demo.out)]) == 1
    assert "demo.json: was begun with other settings: train_acts was" in capsys.readouterr().err


def test_a_quick_demo_differs_from_the_demo_in_size_alone():
    found = egodistill.support.files.differences(lab.demo.DEMO.record(), lab.demo.QUICK.record())
    stages = [f"protocol.recipe.{stage}" for stage in ("finetuning", "pretraining", "distillation")]
    stages += [f"teachers.{name}.training" for name in lab.demo.DEMO.teachers]
    size = {"train_acts", "test_acts", "test_wearers", "protocol.recipe.pretraining.batch_size"}
    assert set(found) == size | {f"{stage}.epochs" for stage in stages}
    # So `compare --preset demo` continues it.
    assert lab.demo.DEMO.protocol == protocols.PROTOCOLS["demo"]
    assert lab.demo.DEMO.num_frames == (1, 2, 4)


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
    "in the teacher's second step": lambda: die_on("os.rename", "/slowfast-0.safetensors.training'", 2),
    "between the teacher's features and its logits": lambda: die_on("os.rename", "/00000/slowfast-0.logits.npy'", 1),
    "with the start saved and its progress not yet removed": lambda: die_on(
        "os.remove", "/start.safetensors.training'", 1
    ),
    "in stage 1, between two epochs": lambda: die_on("os.rename", "/stage-1-n1-slowfast-0.safetensors.training'", 4),
    "in the last step of stage 2": lambda: die_on("os.rename", "/egodistill-n1-slowfast-0.safetensors.training'", 6),
    "with VisOnly trained and not yet judged": lambda: die_on("os.rename", "/visonly-n1.json'", 1),
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
            os._exit(main(["demo", "--quick", "--out", out]))
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
    last = Demo(out, "0")
    assert last.calls == []  # What was finished is not made again.
    for stage in STAGES:
        assert same(file_of(out, stage, 0), file_of(demo.out, stage, 0)), stage
    for name, row in last.rows.items():
        assert row["top1_seeds"] == demo.rows[name]["top1_seeds"][:1]
        assert row["std"] is None
    assert not unfinished(out)


@pytest.mark.slow("kills a demo at nine moments")
def test_demo_killed_leaves_no_process_behind(killed):
    """A process of the rendering that outlives its parent would keep half a gigabyte forever."""
    assert {moment: left for moment, (_, left) in killed[1].items() if left} == {}


def test_tables_of_results_have_each_number_in_its_column():
    def row(method, top1, std, **others):
        kind = benches.Run(method, **others)
        return paper.Row(method, 2, "2 frames", top1, std, [], 1.23456, 7_654_321, 3.14159, {}, kind, "bf16")

    rows = [
        row("teacher", 80.04, None),
        row("EgoDistill", 70.06, 1.26),
        row("EgoDistill", 60.0, 0.5, without=benches.STAGE_1_LOSSES),
        row("VisOnly-Distill", 40.0, 2.0),
    ]
    table = lab.demo.cost_table(rows)
    assert table.header == ["model", "inputs", "GMACs", "parameters", "ms per clip", "trained in", "top-1 (%)"]
    assert table.rows[0] == ["teacher", "2 frames", "1.235", "7.65 M", "3.14", "bf16", "80.0"]
    assert [cells[0] for cells in table.rows[1:3]] == ["EgoDistill", "EgoDistill without stage 1"]
    assert [cells[-1] for cells in table.rows[1:]] == ["70.1 ± 1.3", "60.0 ± 0.5", "40.0 ± 2.0"]
    unknown = replace_fields(rows[0], gmacs=None, params=None, ms_per_clip=None, precision="")
    assert lab.demo.cost_table([unknown]).rows[0][2:6] == ["-", "-", "-", "-"]
    others = lab.demo.teachers_table({"x3d": rows})
    assert others.header == ["teacher", "GMACs", "parameters", "teacher's top-1", "VisOnly-Distill", "EgoDistill"]
    assert others.rows == [["x3d", "1.235", "7.65 M", "80.0", "40.0 ± 2.0", "70.1 ± 1.3"]]


@pytest.mark.parametrize(
    ("seeds", "wearers", "text"),
    [
        (3, 20, "95 % intervals over 3 seeds and 20 wearers\n"),
        (1, 20, "95 % intervals over 20 wearers\n(one seed: they say nothing about other seeds)\n"),
        (3, 1, "95 % intervals over 3 seeds\n(one wearer: they say nothing about other people)\n"),
    ],
)
def test_differences_say_what_they_are_over(seeds, wearers, text, monkeypatch, capsys):
    interval = intervals.Interval(3.24, 1.1, 5.3, 6.2, 0.004, seeds, wearers)
    first = benches.Run("EgoDistill", teacher="t")
    others = [replace(first, without=benches.STAGE_1_LOSSES), benches.Run("VisIMU")]
    found = [paper.Contrast(first, other, interval) for other in others]
    monkeypatch.setattr(paper, "leads", lambda bench, runs: found)
    a = argparse.Namespace(markdown=None, words=[])
    assert lab.demo.report_differences(a, None, [], "compare differences") == found
    printed = capsys.readouterr().out
    assert text in printed and max(map(len, printed.splitlines())) <= 100
    lines = [line.split() for line in printed.splitlines()[-2:]]
    numbers = ["1", "+3.2", "+1.1", "to", "+5.3"]
    assert lines == [["EgoDistill", "without", "stage", "1", *numbers], ["VisIMU", *numbers]]


def test_one_seed_and_one_wearer_have_no_interval(monkeypatch, capsys):
    monkeypatch.setattr(paper, "leads", lambda bench, runs: intervals.two_way([[1.0]]))
    assert lab.demo.report_differences(argparse.Namespace(), None, [], "") == []
    assert "no interval can be computed from one seed and one wearer" in capsys.readouterr().out


def replace_fields(row, **changes):
    return row._replace(**changes)
