"""Outputs of teachers in a store: extract(), kills and several processes, and extraction while clips are decoded."""

import argparse
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from painted import break_packets, files_of, write_video
from small_teachers import LABELS, Positions, narrow, random_clips
from torch import nn
from waiting import LIMIT

from egodistill import DataError, EgoDistill, EgoDistillError, data, distillation, pretrain_imu, teachers
from egodistill.datasets.one_pass import ConsumerGroup, Pending
from egodistill.datasets.store import OutputClaim, StoreWriter, outputs_record
from egodistill.datasets.store_files import StoreFiles
from egodistill.engine.teacher import fingerprint
from egodistill.recordings.spec import ClipSpec
from egodistill.support import files
from egodistill.support.errors import NoteWarning

# --- a whole store ---------------------------------------------------------------------------


class Store:
    """The few methods of a clip store that extract() uses, in memory."""

    def __init__(self, path, clips, class_names=LABELS):
        self.path, self.class_names = path, list(class_names)
        self.arrays = {} if clips is None else {"clip": clips}
        self.flags = {}
        self.splits = ["test", "train"]
        self.count = 5 if clips is None else len(clips)

    def __len__(self):
        return self.count

    @property
    def names(self):
        return list(self.arrays)

    def read(self, name, index):
        return self.arrays[name][np.asarray(index)]

    def add(self, name, shape, dtype):
        array = self.arrays.setdefault(name, np.zeros((len(self), *shape), dtype))
        assert (array.shape[1:], array.dtype) == (tuple(shape), np.dtype(dtype))
        self.flags.setdefault(name, np.zeros(len(self), bool))

    def write(self, name, index, values):
        assert values.dtype == self.arrays[name].dtype
        self.arrays[name][np.asarray(index)] = values
        self.flags[name][np.asarray(index)] = True

    def done(self, name):
        return self.flags[name].copy()

    def forget(self, name):
        self.flags[name][:] = False

    def everything(self):
        return self

    def rest(self):
        return SimpleNamespace(done=lambda name: self.flags[name][:0])


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, random_clips(5))


def count_clips(teacher, stop_after=None):
    """A list that gets the size of every batch the teacher computes."""
    sizes = []

    def hook(layer, inputs):
        if len(sizes) == stop_after:
            raise KeyboardInterrupt
        sizes.append(len(inputs[0]))

    teacher.net.register_forward_pre_hook(hook)
    return sizes


def test_extract_writes_the_teacher_s_outputs(store, capsys):
    teacher = narrow()
    teacher.train()
    teacher.net.s2.eval()  # somebody froze a part
    modes = [layer.training for layer in teacher.modules()]
    teachers.extract(teacher, store, batch_size=2, progress=False)
    assert capsys.readouterr().err == ""
    assert [layer.training for layer in teacher.modules()] == modes

    with torch.no_grad():
        output = teacher.eval()(torch.from_numpy(store.arrays["clip"]))
    np.testing.assert_allclose(store.arrays["slowfast.feature"], output.feature, atol=1e-5)
    np.testing.assert_allclose(store.arrays["slowfast.logits"], output.logits, rtol=1e-5)
    assert store.done("slowfast.feature").all() and store.done("slowfast.logits").all()
    record = json.loads((store.path / "slowfast.teacher.json").read_text())
    assert len(record["fingerprint"]) == 16 and record["clip_spec"]["frames"] == 8


def test_extract_goes_on_where_it_was_killed(store, capsys):
    with pytest.raises(KeyboardInterrupt):
        killed = narrow()
        count_clips(killed, stop_after=1)
        teachers.extract(killed, store, batch_size=2)
    assert store.done("slowfast.logits").tolist() == [True, True, False, False, False]
    store.flags["slowfast.logits"][0] = False  # killed between the two arrays

    teacher = narrow()
    sizes = count_clips(teacher)
    capsys.readouterr()
    teachers.extract(teacher, store, batch_size=3)
    assert sizes == [3, 1]
    shown = capsys.readouterr().err
    assert "slowfast" in shown and "4/4" in shown and "clips/s" in shown
    teachers.extract(teacher, store)
    assert sizes == [3, 1]


def test_extract_keeps_two_teachers_apart(store):
    first = narrow(seed=0)
    teachers.extract(first, store, progress=False)
    kept = store.arrays["slowfast.feature"].copy()

    second = narrow(seed=1)
    with pytest.raises(DataError, match=r"slowfast\.teacher\.json.*fingerprint.*overwrite"):
        teachers.extract(second, store, progress=False)
    same_weights = narrow(seed=0)
    same_weights.pixels = replace(same_weights.pixels, channels="BGR")
    with pytest.raises(DataError, match="fingerprint"):
        teachers.extract(same_weights, store, progress=False)
    with pytest.raises(DataError, match=r"precision fp32.*bf16"):
        teachers.extract(first, store, precision="bf16", progress=False)
    np.testing.assert_array_equal(store.arrays["slowfast.feature"], kept)

    # A run that overwrites and is killed leaves outputs of its teacher only; this one goes on from there.
    killed = narrow(seed=1)
    count_clips(killed, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        teachers.extract(killed, store, batch_size=2, overwrite=True, progress=False)
    assert store.done("slowfast.feature").tolist() == [True, True, False, False, False]
    with pytest.raises(DataError, match="fingerprint"):
        teachers.extract(first, store, progress=False)

    sizes = count_clips(second)
    teachers.extract(second, store, batch_size=2, progress=False)
    assert sizes == [2, 1]
    teachers.extract(second, store, batch_size=2, overwrite=True, progress=False)
    assert sizes == [2, 1, 2, 2, 1]
    with torch.no_grad():
        wanted = second(torch.from_numpy(store.arrays["clip"])).feature
    np.testing.assert_allclose(store.arrays["slowfast.feature"], wanted, atol=1e-5)


def test_extract_refuses_outputs_of_unknown_origin(store):
    teachers.extract(narrow(), store, progress=False)
    (store.path / "slowfast.teacher.json").unlink()
    with pytest.raises(DataError, match="fingerprint None"):
        teachers.extract(narrow(), store, progress=False)


def test_a_damaged_record_is_named(store):
    for text in ("{", "[1]", "3"):
        (store.path / "slowfast.teacher.json").write_text(text)
        with pytest.raises(DataError, match=r"slowfast\.teacher\.json cannot be read.*delete it.*over"):
            teachers.extract(narrow(), store, progress=False)


def test_the_second_of_two_teachers_with_one_name_sees_the_first(store):
    """Both begin at once: while one puts its name on the arrays, the other waits."""
    refused = []

    def second():
        with pytest.raises(DataError, match="fingerprint") as error:
            teachers.extract(narrow(seed=1), store, progress=False)
        refused.append(error)

    other = threading.Thread(target=second)
    with files.lock(store.path / "store.lock"):
        other.start()
        other.join(0.5)
        assert other.is_alive() and not (store.path / "slowfast.teacher.json").exists()
        (store.path / "slowfast.teacher.json").write_text('{"fingerprint": "of the first"}')
    other.join(60)
    assert len(refused) == 1 and not store.flags


def test_a_run_that_is_overwritten_by_another_teacher_spoils_none_of_its_outputs(store):
    first, second = narrow(seed=0), narrow(seed=1)
    sizes = []

    def overtaken(*_):
        sizes.append(1)
        if len(sizes) == 2:  # while the first teacher looks at its second batch
            teachers.extract(second, store, overwrite=True, progress=False)

    first.net.register_forward_pre_hook(overtaken)
    with pytest.raises(DataError, match=r"slowfast\.teacher\.json: another run is overwriting"):
        teachers.extract(first, store, batch_size=2, progress=False)
    with torch.no_grad():
        wanted = second(torch.from_numpy(store.arrays["clip"])).feature
    np.testing.assert_allclose(store.arrays["slowfast.feature"], wanted, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip store on disk with twelve clips of two recordings, and nothing else."""
    path = tmp_path_factory.mktemp("folder")
    segments = []
    for k in range(2):
        video = write_video(path / f"{k}.mp4", np.arange(400) / 25)
        segments += [data.Segment(f"{k} {i}", video, 2.5 * i, 2.5 * i + 2, LABELS[i % 3]) for i in range(6)]
    options = {"num_frames": (), "ends": False, "imu": False, "clip_frames": 8, "clip_size": 32, "class_names": LABELS}
    return data.prepare(segments, path / "s", **options, workers=1, progress=False).path


def outputs(path):
    """Outputs of a store on disk: which rows of features and logits are marked, and their content."""
    store = data.ClipStore(path)
    found = {}
    for name in ("slowfast.feature", "slowfast.logits"):
        if name in store.names:
            found[name] = (done := store.done(name)), np.zeros((len(store), *store._files.arrays[name]["shape"]), "f4")
            found[name][1][done] = store.read(name, done)
    return found


def test_overwriting_some_clips_may_not_leave_another_teacher_in_the_others(folder, tmp_path):
    """Also if the clips are of all splits: their outputs would be of one teacher, the others of the other."""
    store = data.ClipStore(shutil.copytree(folder, tmp_path / "s"))
    first, second, half = narrow(seed=0), narrow(seed=1), store.select(np.arange(12) % 2 == 0)
    teachers.extract(first, half, progress=False)
    teachers.extract(first, store, progress=False)
    kept, record = outputs(store.path), outputs_record(store, "slowfast")
    words = r"slowfast\.teacher\.json: 6 of the clips that are not in this view.*'0 1'.*another teacher.*whole store"
    with pytest.raises(DataError, match=words):
        teachers.extract(second, half, overwrite=True, progress=False)
    assert outputs_record(store, "slowfast") == record
    for name, (done, values) in outputs(store.path).items():
        np.testing.assert_array_equal(done, kept[name][0])
        np.testing.assert_array_equal(values, kept[name][1])
    teachers.extract(first, half, overwrite=True, progress=False)  # the same one may
    teachers.extract(second, store, overwrite=True, progress=False)
    with torch.no_grad():
        wanted = second(torch.from_numpy(store.read("clip", slice(None)))).logits
    np.testing.assert_allclose(store.read("slowfast.logits", slice(None)), wanted, rtol=1e-4, atol=1e-4)


def test_overwriting_replaces_outputs_of_another_width(folder, tmp_path):
    """Of clips that another view of the store, in this process, has read already."""
    store = data.ClipStore(shutil.copytree(folder, tmp_path / "s"))
    first, wide = narrow(seed=0), narrow(seed=1, width=16)
    assert wide.feature_dim != first.feature_dim
    teachers.extract(first, store, progress=False)
    reader = data.ClipStore(store.path)
    assert reader.read("slowfast.feature", slice(None)).shape == (12, first.feature_dim)
    with pytest.raises(DataError, match="have the fingerprint"):
        teachers.extract(wide, store, progress=False)
    teachers.extract(wide, store, overwrite=True, progress=False)
    with torch.no_grad():
        wanted = wide(torch.from_numpy(store.read("clip", slice(None))))
    for one in (store, reader, data.ClipStore(store.path)):
        for name, values in zip(("feature", "logits"), wanted, strict=True):
            np.testing.assert_allclose(one.read(f"slowfast.{name}", slice(None)), values, rtol=1e-4, atol=1e-4)
    teachers.extract(first, reader, overwrite=True, progress=False)
    assert store.read("slowfast.feature", [0]).shape == (1, first.feature_dim)


@pytest.mark.parametrize(
    "moment",
    [
        "forget",
        "slowfast.teacher.json",
        "store.json",
        "again",
        "slowfast.feature.npy",
        "slowfast.feature.sums.npy",
        "batch",
    ],
)
def test_an_overwriting_run_that_is_killed_anywhere_leaves_one_teacher(folder, tmp_path, monkeypatch, moment):
    """The rows that are written are those of the teacher in the record; both teachers can go on from there."""
    path = shutil.copytree(folder, tmp_path / "s")
    pair = first, wide = narrow(seed=0), narrow(seed=1, width=16)
    teachers.extract(first, data.ClipStore(path), progress=False)
    replaced = []

    def stop(here):
        replaced.append(here)
        if here == moment or (moment == "again" and replaced.count("store.json") == 2):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        forget, rename = data.ClipStore.forget, os.replace
        patch.setattr(OutputClaim, "__exit__", lambda *_: None)  # a run that is killed tidies nothing
        patch.setattr(data.ClipStore, "forget", lambda store, name: (forget(store, name), stop("forget")))
        patch.setattr(
            os,
            "replace",
            lambda old, new: (stop(Path(new).name), rename(old, new)),
        )
        killed = narrow(seed=1, width=16)
        if moment == "batch":
            count_clips(killed, stop_after=1)
        with pytest.raises(KeyboardInterrupt):
            teachers.extract(killed, data.ClipStore(path), batch_size=4, overwrite=True, progress=False)
    kept = data.ClipStore(path)
    own = outputs_record(kept, "slowfast")["fingerprint"]
    assert own == fingerprint(first if moment in ("forget", "slowfast.teacher.json") else wide)
    for teacher in sorted(pair, key=lambda one: fingerprint(one) != own):  # the recorded one needs no overwrite
        overwrite = fingerprint(teacher) != own
        teachers.extract(teacher, data.ClipStore(path), batch_size=4, overwrite=overwrite, progress=False)
        with torch.no_grad():
            wanted = teacher(torch.from_numpy(kept.read("clip", slice(None)))).feature
        for one in (kept, data.ClipStore(path)):
            np.testing.assert_allclose(one.read("slowfast.feature", slice(None)), wanted, rtol=1e-4, atol=1e-4)


# --- stores without labels, whose classes are a teacher's -------------------------------------


@pytest.fixture
def unlabelled(tmp_path):
    """A clip store on disk with four clips without labels."""
    segments = data.SegmentList([data.Segment(str(k), "a.mp4", 0.0, 1.0) for k in range(4)])
    specs, clips = {"clip": narrow().clip_spec}, [(k, 0.0) for k in range(4)]
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, specs, [])
    for row, frames in zip(writer.missing(), random_clips(4), strict=True):
        writer.write(row, {"clip": frames, "clip.times": np.arange(8.0)})
    return data.ClipStore(tmp_path / "s")


def with_classes(count, name="slowfast", **options):
    return narrow(count, name, class_names=[f"{count}: {k}" for k in range(count)], **options)


def test_a_teacher_that_is_refused_leaves_no_trace_in_a_store_without_labels(unlabelled):
    before = files_of(unlabelled.path)
    with pytest.raises(teachers.TeacherError, match="too few for 3 views"):
        teachers.extract(with_classes(5), unlabelled, views=3, progress=False)
    with pytest.raises(EgoDistillError, match="frames is 8 in the store, 4 in the model"):
        teachers.extract(with_classes(5, frames=4), unlabelled, progress=False)
    (unlabelled.path / "wrong.teacher.json").write_text('{"fingerprint": "another"}')
    with pytest.raises(DataError, match="have the fingerprint another"):
        teachers.extract(with_classes(5, "wrong"), unlabelled, progress=False)
    (unlabelled.path / "wrong.teacher.json").unlink()
    assert files_of(unlabelled.path) == before
    teachers.extract(with_classes(7), unlabelled, progress=False)
    assert unlabelled.class_names == [f"7: {k}" for k in range(7)]


def test_a_new_teacher_without_none_takes_the_class_from_a_store_that_nothing_needs_it_in(unlabelled):
    names = [*LABELS, "(none)"]
    knows = narrow(len(names), class_names=names)
    for teacher in (knows, narrow(), knows):
        teachers.extract(teacher, unlabelled, overwrite=True, progress=False)
        unlabelled = data.ClipStore(unlabelled.path)
        assert unlabelled.class_names == teacher.class_names
        assert unlabelled.read("slowfast.logits", [0]).shape == (1, len(teacher.class_names))
    teachers.extract(narrow(name="beside"), unlabelled, progress=False)  # the outputs of the first need the class
    assert unlabelled.class_names == names and unlabelled.read("beside.logits", [0]).shape == (1, len(names))


def test_classes_that_no_output_needs_are_those_of_the_next_teacher(unlabelled):
    stopped = with_classes(5, "wrong")
    count_clips(stopped, stop_after=0)
    with pytest.raises(KeyboardInterrupt):
        teachers.extract(stopped, unlabelled, progress=False)
    later, right = data.ClipStore(unlabelled.path), with_classes(7)
    teachers.extract(right, later, progress=False)
    assert later.class_names == right.class_names and later.done("slowfast.logits").all()
    with pytest.raises(EgoDistillError, match=r"class names of model \(5\) and store \(7\) differ"):
        teachers.extract(with_classes(5, "wrong"), later, progress=False)
    with pytest.raises(teachers.TeacherError, match=r"has the classes .*7: 0.* the teacher 'wrong' has .*5: 0"):
        teachers.Extraction(with_classes(5, "wrong")).open(later).__enter__()
    assert data.ClipStore(later.path).class_names == right.class_names


def test_a_teacher_that_fails_at_once_leaves_its_name_to_others(folder, unlabelled, tmp_path):
    """Also to one with other classes, in a store without labels; outputs of others stay."""
    labelled = Path(shutil.copytree(folder, tmp_path / "labelled"))
    teachers.extract(narrow(), data.ClipStore(labelled), progress=False)
    broken = narrow(name="x")
    broken.net.register_forward_pre_hook(lambda *_: 1 / 0)
    for path in (labelled, unlabelled.path):
        others = {name: content for name, content in files_of(path).items() if name != "store.json"}
        for options in ({}, {"precision": "bf16"}, {"overwrite": True}):
            with pytest.raises(ZeroDivisionError):
                teachers.extract(broken, data.ClipStore(path), progress=False, **options)
            assert not (path / "x.teacher.json").exists()
        assert {name: content for name, content in files_of(path).items() if name in others} == others
    teachers.extract(with_classes(4, "x"), unlabelled, progress=False)
    assert len(unlabelled.class_names) == 4 and unlabelled.done("x.logits").all()
    stopped = with_classes(4, "y")
    count_clips(stopped, stop_after=0)
    with pytest.raises(KeyboardInterrupt):
        teachers.extract(stopped, unlabelled, progress=False)
    teachers.extract(with_classes(4, "y"), unlabelled, precision="bf16", progress=False)
    assert unlabelled.done("y.logits").all()


def test_a_process_of_several_keeps_the_name_when_it_fails(unlabelled):
    """The others may be at work."""
    broken = with_classes(4, "x")
    broken.net.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        teachers.extract(broken, unlabelled, batch_size=1, rank=1, world_size=2, progress=False)
    assert outputs_record(unlabelled, "x")


def test_a_teacher_that_fails_later_keeps_its_name_and_its_outputs(unlabelled):
    teacher = with_classes(4, "x")
    count_clips(teacher, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        teachers.extract(teacher, unlabelled, batch_size=1, progress=False)
    assert unlabelled.done("x.logits").tolist() == [True, False, False, False]
    with pytest.raises(DataError, match="outputs in the store have the precision fp32"):
        teachers.extract(with_classes(4, "x"), unlabelled, precision="bf16", progress=False)


def test_a_failure_does_not_free_the_name_that_another_teacher_has_taken_meanwhile(unlabelled):
    teacher = with_classes(4, "x")

    def fail(*_):
        files.write_json(unlabelled.path / "x.teacher.json", {"fingerprint": "another"})
        raise ZeroDivisionError

    teacher.net.register_forward_pre_hook(fail)
    with pytest.raises(ZeroDivisionError):
        teachers.extract(teacher, unlabelled, progress=False)
    assert outputs_record(unlabelled, "x") == {"fingerprint": "another"} and "x.logits" in unlabelled.names


def test_overwriting_the_only_outputs_of_a_store_without_labels_replaces_the_classes(unlabelled):
    teachers.extract(with_classes(5), unlabelled, progress=False)
    with pytest.raises(EgoDistillError, match=r"class names of model \(7\) and store \(5\) differ"):
        teachers.extract(with_classes(7), unlabelled, progress=False)
    teachers.extract(with_classes(7), unlabelled, overwrite=True, progress=False)
    assert data.ClipStore(unlabelled.path).class_names == with_classes(7).class_names
    assert unlabelled.read("slowfast.logits", slice(None)).shape == (4, 7)
    teachers.extract(with_classes(7, "second"), unlabelled, progress=False)
    with pytest.raises(EgoDistillError, match=r"class names of model \(5\) and store \(7\) differ"):
        teachers.extract(with_classes(5), unlabelled, overwrite=True, progress=False)
    assert unlabelled.done("slowfast.logits").all() and unlabelled.class_names == with_classes(7).class_names


# Each moment is one of a run that goes on where the one before was killed: a file that gets its name, or a row that is
# written to an array, by half of its numbers.
MOMENTS = {
    "its name is not on the arrays yet": ("os.rename", "slowfast.teacher.json", 1),
    "an array that the header does not know": ("os.rename", "store.json", 2),
    "no features yet": ("os.rename", "slowfast.feature.npy", 1),
    "features whose marks are not there": ("os.rename", "slowfast.feature.sums.npy", 1),
    "features and no logits": ("os.rename", "slowfast.logits.npy", 1),
    "half of a row of features": ("write", "slowfast.feature", 1),
    "features without mark": ("write", "slowfast.feature.sums", 1),
    "half of a row of logits": ("write", "slowfast.logits", 2),
    "logits without mark": ("write", "slowfast.logits.sums", 2),
    "Ctrl-C": ("write", "slowfast.feature", 2),
}


def killed_again_and_again(path):
    """extract() in a process of its own, killed at each of MOMENTS; prints how it ended, keeps what it left."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored in the background of a shell.
    teacher = narrow()
    for k, (moment, (event, where, nth)) in enumerate(MOMENTS.items()):
        child = os.fork()  # Before any computing, so that there are no threads to lose.
        if child == 0:
            seen, kind, put = [], signal.SIGINT if moment == "Ctrl-C" else signal.SIGKILL, StoreFiles.put

            def die(seen=seen, nth=nth, kind=kind):
                seen.append(1)
                if len(seen) == nth:
                    os.kill(os.getpid(), kind)

            def hook(name, arguments, event=event, where=where, die=die):
                if name == event and str(arguments[1]).endswith(f"/{where}"):
                    die()

            def put_to_die(self, name, rows, values, where=where, die=die, put=put):
                """Write half of the numbers of each row, which may be the process's last act."""
                if name == where:
                    if values.ndim > 1:
                        half = self.read(name, rows)
                        half[:, : values.shape[1] // 2] = values[:, : values.shape[1] // 2]
                        put(self, name, rows, half)
                    die()
                put(self, name, rows, values)

            if event == "write":
                StoreFiles.put = put_to_die
            else:
                sys.addaudithook(hook)
            try:
                teachers.extract(teacher, data.ClipStore(path), batch_size=2, progress=False)
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        shutil.copytree(path, f"{path}-{k}")


def script(*command):
    """A function of this file in a process of its own."""
    root = Path(data.__file__).parent
    code = "import sys, test_teachers_extract as T; getattr(T, sys.argv[1])(*sys.argv[2:])"
    paths = os.pathsep.join([str(root), str(root / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, command)],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")
def test_extract_killed_anywhere_leaves_no_row_that_is_taken_for_whole(folder, tmp_path):
    torch.set_num_threads(1)  # As in the processes below: the same sums in the same order.
    whole, path = (shutil.copytree(folder, tmp_path / name) for name in ("whole", "killed"))
    teachers.extract(narrow(), data.ClipStore(whole), batch_size=2, progress=False)
    wanted = outputs(whole)
    said, errors = (process := script("killed_again_and_again", path)).communicate(timeout=LIMIT)
    assert process.returncode == 0 and said.split() == ["-9"] * 9 + ["130"], said + errors
    finished = []
    for k in range(len(MOMENTS)):
        found = outputs(Path(f"{path}-{k}"))
        finished.append({name: int(done.sum()) for name, (done, _) in found.items()})
        for name, (done, values) in found.items():
            np.testing.assert_array_equal(values[done], wanted[name][1][done], err_msg=list(MOMENTS)[k])
    none = {"slowfast.feature": 0, "slowfast.logits": 0}
    assert finished[:6] == [{}, {}, none, none, {**none, "slowfast.feature": 2}, {**none, "slowfast.feature": 2}]
    assert finished[-1]["slowfast.feature"] < 12 and not outputs(path)["slowfast.logits"][0].all()
    teachers.extract(narrow(), data.ClipStore(path), batch_size=2, progress=False)
    for name, (done, values) in outputs(path).items():
        assert done.all()
        np.testing.assert_array_equal(values, wanted[name][1])
    # What has not got its name lies there, hidden; it is in nobody's way.
    assert {name for name in files_of(path) if not Path(name).name.startswith(".")} == files_of(whole).keys()


def shared_among_processes(path):
    """Rank 1 of 2, killed at its third clip; then ranks 0 and 1, and a process that does all, at a time."""
    torch.set_num_threads(1)
    teacher = narrow()

    def begin(rank, world_size, die_at=0):
        child, seen = os.fork(), []
        if child == 0:

            def look(*_):
                seen.append(1)
                if len(seen) == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            teacher.net.register_forward_hook(look)
            share = {"rank": rank, "world_size": world_size}
            teachers.extract(teacher, data.ClipStore(path), batch_size=1, progress=False, **share)
            os._exit(0)
        return child

    for at_a_time in ([(1, 2, 3)], [(0, 2), (1, 2), (0, 1)]):
        for child in [begin(*share) for share in at_a_time]:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        shutil.copytree(path, f"{path}-{len(at_a_time)}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")
def test_processes_extract_into_one_store_and_a_dead_ones_share_is_taken_up(folder, tmp_path):
    """Three writers at a time, also of the same rows, give the same bits as one."""
    torch.set_num_threads(1)  # As above.
    whole, path = (shutil.copytree(folder, tmp_path / name) for name in ("whole", "shared"))
    teachers.extract(narrow(), data.ClipStore(whole), batch_size=1, progress=False)
    said, errors = (process := script("shared_among_processes", path)).communicate(timeout=LIMIT)
    assert process.returncode == 0 and said.split() == ["-9", "0", "0", "0"], said + errors
    assert np.flatnonzero(outputs(Path(f"{path}-1"))["slowfast.logits"][0]).tolist() == [1, 3]
    for name, (done, values) in outputs(path).items():
        assert done.all()
        np.testing.assert_array_equal(values, outputs(whole)[name][1])


def test_extract_on_a_full_disk_says_so_and_goes_on(folder, tmp_path, full_disk):
    path = shutil.copytree(folder, tmp_path / "s")
    sizes = (10, r"slowfast\.teacher\.json"), (1000, r"store\.json"), (3000, r"shards/00000/slowfast\.feature\.npy")
    for size, file in sizes:
        before = files_of(path)
        with (
            full_disk(size),
            pytest.raises(ValueError, match=rf"s/{file}:? cannot be written.*repeat the call"),
        ):
            teachers.extract(narrow(), data.ClipStore(path), progress=False)
        left = files_of(path)
        before["store.json"] = left["store.json"]  # may name arrays of which no row is written
        assert before.items() <= left.items() and not any(done.any() for done, _ in outputs(path).values())
        assert not [name for name in left if ".part" in name or "slowfast.feature" in name]
    teachers.extract(narrow(), data.ClipStore(path), progress=False)
    assert all(done.all() for done, _ in outputs(path).values())


def test_extract_in_bf16_is_close(store):
    teacher = narrow()
    teachers.extract(teacher, store, precision="bf16", progress=False)
    with torch.no_grad():
        wanted = teacher(torch.from_numpy(store.arrays["clip"])).feature
    found = torch.from_numpy(store.arrays["slowfast.feature"])
    assert not torch.equal(found, wanted)  # it was used
    assert nn.functional.cosine_similarity(found, wanted).min() > 0.999
    with pytest.raises(EgoDistillError, match="fp16"):
        teachers.extract(teacher, store, precision="fp16")


def test_extract_averages_three_views(tmp_path):
    """Left, middle and right of a wide clip: features are averaged, and probabilities."""
    teacher = narrow()
    clips = torch.from_numpy(random_clips(3, size=37))
    store = Store(tmp_path, clips.numpy())
    teachers.extract(teacher, store, views=3, batch_size=2, progress=False)
    with torch.no_grad():
        seen = [teacher(clips[..., 3:35, left : left + 32].contiguous()) for left in (0, 3, 5)]
    feature = torch.stack([one.feature for one in seen]).mean(0)
    probability = torch.stack([one.logits.softmax(1) for one in seen]).mean(0)
    np.testing.assert_allclose(store.arrays["slowfast.feature"], feature, atol=1e-5)
    found = torch.from_numpy(store.arrays["slowfast.logits"]).softmax(1)
    np.testing.assert_allclose(found, probability, atol=1e-5)
    with pytest.raises(DataError, match=r"views 3, this run has 1"):
        teachers.extract(teacher, store, progress=False)
    with pytest.raises(teachers.TeacherError, match=r"too few for 3 views of 32; .*clip_size=37"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2)), views=3)
    with pytest.raises(teachers.TeacherError, match=r"views .* is 2"):
        teachers.extract(teacher, store, views=2)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"seconds": 80 / 30}, r"seconds is 2\.6666\d* in the store, 2\.1333\d* in the model.*with seconds=2\.6666"),
        (
            {"frames": 4, "sampling": "first"},
            "frames is 4 in the store, 8 in the model; sampling is first in the",
        ),
        ({"crop": False}, "crop is False in the store, True in the model"),
        ({"exact": False}, "exact is False in the store, True"),
    ],
)
def test_extract_refuses_other_clips_than_the_teacher_s(store, stored, words):
    store.specs = {"clip": replace(ClipSpec(frames=8, size=64, crop=True), **stored)}
    with pytest.raises(EgoDistillError, match=f"'clip' of the store does not fit .*{words}.*or prepare other clips"):
        teachers.extract(narrow(), store, progress=False)
    assert "slowfast.feature" not in store.names


def test_extract_resizes_larger_clips(store):
    store.specs = {"clip": ClipSpec(frames=8, size=64, crop=True)}
    store.arrays["clip"] = random_clips(5, size=64)
    teachers.extract(narrow(), store, progress=False)
    with torch.no_grad():
        wanted = narrow()(torch.from_numpy(store.arrays["clip"])).feature
    np.testing.assert_allclose(store.arrays["slowfast.feature"], wanted, atol=1e-5)


def test_extract_shares_the_clips_by_rank(store, monkeypatch):
    """Each process takes its share if it asks for one; a dead one's is taken up. RANK alone is no request."""
    teacher = narrow()
    teachers.extract(teacher, store, batch_size=1, rank=1, world_size=3, progress=False)
    assert np.flatnonzero(store.done("slowfast.feature")).tolist() == [1, 4]
    teachers.extract(teacher, store, batch_size=1, rank=0, world_size=3, progress=False)
    assert np.flatnonzero(store.done("slowfast.logits")).tolist() == [0, 1, 3, 4]
    with pytest.raises(teachers.TeacherError, match="in a single process only, but world_size is 3"):
        teachers.extract(teacher, store, rank=0, world_size=3, overwrite=True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    sizes = count_clips(teacher)
    teachers.extract(teacher, store, progress=False)
    assert sizes == [1] and store.done("slowfast.feature").all()
    with pytest.raises(DataError, match="rank 3 is not one of the 3"):
        teachers.extract(teacher, store, rank=3, world_size=3)


def test_processes_extract_the_batches_of_one(folder, tmp_path, monkeypatch):
    """So outputs are equal to the bit."""
    read, read_clips = [], teachers.read_clips
    monkeypatch.setattr(
        teachers, "read_clips", lambda store, rows: read.append(rows.tolist()) or read_clips(store, rows)
    )
    for processes in (1, 2, 3):
        store = data.ClipStore(shutil.copytree(folder, tmp_path / str(processes))).select(range(5))
        for rank in range(processes):
            share = {"rank": rank, "world_size": processes}
            teachers.extract(narrow(), store, batch_size=2, progress=False, **share)
        assert sorted(read) == [[0, 1], [2, 3], [4]]
        del read[:]


@pytest.mark.parametrize(
    "given", [nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1)), "teacher.safetensors", [nn.Linear(1, 1)]]
)
def test_extract_says_what_a_teacher_is(store, given):
    with pytest.raises(teachers.TeacherError, match=r"runs a Teacher, not a (Linear|Sequential|str|list); .*wrap"):
        teachers.extract(given, store, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": "eight"}, "x3d_m: the option frames='eight' must be a whole number"),
        ({"frames": 8.5}, "frames=8.5 must be a whole number"),
        ({"seconds": "two"}, "seconds='two' must be a number"),
        ({"width": -3}, "X3D: .*width=-3"),
        ({"mean": 5}, "mean is 5; it must be three finite numbers"),
    ],
)
def test_options_of_the_wrong_kind_are_named(options, words):
    with pytest.raises(teachers.TeacherError, match="depths=5"):
        teachers.load("slowfast_8x8_r50", num_classes=3, progress=False, depths=5)
    with pytest.raises(teachers.TeacherError, match=words):
        teachers.load("x3d_m", num_classes=3, progress=False, **options)


def test_extract_reads_ahead(store):
    """The next batch is read while the teacher looks at this one."""
    teacher, asked, seen = narrow(), [], []
    read = store.read
    store.read = lambda name, index: (asked.append(list(index)), read(name, index))[1]

    def look(*_):
        time.sleep(0.05)
        seen.append(len(asked))

    teacher.net.register_forward_hook(look)
    teachers.extract(teacher, store, batch_size=2, progress=False)
    assert asked[1:] == [[0, 1], [2, 3], [4]]  # the first is the check that the clips fit
    assert seen == [3, 4, 4]


def test_extract_refuses_stores_that_do_not_fit(tmp_path):
    teacher = narrow()
    with pytest.raises(EgoDistillError, match=r"class 1: \['put'\] and \['pour'\]"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2), ["take", "pour", "wash"]))
    with pytest.raises(EgoDistillError, match=r"4.*class 3: \[\] and \['cut'\]"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2), [*LABELS, "cut"]))
    with pytest.raises(EgoDistillError, match=r"clip_frames=8, clip_size=32"):
        teachers.extract(teacher, Store(tmp_path, None))
    with pytest.raises(EgoDistillError, match=r"frames is 16 in the store, 8 in the model"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2, frames=16)))
    assert list(tmp_path.iterdir()) == []  # refused before anything was written


def test_extract_refuses_outputs_that_are_not_finite(store):
    teacher = narrow()
    with torch.no_grad():
        teacher.net.head.projection.bias[0] = math.nan
    with pytest.raises(teachers.TeacherError, match=r"slowfast\.logits.*not finite"):
        teachers.extract(teacher, store, progress=False)
    assert not store.done("slowfast.logits").any()


def test_extract_takes_an_empty_store_and_a_wrapped_model(tmp_path):
    teachers.extract(narrow(), Store(tmp_path, random_clips(0)), progress=False)
    layer = nn.Linear(3, 3)
    teacher = teachers.Teacher.wrap(
        Positions(layer),
        feature_layer="layer",
        clip_spec=ClipSpec(frames=8, size=32),
        class_names=LABELS,
    )
    store = Store(tmp_path, random_clips(2))
    teachers.extract(teacher, store, progress=False)
    assert store.done("positions.feature").all()


# --- options that arrive ---------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_and_views_reach_the_outputs_and_their_record(tmp_path, precision, dtype):
    teacher, seen = narrow(), []
    teacher.classifier.register_forward_hook(lambda layer, inputs, output: seen.append((output.dtype, len(output))))
    store = Store(tmp_path, random_clips(3, size=40))
    teachers.extract(teacher, store, views=3, batch_size=2, precision=precision, device="cpu", progress=False)
    assert seen == 3 * [(dtype, 2)] + 3 * [(dtype, 1)]
    record = json.loads((store.path / "slowfast.teacher.json").read_text())
    assert (record["precision"], record["views"]) == (precision, 3)
    assert record["fingerprint"] == fingerprint(teacher)


# --- One pass: decode and extract together

ONE_PASS = {"frame_size": 24, "progress": False, "workers": 2}


@pytest.fixture(scope="module")
def two_passes(kitchen, tmp_path_factory):
    """Frames of the teacher in the store, then its outputs; the clips of a broken recording are missing."""
    folder = tmp_path_factory.mktemp("two")
    segments = [replace(segment, label=LABELS[k % 3]) for k, segment in enumerate(kitchen)]
    broken = break_packets(segments[3].video, folder / "broken.MP4", set(range(20, 60)))
    segments[3:6] = [replace(segment, video=broken) for segment in segments[3:6]]
    options = ONE_PASS | {"class_names": LABELS, "max_bad": 0.9}
    with pytest.warns(UserWarning, match="could not be prepared"):
        store = data.prepare(segments, folder / "s", clip_frames=8, clip_size=32, **options)
    teachers.extract(narrow(), store, batch_size=4, progress=False)
    return segments, options, store


def equal_stores(one, two):
    assert set(two.names) == set(one.names) | {"clip"}
    assert [clip["id"] for clip in one.clips] == [clip["id"] for clip in two.clips]
    for name in one.names:
        np.testing.assert_array_equal(one.read(name, slice(None)), two.read(name, slice(None)), err_msg=name)
    assert not (one.path / "pending").exists() and not (one.path / "clip.npy").exists()


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_one_pass_gives_the_outputs_of_two(two_passes, tmp_path):
    segments, options, wanted = two_passes
    assert 0 < len(wanted) < 12 and len(wanted) % 4
    teacher = narrow()
    store = data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(teacher, batch_size=4), **options)
    equal_stores(store, wanted)
    records = [json.loads((one.path / "slowfast.teacher.json").read_text()) for one in (store, wanted)]
    assert records[0] == records[1]
    sizes = count_clips(teacher)
    data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(teacher, batch_size=4), **options)
    assert sizes == []  # finished
    with pytest.raises(DataError, match=r"consumer\.fingerprint was .* and is now"):
        data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(narrow(seed=1)), **options)
    with pytest.raises(DataError, match=r"consumer\.teacher was 'slowfast' and is now None"):
        data.prepare(segments, tmp_path / "s", **options)
    with pytest.raises(DataError, match=r"a Teacher is no consumer; give a teacher as teachers\.Extraction\(teacher"):
        data.prepare(segments, tmp_path / "s", consumer=teacher, **options)


def test_a_teacher_that_lacks_none_never_says_it(kitchen, tmp_path):
    """In one pass and in two, wherever the class stands; other classes that it lacks are refused."""
    labels = ["(none)" if k in (2, 5) else LABELS[k % 3] for k in range(len(kitchen))]
    segments = [replace(one, label=label) for one, label in zip(kitchen, labels, strict=True)]
    clips = {"clip_frames": 8, "clip_size": 32, "class_names": ["(none)", *LABELS]}
    store = data.prepare(segments, tmp_path / "two", **ONE_PASS, **clips)
    teachers.extract(teacher := narrow(), store, batch_size=4, progress=False)
    consumer = teachers.Extraction(teacher, batch_size=4)
    one = data.prepare(segments, tmp_path / "one", consumer=consumer, **ONE_PASS, class_names=LABELS)
    assert one.class_names == [*LABELS, "(none)"]  # which the caller did not name
    logits = store.read("slowfast.logits", slice(None))
    assert np.array_equal(logits[:, 1:], one.read("slowfast.logits", slice(None))[:, :-1])
    with torch.no_grad():
        wanted = teacher.eval()(torch.from_numpy(store.read("clip", slice(0, 4)))).logits
    np.testing.assert_allclose(logits[:4, 1:], wanted, atol=1e-4)
    for some, place in ((store, 0), (one, len(LABELS))):
        values = some.read("slowfast.logits", slice(None))
        assert (values[:, place] < np.delete(values, place, 1).min(1) - 9).all() and np.isfinite(values).all()
    sizes = count_clips(teacher)
    fewer = [one for one in segments if one.label != "(none)"]
    with pytest.warns(NoteWarning) as notes:  # all outputs are made anew, and a note says so
        data.prepare(fewer, tmp_path / "one", consumer=consumer, **ONE_PASS, class_names=LABELS)
    (told,) = (re.search(r"(\d+) clips to decode", str(note.message)) for note in notes if "gone" in str(note.message))
    assert int(told[1]) == sum(sizes) == len(data.ClipStore(one.path))
    with pytest.raises(EgoDistillError, match="the class names of model"):
        teachers.extract(with_classes(len(LABELS), "other"), store, progress=False)
    with pytest.raises(EgoDistillError, match="the store has the classes"):
        teachers.Extraction(with_classes(len(LABELS), "other")).open(one).__enter__()


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
@pytest.mark.parametrize("stop", [1, 2])
def test_one_pass_continues_where_it_was_stopped(two_passes, tmp_path, stop):
    segments, options, wanted = two_passes
    killed = narrow()
    count_clips(killed, stop_after=stop)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(killed, batch_size=4), **options)
    waiting = sorted((tmp_path / "s" / "pending").iterdir())
    assert waiting
    waiting[0].unlink()  # lost: it is decoded again
    (tmp_path / "s" / "pending" / "0.npy").touch()  # of a row that the teacher has seen
    teacher = narrow()
    sizes = count_clips(teacher)
    store = data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(teacher, batch_size=4), **options)
    assert sum(sizes) == len(wanted) - 4 * stop
    equal_stores(store, wanted)


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_one_pass_retries_with_an_imu_that_was_missing(two_passes, tmp_path):
    segments, options, wanted = two_passes
    gone = [replace(s, imu=str(tmp_path / "gone.csv")) if k >= 6 else s for k, s in enumerate(segments)]
    for given, retry in ((gone, False), (segments, True)):
        consumer = teachers.Extraction(narrow(), batch_size=4)
        store = data.prepare(given, tmp_path / "s", consumer=consumer, **options, retry_failed=retry)
    assert store.done("slowfast.feature").all() and store.names == [name for name in wanted.names if name != "clip"]
    for name in store.names:  # the teacher's batches are others
        np.testing.assert_allclose(store.read(name, slice(None)), wanted.read(name, slice(None)), rtol=1e-4, atol=1e-5)
    records = [json.loads((one.path / "slowfast.teacher.json").read_text()) for one in (store, wanted)]
    assert records[0] == records[1]
    assert store.fingerprint == data.prepare(segments, tmp_path / "t", consumer=consumer, **options).fingerprint


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_decoding_waits_for_a_slow_teacher(two_passes, tmp_path, monkeypatch):
    """Only a few frames are on the disk at any time; the recording that the teacher needs first does not wait."""
    segments, options, wanted = two_passes
    most, put = [0], Pending.put
    init = Pending.__init__

    def small_room(self, store):
        init(self, store)
        self.room = 2

    monkeypatch.setattr(Pending, "__init__", small_room)

    def counted(self, row, frames, together):
        put(self, row, frames, together)
        most[0] = max(most[0], len(self.rows()))

    monkeypatch.setattr(Pending, "put", counted)

    def fill(self, bundle):  # in a thread of this process, so that the changes above act on all of them
        for rows in bundle:
            data.fill(self.store, rows)
        return 0

    monkeypatch.setattr(data._Filling, "_run_process", fill)
    store = data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(narrow(), batch_size=4), **options)
    equal_stores(store, wanted)
    assert 0 < most[0] <= 4 + 2 + 1  # a batch of four, and what two processes may add before they look


def test_one_pass_refuses_what_does_not_fit(two_passes, tmp_path):
    segments, options, _ = two_passes
    consumer = teachers.Extraction(narrow())
    with pytest.raises(DataError, match=r"leave out clip_frames .*, rank and world_size"):
        data.prepare(segments, tmp_path / "s", consumer=consumer, clip_frames=8, **options)
    with pytest.raises(DataError, match=r"leave out clip_frames .*, rank and world_size"):
        data.prepare(segments, tmp_path / "s", consumer=consumer, world_size=2, **options)
    with pytest.raises(teachers.TeacherError, match=r"the store has the classes .* give class_names"):
        data.prepare(segments, tmp_path / "s", consumer=consumer, **options | {"class_names": [*LABELS, "more"]})
    with pytest.raises(teachers.TeacherError, match=r"views .* is 2"):
        teachers.Extraction(narrow(), views=2)


def test_a_store_without_labels_gets_the_classes_of_its_teacher(kitchen, tmp_path):
    segments = [replace(segment, label=None) for segment in kitchen[:2]]
    for _ in range(2):  # and the same call continues it
        store = data.prepare(segments, tmp_path / "one", consumer=teachers.Extraction(narrow()), **ONE_PASS)
        assert store.class_names == LABELS and set(store.labels) == {-1}
    two = data.prepare(segments, tmp_path / "two", clip_frames=8, clip_size=32, **ONE_PASS)
    assert two.class_names == []
    teachers.extract(narrow(), two.select([0]), progress=False)
    assert two.class_names == data.ClipStore(two.path).class_names == LABELS
    teachers.extract(narrow(), two, progress=False)
    other = narrow(name="other", class_names=["a", "b", "c"])
    with pytest.raises(
        EgoDistillError, match=r"class names of model \(3\) .* at class 0.*; prepare the clips with this teacher"
    ):
        teachers.extract(other, two, progress=False)


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_one_pass_runs_the_teacher_in_evaluation_mode_and_leaves_its_mode(two_passes, tmp_path):
    segments, options, wanted = two_passes
    teacher = narrow().train()
    store = data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(teacher, batch_size=4), **options)
    equal_stores(store, wanted)
    assert teacher.training and teacher.net.training


def test_one_pass_of_three_views_gives_the_outputs_and_the_record_of_two(kitchen, tmp_path):
    segments = [replace(segment, label=LABELS[k % 3]) for k, segment in enumerate(kitchen[:2])]
    options = ONE_PASS | {"class_names": LABELS}
    wanted = data.prepare(segments, tmp_path / "two", clip_frames=8, clip_size=37, **options)
    teachers.extract(narrow(), wanted, views=3, batch_size=4, progress=False)
    consumer = teachers.Extraction(narrow(), views=3, batch_size=4)
    store = data.prepare(segments, tmp_path / "one", consumer=consumer, **options)
    equal_stores(store, wanted)
    assert outputs_record(store, "slowfast") == outputs_record(wanted, "slowfast")
    assert outputs_record(store, "slowfast")["views"] == 3 == consumer.record["views"]


def test_one_pass_stops_if_another_run_claims_its_outputs(tmp_path):
    segments = data.SegmentList([data.Segment(str(k), "a.mp4", 0.0, 1.0, LABELS[0]) for k in range(4)])
    clips, arrays = [(k, 0.0) for k in range(4)], {"x": ("float32", (1,))}
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, LABELS, arrays=arrays)
    for row in writer.missing():
        writer.write(row, {"x": [row]})
    store, frames = data.ClipStore(tmp_path / "s"), np.zeros((2, 8, 3, 32, 32), np.uint8)
    with teachers.Extraction(narrow()).open(store) as write:
        write(np.array([0, 1]), {"clip": frames})
        record = outputs_record(store, "slowfast")
        files.write_json(store.path / "slowfast.teacher.json", record | {"fingerprint": "another"})
        with pytest.raises(DataError, match="another run is overwriting these outputs"):
            write(np.array([2, 3]), {"clip": frames})
    assert store.done("slowfast.logits").tolist() == [True, True, False, False]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_pass_runs_in_the_precision_asked_for(tmp_path, precision):
    segments = data.SegmentList([data.Segment(str(k), "a.mp4", 0.0, 1.0, LABELS[0]) for k in range(2)])
    clips, arrays = [(k, 0.0) for k in range(2)], {"x": ("float32", (1,))}
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, LABELS, arrays=arrays)
    for row in writer.missing():
        writer.write(row, {"x": [row]})
    store, teacher = data.ClipStore(tmp_path / "s"), narrow()
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 3, 32, 32), np.uint8)
    consumer = teachers.Extraction(teacher, precision=precision, device="cpu")
    with consumer.open(store) as write:
        write(np.arange(2), {"clip": frames})
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        wanted = teacher(torch.from_numpy(frames))
    np.testing.assert_array_equal(store.read("slowfast.logits", [0, 1]), wanted.logits.float().numpy())
    assert wanted.logits.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert outputs_record(store, "slowfast")["precision"] == consumer.record["precision"] == precision


def test_one_pass_refuses_clips_of_another_length(two_passes, tmp_path):
    """As extract() does: frames over another time than the clip's would be those of another clip."""
    segments, options, _ = two_passes
    consumer = teachers.Extraction(narrow(seconds=80 / 30))
    with pytest.raises(DataError, match=r"clips of 2\.666667 s, those of the store have 2\.133333 s.*seconds="):
        data.prepare(segments, tmp_path / "s", consumer=consumer, **options)
    assert not (tmp_path / "s").exists()


def image_student(seed=0):
    options = {"image_encoder": "resnet10x8", "image_weights": None, "frame_size": 24, "hidden": 16}
    options |= {"feature_dim": narrow().feature_dim, "class_names": LABELS}
    torch.manual_seed(seed)
    return EgoDistill(3, **options)


def test_two_consumers_that_read_the_same_frames_are_refused():
    """Each would get the clips of the other's size, and one record would take the place of the other."""
    with pytest.raises(DataError, match=r"two of the consumers have the same specs \(clip\); run one after the other"):
        ConsumerGroup(teachers.Extraction(narrow()), teachers.Extraction(narrow(seed=1)))


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_end_features_serve_stage_1_as_the_end_frames_do(two_passes, tmp_path):
    """Also if the image encoder is stopped, when the teacher has seen the batch already."""
    segments, options, wanted = two_passes
    stopped, student = image_student(), image_student().train()
    seen = count_clips(argparse.Namespace(net=stopped.image_encoder), stop_after=1)

    def together(model):
        first = teachers.Extraction(narrow(), batch_size=4)
        return ConsumerGroup(first, distillation.EndFeatures(model, batch_size=2, precision="fp32"))

    with pytest.raises(KeyboardInterrupt):
        data.prepare(segments, tmp_path / "s", consumer=together(stopped), **options)
    store = data.prepare(segments, tmp_path / "s", consumer=together(student), **options)
    assert seen == [8] and student.training and student.image_encoder.training
    assert "ends" not in store.names and not list(store.path.glob("ends*"))
    assert store.read("end_features", [0]).shape == (1, 2, 64)
    for name in ("slowfast.feature", "slowfast.logits", "frames_1"):
        np.testing.assert_array_equal(store.read(name, slice(None)), wanted.read(name, slice(None)))
    frames = torch.from_numpy(wanted.read("ends", slice(0, 4)))
    with torch.no_grad():
        features = image_student().eval().encode_frames(frames, 2)
    np.testing.assert_array_equal(store.read("end_features", slice(0, 4)), features.numpy())
    runs = []
    for one in (store, wanted):
        model = image_student()
        settings = {"epochs": 2, "batch_size": 4, "progress": False, "device": "cpu", "precision": "fp32"}
        history = pretrain_imu(model, one, teacher="slowfast", **settings)
        runs.append([[row["loss"] for row in history], *model.state_dict().values()])
    for ours, theirs in zip(*runs, strict=True):
        # Features of a batch of another size differ by rounding, on a Xeon with AMX more than on others (2e-5 here).
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=0, atol=1e-4)
    with pytest.raises(DataError, match=r"consumer\.end_features\.fingerprint was .* and is now"):
        data.prepare(segments, tmp_path / "s", consumer=together(image_student(1)), **options)


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_end_features_of_another_image_encoder_are_refused(two_passes, tmp_path):
    segments, options, _ = two_passes
    consumer = distillation.EndFeatures(image_student(), batch_size=4)
    clip = {"clip_frames": 8, "clip_size": 32}  # The two consumers do not need each other.
    store = data.prepare(segments, tmp_path / "s", consumer=consumer, **options, **clip)
    assert {"clip", "end_features"} <= set(store.names) and "ends" not in store.names
    settings = {"epochs": 1, "batch_size": 4, "l1_weight": 0, "teacher": None, "progress": False, "device": "cpu"}
    pretrain_imu(image_student(), store, **settings)
    changed = image_student()
    changed.image_encoder.bn1.running_mean += 1
    for model in (image_student(1), changed):
        with pytest.raises(EgoDistillError, match=r"s: its end_features .* fingerprint .* `prepare --end-features`"):
            pretrain_imu(model, store, **settings)


@pytest.mark.parametrize("choice", [{"frame_size": 32}, {"exact": False}, {"tolerance": 0.25}])
def test_end_features_of_other_end_frames_are_refused(two_passes, tmp_path, choice):
    segments, options, _ = two_passes
    (value,) = choice.values()
    with pytest.raises(DataError, match=rf"end frames with (size|exact|tolerance)=.* asked for {value}; build"):
        data.prepare(segments, tmp_path / "s", consumer=distillation.EndFeatures(image_student()), **options | choice)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("choice", [{}, {"exact": False}, {"tolerance": 0.25}])
def test_end_features_are_of_the_frames_that_the_store_would_hold(choice):
    settings = {
        "frame_size": 32,
        "exact": True,
        "tolerance": 0.0,
        "num_frames": [1],
        "sampling": ["uniform"],
        "seed": 0,
        "clip_seconds": data.CLIP_SECONDS,
        "imu_rate": 198.0,
    }
    settings |= {"ends": True, "clip_frames": None, "imu": False} | choice
    model = EgoDistill(3, image_encoder="resnet10x8", image_weights=None, frame_size=32, hidden=16, **choice)
    assert (
        distillation.EndFeatures(model, precision="fp32").specs["ends"] == data.clip_specs(settings)["ends"].complete()
    )
