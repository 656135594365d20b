"""Damaged inputs: each is read as if it were sound where it was not touched, or refused by the library's error.

    python -m tests.fuzz --minutes 30                       # all formats in turn
    python -m tests.fuzz --minutes 5 --only Student --seed 7 --markdown results/fuzz.md
    python -m tests.fuzz --case Student:123 --seed 7        # one case again, with its traceback

A *format* makes a sound input, damages it by one seed per case, and reads it. Its oracle knows what may change: see
the docstring of each. The exit code is 1 if there is a *find*: an error that is not the library's or does not name its
file, a result that the oracle refuses, a hang, a crash, or a case that takes too much time or memory.

Cases run in a child process: one that dies is a find, and the others go on.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import csv
import faulthandler
import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

# `python -m tests.fuzz` finds the helpers of tests and tutorials, and the examples, too
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("tests", "tutorials", "examples")]

import aria_datasets
import av
import camera_files
import model_files
import numpy as np
import streams
import torch
from gopro import device
from painted import X264, files_of, write_video
from toys import small
from vrs import LEFT, RGB, pictures, samples, write_vrs

from egodistill import EgoDistillError, StreamClockError, gpmf, teachers, video
from egodistill.data import read_imu
from egodistill.datasets import annotations, store
from egodistill.datasets.annotations import Segment
from egodistill.deploy import export
from egodistill.engine import batches, models
from egodistill.imu import IMUError
from egodistill.recordings import aria, checks
from egodistill.recordings.clips import decode_clips
from egodistill.recordings.recording import Recording
from egodistill.recordings.spec import ClipSpec
from egodistill.support import tables
from egodistill.video import VideoError

OURS = (EgoDistillError, IMUError, VideoError, gpmf.GPMFError)
SECONDS, MEGABYTES = 5.0, 800  # for one case; a file may name any of torchvision's networks
NASTY = (
    *("", " ", "nan", "NULL", "inf", "-inf", "-1", "0", "1e309", "9" * 400, "9" * 5000, "0x10", "1_0", "null", "true"),
    *("[]", "{}", '"', ",", "\n", "\r\n", "\x00", "\ufeff", "\u0664", "../../P01", "..", "/etc/passwd", "P01/../.."),
    *("\\", "00:00:-1", "1:2:3:4", "[" * 2000, "é"),
)
VALUES = (
    *(None, True, "", "x", "../x", "\ud800", -1, 0, 1, 2, 7, 10**9, 2**63, 10**400, -(10**18), 0.5, 1e308, math.nan),
    *(math.inf, [], {}, [[]], [1, 2], {"a": 1}, ["x"] * 3, "9" * 400),
)


def damage(content: bytes, rng: random.Random) -> bytes:
    """Return the content after one to four things that happen to files: bits, bytes, cells, lines, a missing end."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not content:
            break
        at = rng.randrange(len(content))
        end = min(len(content), at + rng.choice((1, 2, 4, 8, 64, 500)))
        kind = rng.randrange(8)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at:end] = rng.randbytes(end - at)
        elif kind == 2:
            del content[at:end]
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            content[at:at] = content[at:end] * rng.choice((1, 2, 50))
        elif kind == 5:  # a whole cell, or number, or word becomes something else
            signs = b",\n:[]{} "
            low = max((content.rfind(sign, 0, at) for sign in signs), default=-1) + 1
            high = min((place for sign in signs if (place := content.find(sign, at)) >= 0), default=len(content))
            content[low:high] = rng.choice(NASTY).encode()
        elif kind == 6:
            lines = content.split(b"\n")
            rng.shuffle(lines)
            content = bytearray(b"\n".join(lines))
        else:
            content[at:at] = rng.choice(NASTY).encode()
    return bytes(content)


def change_value(document: Any, rng: random.Random) -> Any:
    """Return nested dicts and lists with one value replaced, removed, added, nested, or exchanged for another one."""
    document = copy.deepcopy(document)
    places = list(_places(document))
    if not places:
        return rng.choice(VALUES)
    holder, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder["other"] = rng.choice(VALUES)
    elif kind == 2:
        holder[key] = [holder[key]]
    elif kind == 3:
        other, place = rng.choice(places)
        holder[key] = copy.deepcopy(other[place])
    else:
        holder[key] = rng.choice(VALUES)
    return document


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (list, tuple)) else ()
    for key, inner in list(items):
        if isinstance(value, (dict, list)):
            yield value, key
        yield from _places(inner)


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, Exception) and isinstance(other, Exception):
        return str(one) == str(other)
    return one == other


# ---------------------------------------------------------------------------------------------------------------
# Formats: `sound` is the content, `read()` returns the result, `oracle()` raises AssertionError for a wrong one


class Format:
    """A file. Damaged, it is refused with its name, or `oracle()` accepts the result."""

    name = "file"

    def __init__(self, root: Path) -> None:
        self.root, self.path = root, root / self.name
        self.sound = self.make()
        self.wanted = self.read(self.sound)

    def make(self) -> bytes:
        raise NotImplementedError

    def damage(self, rng: random.Random) -> bytes:
        """Return a damaged content; what it touches may be noted for the oracle."""
        return damage(self.sound, rng)

    def read(self, content: bytes) -> Any:
        self.path.write_bytes(content)
        try:
            return self.look()
        except OURS as error:
            assert str(self.root) in str(error), f"the error does not name the file: {error}"
            raise

    def look(self) -> Any:
        raise NotImplementedError

    def oracle(self, found: Any) -> None:
        """Raise AssertionError unless the result is one that the damage explains."""


class Gpmf(Format):
    """A telemetry packet without checksum: values may change, shapes and finiteness may not."""

    def make(self) -> bytes:
        return device([(1, 2, 3)], [(4, 5, 6), (7, 8, 9)])

    def read(self, content: bytes) -> Any:
        return gpmf.parse(content)

    def oracle(self, found: Any) -> None:
        if found is not None:
            assert found.accel.shape[1:] == found.gyro.shape[1:] == (3,)
            assert np.isfinite(found.accel).all() and np.isfinite(found.gyro).all(), "not finite"


class Table(Format):
    """A table. If one cell was changed to text without separators, all other rows are as before."""

    name = "table.csv"
    row: int | None = None  # the row whose cell was changed, if nothing else was

    def damage(self, rng: random.Random) -> bytes:
        self.row = None
        if rng.random() < 0.5:
            return damage(self.sound, rng)
        rows = list(csv.reader(io.StringIO(self.sound.decode())))
        row = rng.randrange(1, len(rows))
        column, text = rng.randrange(len(rows[row])), rng.choice(NASTY)
        rows[row][column] = text
        self.row = None if set(text) & set('",\r\n') else row - 1
        return "\n".join(map(",".join, rows)).encode()


class ImuTable(Table):
    """IMU samples: finite, in order; another cell costs its own sample only."""

    def make(self) -> bytes:
        rows = [f"{10 * k},{k},1,{-k},0.1,0.2,{k % 3}" for k in range(30)]
        return "\n".join(["Milliseconds,AcclX,AcclY,AcclZ,GyroX,GyroY,GyroZ", *rows]).encode()

    def look(self) -> Any:
        found = read_imu(self.path)
        return [found.accel_time, found.accel, found.gyro_time, found.gyro]

    def oracle(self, found: Any) -> None:
        for stamps, values in (found[:2], found[2:]):
            assert np.isfinite(values.astype(np.float32)).all(), "not finite"
            assert (np.diff(stamps) > 0).all() and values.shape == (len(stamps), 3)
        if self.row is not None:
            for k in (0, 2):
                others = np.arange(30) != self.row
                at = np.isin(self.wanted[k], found[k])
                assert at[others].all(), "a sample of another row is lost"
                same = np.isin(found[k], self.wanted[k][others])
                at[~others] = False
                np.testing.assert_array_equal(found[k + 1][same], self.wanted[k + 1][at])


class OwnTable(Table):
    """Segments of one's own: times in order; another cell changes its own segment only."""

    def make(self) -> bytes:
        (self.root / "walk.mp4").touch()
        (self.root / "imu.csv").touch()
        rows = [f"walk.mp4,{k},00:00:{k + 1}.5,{'cut' if k % 2 else 'wash'},imu.csv,train" for k in range(12)]
        return "\n".join(["video,start,stop,label,imu,split", *rows]).encode()

    def look(self) -> Any:
        return annotations.read_csv(self.path)

    def oracle(self, found: Any) -> None:
        for segment in found:
            assert 0 <= segment.start < segment.stop < math.inf, segment
        if self.row is not None:
            self.compare(found, self.wanted)

    def compare(self, found: Any, wanted: Any) -> None:
        others = [k for k in range(len(wanted)) if k != self.row]
        assert len(found) == len(wanted) and all(found[k] == wanted[k] for k in others), "another row changed"


class Epic(OwnTable):
    """EPIC-KITCHENS: as one's own table, but a video without IMU drops a row, and a class may get another name."""

    name = "EPIC_100_train.csv"

    def make(self) -> bytes:
        for sensor in ("accl", "gyro"):
            file = self.root / "P01" / "meta_data" / f"P01_101-{sensor}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class"
        rows = [f"P01_101_{k},P01,P01_101,00:00:{k:02d}.5,00:00:{k + 2:02d}.25,cut,{k % 3}" for k in range(12)]
        return "\n".join([header, *rows]).encode()

    def look(self) -> Any:
        return annotations.read_epic_kitchens(self.path, self.root)

    def oracle(self, found: Any) -> None:
        for segment in found:
            assert 0 <= segment.start < segment.stop < math.inf, segment
            for file in (segment.video, *segment.imu):
                assert Path(file).resolve().is_relative_to(self.root.resolve()), file
        if self.row is not None:
            ours, theirs = ({one.id: (one.video, one.start, one.stop) for one in x} for x in (found, self.wanted))
            theirs.pop(self.wanted[self.row].id)
            assert all(ours.get(key) == value for key, value in theirs.items()), "another row changed"


class Ego4d(Format):
    """Ego4D's annotations: times in order, files below the root; actions may be dropped, and change their split."""

    name = "fho_main.json"

    def make(self) -> bytes:
        for file in ("v2/full_scale/walk.mp4", "v2/imu/walk.csv"):
            (self.root / file).parent.mkdir(parents=True, exist_ok=True)
            (self.root / file).touch()
        actions = [
            {
                "structured_verb": "cut" if k % 2 else "wash",
                "narration_annotation_uid": f"n{k}",
                "start_sec": k,
                "critical_frames": {"pre_frame": 30 * k, "post_frame": 30 * k + 60},
                "is_rejected": False,
            }
            for k in range(8)
        ]
        intervals = [{"clip_uid": None, "narrated_actions": actions}]
        self.document = {"version": "v2", "videos": [{"video_uid": "walk", "annotated_intervals": intervals}]}
        return json.dumps(self.document).encode()

    def damage(self, rng: random.Random) -> bytes:
        if rng.random() < 0.5:
            return damage(self.sound, rng)
        return json.dumps(change_value(self.document, rng)).encode()

    def look(self) -> Any:
        return annotations.read_ego4d(self.path, self.root)

    def oracle(self, found: Any) -> None:
        for segment in found:
            assert 0 <= segment.start < segment.stop < math.inf, segment
            assert Path(segment.video).resolve().is_relative_to(self.root.resolve())


class EgoExo4d(Ego4d):
    """Ego-Exo4D's keysteps: as Ego4D's annotations."""

    name = "keystep_train.json"

    def make(self) -> bytes:
        walk = self.root / "takes" / "walk"
        (walk / "frame_aligned_videos").mkdir(parents=True)
        write_video(walk / "frame_aligned_videos" / "aria01_214-1.mp4", np.arange(60) / 30, preset="ultrafast")
        (walk / "aria01_noimagestreams.vrs").touch()
        clock = self.root / "captures" / "kitchen" / "timesync.csv"
        clock.parent.mkdir(parents=True)
        stamps = "".join(f"{10**9 + k * 33_333_333}.0\n" for k in range(60))
        clock.write_text("aria01_214-1_capture_timestamp_ns\n" + stamps)
        capture = {"capture_name": "kitchen", "cameras": [{"cam_id": "aria01", "is_ego": True}]}
        rows = {"timesync_start_idx": 0, "timesync_end_idx": 59}
        (self.root / "takes.json").write_text(
            json.dumps([{"take_uid": "u1", "take_name": "walk", "capture": capture, **rows}])
        )
        steps = [
            {"start_time": k / 10, "end_time": k / 10 + 1, "step_unique_id": f"s{k % 2}", "step_name": "cut"}
            for k in range(8)
        ]
        self.document = {"taxonomy": {}, "annotations": {"u1": {"take_uid": "u1", "segments": steps}}}
        return json.dumps(self.document).encode()

    def look(self) -> Any:
        return aria_datasets.read_ego_exo4d(self.path, self.root)


class HDEpic(Format):
    """HD-EPIC's narrations: times are in order, files are below the root."""

    name = "HD_EPIC_Narrations.csv"

    def make(self) -> bytes:
        folder, video = self.root / "Videos" / "P01", "P01-20240202-110250"
        folder.mkdir(parents=True)
        write_video(folder / f"{video}.mp4", np.arange(60) / 30, preset="ultrafast")
        stamps = "".join(f"{k / 30 * 1e9},{10**9 + k * 33_333_333}\n" for k in range(60))
        (folder / f"{video}_mp4_to_vrs_time_ns.csv").write_text("mp4_time_ns,vrs_device_time_ns\n" + stamps)
        vrs = self.root / "VRS" / "P01" / f"{video}_anonymized.vrs"
        vrs.parent.mkdir(parents=True)
        vrs.touch()
        columns = {
            "video_id": [video] * 8,
            "start_timestamp": [k / 10 for k in range(8)],
            "end_timestamp": [k / 10 + 1 for k in range(8)],
            "main_action_classes": [[(k % 3, 7)] for k in range(8)],
            "main_actions": [[("cut", "leek")]] * 8,
        }
        text = io.StringIO()
        csv.writer(text).writerows([columns, *zip(*columns.values(), strict=True)])
        return text.getvalue().encode()

    def look(self) -> Any:
        return aria_datasets.read_hd_epic(self.path, self.root)

    def oracle(self, found: Any) -> None:
        for segment in found:
            assert 0 <= segment.start < segment.stop < math.inf and isinstance(segment.label, str), segment
            for file in (segment.video, segment.imu):
                assert Path(file).resolve().is_relative_to(self.root.resolve()), file


class Student(Format):
    """A student's file. Damaged bytes, or another value with the old hash, change nothing, or the file is refused."""

    name = "model.safetensors"

    def make(self) -> bytes:
        self.save()
        self.content = model_files.read(self.path)
        return self.path.read_bytes()

    def save(self) -> None:
        small(class_names=["a", "b", "c", "d"], num_frames=2, hidden=8, image_encoder="resnet10x4").save(self.path)

    def damage(self, rng: random.Random) -> bytes:
        kind = rng.randrange(10)
        if kind < 4:
            return damage(self.sound, rng)
        record, weights = copy.deepcopy(self.content)
        if kind < 6:
            key = rng.choice(list(weights))
            weights[key] = self.change_tensor(weights[key], rng)
        elif kind < 9:
            part = rng.choice(("arguments", "arguments", "class_names"))
            record[part] = change_value(record[part], rng)
        else:
            record = change_value(record, rng)
        model_files.write(self.path, record, weights, seal=False)
        return self.path.read_bytes()

    @staticmethod
    def change_tensor(tensor: torch.Tensor, rng: random.Random) -> torch.Tensor:
        """Return another tensor in place of a sound one."""
        flat = tensor.reshape(-1)
        return rng.choice(
            (
                lambda: tensor[None],
                lambda: tensor.T if tensor.ndim == 2 else flat,
                lambda: flat[: len(flat) // 2],
                lambda: tensor.to(rng.choice((torch.float16, torch.float64, torch.int8, torch.bool))),
                lambda: tensor.float() * math.nan,
                lambda: tensor.float() + math.inf,
                lambda: tensor.flip(0) if tensor.ndim else tensor,
            )
        )()

    def look(self) -> Any:
        model = models.load_any(self.path)
        return {name: value.numpy() for name, value in model.state_dict().items()} | self.use(model)

    def use(self, model: Any) -> dict[str, Any]:
        """Return the outputs."""
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(256, (2, 2, 3, 32, 32), dtype=torch.uint8, generator=generator)
        with torch.no_grad():
            output = model(frames, torch.randn(2, 422, 6, generator=generator))
        return {"logits": output.logits.numpy(), "names": model.class_names}

    def oracle(self, found: Any) -> None:
        assert equal(found, self.wanted), "damaged bytes changed the model"


class Teacher(Student):
    """A teacher's file, as a student's."""

    name = "teacher.safetensors"

    def save(self) -> None:
        options = {"frames": 2, "size": 32, "width": 8, "feature_dim": 16, "pool": 1, "depth_factor": 0.5}
        model = teachers.load("x3d_m", class_names=["a", "b", "c"], progress=False, **options)
        model.save(self.path)

    def use(self, model: Any) -> dict[str, Any]:
        with torch.no_grad():
            output = model(torch.full((1, 2, 3, 32, 32), 7, dtype=torch.uint8))
        return {"logits": output.logits.numpy(), "names": model.class_names}


class Exported(Format):
    """The description of an exported file, whose program is sound. There is a hash of its values."""

    name = "student.pt2.json"

    def make(self) -> bytes:
        self.program = self.root / "student.pt2"
        model = small(class_names=["a", "b", "c", "d"], hidden=8, image_encoder="resnet10x4")
        self.document = export.export(model, self.program)
        self.inputs = batches.example_inputs(model, 2)
        return self.path.read_bytes()

    def damage(self, rng: random.Random) -> bytes:
        document = rng.choice((self.document, change_value(self.document, rng)))
        return rng.choice((damage(self.sound, rng), json.dumps(document, indent=rng.randrange(4)).encode()))

    def look(self) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a version without hashes
            model = export.load_exported(self.program)
        return {"about": model.description, "logits": model(*self.inputs).logits.numpy()}

    def oracle(self, found: Any) -> None:
        assert found["about"] == self.wanted["about"], "damaged values changed the description"
        np.testing.assert_allclose(found["logits"], self.wanted["logits"], rtol=1e-4, atol=1e-5)


class LiveStream(Format):
    """What a program gives a stream, call by call: a wrong call is refused, and the stream goes on.

    What is more than `MARGIN` from a damaged call is answered as without it, to the bit: with frames at fixed places on
    both sides, with frames on request only before it.
    """

    MARGIN = 1.0  # seconds: a frame may be 0.5 s from its place, and a sample 0.1 s from its neighbour

    def make(self) -> bytes:
        self.model = streams.student()
        times, readings = streams.samples(0, 8)
        pieces = zip(np.split(times, 80), np.split(readings, 80), strict=True)
        calls = [("imu", piece, values) for piece, values in pieces]
        calls += [("frame", moment, streams.picture(round(10 * moment))) for moment in np.arange(0.05, 8, 0.2)]
        self.calls = self.given = sorted(calls, key=lambda call: np.max(call[1]))
        self.whole = {id(call) for call in self.calls}
        self.touched, self.choice, self.sure = [], "centre", {}
        self.sure = {choice: self.answers(choice) for choice in ("centre", "newest")}
        assert [len(found) for found in self.sure.values()] == [12, 12]
        return b""

    def damage(self, rng: random.Random) -> bytes:
        self.given, self.touched = list(self.calls), []
        self.choice = rng.choice(("centre", "newest"))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(self.given))
            for place in range(at, min(len(self.given), at + rng.choice((1, 1, 2, 10)))):
                if id(self.given[place]) in self.whole:
                    self.change(place, rng)
        self.given = [call for call in self.given if call is not None]
        return b""

    def change(self, place: int, rng: random.Random) -> None:
        """Damage one call, and note the moments that this may change."""
        kind, times, content = self.given[place]
        low, high = float(np.min(times)), float(np.max(times))
        fault = rng.choice(("harmless", "harmless", "lost", "late", "times", "content"))
        if fault == "harmless":
            self.given.insert(place, self.given[place])
            if kind == "imu":
                order = rng.sample(range(len(times)), len(times))
                stray = np.append(times[order], (math.nan, math.inf)), np.append(content[order], content[:2], axis=0)
                self.given[place] = (kind, *stray)
            return
        if fault == "lost":
            self.given[place] = None
        elif fault == "late":
            self.given.insert(min(len(self.given) - 1, place + rng.choice((5, 20))), (kind, times, content))
            self.given[place] = None
        elif fault == "times":
            wrong = (times + step for step in (-100, -1.5, -0.2, 0.002, 0.2, 1.5, 100, 1e9, math.nan, math.inf))
            others = (times * 1e3, np.int64(times * 1e9), np.float32(times), str(times), None, [[times]], times * 1j)
            times, high = rng.choice((*wrong, *others)), math.inf  # a later call may be taken for an older one
        elif kind == "imu":
            other = content.copy()
            other[rng.randrange(len(other)) :, rng.randrange(6) :] = rng.choice((math.nan, math.inf, 0, 1e300, -40))
            wrong = (np.ma.masked_greater(content, 1.0), content[:, :5], content[1:], content.astype(str), None, [])
            content = rng.choice((other, other, other, content * 57, *wrong))
        else:
            smaller, larger = content[:1, :1], np.repeat(np.repeat(content, 3, 0), 5, 1)
            wrong = (content[..., 0], content / 255, None, "x.jpg", content.T, np.ma.masked_less(content, 9))
            content = rng.choice((smaller, larger, content * 0, *wrong))
        if fault in ("times", "content"):
            self.given[place] = (kind, times, content)
        self.touched.append((low - self.MARGIN, (math.inf if self.choice == "newest" else high) + self.MARGIN))

    def read(self, content: bytes) -> Any:
        self.refusal = None
        found = self.answers(self.choice)
        self.oracle(found)
        if self.refusal is not None:
            raise self.refusal
        return found

    def answers(self, choice: str) -> list[Any]:
        """Run the stream; return its answers without times of this host."""
        found, states = [], []
        with streams.open_stream(self.model, frames=choice, camera_delay=0.1, report=states.append) as stream:
            for kind, times, content in self.given:
                try:
                    if kind == "imu":
                        stream.accept_imu(times, content)
                        stream.wants_frame(stream._sensors[0].newest)
                    else:
                        stream.accept_frame(times, content)
                    found += stream.results()
                    streams.check(stream)
                except OURS as error:
                    self.refusal = error
            with contextlib.suppress(StreamClockError):
                found += stream.finish()
            streams.check(stream)
            assert all(state.text for state in (*states, *stream.health()))
        return [(one.start, one.stop, one.classes, one.problem, one.frame_age) for one in found]

    def oracle(self, found: Any) -> None:
        sound = {answer[1]: answer for answer in self.sure.get(self.choice, ())}
        for answer in found:
            start, stop, classes, problem, _ = answer
            assert all(math.isfinite(value) and 0 <= value <= 1 for _, value in classes), classes
            assert bool(classes) != bool(problem), answer
            if stop in sound and not any(start < high and low < stop for low, high in self.touched):
                assert answer == sound[stop], f"{answer} is not {sound[stop]}, far from {self.touched}"


def saved(array: np.ndarray) -> bytes:
    """Return the content of a file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


class Store(Format):
    """A store, one of whose files is damaged: what the others hold is as before.

    Values of arrays, labels, segments and specs never change, because checksums cover them. Settings, unused class
    names and paths may become others, and what describes the clip that failed.
    """

    name = "store"
    # {file: results that may change with it}
    ALLOWED: ClassVar[dict[str, set[str]]] = {
        "store.json": {"settings", "class_names"},
        "failures.jsonl": {"failures"},
        "notes.jsonl": {"notes"},
        "t.teacher.json": {"record"},
        "shards/00000/clips.json": set(),  # of which only a new index is made
        "shards/00000/t.feature.sums.npy": {"t.feature"},
    }

    def make(self) -> bytes:
        self.master = self.root / "master"
        segments = [
            Segment(f"s{k}", "walk.mp4", k, k + 3, ("a", "b")[k % 2], split=("train", "test")[k // 3], wearer="P01")
            for k in range(6)
        ]
        specs = {"imu": ClipSpec(imu_samples=5), "clip": ClipSpec(frames=2, size=4)}
        writer = store.StoreWriter.begin(
            self.master, segments, lambda: [(k, float(k)) for k in range(6)], specs, ["a", "b"]
        )
        rng = np.random.default_rng(0)
        for row in range(5):
            arrays = {
                "imu": rng.normal(size=(5, 6)),
                "clip": rng.integers(256, size=(2, 3, 4, 4)),
                "clip.times": [0, 1],
            }
            writer.write(row, arrays)
        writer.fail(5, "too dark")
        writer.note("imu.csv", ["odd"])
        made = store.ClipStore(self.master)
        store.claim_outputs(made, "t", {"fingerprint": "a1"})
        made.add("t.feature", (3,), "float32")
        made.write("t.feature", np.arange(5), rng.normal(size=(5, 3)).astype(np.float32))
        writer.merge()
        self.names = [name for name in files_of(self.master) if not name.endswith(".lock")]
        self.file = "none"
        return b""

    def damage(self, rng: random.Random) -> bytes:
        self.file = rng.choice(self.names)
        content = (self.master / self.file).read_bytes()
        if self.file.endswith(".npy") and rng.random() < 0.6:
            return self.change_array(np.load(self.master / self.file), rng)
        if self.file.endswith(".json") and rng.random() < 0.7:
            return json.dumps(change_value(json.loads(content), rng)).encode()
        return damage(content, rng)

    @staticmethod
    def change_array(array: np.ndarray, rng: random.Random) -> bytes:
        """Return the file of another array in place of a sound one."""
        if array.dtype.names:  # the table of a shard
            column = rng.choice(array.dtype.names)
            array[column][rng.randrange(len(array)) :] = rng.choice((0, 1, 2, 3, 200))
            return saved(rng.choice((array, array, array, array[:-1], array["start"], array[["start", "status"]])))
        changed = rng.choice(
            (
                lambda: array[:-1],
                lambda: np.concatenate([array, array]),
                lambda: np.asfortranarray(array),
                lambda: array.astype(rng.choice((">f4", "f8", "i1", "u8", "U3", "c8", "?"))),
                lambda: array.astype(object),
                lambda: array[..., None],
            )
            if rng.random() < 0.5
            else (
                lambda: np.where(array == array, rng.choice((math.nan, math.inf, -1, 77, 2**31)), array),
                lambda: (array * 0 + rng.choice((0, 3, 200))).astype(array.dtype),
            )
        )()
        with np.errstate(invalid="ignore"):
            return saved(changed if rng.random() < 0.5 else changed.astype(array.dtype, order="K"))

    def read(self, content: bytes) -> Any:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.master, self.path)
        if self.file != "none":
            (self.path / self.file).write_bytes(content)
        try:
            return self.look()
        except OURS as error:
            assert str(self.path) in str(error), f"the error does not name the file: {error}"
            raise

    def look(self) -> Any:
        opened = store.ClipStore(self.path, unfinished=True)
        names = ("settings", "class_names", "specs", "clips", "splits", "wearers", "failures", "counts", "notes")
        found = {name: getattr(opened, name) for name in (*names, "labels", "segments")}
        found |= {"record": store.outputs_record(opened, "t"), "rows": opened._rows}
        assert len(opened.fingerprint) == 64
        damaged = [name for name, rows in opened.verify() if rows]
        assert self.file != "none" or not damaged, "a sound store has another checksum"
        if len(opened):
            rows = torch.arange(len(opened))
            for batch, _ in batches.read_batches(opened, opened.names, rows, 64, torch.device("cpu")):
                found |= {name: batch[name].numpy() for name in opened.names}
        return found

    def oracle(self, found: Any) -> None:
        assert all(label in (-1, *range(len(found["class_names"]))) for label in found["labels"]), "labels"
        for clip in found["clips"]:
            assert math.isfinite(clip["start"]) and isinstance(clip["video"], str), clip
        for name in {*self.wanted} - self.ALLOWED.get(self.file, set()):
            lost = name not in found and self.file == "store.json" and name in ("imu", "clip", "t.feature")
            assert lost or equal(found[name], self.wanted[name]), f"{name} changed with {self.file}"


class Links(Store):
    """A store that is written to, and one of its files is a link: the file that it leads to stays as it is."""

    link: Any = os.symlink

    def damage(self, rng: random.Random) -> bytes:
        self.file, self.link = rng.choice(self.names), rng.choice((os.symlink, os.link))
        content = (self.master / self.file).read_bytes()
        others = (b"", content[: rng.randrange(len(content))], rng.randbytes(len(content)), b"{}", b"[]")
        return content if rng.random() < 0.6 else rng.choice(others)

    def read(self, content: bytes) -> Any:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.master, self.path)
        outside = self.root / "outside"
        outside.unlink(missing_ok=True)
        outside.write_bytes(content)
        if self.file != "none":
            (self.path / self.file).unlink()
            self.link(outside, self.path / self.file)
        try:
            self.write()
            return self.look()
        except OURS as error:
            assert str(self.path) in str(error), f"the error does not name the file: {error}"
            raise
        finally:
            assert outside.read_bytes() == content, "another file was written to through a link"

    def write(self) -> None:
        writer = store.StoreWriter(self.path)
        writer.reset(np.array([4]))
        writer.write(4, {"imu": np.ones((5, 6)), "clip": np.ones((2, 3, 4, 4), int), "clip.times": [0, 1]})
        writer.retry(np.array([5]))
        writer.fail(5, "darker")
        writer.note("other.csv", ["odd"])
        made = store.ClipStore(self.path)
        store.claim_outputs(made.everything(), "t", {"fingerprint": "b2"}, overwrite=True)
        for name in ("t.feature", "u.feature"):
            made.add(name, (3,), "float32")
            made.write(name, slice(None), np.ones((len(made), 3), np.float32))

    def oracle(self, found: Any) -> None:
        if self.file not in ("failures.jsonl", "notes.jsonl"):
            super().oracle(found)


class Gyroflow(Format):
    """A log of Gyroflow, whose header may be anything: samples are finite, in order, or the log is refused."""

    name = "walk.gcsv"

    def make(self) -> bytes:
        head = ["GYROFLOW IMU LOG", "version,1.3", "orientation,XYZ", "tscale,0.001", "gscale,0.01", "ascale,0.001"]
        rows = [f"{5 * k},{k},{-k},3,10,20,{1000 + k}" for k in range(40)]
        return "\n".join([*head, "t,gx,gy,gz,ax,ay,az", *rows]).encode()

    def damage(self, rng: random.Random) -> bytes:
        lines = self.sound.split(b"\n")
        place = rng.randrange(8)
        blanks = rng.choice((b" ", b"\t", b",", b" ,", b"a ")) * rng.choice((1, 1000, 200_000))
        lines[place] = rng.choice(
            (
                blanks,
                lines[place] + blanks,
                lines[place].split(b",")[0] + b"," + rng.choice(NASTY).encode(),
                blanks + lines[place] + b"x",
                lines[place] + b"\n" + lines[rng.randrange(8)],
            )
        )
        content = b"\n".join(lines)
        return content if rng.random() < 0.7 else damage(content, rng)

    def look(self) -> Any:
        found = read_imu(self.path, zero_accel=True)
        return [found.accel_time, found.accel, found.gyro_time, found.gyro]

    def oracle(self, found: Any) -> None:
        for stamps, values in (found[:2], found[2:]):
            assert np.isfinite(values).all() and values.shape == (len(stamps), 3), "not finite"
            assert (np.diff(stamps) > 0).all(), "not in order"


class Vrs(Gyroflow):
    """A VRS file of Aria glasses, whose headers may name any size: as a log."""

    name = "walk.vrs"

    def make(self) -> bytes:
        streams = {LEFT: samples((1, 2, 9), (0.1, 0.2, 0.3), seconds=0.2), RGB: pictures([0, 0.05, 0.1], turns=1)}
        return write_vrs(self.path, streams).read_bytes()

    def damage(self, rng: random.Random) -> bytes:
        if rng.random() < 0.4:
            return damage(self.sound, rng)
        content = bytearray(self.sound)
        first = struct.unpack_from("<q", content, 24)[0]  # the description's record
        starts = [0, 16, 24, first, first + 24, first + 28, content.index(b"configuration") - 32]
        at = rng.choice(starts) + 4 * rng.randrange(8)
        number = rng.choice((0, 1, 2, 3, 31, 33, 10**4, 10**6, 2**31 - 1, 2**31, 2**32 - 1))
        content[at : at + 4] = struct.pack("<I", number)
        return bytes(content)

    def look(self) -> Any:
        found = aria.AriaRecording(self.path).imu()
        return [found.accel_time, found.accel, found.gyro_time, found.gyro]


class Video(Format):
    """A video. If the bytes of one packet were changed, clips of other groups of pictures are as before.

    Other damage may lose clips or change their pictures and times: a video has no checksums.
    """

    suffix = "mp4"
    STARTS = tuple(np.arange(8) / 2)
    SPECS: ClassVar[dict[str, ClipSpec]] = {"frames": ClipSpec(frames=2, size=20, seconds=0.4)}
    group: int | None = None

    def make(self) -> bytes:
        self.path = self.root / f"video.{self.suffix}"
        write_video(self.path, np.arange(100) / 25, **X264 | {"g": 25, "keyint_min": 25, "sc_threshold": 0})
        with av.open(str(self.path)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
            base = float(packets[0].time_base)
        self.keys, self.packets = [], []
        for packet in packets:
            if packet.is_keyframe:
                self.keys.append(packet.pts * base)
            # The first packet names the encoder's version, whose faults decoders imitate in all others.
            if packet is not packets[0] and packet.pos is not None and packet.pos >= 0 and packet.size > 40:
                self.packets.append((packet.pos, packet.size, len(self.keys)))
        return self.path.read_bytes()

    def damage(self, rng: random.Random) -> bytes:
        self.group = None
        if rng.random() < 0.5:
            return damage(self.sound, rng)
        position, size, self.group = rng.choice(self.packets)
        content = bytearray(self.sound)
        at = position + rng.randrange(8, size - 8)
        end = min(position + size, at + rng.choice((1, 4, 30, 1000)))
        content[at:end] = rng.randbytes(end - at)
        return bytes(content)

    def look(self) -> Any:
        info = video.probe(self.path)
        assert 0 <= info.duration < math.inf, info
        found = {"duration": info.duration}
        checked = checks.check(str(self.path), offset=False, excerpts=1, samples=2)
        assert checked.path, checked
        recording = Recording(str(self.path))
        found |= dict(decode_clips(recording, dict(enumerate(self.STARTS)), self.SPECS))
        try:
            found["pictures"] = video.read_frames(self.path, [0.1, 2.1], size=20)
        except VideoError as error:
            found["pictures"] = error
        return found

    def groups(self, row: int) -> set[int]:
        """Return the groups of pictures that a clip touches, counted from 1."""
        first, last = np.searchsorted(self.keys, [self.STARTS[row] - 1e-3, self.STARTS[row] + 0.401], side="right")
        return set(range(max(1, first), last + 1))

    def oracle(self, found: Any) -> None:
        assert set(range(len(self.STARTS))) <= set(found), "a clip has neither frames nor an error"
        for row in range(len(self.STARTS)):
            if isinstance(found[row], Exception):
                assert isinstance(found[row], OURS), repr(found[row])
                assert str(self.path) in str(found[row]), f"the error does not name the file: {found[row]}"
                continue
            assert found[row]["frames"].shape == (2, 3, 20, 20) and np.isfinite(found[row]["frames.times"]).all()
            if self.group is not None and self.group not in self.groups(row):
                assert equal(found[row], self.wanted[row]), f"clip {row} is outside of the damaged group {self.group}"
        if self.group is not None:
            lost = [k for k in range(len(self.STARTS)) if isinstance(found[k], Exception)]
            assert all(self.group in self.groups(k) for k in lost), f"clips {lost} for the group {self.group}"


class Matroska(Video):
    __doc__ = Video.__doc__
    suffix = "mkv"


class Transport(Video):
    """An MPEG transport stream: packets have 188 bytes, and changed ones may hit the tables that lead to the others."""

    suffix = "ts"

    def damage(self, rng: random.Random) -> bytes:
        self.group = None
        return damage(self.sound, rng)


class Telemetry(Format):
    """GPMF telemetry in an MP4. If one packet was changed, samples of the others are as before."""

    name = "gopro.mp4"
    packet: int | None = None

    def make(self) -> bytes:
        payloads = [device([(0, 0, i)] * 20, [(0, i, i)] * 20) for i in range(1, 5)]
        camera_files.write_telemetry(self.path, [(1000 * i, 1000, payload) for i, payload in enumerate(payloads)])
        content = self.path.read_bytes()
        self.packets = [(content.index(payload), len(payload)) for payload in payloads]
        return content

    def damage(self, rng: random.Random) -> bytes:
        self.packet = None
        if rng.random() < 0.4:
            return damage(self.sound, rng)
        self.packet = rng.randrange(4)
        at, size = self.packets[self.packet]
        content = bytearray(self.sound)
        for _ in range(rng.randint(1, 4)):
            place = at + rng.randrange(4, size)
            content[place : min(at + size, place + rng.choice((1, 2, 4)))] = (
                rng.randbytes(min(at + size, place + 1) - place)
                + content[place + 1 : min(at + size, place + rng.choice((1, 2, 4)))]
            )
            del content[len(self.sound) :]
            content += self.sound[len(content) :]
        content[at + size :] = self.sound[at + size :]
        return bytes(content)

    def look(self) -> Any:
        found = read_imu(self.path)
        return [found.accel_time, found.accel, found.gyro_time, found.gyro]

    def oracle(self, found: Any) -> None:
        for stamps, values in (found[:2], found[2:]):
            assert np.isfinite(values).all() and np.isfinite(stamps).all() and (np.diff(stamps) > 0).all(), "not finite"
        if self.packet is not None and self.packet < 3:  # the length of the last one follows from the others
            for k in (0, 2):
                ours, theirs = (
                    x[k + 1][(x[k] < self.packet) | ((x[k] >= self.packet + 1) & (x[k] < 3))]
                    for x in (found, self.wanted)
                )
                np.testing.assert_allclose(ours, theirs)


FORMATS = {
    kind.__name__: kind
    for kind in (
        Gpmf,
        ImuTable,
        OwnTable,
        Epic,
        Ego4d,
        HDEpic,
        EgoExo4d,
        Student,
        Teacher,
        Exported,
        LiveStream,
        Store,
        Links,
        Gyroflow,
        Vrs,
        Video,
        Matroska,
        Transport,
        Telemetry,
    )
}


# ---------------------------------------------------------------------------------------------------------------
# Running cases


def reset_peak() -> None:
    """Let `peak()` count from now on, on Linux; elsewhere it is of the whole process."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> float:
    """Return the most memory that this process has had, in MB."""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


class Hang(BaseException):
    """A case did not end; not an Exception, so that nothing catches it."""


def run_case(form: Format, number: int, seed: int = 0) -> dict[str, Any]:
    """Run one case; return its outcome ("refused", "equal", "changed" or "find"), time (s), memory (MB) and reason."""
    content = form.damage(random.Random(f"{seed} {type(form).__name__} {number}"))
    reset_peak()
    before, began, reason = peak(), time.process_time(), ""
    # Of the processor, since others may be busy; a case that only waits has longer.
    limits = ((signal.SIGPROF, signal.ITIMER_PROF, 4 * SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, 120 * SECONDS))
    for kind, timer, limit in limits:
        signal.signal(kind, _hang)
        signal.setitimer(timer, limit)
    try:
        found = form.read(content)
        outcome = "equal" if equal(found, form.wanted) else "changed"
        form.oracle(found)
    except OURS:
        outcome = "refused"
    except (Exception, Hang) as error:
        outcome, reason = "find", f"{type(error).__name__}: {error}"[:300]
        trace = traceback.format_exc()
    finally:
        for _, timer, _ in limits:
            signal.setitimer(timer, 0)
    seconds, memory = time.process_time() - began, peak() - before
    if outcome != "find" and (seconds > SECONDS or memory > MEGABYTES):
        outcome, reason = "find", f"{seconds:.1f} s and {memory:.0f} MB"
    result = {"case": number, "outcome": outcome, "seconds": seconds, "memory": memory, "reason": reason}
    return result | ({"trace": trace} if reason and "trace" in locals() else {})


def _hang(*_: Any) -> None:
    raise Hang(f"no end after {4 * SECONDS:.0f} s of the processor, or 30 times as long")


def make(name: str, root: Path) -> Format:
    """Return a format with its sound files in a folder."""
    torch.manual_seed(0)
    root.mkdir(parents=True, exist_ok=True)
    return FORMATS[name](root)


def run_child(name: str, first: int, seconds: float, seed: int) -> None:
    """Run cases until the time is over; print the number of each before it, and its result after it."""
    faulthandler.enable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        form, end, number = make(name, Path(folder)), time.monotonic() + seconds, first
        while time.monotonic() < end:
            print(number, flush=True)
            faulthandler.dump_traceback_later(8 * SECONDS, exit=True)  # a hang in C
            print(json.dumps(run_case(form, number, seed)), flush=True)
            faulthandler.cancel_dump_traceback_later()
            number += 1


def run_format(name: str, seconds: float, seed: int) -> list[dict[str, Any]]:
    """Return the results of the cases that a child process runs in this time; another one follows a crash."""
    results: list[dict[str, Any]] = []
    end, first = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        words = [sys.executable, "-m", "tests.fuzz", "--child", name, str(first), str(left), str(seed)]
        child = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=False)
        lines = child.stdout.splitlines()
        results += [json.loads(line) for line in lines if line.startswith("{")]
        if child.returncode == 0:
            break
        number = int(lines[-1]) if lines and lines[-1].isdigit() else first
        reason = f"the process ended with {child.returncode}: {child.stderr[-300:]}"
        results.append({"case": number, "outcome": "find", "seconds": 0.0, "memory": 0.0, "reason": reason})
        first = number + 1
    return results


def summary(results: dict[str, list[dict[str, Any]]]) -> tables.Table:
    """Return the table of all formats."""
    rows = []
    for name, cases in results.items():
        counts = Counter(case["outcome"] for case in cases)
        slowest, memory = (max((case[key] for case in cases), default=0.0) for key in ("seconds", "memory"))
        numbers = [len(cases), *(counts[outcome] for outcome in ("refused", "equal", "changed", "find"))]
        rows.append([name, *map(str, numbers), f"{slowest:.2f}", f"{memory:.0f}"])
    header = ["format", "cases", "refused", "equal", "changed", "finds", "slowest (s)", "memory (MB)"]
    return tables.Table(header, rows)


def main() -> int:
    """Run the command; return 1 if there is a find."""
    parser = argparse.ArgumentParser(description="read damaged inputs of all formats")
    parser.add_argument("--minutes", type=float, default=30, help="for all formats together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=FORMATS, action="append", help="a format; may be repeated")
    parser.add_argument("--case", metavar="FORMAT:N", help="run one case again")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    tables.markdown_option(parser)
    a = parser.parse_args()
    if a.child:
        name, first, seconds, seed = a.child
        run_child(name, int(first), float(seconds), int(seed))
        return 0
    if a.case:
        name, number = a.case.split(":")
        with tempfile.TemporaryDirectory() as folder:
            result = run_case(make(name, Path(folder)), int(number), a.seed)
        print(result.pop("trace", ""), result)
        return int(result["outcome"] == "find")
    names = a.only or list(FORMATS)
    results: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        results[name] = run_format(name, 60 * a.minutes / len(names), a.seed)
        for case in results[name]:
            if case["outcome"] == "find":
                print(f"find: {name}:{case['case']} with --seed {a.seed}: {case['reason']}", flush=True)
    words = ["python -m tests.fuzz", *sys.argv[1:]]
    tables.report(summary(results), "fuzz", a.markdown, words)
    return int(any(case["outcome"] == "find" for cases in results.values() for case in cases))


if __name__ == "__main__":
    sys.exit(main())
