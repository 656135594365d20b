"""Each script in benchmarks/ runs with its smallest settings and writes its table; those with a test file of their own
are left to it. What takes minutes, a GPU or optional packages is replaced by made-up measurements."""

import contextlib
import functools
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import small_students
import torch
from scripts import make_small, number, only, program, read_tables, replies

import egodistill
from egodistill import EgoDistill, cameras, data
from egodistill.support import files
from egodistill.world import synthetic

ROOT = Path(egodistill.__file__).parent
SCRIPTS = ROOT / "benchmarks"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="no benchmarks beside the package: not a checkout")


@pytest.fixture
def script(monkeypatch, tmp_path):
    """Import a script by its name; its `main` with some words returns the tables that it writes, by section."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    make_small(monkeypatch)
    before = set(sys.modules)

    def load(name):
        sys.modules.pop(name, None)
        found = importlib.import_module(name)
        return found, program(found, f"benchmarks/{name}.py", monkeypatch, tmp_path)

    yield load
    for name in set(sys.modules) - before:
        if (SCRIPTS / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def student(tmp_path):
    path = tmp_path / "student.safetensors"
    small_students.student().save(path)
    return path


def test_planted_faults(script, tmp_path, monkeypatch):
    """Only the labels of one class, the clock of one recording and the axes of all are changed."""

    def write_tables(recording, root):  # without pictures, which are not looked at
        _, *tables = recording.files(root)
        tables[0].parent.mkdir(parents=True, exist_ok=True)
        recording._write_imu(recording.draw(), tables)

    module, _ = script("planted_faults")
    monkeypatch.setattr(synthetic.RenderedRecording, "write", write_tables)
    size = {"train_acts": 40, "test_acts": 40, "train_wearers": 2, "test_wearers": 2}
    world = synthetic.render(tmp_path / "world", **size, label_noise=0.0, workers=1, progress=False)
    before = {path: module.read(path) for path in world.root.rglob("*.csv")}
    planted = module.plant(world, seed=3)
    right, wrong = re.findall(r"half of (\w+) are labelled (\w+)", planted["labels"])[0]
    late, turn = planted["clock"].split()[0], cameras.turn_matrix(planted["axes"].split()[1])
    assert late[:3] not in world.test_wearers
    for path, (head, *rows) in before.items():
        found = module.read(path)[1:]
        changed = [(old, new) for old, new in zip(rows, found, strict=True) if old != new]
        if path == world.annotations:
            verb, number = head.index("verb"), head.index("verb_class")
            assert len(changed) == sum(row[verb] == right for row in rows) / 2 == 2
            assert {(old[verb], new[verb]) for old, new in changed} == {(right, wrong)}
            assert {new[number] for _, new in changed} == {row[number] for row in rows if row[verb] == wrong}
        elif "meta_data" in path.parts:
            old, new = np.array(rows, float), np.array(found, float)
            np.testing.assert_allclose(new[:, 1:] @ turn.T, old[:, 1:])
            np.testing.assert_allclose(new[:, 0] - old[:, 0], 500 * path.name.startswith(late), atol=1e-6)
        else:
            assert not changed, path


def test_every_script_has_a_test():
    """Those that use the lab have theirs in its lane."""
    here, lab = Path(__file__), ROOT / "tests" / "lab" / "test_scripts.py"
    tested = {path.stem.removeprefix("test_") for path in here.parent.glob("test_*.py")}
    for path in (here, lab):
        tested |= set(re.findall(r"(?m)^def test_(\w+)\(script", path.read_text(encoding="utf-8")))
    assert {path.stem for path in SCRIPTS.glob("*.py")} <= tested


def test_busy(script, monkeypatch):
    module, main = script("busy")
    assert module.take_steps("student", 0.0) > 0
    monkeypatch.setattr(module, "load", lambda processes: contextlib.nullcontext())
    seconds = iter(range(100))
    monkeypatch.setattr(subprocess, "run", replies(lambda words: next(seconds)))
    header, rows = only(main("--rounds", 1, "--ways", "one thread", "torch's default"))
    assert header == ["threads", "teacher, quiet", "teacher, 1 busy", "student, quiet", "student, 1 busy"]
    assert rows == [["one thread", "0.00", "4.00", "2.00", "6.00"], ["torch's default", "1.00", "5.00", "3.00", "7.00"]]


def test_decode(script):
    module, main = script("decode")
    header, rows = only(main("--quick", "--only", "256p, 12 sparse", "--repeats", 1))
    assert header[:4] == ["file: key frame every", "request", "ours, ms per frame", "limit"]
    assert header[4:] == [*module.BASELINES, "key frames only", "verdict"]
    assert [row[:2] for row in rows] == [["256p, 12", "sparse"]] and number(rows[0][2]) > 0
    assert "!" not in "".join(rows[0]) and "WRONG" not in rows[0][-1]


def test_decode_of_files(script, monkeypatch, tmp_path):
    """Beside a torchcodec that is made up: its pictures are ours, each number with another last bit."""
    module, main = script("decode")
    with module.files.atomic_write(tmp_path / "a.mp4") as part:
        module.render(part, (64, 48), 2, 12, 0)

    def played(times):
        return SimpleNamespace(data=torch.from_numpy(data.read_frames(tmp_path / "a.mp4", times, threads=1) ^ 1))

    metadata = SimpleNamespace(begin_stream_seconds=0.0, end_stream_seconds=2.0)
    decoder = SimpleNamespace(metadata=metadata, get_frames_played_at=played)
    decoders = SimpleNamespace(VideoDecoder=lambda path, **options: decoder)
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(decoders=decoders, __version__="0"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    header, rows = only(main("--files", tmp_path / "a.mp4", "--repeats", 1))
    assert header == ["file", "ours, ms", "torchcodec", "difference"]
    ((file, ours, _, apart),) = rows
    assert file == f"{tmp_path.name}/a.mp4" and number(ours) > 0 and apart == "1.00"


def test_export(script, student):
    _, main = script("export")
    header, rows = only(main(student, "--clips", 2, "--repeats", 1, "--formats", "export", "--precisions", "fp32"))
    assert header[:5] == ["file", "format", "precision", "equal labels (%)", "feature difference"]
    assert [row[:4] for row in rows] == [
        ["original", "eager", "fp32", "100.00"],
        ["export-fp32.pt2", "export", "fp32", "100.00"],
    ]


def test_imu(script, monkeypatch):
    module, main = script("imu")
    monkeypatch.setattr(module, "MINUTES", 1)
    header, rows = only(main())
    assert header == ["step", "ms"] and all(number(row[1]) >= 0 for row in rows)
    names = ["load EPIC-KITCHENS, two files", "load Ego4D, one file", "window of 422 samples"]
    assert [row[0] for row in rows] == names


def test_int8(script, monkeypatch):
    module, main = script("int8")
    for name, replacement in (
        ("export", lambda model, path, **options: None),
        ("load_exported", lambda path: None),
        ("milliseconds", lambda programs, inputs, repeats: [10.0]),
    ):
        monkeypatch.setattr(module.export, name, replacement)
    kernels = [module.Kernel(f"qconv {part}", part, 1.0) for part in module.PARTS]
    kernels += [module.Kernel("qconv binary", f"stage {k}", 1.5) for k in (1, 2, 3, 4)]
    monkeypatch.setattr(module, "profile_kernels", lambda run, inputs, repeats: kernels)
    header, rows = only(main("--repeats", 1))
    assert header == ["part", "kernels", "ms", "share (%)", "GMACs", "GMACs per second"]
    assert [row[0] for row in rows] == [*module.PARTS, "outside of the kernels", "all"]
    shown = {row[0]: row[1:] for row in rows}
    assert shown["stage 1"][:3] == ["2", "2.50", "25.0"] and shown["outside of the kernels"][1] == "-5.00"
    assert number(shown["all"][3]) == pytest.approx(sum(number(row[4]) for row in rows[:-2] if row[4]), abs=0.01)
    assert number(shown["stage 1"][4]) == pytest.approx(1000 * number(shown["stage 1"][3]) / 2.5, abs=1)


def test_live(script, tmp_path, monkeypatch):
    module, main = script("live")
    student = tmp_path / "student.safetensors"
    small_students.student(clip_seconds=0.5, image_encoder="resnet10x4").save(student)  # the first answer comes soon
    monkeypatch.setattr(module, "LOADS", 1)
    header, rows = only(main(student, "--forms", "eager", "--precisions", "fp32", "--repeats", 1))
    assert header == ["program", "form", "precision", "p50 (ms)", "p95 (ms)", "p99 (ms)", "MB", "load (s)"]
    assert [row[:3] for row in rows] == [["frame", "eager", "fp32"], ["motion", "eager", "fp32"]]
    header, rows = only(main("--hours", 0.005))
    assert header[:5] == ["student", "hours", "minutes", "processor minutes", "answers"]
    assert rows[0][:2] == ["eager", "0.005"] and rows[0][4:7] == ["32", "0", "9"]
    monkeypatch.setitem(module.FORMS, "compiled", "export")  # which is written in a second
    header, rows = only(main(student, "--stream", "--precisions", "fp32", "--answers", 4, "--every", 0.2))
    assert header[:3] == ["answers", "precision", "number"] and header[-2:] == ["stream p50 (ms)", "dropped (%)"]
    new, known = "picture and motion", "motion"
    assert [row[0] for row in rows] == [new, known, f"{new}, without a pause", f"{known}, without a pause"]
    assert int(rows[2][2]) + int(rows[3][2]) == 4 and number(rows[3][-2]) < number(rows[3][3])


def test_loader(script, monkeypatch):
    module, main = script("loader")
    monkeypatch.setattr(module, "EgoDistill", functools.partial(EgoDistill, image_encoder="resnet10x4", hidden=8))
    header, rows = only(main("--clips", 8, "--batch-size", 4))
    assert header == ["step", "value"]
    names = [f"reading frames {when}, clips per second" for when in ("for the first time", "later")]
    names += ["training, clips per second", "waiting for data, % of the time"]
    assert [row[0] for row in rows] == names and all(number(row[1]) >= 0 for row in rows)


def test_store_scale(script):
    module, main = script("store_scale")
    header, rows = only(main("--clips", module.CLIPS + 1))
    assert header == ["step, 65 clips", "s", "µs a clip"]
    steps = ("the first", "again", "one label changed")
    assert [row[0] for row in rows] == ["read_csv()", *(f"prepare(), {step}" for step in steps)]
    first, again, edited = (number(row[2]) for row in rows[1:])
    assert again < first and again < edited


def test_store_scale_of_parts(script, panned, tmp_path):
    _, main = script("store_scale")
    for name in ("walk", "run"):
        (tmp_path / name).mkdir()
        shutil.copy(panned, tmp_path / name / f"{name}.mp4")
    header, rows = only(main("--parts", 2, "--of", tmp_path))
    assert header == ["prepare", "s"] and [row[0] for row in rows] == ["the whole", "2 parts at once", "times as fast"]
    whole, parts, ratio = (number(row[1]) for row in rows)
    assert ratio == pytest.approx(whole / parts, rel=0.1)
    assert [row[0] for row in only(main("--clips", 1, "--read"))[1]] == ["read_csv()"]


def test_paper_size(script, monkeypatch):
    module, main = script("paper_size")
    for name in ("render", "repeat", "write_imu"):
        monkeypatch.setattr(module, name, mock.create_autospec(getattr(module, name)))  # called as they are defined
    monkeypatch.setattr(module, "disk_table", lambda folder, clips: module.tables.Table(["store"], [["one pass"]]))
    measured = {"seconds": 0.36, "disk": 1e6, "MB": 500, "once": 0.1, "kept": 0.01, "again": 0.1}
    seen = []
    monkeypatch.setattr(subprocess, "run", replies(lambda words: seen.append(words[1]) or measured))
    found = main("--clips", 16, "--teacher-clips", 1)
    assert seen == [*module.STAGES, "stage-1"] and len(found) == 3
    header, rows = next(table for name, table in found.items() if re.match(r"benchmarks/paper_size\.py,", name))
    assert header[:4] == ["stage", "seconds per clip", "GB of memory", "Ego4D: hours"]
    assert [row[0] for row in rows] == [*module.STAGES]
    assert rows[0][3:5] == ["1.4", "12.1"]  # 12,100 clips of 0.36 s (and 8,500 of 0.1 s once) and 1 MB
    header, rows = next(table for name, table in found.items() if "stage 1" in name)
    assert [row[0] for row in rows] == ["features kept", "frames encoded in each step", "factor"]
    assert rows[2][1] == "10.0"


def test_recording(script, steady, monkeypatch):
    module, main = script("recording")
    small = {"image_encoder": "resnet10x4", "frame_size": 32, "hidden": 8}
    monkeypatch.setattr(module, "EgoDistill", functools.partial(EgoDistill, **small))
    monkeypatch.setattr(module.teachers, "load", lambda *given, **options: torch.nn.Identity())
    monkeypatch.setattr(module, "run_teacher", lambda teacher, video, seconds: None)
    monkeypatch.setattr(module, "peak_memory", lambda video, imu: 1.0)
    found = main("--minutes", 0.1, "--teacher-seconds", 3, "--num-frames", 1, "--video", steady)
    header, rows = only(found)
    assert header[:4] == ["model", "seconds", "decoding alone", "model alone"]
    frames = ["exact frames", "cheapest frame within 0.25 s", "key frames", "working copy"]
    names = ["MotionFormer as released", "MotionFormer, this library's form"]
    assert [row[0] for row in rows] == names + [f"EgoDistill, N = 1, {name}" for name in frames]
    assert all(number(row[4]) > 0 for row in rows[2:]) and "0 minutes, fp32" in next(iter(found))


def test_teachers(script, monkeypatch):
    _, main = script("teachers")

    def measure(words):
        fast = json.loads(words[1])["form"] == "library"
        return {"seconds": 2 - fast, "peak": 300 - 100 * fast, "above": 90 - 60 * fast, "feature": [1.0, 2 + fast / 8]}

    monkeypatch.setattr(subprocess, "run", replies(measure))
    options = ("--precisions", "fp32", "--devices", "cpu", "--repeats", 1, "--rounds", 1)
    header, rows = only(main("--batch-sizes", 1, 8, *options))
    assert header[:5] == ["batch", "values", "precision", "seconds: released, ours", "ratio"]
    measured = ["2.000, 1.000", "2.0", "300, 200", "1.5", "90, 30", "3.0", "1.2e-01"]
    assert rows == [[batch, "original", "fp32", *measured] for batch in ("1", "8")]


@pytest.mark.slow("a browser")
def test_web(script, student):
    """A few answers of a small student on the page, with the classes of Python."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f'needs {package}: pip install ".[export]"')
    if not (ROOT / "examples" / "web" / "node_modules").is_dir():
        pytest.skip("needs onnxruntime-web: npm ci --ignore-scripts --prefix examples/web")
    _, main = script("web")
    header, rows = only(main("--student", student, "--precision", "fp32", "--seconds", 3))
    (cells,) = [dict(zip(header, row, strict=True)) for row in rows]
    assert number(cells["first label (s)"]) > 2 and number(cells["motion (ms)"]) > 0
    assert int(cells["equal labels"]) == int(cells["answers"]) > 3 and number(cells["difference"]) < 1e-3


@pytest.mark.parametrize("document", sorted((ROOT / "results").glob("*.md")), ids=lambda path: path.name)
def test_shares_of_stored_tables_are_0_to_100_percent(document):
    """And differences of shares -100 to 100: intervals end there."""
    for header, rows in read_tables(document).values():
        for row in rows:
            for name, cell in zip(header, row, strict=True):
                if found := re.match(r"([+-]?)[\d.]+ \(([+-]?[\d.]+) to ([+-]?[\d.]+)\)$", cell):
                    signed, low, high = found[1] != "", float(found[2]), float(found[3])
                    assert low >= (-100 if signed else 0) or "R2" in name, (name, cell)
                    assert high <= 100 or "per hour" in name, (name, cell)


def test_the_readme_of_results_explains_every_field_and_counts_the_commits_that_are_gone():
    text = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`(\w[\w, ]*)`", text.partition("## Fields")[2].partition("## Bits")[0]))
    for path in (ROOT / "results").glob("*.jsonl"):
        assert set().union(*files.read_lines(path)) <= explained, path
    gone = re.findall(r"(?m)^\| `(\S+\.jsonl)` \| `(\w+)` \| (\d+) \|", text)
    for name, commit in {(name, commit) for name, commit, _ in gone}:
        lines = list(files.read_lines(ROOT / "results" / name, "commit"))
        counted = sum(int(count) for one, other, count in gone if (one, other) == (name, commit))
        assert sum(line["commit"].startswith(commit) for line in lines) == counted, name
    assert f"{sum(int(count) for *_, count in gone)} lines of networks name" in text
