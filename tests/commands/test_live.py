"""The command `live`: its answers are those of `predict()`, whatever the source; clocks, output, ends and errors."""

import argparse
import contextlib
import csv
import io
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from heads import head, write_log
from painted import STEADY, X264, expected_numbers, move, write_video
from waiting import LIMIT

import egodistill
from egodistill import EgoDistill, EgoDistillError, inference
from egodistill.commands import cli, live as live_command
from egodistill.commands.options import live_options
from egodistill.deploy import arrivals, export, feeds, stream as live
from egodistill.imu import IMU_READERS
from egodistill.recordings.spec import spec_of

ROOT = Path(egodistill.__file__).parent
EVERY = 0.499  # the first sample of the kitchen is at -0.998 s, so that answers begin at 0
CLIP = 64 / 30
posix_only = pytest.mark.skipif(os.name == "nt", reason="needs POSIX")


def student(**options):
    torch.manual_seed(0)
    small = {"image_encoder": "resnet10x4", "image_weights": None, "frame_size": 40, "hidden": 32, "imu_width": 4}
    return EgoDistill(4, feature_dim=16, class_names=["wash", "cut", "take", "open"], **small | options).eval()


@pytest.fixture(scope="module")
def files(kitchen, tmp_path_factory):
    """A student, one without IMU, and the samples of a recording as JSON lines and as one growing table."""
    folder = tmp_path_factory.mktemp("live")
    student().save(folder / "student.safetensors")
    student(imu_encoder=None).save(folder / "frames.safetensors")
    motion = kitchen[0].recording.motion()
    with open(folder / "samples.jsonl", "w") as lines, open(folder / "table.csv", "w") as table:
        table.write("time,ax,ay,az,gx,gy,gz\n")
        for times, readings in feeds.recorded_samples(motion):
            for moment, row in zip(times.tolist(), readings.tolist(), strict=True):
                accel = not np.isnan(row[0])
                lines.write(json.dumps({"time": moment, "accel" if accel else "gyro": row[:3] if accel else row[3:]}))
                lines.write("\n")
                table.write(",".join("" if np.isnan(x) else repr(x) for x in (moment, *row)) + "\n")
    return folder


class ScaledClock(feeds.HostClock):
    """The host's clock, several times as fast."""

    rate = 3.0

    def now(self):
        return self.rate * time.monotonic()

    def unix(self):
        return self.rate * time.time()

    def sleep(self, seconds):
        return super().sleep(seconds / self.rate)


@pytest.fixture
def host_clock(monkeypatch):
    """The clock of feeds: three times as fast as the host's, to save time; tests may change its rate."""
    monkeypatch.setattr(feeds, "HostClock", ScaledClock)
    monkeypatch.setattr(ScaledClock, "rate", 3.0)
    return ScaledClock


def at_real_speed(host_clock, run, fast):
    """Run the command at real speed; return what it said, and its answers beside those of `fast` from the same frames.

    On a busy machine answers are dropped or have older frames: if fewer than half are the same, slower clocks follow.
    """
    for host_clock.rate in (3.0, 1.0, 0.3):
        found, said = run()
        known = {(one["start"], *one["frame_age"]): one for one in fast if one["classes"]}
        pairs = [(one, known.get((one["start"], *one["frame_age"]))) for one in found]
        if len(same := [(one, other) for one, other in pairs if other]) > len(fast) / 2:
            break
    return said, same


def answers_of(capsys, *words, code=0):
    """Run the command; return its JSON lines and what it said on stderr."""
    found = cli.main(["live", *map(str, words)])
    printed = capsys.readouterr()
    assert found == code, printed.err
    return [json.loads(line) for line in printed.out.splitlines()], printed.err


def of_kitchen(kitchen, files, *words, number=0):
    recording = kitchen[number].recording
    common = [
        "--student",
        files / "student.safetensors",
        "--every",
        EVERY,
        "--top",
        4,
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    return [recording.video, *common, *words]


def imu_of(kitchen, number=0):
    return ["--imu", *kitchen[number].recording.imu]


def calm_imu(folder):
    """The IMU of a head that keeps still, about which there is nothing to note; that of the kitchen grows for ever."""
    times = np.arange(-1, 7, 1 / 200)
    readings = np.random.default_rng(0).normal([0, 0, 9.8, 0, 0, 0], 0.05, (len(times), 6))
    rows, header = np.column_stack([times, readings]), "time,ax,ay,az,gx,gy,gz"
    np.savetxt(folder / "calm.csv", rows, "%.6f", delimiter=",", header=header, comments="")
    return ["--imu", folder / "calm.csv"]


@pytest.fixture(scope="module")
def fast(kitchen, files):
    """The answers of --fast."""
    words = of_kitchen(kitchen, files, *imu_of(kitchen), "--fast")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert cli.main(["live", *map(str, words)]) == 0
    return [json.loads(line) for line in printed.getvalue().splitlines()]


def samples_from(monkeypatch, path):
    """Let standard input be this file."""
    monkeypatch.setattr(live_command, "standard_input", lambda: os.open(path, os.O_RDONLY))


# --- Answers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_frames", [1, 3])
def test_a_file_gives_the_answers_of_predict(kitchen, tmp_path, capsys, num_frames):
    network, recording = student(num_frames=num_frames), kitchen[0].recording
    network.save(tmp_path / "s.safetensors")
    words = of_kitchen(kitchen, tmp_path, *imu_of(kitchen), "--fast")
    words[2] = tmp_path / "s.safetensors"
    found, said = answers_of(capsys, *words)
    options = {"stride": EVERY, "top": 4, "batch_size": 1, "precision": "fp32", "device": "cpu"}
    predicted = {round(clip.start, 6): clip for clip in inference.predict(network, recording, **options)}
    compared = 0
    for answer in found:
        if (clip := predicted.get(round(answer["start"], 6))) is None:
            assert answer["start"] < 0  # before the first frame
            continue
        compared += 1
        assert answer["problem"] is None and answer["stop"] == pytest.approx(clip.stop)
        assert dict(map(tuple, answer["classes"])) == pytest.approx(dict(clip.classes), abs=2e-6)
        # Each frame shows its number: those that predict() looks at.
        times = spec_of(network).times(clip.start)
        used = [round((answer["stop"] - age) * 25) for age in answer["frame_age"]]
        assert used == expected_numbers(STEADY, times)
    assert compared == len(predicted) - 1 >= 7  # all but the clip that ends with the file
    assert len({tuple(answer["frame_age"]) for answer in found}) > 1
    assert f"answers: {len(found)} due" in said


def test_a_file_without_a_part_of_its_samples_gives_the_answers_of_predict(kitchen, tmp_path, capsys, host_clock):
    """Of a student that may lack them; a line of `predict` and its table say so."""
    network, table = student(optional_inputs=True), write_log(tmp_path / "walk.csv", seconds=6.0)
    torch.nn.init.normal_(network.no_imu)
    network.save(tmp_path / "s.safetensors")
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(one for one in lines if not 1.0 < float(one.split(",")[0].replace("time", "0")) < 1.8))
    words = [
        kitchen[0].video,
        "--student",
        tmp_path / "s.safetensors",
        "--imu",
        table,
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]
    found, _ = answers_of(capsys, *words, "--fast", "--every", 0.25, "--top", 4)
    more = ["--stride", 0.25, "--top", 4, "--out", tmp_path / "rows.csv"]
    assert cli.main(list(map(str, ["predict", *words, *more]))) == 0
    out, said = capsys.readouterr()
    shown = [line for line in out.splitlines() if line.endswith("  (frames alone)")]
    assert f"note: {kitchen[0].video}: 7 of 17 clips were classified from frames alone" in said
    assert cli.main(list(map(str, ["predict", *words, "--events"]))) == 0  # whose lines are about several clips
    assert "clips were classified from frames alone" in capsys.readouterr().err
    assert cli.main(list(map(str, ["predict", *words[:3], "--without", "imu"]))) == 0
    assert " alone" not in capsys.readouterr().err  # as it was asked
    with open(tmp_path / "rows.csv", newline="") as file:
        rows = {round(float(row["start"]), 2): row for row in csv.DictReader(file)}
    assert len(found) > 12 and {answer["start"] for answer in found} <= rows.keys()
    for answer in found:
        row = rows[answer["start"]]
        assert row["inputs"] == " ".join(answer["inputs"]) == ("frames" if answer["start"] < 1.7 else "frames imu")
        best = [(row[f"class_{k}"], pytest.approx(float(row[f"score_{k}"]), abs=2e-6)) for k in (1, 2, 3, 4)]
        assert list(map(tuple, answer["classes"])) == best
    assert len(shown) == sum(row["inputs"] == "frames" for row in rows.values()) == 7
    table.write_text("".join(one for one in lines if float(one.split(",")[0].replace("time", "0")) < 3.0))
    found, said = answers_of(capsys, *words, "--fast", "--every", 0.25)  # The samples end before the frames.
    assert "its last sample is at 3.00 s" in said and "there are answers from frames alone about the rest" in said
    assert [round(one["start"], 2) for one in found if one["inputs"] == ["frames"]] == [0.25 * k for k in range(4, 16)]
    said, same = at_real_speed(host_clock, lambda: answers_of(capsys, *words, "--every", 0.25, "--top", 4), found)
    assert len(same) > len(found) / 2 and "answers from frames alone about the rest" in said
    video, options = write_video(tmp_path / "lone.mp4", STEADY, **X264), {"precision": "fp32", "device": "cpu"}
    export.export_pair(network, tmp_path / "pair.pt2")
    wanted = list(inference.predict(network.without("imu"), video, stride=0.25, top=3, **options))
    for name in ("s.safetensors", "pair.pt2"):  # no samples at all
        words = [video, "--student", tmp_path / name, "--fast", "--every", 0.25]
        assert cli.main(list(map(str, ["live", *words]))) == 1
        assert "no IMU" in capsys.readouterr().err
        found, _ = answers_of(capsys, *words, "--without", "imu", "--precision", "fp32")
        assert len(found) > 12 and all(answer["inputs"] == ["frames"] for answer in found)
        for answer, clip in zip(found, wanted, strict=False):
            assert dict(answer["classes"]) == pytest.approx(dict(clip.classes), abs=1e-5)


def test_no_answer_of_a_file_is_dropped_however_few_its_frames(files, tmp_path, capsys):
    video = write_video(tmp_path / "slow.mp4", [*range(5), *range(8, 12)], **X264)  # one per second, and a hole
    words = [
        "--student",
        files / "frames.safetensors",
        "--fast",
        "--every",
        0.25,
        "--tolerance",
        0.5,
        "--precision",
        "fp32",
    ]
    found, said = answers_of(capsys, video, *words)
    network = EgoDistill.load(files / "frames.safetensors")
    wanted = [one.start for one in inference.predict(network, video, stride=0.25, precision="fp32")]
    assert "0 dropped" in said and set(wanted[:-1]) <= {one["start"] for one in found}


def test_real_speed_gives_the_answers_of_fast(kitchen, files, capsys, fast, host_clock):
    words = of_kitchen(kitchen, files, *imu_of(kitchen))
    said, same = at_real_speed(host_clock, lambda: answers_of(capsys, *words), fast)
    assert re.search(r"(?m)^dropped +[\d.]+ % of \d+ answers$", said)
    assert len(same) > len(fast) / 2 and all(one["classes"] == other["classes"] for one, other in same)


def test_json_lines_give_the_answers_of_the_tables(kitchen, files, capsys, fast, monkeypatch, tmp_path):
    """Bad lines between them change nothing; nanoseconds neither, up to rounding."""
    lines = (files / "samples.jsonl").read_text().splitlines(keepends=True)
    noisy = tmp_path / "noisy.jsonl"
    noisy.write_text("".join(f"{line}oops\n" if k % 10 == 0 else line for k, line in enumerate(lines)))
    samples_from(monkeypatch, noisy)
    found, said = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", "-", "--fast"))
    count = -(-len(lines) // 10)
    assert f", {count:,} bad lines" in said and said.count("Such lines are skipped and counted") == 1
    timeless = [{k: v for k, v in one.items() if k not in ("delay", "seconds", "lag")} for one in found]
    assert timeless == [{k: v for k, v in one.items() if k not in ("delay", "seconds", "lag")} for one in fast]

    exact = tmp_path / "ns.jsonl"
    rows = [json.loads(line) for line in lines]
    exact.write_text("".join(json.dumps(row | {"time": round(row["time"] * 1e9)}) + "\n" for row in rows))
    samples_from(monkeypatch, exact)
    found, _ = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", "-", "--fast"))
    assert len(found) == len(fast) and all(isinstance(one["start"], int) for one in found)
    for one, other in zip(found, fast, strict=True):
        assert one["start"] == pytest.approx(1e9 * other["start"], abs=2)
        assert dict(map(tuple, one["classes"])) == pytest.approx(dict(map(tuple, other["classes"])), abs=1e-5)


def test_a_log_of_a_page_gives_the_answers_of_the_tables(kitchen, files, capsys, fast, tmp_path):
    """Its samples are read; its other lines are not."""
    lines = (files / "samples.jsonl").read_text().splitlines()
    others = [{"log": "egodistill web 1"}, {"frame": 0.5, "rgb": "AAAA"}, {"answer": 2.1, "classes": [["a", 0.5]]}]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join([*map(json.dumps, others[:1]), *lines, *map(json.dumps, others[1:])]))
    found, _ = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", log, "--fast"))
    assert [one["classes"] for one in found] == [one["classes"] for one in fast] and len(found) > 5


def test_a_table_of_a_phone_is_read_with_its_axes(kitchen, files, capsys, fast, tmp_path):
    """X to the right, Y up along the screen and Z out of it: in GoPro axes -X, Z, Y."""
    lines = [json.loads(line) for line in (files / "samples.jsonl").read_text().splitlines()]
    for line in lines:
        for sensor in {"accel", "gyro"} & line.keys():
            left, back, up = line[sensor]
            line[sensor] = [-left, up, back]
    log = tmp_path / "phone.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)))
    words = of_kitchen(kitchen, files, "--imu", log, "--imu-axes", "xZY", "--fast")
    found, _ = answers_of(capsys, *words)
    assert [one["classes"] for one in found] == [one["classes"] for one in fast] and len(found) > 5
    phone, table = (tmp_path / name for name in ("phone.csv", "table.csv"))
    words = [kitchen[0].recording.video, "--student", files / "student.safetensors", "--precision", "fp32"]
    for path, imu in ((phone, ["--imu", log, "--imu-axes", "xZY"]), (table, imu_of(kitchen))):
        assert cli.main(["predict", *map(str, (*words, *imu, "--out", path))]) == 0, capsys.readouterr().err
    assert phone.read_text() == table.read_text() and phone.read_text().count("\n") == 4


def test_frames_are_the_clock_of_a_student_without_imu(kitchen, files, capsys):
    words = of_kitchen(kitchen, files, "--fast")
    words[2] = files / "frames.safetensors"
    found, said = answers_of(capsys, *words)
    assert [round(one["start"], 6) for one in found[:2]] == [0.0, EVERY] and all(one["classes"] for one in found)
    assert "readings" not in said


def test_newest_looks_once_per_period(kitchen, files, capsys):
    words = ["--frames", "newest", "--period", 2, "--max-age", 4, "--fast"]
    found, said = answers_of(capsys, *of_kitchen(kitchen, files, *imu_of(kitchen), *words))
    encoded = [one["encoded"] for one in found if one["problem"] is None]
    assert 2 <= sum(encoded) <= 3 and len(encoded) > 5 and set(encoded) == {0, 1}
    (looks,) = re.findall(r"(\d) of \d frame requests", said)
    share = float(re.search(r"camera on ([\d.]+) % of the time", said)[1])
    assert share == pytest.approx(100 * int(looks) * 0.04 / STEADY[-1], abs=0.1)


def test_events_are_labels_that_last(kitchen, files, capsys, fast, tmp_path, monkeypatch):
    monkeypatch.setattr(live_command.events, "Tracker", lambda: TRACKER(start=0.2, end=0.1))
    out = tmp_path / "new" / "e.jsonl"
    words = ["--events", "--fast", "--out", out]
    found, _ = answers_of(capsys, *of_kitchen(kitchen, files, *imu_of(kitchen), *words))
    best = {answer["classes"][0][0] for answer in fast if answer["classes"]}
    assert found and {event["label"] for event in found} <= best
    assert set(found[0]) == {"start", "stop", "label", "score"}
    assert [json.loads(line) for line in out.read_text().splitlines()] == found


TRACKER = live_command.events.Tracker


def test_a_run_without_events_says_at_which_probability_one_begins(kitchen, files, capsys, fast):
    words = [*of_kitchen(kitchen, files, *imu_of(kitchen)), "--events", "--fast"]
    found, said = answers_of(capsys, *words)
    highest = max(answer["classes"][0][1] for answer in fast if answer["classes"])
    assert not found and "\nno event: one begins at a probability of 0.6, ends below 0.4 and lasts" in said
    assert f"the highest was {highest:.3g}\n" in said
    found, said = answers_of(capsys, *words, "--event-start", 0.2)
    assert found and "no event" not in said
    assert "no event" not in answers_of(capsys, *words[:-2], "--fast")[1]


def test_the_highest_probability_is_that_of_a_class_of_which_there_are_events():
    output = live_command.Output(as_json=False, tracker=None, path=None)
    for start, name, other in ((0.0, "(none)", 0.3), (1.0, "unsure", 0.2)):
        output.add(live.Answer(start, start + 2, [(name, 0.9 - other), ("wash", other)]), 1.0)
    assert output.highest == 0.3


@pytest.mark.parametrize(("words", "told"), [("0 --events", "from 0.001 to 1"), ("0.5", "only with --events")])
def test_an_event_begins_at_a_probability(words, told, files, steady, capsys):
    command = ["live", steady, "--student", files / "student.safetensors", "--event-start", *words.split()]
    with contextlib.suppress(SystemExit):
        assert cli.main(list(map(str, command))) == 1
    assert told in capsys.readouterr().err


def test_events_do_not_depend_on_the_number_of_classes_that_are_shown(files):
    few = "--top 1 --events --event-start 0.3"  # an event ends at 0.2, and so many may five classes have
    for words, top in (("--top 1 --events", 2), ("--top 3 --events", 3), ("--top 1", 1), (few, 5)):
        parser = argparse.ArgumentParser()
        live_options(parser)
        given = parser.parse_args(["a.mp4", "--student", "s.safetensors", *words.split()])
        assert live_command.open_stream(given, student(), (0.0, 1.0), print).top == top


def test_the_run_ends_after_some_seconds(kitchen, files, capsys, fast, tmp_path):
    out = tmp_path / "a.jsonl"
    words = ["--fast", "--seconds", 4.2, "--out", out]
    found, _ = answers_of(capsys, *of_kitchen(kitchen, files, *imu_of(kitchen), *words))
    assert [one["start"] for one in found] == [one["start"] for one in fast if one["stop"] < -0.998 + 4.2]
    assert [json.loads(line) for line in out.read_text().splitlines()] == found


# --- Clocks ------------------------------------------------------------------------------------------------


@posix_only
def test_arrival_aligns_a_camera_with_samples_of_another_clock(files, capsys, host_clock, monkeypatch, tmp_path):
    """Frames and samples come at real speed; samples count from 5000 s on, and frames from 1970."""
    video, pipe = write_video(tmp_path / "a.ts", np.arange(200) / 25, **X264), tmp_path / "camera"
    os.mkfifo(pipe)
    reader, writer = os.pipe()
    clock, began, done = feeds.HostClock(), feeds.HostClock().now(), threading.Event()

    def send_samples():
        with open(writer, "w", buffering=1) as file:
            for k in range(2400):
                ahead = began + k / 200 - clock.now()
                if done.is_set() or (ahead > 0 and not clock.sleep(ahead)):
                    return
                file.write(json.dumps({"time": 5000.0 + k / 200, "accel": [0, 0, 9.8], "gyro": [0, 0, k / 200]}) + "\n")

    for work in (send_samples, lambda: pipe.write_bytes(Path(video).read_bytes())):
        threading.Thread(target=work, daemon=True).start()
    monkeypatch.setattr(live_command, "standard_input", lambda: reader)
    words = [
        pipe,
        "--student",
        files / "student.safetensors",
        "--imu",
        "-",
        "--align",
        "arrival",
        "--precision",
        "fp32",
    ]
    found, said = answers_of(capsys, *words, code=1)
    done.set()
    assert "camera: the program that writes into the pipe closed it\n" in said
    good = [answer for answer in found if answer["problem"] is None]
    assert len(good) >= 3 and all(5000 < answer["start"] < 5020 for answer in found), said
    for answer in good:  # frames in the middle of clips, so both clocks are one
        assert abs(answer["frame_age"][0] - CLIP / 2) <= 0.5


class SharedClock(feeds.HostClock):
    """A clock of three threads: time passes when all of them sleep."""

    def __init__(self):
        super().__init__()
        self.time, self.ends, self.changed = 100.0, {}, threading.Condition()

    def now(self):
        return self.time

    def sleep(self, seconds):
        me = threading.get_ident()
        with self.changed:
            self.ends[me] = self.time + seconds
            while self.ends[me] > self.time and not self.stopped:
                if len(self.ends) == 3 and min(self.ends.values()) > self.time:
                    self.time = min(self.ends.values())
                    self.changed.notify_all()
                else:
                    self.changed.wait(0.05)
            del self.ends[me]
        return not self.stopped


def test_the_offset_of_clocks_is_that_of_what_was_shortest_on_its_way():
    """Samples that waited in a pipe while the command started do not count, and a camera may start later."""
    clock = SharedClock()
    began = clock.now()

    class Frames:
        live, source, end = True, "camera", 0.0

        def __iter__(self):
            while clock.sleep(0.02):
                if clock.now() > began + 0.3:
                    yield 1e9 + clock.now() - began, None

    def samples():
        yield np.arange(-600, 0) / 200 + 5000, np.zeros((600, 6))  # three seconds at once
        while clock.sleep(0.01):
            yield np.array([5000 + clock.now() - began]), np.zeros((1, 6))

    source = live_command.Source(Frames(), samples(), False, clock, None, offset=0.25, align=True)
    inputs = live_command.Inputs(source)
    inputs.start()
    # A frame at 1e9 and a sample at 5000 are of one moment, but for the 0.25 s that the user knows of.
    assert inputs.aligned(math.inf) + 1e9 == pytest.approx(5000.25, abs=1e-6)
    inputs.close()


def test_alignment_without_samples_ends_when_the_run_does(files, capsys, monkeypatch):
    reader, writer = os.pipe()
    monkeypatch.setattr(live_command, "standard_input", lambda: reader)
    words = ["tcp://127.0.0.1:9", "--student", files / "student.safetensors", "--imu", "-", "--align", "arrival"]
    noted = []  # when the first frame was: until then, no time passes

    def frames(self):
        for frame in camera(self):
            yield frame
            noted.append(time.monotonic())

    monkeypatch.setattr(feeds.HostClock, "now", lambda self: time.monotonic() - noted[0] if noted else 0.0)
    monkeypatch.setattr(feeds.VideoFeed, "__iter__", frames)
    _, said = answers_of(capsys, *words, "--seconds", 0.2, "--precision", "fp32", code=1)
    assert said == "\negodistill live: tcp://127.0.0.1:9: ended before its first sample came\n"
    os.close(writer)


def test_clocks_that_cannot_be_one_are_refused(kitchen, files, capsys, monkeypatch, tmp_path):
    moved = tmp_path / "moved.jsonl"
    rows = [json.loads(line) for line in (files / "samples.jsonl").read_text().splitlines()]
    moved.write_text("".join(json.dumps(row | {"time": row["time"] + 1000.5}) + "\n" for row in rows))
    for words, first in ((["--fast"], r"0\.000"), ([], r"\d\.\d\d\d")):  # a busy machine may drop the first frames
        samples_from(monkeypatch, moved)
        found, said = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", "-", *words), code=1)
        assert not found and re.search(rf"its first frame is at {first} s and the first sample at 999\.50", said)
        assert "give --frame-offset SECONDS\n" in said
    samples_from(monkeypatch, moved)
    words = ["--imu", "-", "--fast", "--frame-offset", 1000.5]
    found, _ = answers_of(capsys, *of_kitchen(kitchen, files, *words))
    assert len(found) > 5 and found[4]["problem"] is None


# --- Faults of the input -------------------------------------------------------------------------------------


def head_samples(path, change=lambda t, a, g: (t, a, g), seconds=7.0):
    """JSON lines of a head that moves, after a change of times, accelerations and turn rates."""
    times, accel, gyro = (values.tolist() for values in change(*head(seconds)))
    rows = ({"time": t, "accel": a, "gyro": g} for t, a, g in zip(times, accel, gyro, strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_faults_of_the_input_are_told_as_they_occur_and_at_the_end(kitchen, files, capsys, monkeypatch, tmp_path):
    words = of_kitchen(kitchen, files, "--imu", "-", "--fast")
    samples_from(monkeypatch, head_samples(tmp_path / "good.jsonl"))
    found, said = answers_of(capsys, *words)
    assert len(found) > 5 and "warning" not in said and "faults" not in said
    samples_from(monkeypatch, head_samples(tmp_path / "g.jsonl", lambda t, a, g: (t, a / 9.81, 0 * g + g[0])))
    found, said = answers_of(capsys, *words)
    assert len(found) > 5
    lines = said.splitlines()
    (units,) = (k for k, line in enumerate(lines) if line.startswith("warning: accelerometer units: the acceleration"))
    (frozen,) = (k for k, line in enumerate(lines) if line.startswith("warning: gyroscope frozen: the gyroscope does"))
    (summary,) = (k for k, line in enumerate(lines) if line.startswith("answers: "))
    assert units < summary and frozen < summary
    assert lines[-1] == "faults of the input: accelerometer units, gyroscope frozen"
    assert said.count("acceleration is in g") == 1  # not by the feed of lines as well


@pytest.mark.parametrize("fast", [["--fast"], []])
@pytest.mark.parametrize(("factor", "unit"), [(1e3, "milliseconds"), (1e6, "microseconds")])
def test_times_in_another_unit_are_refused(
    kitchen, files, capsys, monkeypatch, tmp_path, fast, factor, unit, host_clock
):
    """A stream gets hardly any of these samples: by their times, they are outside the video."""
    samples_from(monkeypatch, head_samples(tmp_path / "other.jsonl", lambda t, a, g: (factor * t, a, g)))
    found, said = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", "-", *fast), code=1)
    end = said.splitlines()[-1]
    assert end.startswith("egodistill live: standard input: the accelerometer's samples are 5") and not found
    assert f"s apart; are the times in {unit}? They must be float seconds or integer nanoseconds" in end


def test_a_run_without_answers_names_the_faults_of_its_input(kitchen, files, capsys, monkeypatch, tmp_path):
    samples_from(monkeypatch, head_samples(tmp_path / "wrong.jsonl", lambda t, a, g: (t, a / 9.81, g + np.nan)))
    text = (tmp_path / "wrong.jsonl").read_text().replace("[NaN, NaN, NaN]", "null")
    (tmp_path / "wrong.jsonl").write_text(text)
    found, said = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", "-", "--fast"), code=1)
    end = said.splitlines()[-1]
    assert not any(one["classes"] for one in found) and end.startswith("egodistill live: ")
    assert "no clip was classified: " in end and "the acceleration is in g" in end and "of the gyroscope" in end


@pytest.mark.parametrize("fast", [["--fast"], []])
def test_a_program_that_gives_no_sample_is_the_reason(kitchen, files, capsys, monkeypatch, fast, host_clock):
    samples_from(monkeypatch, os.devnull)
    _, said = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", "-", *fast), code=1)
    assert said.endswith(": no clip was classified: no sample came from standard input\n")


@pytest.mark.parametrize("align", ["times", "arrival"])
def test_a_camera_does_not_wait_for_ever_for_the_first_sample(files, capsys, monkeypatch, align):
    monkeypatch.setattr(feeds.VideoFeed, "__iter__", camera)
    reader, writer = os.pipe()
    monkeypatch.setattr(live_command, "standard_input", lambda: reader)
    words = ["tcp://127.0.0.1:9", "--student", files / "student.safetensors", "--precision", "fp32", "--timeout", 0.5]
    _, said = answers_of(capsys, *words, "--imu", "-", "--align", align, code=1)
    assert "egodistill live: standard input: no sample in the first 0.5 s of frames" in said
    os.close(writer)


def test_a_video_that_ends_before_its_own_end_is_told(kitchen, files, capsys, tmp_path):
    """It is not the samples that are too few."""
    move(kitchen[0].recording.video, tmp_path / "cut.mkv", 0.0)
    content = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(content[: len(content) // 2])
    words = [*of_kitchen(kitchen, files, "--fast")[1:], *imu_of(kitchen)]
    _, said = answers_of(capsys, tmp_path / "cut.mkv", *words)
    assert re.search(
        r"warning: .*cut\.mkv: its last frame ends at \d\.\d\d s of \d+\.\d\d s: the file may be trunc", said
    )
    assert "its last sample" not in said


@pytest.mark.parametrize("fast", [["--fast"], []])
def test_a_table_that_ends_before_its_video_is_told(fast, kitchen, files, capsys, host_clock, tmp_path):
    lines = (calm_imu(tmp_path)[1]).read_text().splitlines(keepends=True)
    for count, told in ((len(lines), 0), (900, 1))[not fast :]:  # of the second, up to 3.5 s
        (tmp_path / "cut.csv").write_text("".join(lines[:count]))
        found, said = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", tmp_path / "cut.csv", *fast))
        assert found and said.count("its last sample is at 3.49 s, but the video goes on until ") == told


@posix_only
def test_ctrl_c_is_no_end_of_the_samples(kitchen, files, capsys, monkeypatch, tmp_path, host_clock):
    usual, start, started_inputs = live_command.Output.add, live_command.Inputs.start, []

    def add(self, *given):
        usual(self, *given)
        signal.raise_signal(signal.SIGINT)
        assert started_inputs[0].ended.wait(LIMIT)  # the thread of the samples has noticed

    monkeypatch.setattr(live_command.Inputs, "start", lambda self: (started_inputs.append(self), start(self)))
    monkeypatch.setattr(live_command.Output, "add", add)
    words = of_kitchen(kitchen, files, *calm_imu(tmp_path))
    _, said = answers_of(capsys, *words)
    assert "answers: " in said and "its last sample" not in said


# --- Ends --------------------------------------------------------------------------------------------------


def started(words, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "egodistill.commands.cli", "live", *map(str, words)]
    return subprocess.Popen(command, env=environment, cwd=ROOT, **options)


@posix_only
def test_ctrl_c_ends_cleanly_with_the_summary(kitchen, files):
    """Also while standard input gives no more samples: the thread that waits for them must not keep the process."""
    words = of_kitchen(kitchen, files, "--imu", "-")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(words, text=True, **pipes) as process:
        process.stdin.write("".join((files / "samples.jsonl").read_text().splitlines(keepends=True)[:1500]))
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["start"] < 0
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(LIMIT) == 0, said
    assert re.search(r"(?m)^answers: \d+ due", said) and re.search(r"(?m)^memory +peak \d+ MB$", said)
    assert "Traceback" not in said


def test_the_file_of_answers_is_named_as_what_it_is(tmp_path, capsys):
    for name in ("a.csv", "a.json", "a"):
        assert cli.main(["live", "tcp://127.0.0.1:9", "--student", "glasses", "--out", str(tmp_path / name)]) == 1
        assert "the name of --out must end in .jsonl" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@posix_only
def test_a_reader_that_goes_ends_the_command_in_silence(kitchen, files, capsys, monkeypatch, tmp_path):
    """As in `egodistill live ... --out a.jsonl | head -1`; a full disk is another error."""
    words = of_kitchen(kitchen, files, *calm_imu(tmp_path), "--fast", "--out", tmp_path / "a.jsonl")
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert cli.main(["live", *map(str, words)]) == 128 + 13
    assert not capsys.readouterr().err and (tmp_path / "a.jsonl").read_text()
    if os.path.exists("/dev/full"):
        _, said = answers_of(capsys, *words[:-1], "/dev/full", code=1)
        assert "/dev/full: cannot be written: No space left on device" in said and "continues" not in said


@contextlib.contextmanager
def terminal(monkeypatch):
    """Let the output go to a terminal of 100 columns; yield the descriptor of its other end, and what it has shown."""
    import fcntl
    import pty
    import termios

    main, other = pty.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
    shown = bytearray()

    def read():
        with contextlib.suppress(OSError):  # Linux: an end is closed
            while part := os.read(main, 1 << 16):
                shown.extend(part)

    (reader := threading.Thread(target=read, daemon=True)).start()
    with open(other, "w") as screen, monkeypatch.context() as patch:
        for name in ("COLUMNS", "LINES"):
            patch.delenv(name, raising=False)
        patch.setattr(sys, "stdout", screen)
        patch.setattr(sys, "__stdout__", screen)
        yield main, shown
    reader.join(LIMIT)


@posix_only
def test_a_terminal_has_a_line_for_each_answer_and_json_on_demand(tmp_path, kitchen, files, capsys, monkeypatch):
    """As wide as the terminal. A file gets all digits."""
    out = tmp_path / "answers.jsonl"
    words = [*of_kitchen(kitchen, files, *calm_imu(tmp_path), "--fast"), "--out", out, "--overwrite"]
    with terminal(monkeypatch) as (_, shown):
        assert cli.main(["live", *map(str, words)]) == 0, capsys.readouterr().err
    lines, answers = shown.decode().split("\r\n"), [json.loads(line) for line in out.read_text().splitlines()]
    assert lines.pop() == "" and len(lines) == len(answers) > 5 and {len(line) for line in lines} == {99}
    for line, row in zip(lines, answers, strict=True):
        label, score = row["classes"][0] if row["classes"] else ("", 0.0)
        pattern = rf" +{row['stop'] - answers[0]['start']:.2f} s  {label} +{score:.2f}"
        pattern += rf"  frame +{max(row['frame_age']):.2f} s  lag +\d\.\d\d s  delay +\d+ ms  camera on 100 %"
        assert re.fullmatch(pattern, line), line
    with terminal(monkeypatch) as (_, shown):
        assert cli.main(["live", *map(str, words), "--json"]) == 0, capsys.readouterr().err
    assert [json.loads(line)["classes"] for line in shown.decode().splitlines()] == [row["classes"] for row in answers]


@posix_only
def test_a_terminal_has_events_above_the_newest_answer(tmp_path, kitchen, files, capsys, monkeypatch):
    words = of_kitchen(kitchen, files, *calm_imu(tmp_path), "--fast", "--events", "--event-start", "0.1")
    with terminal(monkeypatch) as (_, shown):
        assert cli.main(["live", *map(str, words)]) == 0, capsys.readouterr().err
    lines = shown.decode().split("\r\n")
    event = re.compile(r"(^|\r) +\d+\.\d\d to \d+\.\d\d s  \w+ \d\.\d\d$")
    assert len(lines) > 1 and all(event.search(line) for line in lines[:-1])
    assert lines[0].count("\r") > 5  # one line that is updated


def test_an_empty_end_is_an_error_that_says_why(kitchen, files, capsys, tmp_path, monkeypatch):
    short = write_video(tmp_path / "short.mp4", STEADY[:20], **X264)
    words = [short, "--student", files / "student.safetensors", *imu_of(kitchen), "--fast", "--precision", "fp32"]
    found, said = answers_of(capsys, *words, code=1)
    assert not found and "short.mp4: no clip was classified: an answer needs 2.13 s of frames and samples" in said


def test_a_feed_that_fails_ends_the_command_after_its_answers(kitchen, files, capsys, fast, monkeypatch, tmp_path):
    cut = tmp_path / "cut.jsonl"
    lines = (files / "samples.jsonl").read_text().splitlines(keepends=True)
    cut.write_text("".join(lines[: len(lines) // 2]) + "x\n" * 100)
    samples_from(monkeypatch, cut)
    found, said = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", "-", "--fast"), code=1)
    assert 0 < len(found) < len(fast) and "100 lines in a row are not samples" in said
    assert f"answers: {len(found)} due" in said


@pytest.mark.parametrize(
    ("source", "told"), [("none.mp4", "no such file"), ("tcp://127.0.0.1:9/", "Connection refused")]
)
def test_a_source_that_fails_leaves_an_earlier_result(source, told, files, capsys, tmp_path):
    out = tmp_path / "a.jsonl"
    out.write_text('{"start": 0.0, "frame_age": []}\n')
    words = [source, "--student", files / "frames.safetensors", "--out", out, "--precision", "fp32", "--overwrite"]
    assert told in answers_of(capsys, *words, code=1)[1]
    assert out.read_text() == '{"start": 0.0, "frame_age": []}\n'


@pytest.mark.parametrize("line", ['{"start": 0.0, "frame_age": []}\n', '{"start": 0.5, "stop": 2.0, "label": "cut"}\n'])
def test_an_earlier_result_is_replaced_only_if_asked(line, kitchen, files, capsys, tmp_path):
    out = tmp_path / "hour.jsonl"
    out.write_text(1000 * line)
    words = of_kitchen(kitchen, files, *imu_of(kitchen), "--fast", "--out", out)
    found, said = answers_of(capsys, *words, code=1)
    assert not found and said.endswith("hour.jsonl: already exists; give another path, or --overwrite\n")
    assert out.read_text() == 1000 * line
    found, _ = answers_of(capsys, *words, "--overwrite")
    assert [json.loads(line) for line in out.read_text().splitlines()] == found
    words = [*words, "--overwrite", "--events", "--event-start", "1"]  # which no answer has
    assert answers_of(capsys, *words)[0] == [] and out.read_text() == ""  # nothing of the run before stays


def sure(network):
    """A student that is sure of one class, so that an event runs."""
    with torch.no_grad():
        network.classifier.weight.zero_()
        network.classifier.bias.copy_(torch.tensor([9.0, 0.0, 0.0, 0.0]))
    return network


@posix_only
@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129), ("SIGINT", 0)])
def test_a_signal_ends_a_run_with_the_running_event_and_the_summary(
    name, code, kitchen, files, capsys, monkeypatch, tmp_path, host_clock
):
    """Also while standard input stays open."""
    host_clock.rate = 0.5  # the first answers of a process are slow, and with a pause between them there is no event
    sure(student()).save(tmp_path / "sure.safetensors")
    reader, writer = os.pipe()
    lines = (files / "samples.jsonl").read_text().splitlines(keepends=True)[:2000]
    threading.Thread(target=lambda: os.write(writer, "".join(lines).encode()), daemon=True).start()
    monkeypatch.setattr(live_command, "standard_input", lambda: reader)
    usual, shown = live_command.Output.add, []

    def add(self, *given):
        usual(self, *given)
        shown.append(given)
        if len(shown) == 4:
            signal.raise_signal(getattr(signal, name))
            if name != "SIGINT":  # a shell that ends with its terminal sends it again
                signal.raise_signal(getattr(signal, name))

    monkeypatch.setattr(live_command.Output, "add", add)
    words = of_kitchen(kitchen, files, "--imu", "-", "--events", "--out", tmp_path / "events.jsonl")
    words[2] = tmp_path / "sure.safetensors"
    if code:
        with pytest.raises(SystemExit) as ended:
            cli.main(["live", *map(str, words)])
        assert ended.value.code == code
    else:
        assert cli.main(["live", *map(str, words)]) == 0
    printed, said = capsys.readouterr()
    (event,) = (json.loads(line) for line in printed.splitlines())
    assert event["label"] == "wash" and event["stop"] - event["start"] > 0.9
    assert json.loads((tmp_path / "events.jsonl").read_text()) == event
    assert re.search(r"(?m)^answers: \d+ due", said) and "ended" not in said
    os.close(writer)


@posix_only
def test_a_terminal_that_goes_leaves_the_running_event_in_the_file(kitchen, files, monkeypatch, tmp_path, host_clock):
    """Its end is SIGHUP, and nothing can be printed any more."""
    import pty

    sure(student()).save(tmp_path / "sure.safetensors")
    words = of_kitchen(kitchen, files, *imu_of(kitchen), "--events", "--out", tmp_path / "events.jsonl")
    words[2] = tmp_path / "sure.safetensors"
    usual, shown = live_command.Output.add, []
    main, other = pty.openpty()

    def add(self, *given):
        usual(self, *given)
        shown.append(given)
        if len(shown) == 6:
            os.close(main)
            signal.raise_signal(signal.SIGHUP)

    monkeypatch.setattr(live_command.Output, "add", add)
    with contextlib.suppress(OSError), open(other, "w") as screen, monkeypatch.context() as patch:
        for name in ("stdout", "stderr"):
            patch.setattr(sys, name, screen)
        with pytest.raises(SystemExit) as ended:
            cli.main(["live", *map(str, words)])
    assert ended.value.code == 129 and len(shown) >= 6
    event = json.loads((tmp_path / "events.jsonl").read_text())
    assert event["label"] == "wash" and event["stop"] > event["start"]


def test_signals_are_left_alone_by_a_thread_and_as_they_were():
    class Clock:
        interrupted = False

        def interrupt(self):
            self.interrupted = True

    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = [signal.getsignal(getattr(signal, name)) for name in names]

    def handlers():
        return [signal.getsignal(getattr(signal, name)) for name in names]

    with live_command.Interruption(clock := Clock()) as interruption:
        assert interruption.number is None and not set(map(id, handlers())) & set(map(id, before))
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert interruption.number == signal.SIGTERM and clock.interrupted
    assert handlers() == before
    with live_command.Interruption(Clock()) as interruption, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        assert interruption.number == signal.SIGINT
        signal.raise_signal(signal.SIGINT)  # again: at once
    assert handlers() == before
    ignored = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as under nohup
    try:
        with live_command.Interruption(Clock()):
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, ignored)
    seen = []

    def elsewhere():
        with live_command.Interruption(Clock()):
            seen.append(handlers())

    (thread := threading.Thread(target=elsewhere)).start()
    thread.join()
    assert seen == [before]


def test_a_model_that_fails_ends_the_run_after_its_answers_and_events(kitchen, files, capsys, monkeypatch, tmp_path):
    usual, count = EgoDistill.fuse, []

    def fuse(self, image, imu):
        count.append(1)
        if len(count) > 6:
            raise EgoDistillError("no power")
        return usual(self, image, imu)

    monkeypatch.setattr(EgoDistill, "fuse", fuse)
    sure(student()).save(tmp_path / "sure.safetensors")
    words = of_kitchen(kitchen, files, *imu_of(kitchen), "--fast")
    words[2] = tmp_path / "sure.safetensors"
    found, said = answers_of(capsys, *words, code=1)
    assert sum(bool(one["classes"]) for one in found) == 6
    assert f"answers: {len(found) + said.count('dropped')}" and said.endswith("egodistill live: no power\n")
    count.clear()
    (event,), said = answers_of(capsys, *words, "--events", "--out", tmp_path / "e.jsonl", code=1)
    assert event["label"] == "wash" and json.loads((tmp_path / "e.jsonl").read_text()) == event
    assert re.search(r"(?m)^answers: \d+ due, 6 with classes", said)


@posix_only
def test_a_reader_that_goes_leaves_the_running_event_in_the_file(kitchen, files, tmp_path, monkeypatch):
    """One that read a first event: what has ended until then, and what runs, is in the file."""
    sure(student()).save(tmp_path / "sure.safetensors")
    monkeypatch.setattr(live_command.events, "Tracker", lambda: TRACKER(min_seconds=0.0, max_pause=0.0))
    usual, count = EgoDistill.fuse, []

    def fuse(self, image, imu):
        count.append(1)
        output = usual(self, image, imu)
        return output._replace(logits=output.logits.roll(len(count) // 3, 1))

    monkeypatch.setattr(EgoDistill, "fuse", fuse)
    words = of_kitchen(kitchen, files, *imu_of(kitchen), "--fast", "--events", "--out", tmp_path / "e.jsonl")
    words[2] = tmp_path / "sure.safetensors"
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert cli.main(["live", *map(str, words)]) == 128 + 13
    found = [json.loads(line) for line in (tmp_path / "e.jsonl").read_text().splitlines()]
    assert [event["label"] for event in found] == ["wash", "cut", "take"]  # one that was printed, one that ran


# --- Sources that end early ------------------------------------------------------------------------------------


def sends(content):
    """The address of a TCP server that sends bytes and closes the connection."""
    server = socket.create_server(("127.0.0.1", 0))

    def send():
        with server, server.accept()[0] as connection:
            connection.sendall(content)

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture(scope="module")
def transport(tmp_path_factory):
    """Four seconds at 25 fps as an MPEG transport stream."""
    return Path(write_video(tmp_path_factory.mktemp("ts") / "a.ts", STEADY[:100], **X264)).read_bytes()


def test_a_sender_that_closes_its_connection_ends_early(files, transport, capsys, host_clock):
    address = sends(transport)
    words = [address, "--student", files / "frames.safetensors", "--precision", "fp32"]
    found, said = answers_of(capsys, *words, code=1)
    assert [one for one in found if one["classes"]] and re.search(r"(?m)^answers: \d+ due", said)
    assert said.endswith(f"egodistill live: {address}: the sender closed the connection\n")


def test_a_run_of_some_seconds_does_not_end_early(files, transport, capsys, host_clock):
    words = [sends(transport), "--student", files / "frames.safetensors", "--seconds", 2.3, "--precision", "fp32"]
    assert "closed" not in answers_of(capsys, *words)[1]


def test_an_address_that_comes_back_goes_on(files, transport, capsys, host_clock, monkeypatch):
    server, times = socket.create_server(("127.0.0.1", 0)), iter(range(2))

    def send():
        with server:
            for _ in times:
                with server.accept()[0] as connection:
                    connection.sendall(transport)

    threading.Thread(target=send, daemon=True).start()
    address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    words = [address, "--student", files / "frames.safetensors", "--reconnect", 2, "--precision", "fp32"]
    found, said = answers_of(capsys, *words, code=1)
    good = [one for one in found if one["classes"]]
    assert good[-1]["stop"] - good[0]["start"] > 6
    assert f"{address}: back after" in said and ", 1 reconnections" in said
    assert "did not come back in 2 s\n" in said and said.count("trying to open it again for 2 s") == 2


def cut(files, path, share):
    """Write the first samples of a recording to a file."""
    lines = (files / "samples.jsonl").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: round(share * len(lines))]))
    return path


@pytest.mark.parametrize("fast", [["--fast"], []])
def test_samples_that_end_before_the_video_end_early(fast, kitchen, files, capsys, host_clock, monkeypatch, tmp_path):
    for share, code in ((0.6, 1), (1.0, 0)) if fast else ((0.6, 1),):
        samples_from(monkeypatch, cut(files, tmp_path / "cut.jsonl", share))
        found, said = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", "-", *fast), code=code)
        assert found and re.search(r"(?m)^answers: \d+ due", said)
        told = r"standard input: its last sample is at \d\.\d\d s, but the video goes on until \d\.\d\d s\n$"
        assert bool(re.search(told, said)) == (code == 1)


def test_a_pipe_of_samples_that_is_closed_while_a_camera_runs_ends_early(files, capsys, monkeypatch, tmp_path):
    samples_from(monkeypatch, cut(files, tmp_path / "cut.jsonl", 0.5))
    words = ["tcp://127.0.0.1:9", "--student", files / "student.safetensors", "--imu", "-", "--precision", "fp32"]
    monkeypatch.setattr(feeds.VideoFeed, "__iter__", camera)
    _, said = answers_of(capsys, *words, "--frame-offset", -time.time(), code=1)
    assert said.endswith(" s, and frames go on coming\n") and "standard input: its last sample is at " in said


def camera(self):
    while self.clock.sleep(0.02):
        yield self.clock.unix(), np.zeros((4, 4, 3), np.uint8)


@pytest.mark.parametrize("imu", ["lines", "table"])
def test_samples_that_stop_while_a_camera_runs_end_early(imu, files, capsys, monkeypatch, tmp_path):
    words = ["tcp://127.0.0.1:9", "--student", files / "student.safetensors", "--precision", "fp32", "--timeout", 0.5]
    monkeypatch.setattr(feeds.VideoFeed, "__iter__", camera)
    reader, writer = os.pipe()
    samples = cut(files, tmp_path / "cut.jsonl", 0.3) if imu == "lines" else files / "table.csv"
    os.write(writer, samples.read_bytes()[:60_000])
    monkeypatch.setattr(live_command, "standard_input", lambda: reader)
    _, said = answers_of(capsys, *words, "--imu", "-", "--frame-offset", -time.time(), code=1)
    assert said.endswith("egodistill live: standard input: nothing came for 0.5 s\n")
    os.close(writer)


def test_the_table_of_a_recording_can_have_another_clock_and_no_accelerometer(kitchen, files, tmp_path, capsys):
    times, gyro = (getattr(kitchen[0].recording.motion(), name) for name in ("gyro_time", "gyro"))

    def table(name, stamps, readings):
        rows = np.column_stack([stamps, readings])
        columns = "time,ax,ay,az,gx,gy,gz" if rows.shape[1] == 7 else "time,gx,gy,gz"
        np.savetxt(tmp_path / name, rows, "%.9f", ",", header=columns, comments="")
        return tmp_path / name

    filled = table("zeros.csv", times, np.hstack([0 * gyro, gyro]))
    bare = table("gyro.csv", 5000 + 2 * times, gyro)
    clock = ["--imu-offset", -2500, "--imu-stretch", 0.5, "--zero-accel"]
    expected, _ = answers_of(capsys, *of_kitchen(kitchen, files, "--fast", "--imu", filled))
    found, _ = answers_of(capsys, *of_kitchen(kitchen, files, "--fast", "--imu", bare, *clock))
    assert len(found) > 3 and [one["classes"] for one in found] == [one["classes"] for one in expected]


# --- Errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("none.mp4", "none.mp4: no such file"),
        ("steady.mp4", "accelerometer and gyroscope; give a table of its readings beside it, steady.csv"),
        ("tcp://127.0.0.1:9", "reads IMU samples; give them on standard input (--imu -)"),
        ("ftp://host/a.mp4", "not an address that can be read"),
        (
            "tcp://127.0.0.1:9 --imu frames.safetensors",
            "--imu: tcp://127.0.0.1:9 is live; give its samples on standard input",
        ),
        ("tcp://127.0.0.1:9 --imu - --fast", "tcp://127.0.0.1:9: only a file can be read faster"),
        ("steady.mp4 --imu - --align arrival", "--align arrival: steady.mp4 is a file"),
        ("steady.mp4 --imu - --reconnect 5", "--reconnect: steady.mp4 is a file; only an address can be opened again"),
        ("steady.mp4 --imu - --fast --timeout 5", "--timeout: nothing here is live"),
        ("steady.mp4 --timeout 5", "--timeout: nothing here is live"),
        ("steady.mp4 --imu - --period 3", "--period: not used with --frames centre"),
        ("steady.mp4 --imu - --frames newest --tolerance 1", "--tolerance: not used with --frames newest"),
        ("steady.mp4 --imu - --frame-stretch 0", "frame_clock[1] (--frame-stretch) must be a number"),
        ("steady.mp4 --imu -", "--imu -: nothing is piped into standard input"),
        (
            "steady.mp4 --student frames.safetensors --imu -",
            "--imu: the student in frames.safetensors reads no IMU samples",
        ),
        ("tcp://127.0.0.1:9 --imu - --reader m:a", "--reader: only for recordings; these samples are live"),
        ("steady.mp4 --imu - --imu-reader .log=m:a", "--imu-reader: only for recordings; these samples are live"),
        ("steady.mp4 --imu - --imu-offset 1", "--imu-offset: only for recordings; these samples are live"),
        ("steady.mp4 --imu - --imu-stretch 2", "--imu-stretch: only for recordings; these samples are live"),
        ("steady.mp4 --imu - --zero-accel", "--zero-accel: only for recordings; these samples are live"),
        (
            "steady.mp4 --student frames.safetensors --imu-offset 1",
            "--imu-offset: the student in frames.safetensors reads no IMU",
        ),
        (
            "steady.mp4 --student frames.safetensors --imu-reader .log=mine:read_log",
            "--imu-reader: the student in frames.safetensors",
        ),
        ("steady.mp4 --imu frames.safetensors --reader mine:wrist", "--reader: finds the IMU itself; leave out --imu"),
    ],
)
def test_an_error_is_one_line(words, told, files, steady, capsys, monkeypatch):
    monkeypatch.chdir(files)
    if not Path("steady.mp4").exists():
        Path("steady.mp4").symlink_to(steady)
    monkeypatch.setattr(sys, "stdin", None)
    if "--frame-stretch" in words:
        monkeypatch.setattr(live_command, "standard_input", lambda: os.open(os.devnull, os.O_RDONLY))
    command = ["live", *words.split(), "--precision", "fp32"]
    command += [] if "--student" in words else ["--student", "student.safetensors"]
    with mock.patch.dict(IMU_READERS):  # --imu-reader is for the whole process
        assert cli.main(command) == 1
    printed = capsys.readouterr()
    (said,) = printed.err.strip().splitlines()
    assert said.startswith("egodistill live: ") and told in said and not printed.out


# --- Output ------------------------------------------------------------------------------------------------


def answer(k=0, **changes):
    given = {"frame_age": (1.07,), "delay": 0.012, "lag": 0.06, "encoded": 1, "seconds": 0.01}
    return live.Answer(0.5 * k, 0.5 * k + CLIP, [("wash", 0.83)], **(given | changes))


def test_events_end_when_the_clock_is_restarted(capsys):
    output = live_command.Output(as_json=True, tracker=TRACKER())
    for k in (100, 101, 102, 103, 104, 0, 1, 2, 3, 4):
        output.add(answer(k), 1.0)
    output.finish()
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [round(event["start"] - CLIP / 2, 6) for event in found] == [50.0, 0.0]


def test_the_line_of_a_terminal_fits():
    line = live_command.status_line(answer(), 12.5, 0.04, 99)
    assert len(line) == 99
    assert line.split() == ("12.50 s wash 0.83 frame 1.07 s lag 0.06 s delay 12 ms camera on 4 %".split())
    long = live_command.status_line(answer()._replace(classes=[("turn on the tap " * 5, 0.5)]), 12.5, 1.0, 99)
    assert len(long) == 99 and "turn on the" in long and "... 0.50  frame" in long
    problem = answer()._replace(classes=[], problem="no frame within 0.5 s of its place", frame_age=())
    assert "no answer: no frame" in live_command.status_line(problem, 1.0, 1.0, 99)
    odd = answer()._replace(classes=[("wa\x1b[2J\nsh", 0.5)])
    assert "  wa\\x1b[2J\\nsh  " in live_command.status_line(odd, 1.0, 1.0, 99)
    assert " 0.0042  " in live_command.status_line(answer()._replace(classes=[("wash", 0.0042)]), 1.0, 1.0, 99)
    both = ("frames", "imu")
    for inputs, reads, word in (
        (both, both, "wash 0.83"),
        (("imu",), both, "wash (imu alone) 0.83"),
        (("imu",), ("imu",), "wash 0.83"),
    ):
        left = live_command.status_line(answer(inputs=inputs), 12.5, 0.04, 99, reads)
        assert len(left) == 99 and " ".join(left.split("frame ")[0].split()) == f"12.50 s {word}"
    cut = answer(inputs=("imu",))._replace(classes=[("turn on the tap " * 5, 0.5)])  # the name, not what was lacking
    assert "... (imu alone) 0.50" in live_command.status_line(cut, 12.5, 1.0, 99, both)
    for width in range(1, 200):
        assert len(live_command.status_line(answer(inputs=("imu",)), 12.5, 0.04, width, both)) <= width
    assert live_command.status_line(answer(), 12.5, 0.04, 40).split() == ["12.50", "s", "wash", "0.83"]


def test_the_latency_report_separates_what_it_measures():
    latency = live_command.Latency(load_seconds=2.0)
    for seconds in (0.5, *[0.3] * live_command.WARM_UP):
        latency.add(answer(seconds=seconds))
    for k in range(101):
        latency.add(answer(seconds=k / 1000, encoded=2))
        latency.add(answer(seconds=k / 10_000, encoded=0))
        latency.add(answer(seconds=99.0)._replace(problem="no frame", classes=[]))
    assert latency.lines(dropped=5, due=1000, megabytes=None) == [
        "init          load 2.00 s, first answer 500.0 ms",
        "warm-up       5 answers, mean 300.0 ms",
        "with a frame  101 answers, p50 50.0 ms, p95 95.0 ms, p99 99.0 ms",
        "no new frame  101 answers, p50 5.0 ms, p95 9.5 ms, p99 9.9 ms",
        "dropped       0.5 % of 1,000 answers",
        "memory        unknown",
    ]
    assert live_command.Latency(1.0).lines(dropped=0, due=0, megabytes=10)[:1] == [
        "init          load 1.00 s, first answer none"
    ]


def test_the_peak_of_the_memory_is_that_of_this_process():
    assert 50 < live_command.peak_megabytes() < 50_000


def test_the_summary_names_all_losses():
    source = live_command.Source.__new__(live_command.Source)
    source.video = type("Video", (), {"dropped": 3, "broken": 2, "reconnections": 5})
    source.samples = type("Samples", (), {"bad": 7})
    stats = arrivals.Stats(due=9, given=6, problems=2, dropped=1, requests=4, answered=3, frames=50, encoded=5)
    stats.refused, stats.replaced, stats.samples, stats.late, stats.restarts = 40, 4, 1234, 8, 1
    assert live_command.summary(source, stats, 0.125) == [
        "answers: 9 due, 6 with classes, 2 with a problem, 1 dropped; camera on 12.5 % of the time, "
        "3 of 4 frame requests answered",
        "input: 50 frames, 5 encoded, 44 not needed, 3 skipped by the decoder, 2 broken; 1,234 readings, 8 late, "
        "0 double, 0 invalid, 7 bad lines, 1 restarts of the clock, 5 reconnections",
    ]


# --- A real recording --------------------------------------------------------------------------------------


def test_a_gopro_file(sample, files, capsys):
    video = sample("gopro/max-heromode.mp4")
    words = ["--student", files / "student.safetensors", "--fast", "--precision", "fp32", "--seconds", 6]
    found, said = answers_of(capsys, video, *words)
    good = [one for one in found if one["problem"] is None]
    assert len(good) >= 3, (found, said)
    assert all(abs(one["frame_age"][0] - CLIP / 2) < 0.05 for one in good)


def test_a_folder_of_a_neon_is_its_video(sample, files, capsys):
    """`predict` and `check` take either."""
    video = Path(sample("neon/scene_300p.mp4"))
    words = ["--student", files / "student.safetensors", "--fast", "--precision", "fp32", "--seconds", 2.5]
    found = [answers_of(capsys, source, *words)[0] for source in (video.parent, video)]
    assert [one for one in found[0] if one["classes"]]
    assert [(one["start"], one["classes"]) for one in found[0]] == [(one["start"], one["classes"]) for one in found[1]]


def test_an_exported_pair_takes_the_place_of_the_student(kitchen, files, tmp_path, capsys):
    recording = kitchen[0].recording
    words = [recording.video, "--imu", *recording.imu, "--fast", "--every", EVERY, "--precision", "fp32"]
    wanted, _ = answers_of(capsys, *words, "--student", files / "student.safetensors")
    export.export_pair(EgoDistill.load(files / "student.safetensors"), tmp_path / "device.pt2")
    found, said = answers_of(capsys, *words[:-1], "auto", "--student", tmp_path / "device.pt2")
    assert "precision fp32, in which the file was exported" in said
    assert len(found) == len(wanted) > 3
    for one, other in zip(found, wanted, strict=True):
        assert dict(one["classes"]) == pytest.approx(dict(other["classes"]), abs=1e-4)
    (tmp_path / "device.frame.pt2").unlink()
    assert cli.main(["live", *map(str, words), "--student", str(tmp_path / "device.pt2")]) == 1
    assert "device.frame.pt2: no such file" in capsys.readouterr().err


def test_samples_in_other_axes_are_turned_or_refused(kitchen, files, capsys, fast, monkeypatch, tmp_path):
    """Samples that come and samples of a table alike: turned back, the answers are the same."""
    rows = [json.loads(line) for line in (files / "samples.jsonl").read_text().splitlines()]
    cells = ["time,ax,ay,az,gx,gy,gz"]
    for row in rows:  # to (y, -x, z): `yXZ` undoes it
        sensor = "accel" if "accel" in row else "gyro"
        x, y, z = row[sensor]
        row[sensor] = [y, -x, z]
        empty = [""] * 3
        cells.append(",".join(map(str, [row["time"], *row.get("accel", empty), *row.get("gyro", empty)])))
    other, table = tmp_path / "other.jsonl", tmp_path / "other.csv"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table.write_text("\n".join(cells) + "\n")
    for imu in ("-", table):
        samples_from(monkeypatch, other)
        found, _ = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", imu, "--imu-axes", "yXZ", "--fast"))
        assert [one["start"] for one in found] == pytest.approx([one["start"] for one in fast])
        for one, known in zip(found, fast, strict=True):
            assert dict(map(tuple, one["classes"])) == pytest.approx(dict(map(tuple, known["classes"])), abs=1e-5)
        samples_from(monkeypatch, other)
        found, _ = answers_of(capsys, *of_kitchen(kitchen, files, "--imu", imu, "--fast"))
        assert dict(map(tuple, found[0]["classes"])) != pytest.approx(dict(map(tuple, fast[0]["classes"])), abs=1e-5)
        samples_from(monkeypatch, other)
        words = ["--imu", imu, "--imu-axes", "glasses", "--fast"]
        _, said = answers_of(capsys, *of_kitchen(kitchen, files, *words), code=1)
        assert "the axes of its samples are 'glasses', those of the clips 'gopro'" in said


# --- Head motion alone ---------------------------------------------------------------------------------------


def test_head_motion_alone_needs_no_source(tmp_path, monkeypatch, capsys, host_clock):
    """A pipe, a growing table, a file: the answers are those of predict(), also where times begin late."""
    network = student(image_encoder=None)
    network.save(tmp_path / "s.safetensors")
    log = write_log(tmp_path / "log.csv", begin=300.0, seconds=6.0)
    rows = [line.split(",") for line in log.read_text().splitlines()[1:]]
    lines = [
        json.dumps({"time": float(t), "accel": [*map(float, values[:3])], "gyro": [*map(float, values[3:])]})
        for t, *values in rows
    ]
    (tmp_path / "log.jsonl").write_text("\n".join(lines) + "\n")
    options = {"stride": 0.5, "top": 4, "batch_size": 1, "precision": "fp32", "device": "cpu"}
    predicted = list(inference.predict(network, None, log, **options))
    assert [clip.start for clip in predicted[:2]] == [300.0, 300.5] and not any(clip.problem for clip in predicted)
    words = ["--student", tmp_path / "s.safetensors", "--top", 4, "--precision", "fp32", "--fast"]
    samples_from(monkeypatch, tmp_path / "log.jsonl")
    piped, said = answers_of(capsys, "--imu", "-", *words)
    filed, _ = answers_of(capsys, "--imu", log, *words)
    assert "camera on 0.0 % of the time" in said and "0 frames" in said
    for found in (piped, filed):
        assert len(found) == 8
        for answer, clip in zip(found, predicted, strict=False):
            assert (answer["start"], answer["problem"], answer["frame_age"]) == (pytest.approx(clip.start), None, [])
            assert dict(map(tuple, answer["classes"])) == pytest.approx(dict(clip.classes), abs=2e-6)
    samples_from(monkeypatch, tmp_path / "log.jsonl")
    alive, _ = answers_of(capsys, "--imu", "-", *words[:-1], "--every", 0.5)  # all at once: the last ones are given
    assert alive and alive[-1]["start"] == filed[-1]["start"] and alive[-1]["classes"] == filed[-1]["classes"]
    real, _ = answers_of(capsys, "--imu", log, *words[:-1], "--seconds", 3)
    assert real[0]["start"] == 300.0 and real[0]["classes"] == filed[0]["classes"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--student alone.safetensors", "there is no SOURCE; give one, or head motion alone"),
        ("--student student.safetensors --imu log.csv", "reads frames; give a SOURCE of them"),
        (
            "--student alone.safetensors --imu - --frames newest",
            "--frames newest: about frames, and there is no SOURCE",
        ),
        (
            "--student alone.safetensors --imu - --align arrival --frame-offset 1",
            "--frame-offset, --align arrival: about frames",
        ),
        ("tcp://127.0.0.1:9 --student alone.safetensors --imu -", "reads no frames; leave out tcp://127.0.0.1:9"),
    ],
)
def test_a_source_that_is_missing_or_not_read_is_an_error(words, said, files, tmp_path, monkeypatch, capsys):
    student(image_encoder=None).save(tmp_path / "alone.safetensors")
    (tmp_path / "student.safetensors").write_bytes((files / "student.safetensors").read_bytes())
    write_log(tmp_path / "log.csv", seconds=3.0)
    monkeypatch.chdir(tmp_path)
    samples_from(monkeypatch, tmp_path / "log.csv")
    assert cli.main(["live", *words.split()]) == 1
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_video_may_be_only_where_the_samples_are(kitchen, tmp_path, capsys):
    """Of a student without frames, a file is opened for its head motion; no picture is decoded."""
    student(image_encoder=None).save(tmp_path / "s.safetensors")
    words = ["--student", tmp_path / "s.safetensors", "--fast", "--every", EVERY, "--precision", "fp32"]
    found, said = answers_of(capsys, kitchen[0].video, *imu_of(kitchen), *words)
    alone, _ = answers_of(capsys, *imu_of(kitchen), *words)
    assert [one["classes"] for one in found] == [one["classes"] for one in alone] and "0 frames" in said
