"""The page in examples/web: its stream answers as Python's, with an imitated camera and imitated sensors, too."""

import base64
import dataclasses
import importlib
import itertools
import json
import math
import re
import shutil
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest
import torch
import torchvision
from chromium import Chromium
from painted import STEADY, X264, write_video
from phone import (
    GRAVITY,
    RUNTIME,
    SENSORS,
    WEB,
    Head,
    Node,
    Served,
    camera_switches,
    choose,
    compare,
    comparison,
    copy_page,
    film_pictures,
    lively,
    painted,
    start,
    write_camera,
)
from streams import CLIP, samples, student
from waiting import until

from egodistill import Stream
from egodistill.cameras import axes_and_turn
from egodistill.data import IMUError, read_imu
from egodistill.deploy import events, gates
from egodistill.deploy.descriptions import fingerprint, instructions
from egodistill.engine.calibration import Calibration
from egodistill.imu import Imu
from egodistill.inference import Prediction

SIZE = 32


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A copy of the example, as it is served."""
    return copy_page(tmp_path_factory.mktemp("web"))


@pytest.fixture(scope="module")
def address(folder):
    with Served(folder) as found:
        yield found


def picture(seed):
    return painted(seed, SIZE)


@pytest.fixture(scope="module")
def pairs(folder):
    """Exported pairs with one and two frames, and one in int8, beside the page: {name: pair}."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f'needs {package}: pip install ".[export]"')
    if not RUNTIME.is_dir():
        pytest.skip("needs onnxruntime-web: npm ci --ignore-scripts --prefix examples/web")
    from egodistill.deploy import export

    found = {}
    for name, frames, precision in (("one", 1, "fp32"), ("two", 2, "fp32"), ("int8", 1, "int8")):
        if precision == "int8" and importlib.util.find_spec("torchao") is None:
            continue
        model = lively(student(frames))
        model.calibration = Calibration(float(frames))
        with pytest.warns() if precision == "int8" else no_block():
            export.export_pair(model, folder / f"{name}.onnx", format="onnx", precision=precision)
        found[name] = export.load_pair(folder / f"{name}.onnx")
    return found


class no_block:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None


@pytest.fixture(scope="module")
def browser():
    with Chromium() as found:
        yield found


# --- The stream -------------------------------------------------------------------------------------------------


def recording(rate, seconds, seed=0):
    """Samples in order of arrival, as uneven, late, doubled and lost as they come, and frames at 10 fps."""
    rng = np.random.default_rng(seed)
    times = np.sort((np.arange(round(seconds * rate)) + rng.uniform(0, 0.8, round(seconds * rate))) / rate) + 3.1
    fast = 1 + 2.5 * (np.sin(times / 3) > 0.6)  # bursts of fast turns, which open the gate
    turns = np.sin(np.outer(times, [1.3, 2.1, 3.7]) + rng.uniform(0, 6, 3)) * 0.6 * fast[:, None]
    accel = np.sin(np.outer(times, [2.0, 1.1, 0.7])) * 2 + [0, 0, GRAVITY]
    order = np.argsort(np.arange(len(times)) + rng.uniform(0, 0.04 * rate, len(times)), kind="stable")
    order = np.concatenate([order, order[:1]])
    rows = np.column_stack([times, accel, turns])[order]
    rows = rows[rows[:, 0] % 5 > 0.04]
    moments = (np.arange(round(seconds * 10)) / 10 + 3.07).tolist()
    return rows.tolist(), [(moment, picture(k)) for k, moment in enumerate(moments)]


def pieces(rows, frames, size):
    """The input in the order in which both streams get it: (samples, frames that the camera could take then)."""
    waiting = list(frames)
    for place in range(0, len(rows), size):
        part = rows[place : place + size]
        end, ready = max(row[0] for row in part), []
        while waiting and waiting[0][0] <= end:
            ready.append(waiting.pop(0))
        yield part, ready


def without(rows, frames, imu, camera):
    """The same in steps of 0.1 s, without the samples and without the frames of a span of time each."""
    kept = [
        [one for one in found if not low <= one[0] < high] for found, (low, high) in ((rows, imu), (frames, camera))
    ]
    for begin in np.arange(3.0, frames[-1][0], 0.1):
        yield [[one for one in found if begin <= one[0] < begin + 0.1] for found in kept]


FEED = """
async ({ file, student, options }) => {
  const [{ Stream, moved }, { openPair }, ort] = await Promise.all([
    import("./stream.mjs"), import("./pair.mjs"), import("./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"),
  ]);
  ort.env.wasm.numThreads = 1;
  const stream = new Stream(await openPair(ort, student), options);
  const answers = [];
  for (const { samples, frames } of await (await fetch(file)).json()) {
    for (const { time, pixels } of frames) {
      const picture = Uint8Array.from(atob(pixels), (letter) => letter.charCodeAt(0));
      if (stream.wantsFrame(time)) stream.acceptFrame(time, picture);
    }
    stream.acceptMotion(samples.map(([time]) => time), samples.map(([, ...reading]) => reading));
    answers.push(...(await stream.results()));
  }
  return { answers, stats: stream.stats };
}
"""


def answers_of_both(browser, address, folder, pair, name, rate, seconds=56.0, lost=None, before=False, **options):
    """The answers of a Python stream and of the page's, for the same input, and their number of looks."""
    rows, frames = recording(rate, seconds)
    given, ours = [], []
    about = {"frames": "newest", "top": 7, "precision": "fp32", "before_frames": before, "report": lambda state: None}
    with Stream(pair, **about, **options) as stream:
        for part, ready in pieces(rows, frames, round(rate / 10)) if lost is None else without(rows, frames, *lost):
            for moment, pixels in ready:
                if stream.wants_frame(moment):
                    stream.accept_frame(moment, pixels)
            table = np.array(part).reshape(-1, 7)
            stream.accept_imu(table[:, 0], table[:, 1:])
            ours += stream.results()
            planes = [(t, base64.b64encode(p.transpose(2, 0, 1).tobytes()).decode()) for t, p in ready]
            given.append({"samples": part, "frames": [{"time": t, "pixels": p} for t, p in planes]})
        looks = stream.stats.answered
    (folder / "input.json").write_text(json.dumps(given))
    browser.open(f"{address}blank.html")
    about = {"file": f"{address}input.json", "student": f"{address}{name}.onnx"}
    about["options"] = {"top": 7, **options} | ({"beforeFrames": True} if before else {})
    found = browser.run(f"({FEED})({json.dumps(about)})")
    assert found["stats"]["looks"] == looks and 5 < looks < len(frames) / 5
    return ours, found["answers"]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert (one.start, one.stop) == pytest.approx((other["start"], other["stop"]), abs=1e-9)
        assert list(one.frame_age) == pytest.approx(other["ages"], abs=1e-9)
        assert one.encoded == other["encoded"] and (one.problem is None) == (other["problem"] is None)
        assert [*one.inputs] == other["inputs"]
        assert dict(one.classes) == pytest.approx(dict(other["classes"]), abs=1e-3)


@pytest.mark.slow("a browser")
@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [("one", 60, {}), ("one", 400, {"period": 1.0}), ("two", 60, {})],
    ids=["one frame", "a fast sensor", "two frames"],
)
def test_the_stream_of_the_page_answers_as_pythons(browser, address, folder, pairs, name, rate, options):
    ours, theirs = answers_of_both(browser, address, folder, pairs[name], name, rate, **options)
    assert_same(ours, theirs)
    given = [one for one in ours if one.problem is None]
    assert len(given) >= 100 and len({one.classes[0][0] for one in given}) > 3


@pytest.fixture(scope="module")
def node(folder):
    return Node(folder)


@pytest.fixture(scope="module")
def optional(node, folder):
    """A pair that can do without frames or head motion, beside the page, and its student."""
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason=f'needs {package}: pip install ".[export]"')
    if not RUNTIME.is_dir():
        pytest.skip("needs onnxruntime-web: npm ci --ignore-scripts --prefix examples/web")
    from egodistill.deploy import export

    model = student(optional_inputs=True)
    for vector in (model.no_frames, model.no_imu):
        torch.nn.init.normal_(vector, 0, 0.1, torch.Generator().manual_seed(0))
    lively(model).calibration = Calibration(2.0, 100, None, {"frames": 4.0, "imu": 0.5})
    export.export_pair(model, folder / "optional.onnx", format="onnx")
    return model, export.load_pair(folder / "optional.onnx")


MIXES = """
async ({ student, pixels, samples }) => {
  const [{ openPair }, ort] = await Promise.all([
    import("./pair.mjs"), import("./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs"),
  ]);
  ort.env.wasm.numThreads = 1;
  const pair = await openPair(ort, student);
  const [feature, window] = [await pair.encodeFrame(Uint8Array.from(pixels)), Float32Array.from(samples)];
  const given = [[[feature], window], [[feature], null], [null, window]];
  const found = [];
  for (const [features, imu] of given) found.push([...(await pair.fuse(features, imu))]);
  const temperatures = [["frames", "imu"], ["frames"], ["imu"]].map(pair.temperatureOf);
  return [found, temperatures, await pair.fuse(null, null).catch((error) => error.message)];
}
"""


def test_a_pair_of_the_page_does_without_what_is_optional(node, address, optional):
    model, _ = optional
    frames = torch.from_numpy(picture(1).transpose(2, 0, 1).copy())[None, None]
    imu = torch.randn(1, 422, 6, generator=torch.Generator().manual_seed(0))
    about = {
        "student": f"{address}optional.onnx",
        "pixels": frames.flatten().tolist(),
        "samples": imu.flatten().tolist(),
    }
    logits, temperatures, told = node.run(f"({MIXES})({json.dumps(about)})")
    with torch.no_grad():
        wanted = [model(*mix).logits[0].tolist() for mix in ((frames, imu), (frames, None), (None, imu))]
    for one, other in zip(logits, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert temperatures == [2.0, 4.0, 0.5] and told == "An answer needs image features or head motion."
    assert len({round(one[0], 3) for one in wanted}) == 3


NEVER = (0, 0)


@pytest.mark.parametrize(
    ("lost", "before", "seen"),
    [
        ([(0, 8), (13, 22)], False, [("frames",), ("frames", "imu"), ("imu",), ("frames", "imu")]),
        ([(12, 22), (14, 24)], False, [("frames", "imu"), ("frames",), (), ("frames", "imu")]),
        ([NEVER, (0, 9)], False, [(), ("frames", "imu")]),
        ([NEVER, (0, 9)], True, [("imu",), ("frames", "imu")]),
    ],
    ids=["either", "neither", "no frames at first", "head motion at first"],
)
def test_the_stream_of_a_pair_with_optional_inputs_answers_as_pythons(
    node, address, folder, optional, lost, before, seen
):
    ours, theirs = answers_of_both(node, address, folder, optional[1], "optional", 60, 28.0, lost, before)
    assert_same(ours, theirs)
    assert [key for key, _ in itertools.groupby(one.inputs for one in ours)] == seen


@pytest.mark.slow("a browser")
def test_int8_gives_the_labels_of_python(browser, address, folder, pairs):
    if "int8" not in pairs:
        pytest.skip("needs torchao for int8")
    if not instructions().get("avx512_vnni"):
        pytest.skip("without VNNI, onnxruntime's int8 products saturate on x86, and those of WebAssembly do not")
    ours, theirs = answers_of_both(browser, address, folder, pairs["int8"], "int8", 60, seconds=160.0)
    labels = [(one.classes[0][0], other["classes"][0][0]) for one, other in zip(ours, theirs, strict=True)]
    assert len(labels) > 300 and len({one for one, _ in labels}) > 3
    assert sum(one == other for one, other in labels) >= 0.99 * len(labels)


HOUR = """
async () => {
  const { Stream } = await import("./stream.mjs");
  const pair = {
    spec: { frames: 1, size: 1, imu_samples: 422, imu_rate: 198, seconds: 64 / 30 }, classNames: ["a", "b"],
    temperatureOf: () => 1,
    encodeFrame: async (picture) => Float32Array.from(picture), fuse: async () => Float32Array.of(0, 1),
  };
  const stream = globalThis.stream = new Stream(pair);
  globalThis.minutes = async (from, to) => {
    let longest = 0;
    for (let i = 3600 * from; i < 3600 * to; i++) {
      const time = i / 60;
      if (i % 6 === 0 && stream.wantsFrame(time)) stream.acceptFrame(time, new Uint8Array(3));
      stream.acceptMotion([time], [[0, 0, 9.8, 2 * Math.sin(time), 0, 0]]);
      await stream.results();
      const lengths = stream.sensors.map((sensor) => sensor.times.length);
      longest = Math.max(longest, stream.kept.length, stream.pending.length, ...lengths);
    }
    return longest;
  };
}
"""


@pytest.mark.slow("a browser")
def test_an_hour_of_samples_needs_no_more_memory_than_five_minutes(browser, address):
    def used():
        browser.ask("HeapProfiler.collectGarbage")
        return browser.ask("Runtime.getHeapUsage")["usedSize"]

    browser.open(f"{address}blank.html")
    browser.run(f"({HOUR})()")
    longest, before = browser.run("minutes(0, 5)"), used()
    assert browser.run("minutes(5, 60)") <= longest < 60 * (64 / 30 + 0.5 + 0.2)
    assert used() < before + 200_000
    stats = browser.run("stream.stats")
    assert stats["given"] > 7150 and stats["looks"] > 900 and stats["dropped"] == 0


def test_events_are_those_of_python(browser, address):
    rng, cases, told = np.random.default_rng(0), [], []
    for _ in range(200):
        moment, answers = 0.0, []
        for _ in range(40):
            moment += rng.choice([0.5, 0.5, 0.5, 1.0, 4.0])
            scores = zip(("a", "b", "(none)"), rng.dirichlet([0.4] * 3).tolist(), strict=True)
            scores = sorted(scores, key=lambda one: -one[1])
            answers.append(Prediction(moment, moment + 2, [] if rng.random() < 0.1 else scores[: rng.integers(2, 4)]))
        cases.append([one._asdict() for one in answers])
        told.append(answers)
    code = """async ({ cases, own }) => {
      const { Tracker } = await import("./stream.mjs");
      return cases.map((answers) => {
        const tracker = Tracker.of(own, 0.5);
        const found = [...answers.flatMap((answer) => tracker.add(answer)), ...tracker.finish()];
        return found.map(({ start, stop, label, score }) => [start, stop, label, score]);
      });
    }"""
    browser.open(f"{address}blank.html")
    own = {"start": 0.5, "end": 0.3, "min_seconds": 1.0, "max_pause": 0.5, "stride": 0.5}
    for thresholds in (None, own, own | {"stride": 0.25}):
        found = browser.run(f"({code})({json.dumps({'cases': cases, 'own': thresholds})})")
        given = dataclasses.asdict(events.choose_tracker(thresholds, 0.5)[0])
        wanted = [[list(event) for event in events.events(answers, **given)] for answers in told]
        assert found == wanted and sum(map(len, wanted)) > 300


def test_the_gate_is_the_default_one_of_python(browser, address):
    rng = np.random.default_rng(0)
    windows = [(rng.normal(size=(422, 6)) * scale).astype(np.float32) for scale in np.linspace(0.3, 1.7, 15)]
    wanted = [gates.Moved(gates.FAST)(window, [1.0], 12.0) for window in windows]
    code = """async (windows) => {
      const { moved } = await import("./stream.mjs");
      return windows.map((window) => moved()(Float32Array.from(window)));
    }"""
    browser.open(f"{address}blank.html")
    assert browser.run(f"({code})({json.dumps([one.ravel().tolist() for one in windows])})") == wanted
    assert True in wanted and False in wanted


# --- Head motion ------------------------------------------------------------------------------------------------


def read_phone(browser, events, angle=0):
    code = """async ([events, angle]) => {
      const { Phone } = await import("./motion.mjs");
      const phone = new Phone();
      return events.flatMap(([timeStamp, [x, y, z], [alpha, beta, gamma]]) => phone.read(
        { timeStamp, accelerationIncludingGravity: { x, y, z }, rotationRate: { alpha, beta, gamma } }, angle));
    }"""
    return browser.run(f"({code})({json.dumps([events, angle])})")


@pytest.mark.parametrize("sign", [1, -1], ids=["the standard's sign", "an iPhone's sign"])
@pytest.mark.parametrize(
    ("angle", "rest", "place"),
    [(0, [0, 1, 0], 2), (0, [0, 0, 1], 1), (90, [1, 0, 0], 2), (270, [-1, 0, 0], 2), (180, [0, -1, 0], 2)],
    ids=["upright", "on its back", "turned to the left", "turned to the right", "upside down"],
)
def test_a_phone_at_rest_reads_gravity_upwards(browser, address, angle, rest, place, sign):
    """And the part that moves has the same sign as gravity, since an iPhone negates the whole acceleration."""
    browser.open(f"{address}blank.html")
    moving = np.array([0.3, 0.0, 0.0]) if angle in (0, 180) else np.array([0.0, 0.3, 0.0])
    accel = sign * (GRAVITY * np.array(rest) + moving)
    found = read_phone(browser, [[1000 / 60 * k, accel.tolist(), [0, 0, 0]] for k in range(60)], angle)
    assert len(found) == 60
    reading = found[-1]["reading"]
    assert reading[place] == pytest.approx(GRAVITY)
    assert reading[0] == pytest.approx({0: -0.3, 180: 0.3, 90: 0.3, 270: -0.3}[angle])


def test_axes_and_units_of_a_phone_are_those_of_imu_axes(browser, address):
    """A table with the phone's own axes is read with --imu-axes xZY: the same readings."""
    browser.open(f"{address}blank.html")
    rng = np.random.default_rng(0)
    accel, turns = rng.normal([0, GRAVITY, 0], size=(60, 3)), rng.normal(size=(60, 3))
    events = [[1000 / 60 * k, accel[k].tolist(), np.degrees(turns[k]).tolist()] for k in range(60)]
    found = [one["reading"] for one in read_phone(browser, events)]
    stamps = np.arange(60) / 60
    wanted = Imu(stamps, accel, stamps, turns).in_axes(*axes_and_turn("xZY"))
    assert wanted.axes == "gopro"
    assert np.allclose(found, np.column_stack([wanted.accel, wanted.gyro]))


def read_tables(browser, *paths):
    given = [{"name": path.name, "text": path.read_text()} for path in paths]
    code = "async (files) => (await import('./tables.mjs')).readTables(files)"
    return browser.run(f"({code})({json.dumps(given)}).catch((error) => error.message)")


def test_tables_are_read_as_python_reads_them(browser, address, tmp_path):
    rng = np.random.default_rng(0)
    rows = np.column_stack([np.arange(50) / 50, rng.normal([0, 0, GRAVITY, 0, 0, 0], size=(50, 6))])
    own, accel, gyro, log = (tmp_path / name for name in ("own.csv", "accl.csv", "gyro.csv", "log.jsonl"))
    np.savetxt(own, rows[:, [4, 5, 6, 0, 1, 2, 3]], "%.9g", delimiter=",", header="gx,GY,gz,time,ax,ay,az", comments="")
    for path, name, columns in ((accel, "Accl", [1, 2, 3]), (gyro, "Gyro", [4, 5, 6])):
        header = "Milliseconds," + ",".join(f"{name}{axis}" for axis in "XYZ")
        table = rows[:, [0, *columns]] * [1000, 1, 1, 1]
        np.savetxt(path, table, "%.9g", delimiter=",", header=header, comments="")
    lines = [{"time": row[0], "accel": row[1:4], "gyro": row[4:]} for row in rows.tolist()]
    log.write_text("\n".join(json.dumps(line) for line in [{"log": "x"}, *lines]))
    browser.open(f"{address}blank.html")
    for paths in ((own,), (accel, gyro), (log,)):
        found = read_tables(browser, *paths)
        motion = read_imu(paths[0] if len(paths) == 1 else paths)
        values = np.array([[math.nan if x is None else x for x in row] for row in found["readings"]])
        for part, stamps, readings in (
            (slice(3), motion.accel_time, motion.accel),
            (slice(3, 6), motion.gyro_time, motion.gyro),
        ):
            there = ~np.isnan(values[:, part]).any(axis=1)
            assert np.allclose(np.array(found["times"])[there], stamps)
            assert np.allclose(values[there][:, part], readings)


def write_lines(path, rows, time=float, end=""):
    lines = [json.dumps({"time": time(row[0]), "accel": row[1:4], "gyro": row[4:]}) for row in rows.tolist()]
    path.write_text("\n".join([*lines, end]))


def nanoseconds(seconds):
    return round(seconds * 1e9)


DEGREES = [1, 1, 1, 1, 180 / math.pi, 180 / math.pi, 180 / math.pi]


@pytest.mark.parametrize(
    ("factors", "told"),
    [
        (DEGREES, "times those of the gravity that the accelerometer measures, so they are in degrees per second"),
        ([1, 1, 1, 1, 9000, 9000, 9000], "half of the turn rates are above"),
        ([1, *[1 / GRAVITY] * 3, 1, 1, 1], "the acceleration is in g"),
        ([1, *[1000 / GRAVITY] * 3, 1, 1, 1], "the acceleration is in mg"),
        ([1000, 1, 1, 1, 1, 1, 1], "samples are 20 s apart"),
        ([1e-6, 1, 1, 1, 1, 1, 1], "samples are 2e-0?8 s apart"),
        ([1, 1, 1, 1, 3, 3, 3], None),
        ([1, 0, 0, 0, *DEGREES[4:]], None),
        ([1, 1, 1, 1, 0, 0, 0], None),
    ],
    ids=["degrees", "fast degrees", "g", "mg", "ms", "us", "three times", "no gravity", "no turns"],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_tables_in_other_units_are_refused_as_python_refuses_them(browser, address, tmp_path, factors, told, suffix):
    """A head that turns by 30 degrees about X, and about the vertical: gravity turns with it."""
    times = np.arange(600) / 50
    turn = 0.5 * np.sin(times)
    accel = GRAVITY * np.stack([0 * turn, np.sin(turn), np.cos(turn)], axis=1)
    accel += np.random.default_rng(0).normal(0, 0.05, accel.shape)
    gyro = np.stack([-0.5 * np.cos(times), 0.01 * turn, 0.1 * turn], axis=1)
    rows, path = np.column_stack([times, accel, gyro]) * factors, tmp_path / f"table.{suffix}"
    if suffix == "csv":
        np.savetxt(path, rows, "%.9g", delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="")
    else:
        write_lines(path, rows)
    browser.open(f"{address}blank.html")
    found = read_tables(browser, path)
    if told is None:
        assert len(found["times"]) == len(read_imu(path).accel) == 600
        return
    assert re.match(rf"table\.{suffix}: .*({told})", found)
    with pytest.raises(IMUError, match=told):
        read_imu(path)


def test_damaged_tables_are_refused_by_line_and_integers_are_nanoseconds(browser, address, tmp_path):
    readings = np.random.default_rng(0).normal([0, 0, GRAVITY, 0, 0, 0], size=(50, 6))
    rows = np.column_stack([np.arange(50) / 50, readings])
    header, line = "time,ax,ay,az,gx,gy,gz", "2,0,0,9.8,0,0,0"
    text = "\n".join([header, *(",".join(map(str, row)) for row in rows.tolist())])
    path, log = tmp_path / "table.csv", tmp_path / "log.jsonl"
    browser.open(f"{address}blank.html")
    for last, told in (
        (line.replace("9.8", "9.8x"), "line 52"),
        ("2,0,0", "line 52"),
        (line, None),
        ("2,,,,NULL,nan,", None),
    ):
        path.write_text(f"{text}\n{last}\n")
        check_both(read_tables(browser, path), path, told)
    path.write_text(f"{header}\n" + "".join(f"{1.7e9 + k / 50},0,0,9.8,0,0,0\n" for k in range(50)))
    check_both(read_tables(browser, path), path, "over eleven days from the video's start")
    for last, told in (
        ("null", "line 51"),
        ('{"time": 2.0, "accel": [1, 2], "gyro": [1, 2, 3]}', "line 51"),
        ('{"time": 2.0, "accel": [1, 2, 3], "gyro"', "line 51"),
        ('{"time": 2.0, "accel": [1, 2, 3], "gyro": null}', None),
    ):
        write_lines(log, rows, end=last)
        check_both(read_tables(browser, log), log, told)
    write_lines(log, rows, nanoseconds)
    log.write_text("\ufeff" + log.read_text())
    found = read_tables(browser, log)
    assert np.allclose(found["times"], rows[:, 0]) and np.allclose(read_imu(log).accel_time, rows[:, 0])


def check_both(found, path, told):
    if told is None:
        assert len(found["times"]) == 51 and len(read_imu(path).accel) >= 50
        return
    assert found.startswith(f"{path.name}: ") and told in found
    with pytest.raises(IMUError, match=told):
        read_imu(path)


# --- The page ---------------------------------------------------------------------------------------------------

TEXT = "document.getElementById('{}').textContent"
LISTED = "[...document.querySelectorAll('#{} li')].map((one) => one.textContent)"
# A log is begun late.
LOGGED = "(() => { try { return egodistill.log().length > 150 && egodistill.log(); } catch { return false; } })()"
SAMPLES = "egodistill.log().filter((line) => 'time' in JSON.parse(line)).length"
BUTTONS = "...['stop', 'download'].map((id) => document.getElementById(id).disabled)"


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_camera(tmp_path_factory.mktemp("camera") / "camera.y4m")


@pytest.fixture(scope="module")
def phone(film):
    """A browser with an imitated camera and sensors."""
    with Chromium(*camera_switches(film), "--host-resolver-rules=MAP phone.test 127.0.0.1") as found:
        yield found


def given_at_least(count):
    """An expression: the page has given so many answers. Its log is begun late."""
    return f"(() => {{ try {{ return egodistill.stats().given >= {count}; }} catch {{ return false; }} }})()"


def lasting(rows):
    """The labels that lasted in a log, as the page lists them."""
    tracker, found, began = events.Tracker(), [], next(row["time"] for row in rows if "time" in row)
    for row in rows:
        if "reset" in row:
            tracker = events.Tracker()
        elif "answer" in row:
            found += tracker.add(Prediction(row["start"], row["answer"], row["classes"]))
    about = [(one.start - began, one.stop - began, one.label, 100 * one.score) for one in found]
    return ["{:.1f} to {:.1f} s · {} · {:.0f} %".format(*one) for one in about[:-11:-1]]


def off_film(lines, film, *, crop):
    """The largest distance of a picture of a log from the nearest one of the film, scaled as Python does."""
    shots, rows = film_pictures(film, SIZE, crop).astype(float), [json.loads(line) for line in lines]
    pictures = [np.frombuffer(base64.b64decode(row["rgb"]), np.uint8) for row in rows if "frame" in row]
    return max(np.abs(shots - one.reshape(3, SIZE, SIZE)).mean((1, 2, 3)).min() for one in pictures)


@pytest.mark.slow("a browser")
def test_a_camera_and_sensors_give_the_labels_of_python(phone, film, address, pairs, tmp_path):
    """Each label as Python's on what the page has logged, which `read_imu()` reads, too."""
    head = Head(phone)
    phone.open(f"{address}index.html?student=one.onnx", width=390)
    start(phone)
    texts = ", ".join(TEXT.format(name) for name in ("label", "detail", "message"))
    state = (
        f"{LISTED.format('history')}, {LISTED.format('events')}, {texts}, document.getElementById('confidence').value"
    )
    state = f"[egodistill.log(), egodistill.stats(), {state}]"
    lines, stats, shown, lasted, *now = head.move_until(f"{given_at_least(30)} && {state}")
    assert phone.run("crossOriginIsolated")
    found = compare(pairs["one"], lines)
    rows = [json.loads(line) for line in lines]
    answers = [row for row in rows if "answer" in row]
    assert found.answers >= 29 and len(shown) == 10 and found.same == found.answers and found.difference < 1e-3
    began = next(row["time"] for row in rows if "time" in row)
    for line, row in zip(shown, answers[::-1], strict=False):
        label, score = (row["classes"] or [("–", 0)])[0]
        what = f"{label} · {100 * score:.0f} % · {row['frame_ms'] + row['motion_ms']:.0f} ms"
        assert line == f"{row['answer'] - began:.1f} s · {row['problem'] or what}"
    assert lasted == lasting(rows)
    last = answers[-1]
    label, score = (last["classes"] or [("–", 0)])[0]
    age = f"picture {last['frame_age'][0]:.1f} s old" if last["frame_age"] else "no picture"
    assert now == [label, last["problem"] or f"{100 * score:.0f} %, {age}", "", score]
    assert len({row["classes"][0][0] for row in answers if row["classes"]}) > 1
    span = answers[-1]["answer"] - answers[0]["answer"]
    assert stats["looks"] == sum("frame" in row for row in rows) > span / 2  # without its gate, every 4 s
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(lines))
    motion = read_imu(log)
    assert 0.015 < motion.median_steps[0] < 0.018 and motion.accel[:, 2].mean() == pytest.approx(GRAVITY, abs=0.5)
    assert motion.gyro.std(0) == pytest.approx([0.7, 0.5, 1.4], abs=0.15)
    assert off_film(lines, film, crop=False) < 6  # but for how they are scaled: colours and rows in order
    black = {"rgb": base64.b64encode(bytes(3 * SIZE**2)).decode()}
    blackened = [json.dumps(row | black) if "frame" in row else line for row, line in zip(rows, lines, strict=True)]
    assert compare(pairs["one"], blackened).difference > 1e-2  # the comparison sees a change
    with pytest.raises(ValueError, match="the log is of student"):
        compare(pairs["two"], lines)


@pytest.mark.slow("a browser")
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_a_phone_and_a_screen(phone, address, folder, pairs, width, tmp_path):
    head = Head(phone)
    phone.open(f"{address}index.html?student=one.onnx", width=width)
    start(phone)
    head.move_until("document.getElementById('history').children.length > 3")
    assert not phone.is_wider_than_the_screen() and not phone.errors
    assert all(request.startswith((address, "blob:")) for request in phone.requests)
    text = phone.run("document.body.innerText")
    assert "No trained weights are shipped" in text and "neither a real Android phone nor an iPhone" in text
    assert "NaN" not in text and "undefined" not in text
    assert phone.run(TEXT.format("student")) == f"{named(folder, 'one')}: 7 classes, fp32, 1 frame, {threads(phone)}."
    phone.screenshot(tmp_path / "page.png")


def named(folder, name):
    """The programs of a pair as the page names them."""
    files = [folder / f"{name}.{part}.onnx" for part in ("frame", "motion")]
    return " and ".join(f"{file.name} ({file.stat().st_size / 1e6:.3g} MB)" for file in files)


def threads(page):
    count = page.run("egodistill.threads()")
    return f"{count} thread" + "s" * (count > 1)


@pytest.fixture(scope="module")
def cropping(folder, pairs):
    """A student that sees the middle of a picture, "crop"."""
    from egodistill.deploy import export

    for part in ("frame", "motion"):
        shutil.copy(folder / f"one.{part}.onnx", folder / f"crop.{part}.onnx")
        description = json.loads((folder / f"one.{part}.onnx.json").read_text())
        description["clip_spec"]["crop"] = True
        description["fingerprint"] = fingerprint(description)
        (folder / f"crop.{part}.onnx.json").write_text(json.dumps(description))
    return export.load_pair(folder / "crop.onnx")


@pytest.mark.slow("a browser")
def test_a_student_that_crops_gets_the_middle_as_in_python(phone, film, address, cropping):
    head = Head(phone)
    phone.open(f"{address}index.html?student=crop.onnx")
    start(phone)
    lines = head.move_until(f"{given_at_least(5)} && egodistill.log()")
    assert off_film(lines, film, crop=True) < 6 < 10 < off_film(lines, film, crop=False)
    assert compare(cropping, lines).difference < 1e-3


@pytest.mark.slow("a browser")
@pytest.mark.parametrize("name", ["one", "crop"])
def test_both_pictures_are_as_the_student_sees_them(browser, address, folder, cropping, walk, name, tmp_path):
    """A tall picture, red above and blue below: read from the screen."""
    tall = np.full((96, 48, 3), [40, 160, 40], np.uint8)
    tall[24:72, :24], tall[:24], tall[72:] = [200, 200, 40], [220, 20, 20], [20, 20, 220]
    write_video(folder / "tall.mp4", STEADY, pictures=[tall] * len(STEADY), **X264)
    browser.open(f"{address}index.html?student={name}.onnx&video=tall.mp4&imu=walk.csv")
    browser.until("document.getElementById('video').ended && document.getElementById('look').dataset.time")
    browser.run("document.getElementById('video').controls = false")
    places = "['video', 'look'].map((id) => { const { x, y, width, height } = document.getElementById(id)"
    places = browser.run(f"{places}.getBoundingClientRect(); return [x, y, width, height].map(Math.round); }})")
    browser.screenshot(tmp_path / "page.png")
    page = torchvision.io.decode_image(str(tmp_path / "page.png"), "RGB").numpy().astype(float)
    now, last = [page[:, y : y + height, x : x + width] for x, y, width, height in places]
    assert now.shape == last.shape and now.shape[1] == now.shape[2] and np.abs(now - last).mean() < 12
    red = (last[0] > 180) & (last[1] < 90)
    assert red.mean() == pytest.approx(0.0 if name == "crop" else 0.25, abs=0.03)


@pytest.mark.slow("a browser")
def test_a_turned_phone_has_the_motion_of_one_that_is_upright(phone, address, pairs, tmp_path):
    """Its screen is turned, too; and a bar says how much of the motion for the first label is there."""
    head = Head(phone, turned=True)
    phone.open(f"{address}index.html?student=one.onnx", width=800, height=390, angle=90)
    start(phone)
    lines = head.move_until(f"{given_at_least(5)} && egodistill.log()")
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    motion = read_imu(tmp_path / "log.jsonl")
    assert motion.accel.mean(0) == pytest.approx([0, 0, GRAVITY], abs=0.6)
    assert motion.gyro.std(0) == pytest.approx([0.7, 0.5, 1.4], abs=0.25)


NUMBERS = ("looks", "adds", "frameMs", "motionMs", "rate", "looked")
COLOURS = ([221, 51, 51], [34, 170, 34], [51, 136, 255])


def drawn_again(page, state):
    """A list, once the page has drawn its numbers again."""
    page.run("{ globalThis.MOTION = document.getElementById('motion'); MOTION.width = 1; }")
    return page.until(f"MOTION.width > 1 && {state}")


@pytest.mark.slow("a browser")
def test_numbers_and_curves_are_those_of_the_log(browser, address, folder, pairs, walk, tmp_path):
    browser.open(f"{address}index.html?student=one.onnx&video=walk.mp4&imu=walk.csv")
    browser.until(ENDED)
    state, before, now = f"[egodistill.log(), {', '.join(map(TEXT.format, NUMBERS))}, MOTION.toDataURL()]", None, [None]
    while now != before:  # drawn again with the same log
        before, now = now, drawn_again(browser, state)
    lines, *shown, drawn = now
    rows = [json.loads(line) for line in lines]
    samples = np.array([[row["time"], *row["gyro"]] for row in rows if "time" in row])
    looks, answers = [row["frame"] for row in rows if "frame" in row], [row for row in rows if "answer" in row]
    newest, began = samples[-1, 0], next(row.get("time", row.get("frame")) for row in rows[1:])
    adds = [json.loads((folder / f"one.{part}.onnx.json").read_text())["multiply_adds"] for part in ("frame", "motion")]
    given = [row for row in answers if row["classes"]]
    assert all(row["motion_ms"] > 0 and (row["frame_ms"] > 0 or not row["encoded"]) for row in given)
    a_second = np.array([len(looks), len(answers)]) / (newest - began)
    took = [
        [row["frame_ms"] + row["motion_ms"] for row in given if bool(row["encoded"]) == new] for new in (True, False)
    ]
    assert shown == [
        f"{60 * a_second[0]:.0f}",
        f"{a_second @ adds / 1e6:.0f} million",
        *(f"{sorted(times)[len(times) // 2]:.0f} ms (median)" for times in took),
        f"{(samples[:, 0] >= newest - 4).sum() / 4:.0f}",
        f"the last picture looked at, {newest - looks[-1]:.1f} s ago",
    ]
    data = np.frombuffer(base64.b64decode(drawn.partition(",")[2]), np.uint8)
    picture = torchvision.io.decode_image(torch.from_numpy(data.copy()), "RGB_ALPHA").numpy().astype(float)
    _, height, width = picture.shape
    moments = newest - 4 + 4 * (np.arange(width) + 0.5) / width
    for axis, colour in enumerate(COLOURS):
        here = (np.abs(picture[:3] - np.array(colour)[:, None, None]).max(0) < 30) & (picture[3] > 200)
        columns = here.any(0)
        middle = (here * np.arange(0.5, height)[:, None]).sum(0)[columns] / here.sum(0)[columns]
        wanted = height / 2 * (1 - np.interp(moments, samples[:, 0], samples[:, 1 + axis]) / 3)
        assert columns.mean() > 0.5 and np.median(np.abs(middle - wanted[columns])) < 1


EVENTS = """(times) => {
  for (const time of times) {
    const event = new Event("devicemotion");
    const [accelerationIncludingGravity, rotationRate] = [{ x: 0, y: 9.8, z: 0 }, { alpha: 0, beta: 0, gamma: 0 }];
    const about = { timeStamp: 1000 * time, accelerationIncludingGravity, rotationRate };
    for (const [name, value] of Object.entries(about)) Object.defineProperty(event, name, { value });
    dispatchEvent(event);
  }
  document.getElementById("download").click();
  return [egodistill.log(), document.getElementById("message").textContent];
}"""


@pytest.mark.slow("a browser")
def test_a_log_ends_after_ten_minutes(phone, address, pairs):
    for sensor in SENSORS:
        phone.ask("Emulation.setSensorOverrideEnabled", enabled=False, type=sensor)
    phone.open(f"{address}index.html?student=one.onnx")
    start(phone)
    phone.until("!document.getElementById('download').disabled && document.getElementById('video').currentTime > 0")
    now = phone.run("performance.now() / 1000")
    for first, last, ended in ((0, 580, False), (580, 650, True)):
        lines, told = phone.run(f"({EVENTS})({[now + second for second in range(first, last, 10)]})")
        times = [row["time"] - now for row in map(json.loads, lines) if "time" in row]
        assert max(times) == pytest.approx(600 if ended else 570, abs=12)
        assert told == (
            "The log ended after 10 minutes, or 128 MB of pictures; start again for a new one." if ended else ""
        )


BAR = """(() => {
  const part = (id) => document.getElementById(id);
  const times = egodistill.log().map((line) => JSON.parse(line)).filter((row) => row.reset || row.time);
  const since = times.slice(times.findLastIndex((row) => row.reset) + 1).map((row) => row.time);
  const hidden = [part("collecting").hidden, part("confidence").hidden];
  return [...hidden, part("collected").value, since.at(-1) - since[0], part("collecting").innerText];
})()"""


@pytest.mark.slow("a browser")
def test_a_bar_fills_until_the_first_label(browser, address, pairs, walk):
    browser.open(f"{address}index.html?student=one.onnx")
    browser.until("!document.getElementById('files').disabled")
    assert browser.run("document.getElementById('collecting').hidden")
    choose(browser, walk[0], walk[1])
    browser.until("document.getElementById('video').ended && document.getElementById('history').children.length > 3")
    assert browser.until(f"{BAR}[0] && {BAR}")[:2] == [True, False]
    video = "document.getElementById('video')"
    browser.run(f"{{ {video}.currentTime = 0; {video}.playbackRate = 0.2; {video}.play(); }}")  # again, slowly
    browser.until(f"{BAR}[3] > 0.5 && ({video}.pause(), true)")
    moved = f"Math.abs({BAR}[2] - {BAR}[3] / {CLIP}) < 0.01"
    *hidden, share, seconds, text = browser.until(f"{video}.paused && {moved} && {BAR}")
    assert hidden == [False, True] and 0.2 < share < 1 and seconds < CLIP
    assert text.strip() == "Collecting the 2.1 s of head motion that a label needs"
    browser.run(f"{{ {video}.playbackRate = 2; {video}.play(); }}")
    assert browser.until(f"{BAR}[0] && {BAR}")[3] > CLIP - 0.1


HELD = "navigator.wakeLock.request = async () => { held++; return { release: () => held-- }; };"


@pytest.mark.slow("a browser")
def test_stop_releases_camera_sensors_and_screen(phone, address, pairs):
    head = Head(phone)

    def asked():
        """How often a second the page asks for each sensor."""
        found = [phone.ask("Emulation.getOverriddenSensorInformation", type=sensor) for sensor in SENSORS]
        return [one["requestedSamplingFrequency"] for one in found]

    phone.open(f"{address}index.html?student=one.onnx")
    phone.until("!document.getElementById('start').disabled")
    phone.run(f"{{ globalThis.held = 0; {HELD} {CAMERAS} }}")
    assert phone.run(f"[{LIVE}, {BUTTONS}]") == [0, True, True]
    start(phone)
    head.move_until(given_at_least(3))
    assert phone.run(f"[{LIVE}, held, {BUTTONS}]") == [1, 1, False, False] and min(asked()) > 0
    stopped = f"[{LIVE}, held, {BUTTONS}, document.getElementById('video').srcObject, {SAMPLES}]"
    *state, count = phone.run(f"(document.getElementById('stop').click(), {stopped})")
    assert state == [0, 0, True, False, None] and count > 100
    until(lambda: max(asked()) == 0)
    phone.run("document.dispatchEvent(new Event('visibilitychange'))")  # a look at another tab
    lines, *later = phone.run(f"[egodistill.log(), {SAMPLES}, held]")
    assert later == [count, 0] and compare(pairs["one"], lines).difference < 1e-3  # the log is still there
    start(phone)
    newest = max(json.loads(line).get("time", 0) for line in lines)
    first = "egodistill.log().map((line) => JSON.parse(line)).find((row) => row.time)?.time"
    again, *state = head.move_until(f"{given_at_least(1)} && {first} > {newest} && [egodistill.log(), {LIVE}, held]")
    assert compare(pairs["one"], again).answers >= 1 and state == [1, 1] and not phone.errors


@pytest.mark.slow("a browser")
def test_stop_ends_a_video(browser, address, pairs, walk):
    """And forgets its file."""
    browser.open(f"{address}index.html?student=one.onnx")
    choose(browser, walk[0], walk[1])
    video = "document.getElementById('video')"
    source = browser.until(f"{video}.currentTime > 0.2 && {video}.src")
    assert browser.run(f"fetch('{source}').then((found) => found.ok)")
    browser.run("document.getElementById('stop').click()")
    state = (
        f"[{video}.readyState, {video}.videoWidth, document.getElementById('collecting').hidden, {BUTTONS}, {SAMPLES}]"
    )
    browser.until(f"{video}.readyState === 0")
    *found, count = drawn_again(browser, state)
    assert found == [0, 0, True, True, False] and 30 < count
    assert browser.run(f"fetch('{source}').catch((error) => error.name)") == "TypeError"
    choose(browser, walk[0], walk[1])
    assert browser.until(f"{video}.currentTime > 0 && [{BUTTONS}]") == [False, False]


@pytest.mark.slow("a browser")
def test_stop_before_the_camera_is_open_opens_none(phone, address, pairs):
    phone.open(f"{address}index.html?student=one.onnx")
    phone.until("!document.getElementById('start').disabled")
    phone.run(f"{{ {CAMERAS} }}")
    phone.run("{ for (const id of ['start', 'stop']) document.getElementById(id).click(); }")
    phone.until(f"tracks.length === 1 && {LIVE} === 0")
    assert phone.run(f"[{BUTTONS}, {TEXT.format('message')}]") == [True, True, ""]


@pytest.mark.slow("a browser")
def test_a_download_is_the_log(phone, address, pairs, tmp_path):
    Head(phone)
    phone.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    phone.open(f"{address}index.html?student=one.onnx")
    start(phone)
    phone.until("!document.getElementById('download').disabled && (document.getElementById('download').click(), true)")
    log = tmp_path / "egodistill-log.jsonl"
    until(log.exists)
    header = json.loads(log.read_text().splitlines()[0])
    assert header["student"] == pairs["one"].description["student"] and header["source"] == "camera"


# --- What is missing --------------------------------------------------------------------------------------------


@pytest.mark.slow("a browser")
@pytest.mark.parametrize(
    ("before", "told"),
    [
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }",
            "The camera was refused",
        ),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError'); }",
            "There is no camera",
        ),
        (
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotReadableError'); }",
            "another program uses it",
        ),
        ("DeviceMotionEvent.requestPermission = async () => 'denied'", "On an iPhone, load the page again"),
        ("0", "No motion sensor answers"),
    ],
    ids=["camera refused", "no camera", "camera in use", "motion refused", "no sensors"],
)
def test_what_is_missing_is_one_sentence(browser, phone, address, pairs, before, told):
    page = phone if before == "0" else browser
    if before == "0":
        for sensor in SENSORS:
            phone.ask("Emulation.setSensorOverrideEnabled", enabled=False, type=sensor)
    page.open(f"{address}index.html?student=one.onnx")
    page.until("!document.getElementById('start').disabled")
    page.run(f"{{ {before} }}")
    start(page)
    assert told in page.until(TEXT.format("message"))
    assert not page.errors


@pytest.mark.slow("a browser")
def test_what_was_missing_is_not_said_any_more_when_a_camera_opens(phone, address, pairs):
    phone.open(f"{address}index.html?student=one.onnx")
    phone.run("globalThis.ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices)")
    phone.run("{ navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError'); } }")
    start(phone)
    assert phone.until(f"{TEXT.format('message')} && [{BUTTONS}]") == [True, True]
    phone.run("{ navigator.mediaDevices.getUserMedia = ask; }")
    start(phone)
    phone.until(f"document.getElementById('video').currentTime > 0 && {TEXT.format('message')} === ''")


@pytest.mark.slow("a browser")
def test_a_camera_that_ends_is_told(phone, address, pairs):
    phone.open(f"{address}index.html?student=one.onnx")
    start(phone)
    phone.until("document.getElementById('video').currentTime > 0")
    track = "document.getElementById('video').srcObject.getVideoTracks()[0]"
    phone.run(f"{{ const track = {track}; track.stop(); track.dispatchEvent(new Event('ended')); }}")
    told, *disabled = phone.until(f"{TEXT.format('message')} && [{TEXT.format('message')}, {BUTTONS}]")
    assert "The camera has ended" in told and disabled == [True, False]


@pytest.mark.slow("a browser")
def test_plain_http_on_a_phone_is_told(phone, address, folder, pairs):
    phone.open(address.replace("127.0.0.1", "phone.test") + "index.html?student=one.onnx")
    phone.until("!document.getElementById('start').disabled")
    assert "https pages and to localhost only" in phone.run(TEXT.format("message"))
    assert phone.run(TEXT.format("student")) == f"{named(folder, 'one')}: 7 classes, fp32, 1 frame, 1 thread."


def test_a_student_that_is_not_there_is_told(browser, address):
    if not RUNTIME.is_dir():
        pytest.skip("needs onnxruntime-web: npm ci --ignore-scripts --prefix examples/web")
    browser.open(f"{address}index.html")
    told = browser.until(TEXT.format("message"))
    assert "student.frame.onnx.json cannot be read (404)" in told and "README.md" in told


@pytest.mark.slow("a browser")
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"imu_axes": "glasses"}, 'samples in the axes "glasses"'),
        ({"imu_samples": 0}, "a student that reads frames and head motion"),
        ({"student": "another"}, "are not of one student"),
        ({"batch": 4}, "takes 4 at once"),
    ],
    ids=["axes", "no motion", "two students", "batches"],
)
def test_a_student_that_does_not_fit_is_told(browser, address, folder, pairs, changes, told):
    name = f"odd-{next(iter(changes))}"  # the browser keeps a file of one name and second
    for part in ("frame", "motion"):
        description = json.loads((folder / f"one.{part}.onnx.json").read_text())
        description["clip_spec"] |= {key: value for key, value in changes.items() if key in description["clip_spec"]}
        if part == "frame":
            description |= {key: value for key, value in changes.items() if key == "student"}
        description["inputs"][0]["shape"][0] = changes.get("batch", "batch")
        (folder / f"{name}.{part}.onnx.json").write_text(json.dumps(description))
    browser.open(f"{address}index.html?student={name}.onnx")
    assert told in browser.until(TEXT.format("message"))


@pytest.mark.slow("a browser")
def test_damaged_programs_and_descriptions_are_told_by_name(browser, address, folder, pairs, walk):
    import onnx

    for part in ("frame", "motion"):
        for name in ("cut", "torn", "wrong"):
            for suffix in ("onnx", "onnx.json"):
                shutil.copy(folder / f"one.{part}.{suffix}", folder / f"{name}.{part}.{suffix}")
    (folder / "cut.motion.onnx").write_bytes((folder / "one.motion.onnx").read_bytes()[:5000])
    (folder / "torn.frame.onnx.json").write_text("{")
    program = onnx.load(folder / "one.frame.onnx")
    for weights in program.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            weights.CopyFrom(
                onnx.numpy_helper.from_array(np.full(list(weights.dims), np.nan, np.float32), weights.name)
            )
    onnx.save(program, folder / "wrong.frame.onnx")
    for name, told in (("cut", "cut.motion.onnx: not a program"), ("torn", "torn.frame.onnx.json: damaged")):
        browser.open(f"{address}index.html?student={name}.onnx")
        assert told in browser.until(TEXT.format("message"))
    drop = "new DragEvent('drop', { dataTransfer: files, cancelable: true })"
    browser.run(f"{{ const files = new DataTransfer(); document.documentElement.dispatchEvent({drop}); }}")
    assert "No student is loaded" in browser.until(TEXT.format("message"))
    browser.open(f"{address}index.html?student=wrong.onnx&video=walk.mp4&imu=walk.csv")
    assert "wrong.frame.onnx: gives numbers that are not finite" in browser.until(TEXT.format("message"))


# --- A video with its table -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def walk(folder):
    """A video of 6 s, its IMU table, beside the page, and the same samples as a table for each sensor."""
    write_video(folder / "walk.mp4", STEADY, pictures=[picture(k // 10) for k in range(len(STEADY))], **X264)
    times, readings = samples(0, 6.1, 200.0)
    rows, options = np.column_stack([times, readings]), {"delimiter": ",", "comments": ""}
    np.savetxt(folder / "walk.csv", rows, "%.9g", header="time,ax,ay,az,gx,gy,gz", **options)
    np.savetxt(folder / "accl.csv", rows[:, :4], "%.9g", header="time,ax,ay,az", **options)
    rows[:, 0] += 0.0017
    np.savetxt(folder / "gyro.csv", rows[:, [0, 4, 5, 6]], "%.9g", header="time,gx,gy,gz", **options)
    return [folder / name for name in ("walk.mp4", "walk.csv", "accl.csv", "gyro.csv")]


# The log of a video, once it has ended and some answers are there.
ENDED = (
    "document.getElementById('video').ended && document.querySelectorAll('#history li').length > 3 && egodistill.log()"
)


@pytest.mark.slow("a browser")
@pytest.mark.parametrize("way", ["files", "address"])
def test_a_video_with_its_table_gives_the_labels_of_python(browser, address, pairs, walk, way, tmp_path):
    query = "" if way == "files" else "&video=walk.mp4&imu=walk.csv"
    browser.open(f"{address}index.html?student=two.onnx{query}", width=390)
    browser.until("!document.getElementById('files').disabled")
    if way == "files":
        choose(browser, walk[0], walk[2], walk[3])
    lines = browser.until(ENDED)
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    motion = read_imu(tmp_path / "log.jsonl")
    assert len(motion.accel) > 1150 and len(motion.gyro) > 1150
    assert (motion.accel_time[0] == motion.gyro_time[0]) == (way == "address")
    found = compare(pairs["two"], lines)
    assert found.answers >= 4 and found.same == found.answers and found.difference < 1e-3
    assert not browser.errors and browser.run(TEXT.format("message")) == ""
    if way == "address":  # the server answers ranges, so that a served video can seek
        browser.run("{ const video = document.getElementById('video'); video.currentTime = 1; video.play(); }")
        lines = browser.until(f"egodistill.log().some((line) => line.includes('reset')) && {ENDED}")
        assert sum('"reset"' in line for line in lines) == 1
        assert compare(pairs["two"], lines).difference < 1e-3


@pytest.mark.slow("a browser")
def test_labels_that_lasted_are_those_of_python_after_a_seek_too(browser, address, folder, pairs):
    """White pictures, green ones and white ones, at which the student is sure. A seek forgets what has not ended."""
    times, colours = np.arange(400) / 25, np.array([[255, 255, 255], [0, 255, 128]], np.uint8)
    pictures = [np.broadcast_to(colours[int(100 <= k < 275)], (SIZE, SIZE, 3)) for k in range(len(times))]
    write_video(folder / "two.mp4", times, pictures=pictures, **X264)
    stamps = np.arange(1610) / 100
    rows = np.column_stack([stamps, np.tile([0, 0, GRAVITY, 0, 0, 0], (len(stamps), 1))])
    np.savetxt(folder / "two.csv", rows, "%.9g", ",", header="time,ax,ay,az,gx,gy,gz", comments="")
    browser.open(f"{address}index.html?student=one.onnx&video=two.mp4&imu=two.csv")
    video = "document.getElementById('video')"
    browser.until(f"{video}.currentTime > 0 && ({video}.playbackRate = 3)")
    before = browser.until(f"{ENDED} && {LISTED.format('events')}")
    browser.run(f"{{ {video}.currentTime = 0; {video}.play(); }}")
    listed = f"[egodistill.log(), {LISTED.format('events')}]"
    lines, shown = browser.until(f"{video}.currentTime > 15 && {ENDED} && {listed}")
    assert shown == lasting([json.loads(line) for line in lines]) and len(shown) > len(before) > 0


@pytest.mark.slow("a browser")
def test_files_that_are_not_a_video_and_a_table_are_told(browser, address, pairs, walk, tmp_path):
    (tmp_path / "bad.csv").write_text("moment,x\n1,2\n")
    (tmp_path / "half.csv").write_text("time,ax,ay,az\n1,2,3,4\n2,3,4,5\n")
    for name, shift in (("late", 100), ("early", -100)):
        rows = np.loadtxt(walk[1], delimiter=",", skiprows=1)[::20]
        rows[:, 0] += shift
        np.savetxt(tmp_path / f"{name}.csv", rows, "%.9g", ",", header="time,ax,ay,az,gx,gy,gz", comments="")
    (tmp_path / "text.mp4").write_text("no video")
    for files, told in (
        ([walk[0]], "Choose one video together with its IMU table"),
        ([walk[0], tmp_path / "bad.csv"], "bad.csv: no time column"),
        ([walk[0], tmp_path / "half.csv"], "half.csv: fewer than two samples of the gyroscope"),
        (
            [walk[0], tmp_path / "late.csv"],
            "late.csv: its accelerometer samples are from 100.0 to 106.0 s, but the video",
        ),
        ([walk[0], tmp_path / "early.csv"], "early.csv: its accelerometer samples are from -100.0 to -94.0 s"),
        ([tmp_path / "text.mp4", walk[1]], "text.mp4: this browser cannot play the video"),
    ):
        browser.open(f"{address}index.html?student=one.onnx")
        choose(browser, *files)
        assert told in browser.until(TEXT.format("message"))


@pytest.mark.slow("a browser")
@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("video=walk.mp4&imu=gone.csv", "gone.csv cannot be read (404)"),
        ("video=gone.mp4&imu=walk.csv", "gone.mp4 cannot be read (404)"),
        ("imu=walk.csv", "Choose one video together with its IMU table"),
        ("video=walk.mp4", "Choose one video together with its IMU table"),
    ],
    ids=["no table", "no video", "only a table", "only a video"],
)
def test_addresses_without_a_file_are_told(browser, address, pairs, walk, query, told):
    browser.open(f"{address}index.html?student=one.onnx&{query}")
    assert told in browser.until(TEXT.format("message"))


@pytest.mark.slow("a browser")
def test_a_seek_does_not_end_the_log(browser, address, pairs, folder):
    """Ten minutes are those of logging, not those between time stamps."""
    write_video(folder / "long.mp4", [float(k) for k in range(720)], **X264)
    times, readings = samples(0, 720, 20.0)
    rows = np.column_stack([times, readings])
    np.savetxt(folder / "long.csv", rows, "%.9g", ",", header="time,ax,ay,az,gx,gy,gz", comments="")
    browser.open(f"{address}index.html?student=one.onnx&video=long.mp4&imu=long.csv")
    browser.until("document.getElementById('video').currentTime > 1")
    browser.run("{ document.getElementById('video').currentTime = 700; }")
    browser.until("egodistill.log().some((line) => JSON.parse(line).time > 700)")
    assert not browser.errors


@pytest.mark.slow("a browser")
def test_a_source_that_fails_leaves_the_present_one(browser, address, pairs, walk, tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    browser.open(f"{address}index.html?student=one.onnx&video=walk.mp4&imu=walk.csv")
    browser.until("document.getElementById('video').currentTime > 0.5")
    browser.run(
        "{ navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); } }"
    )
    start(browser)
    assert "The camera was refused" in browser.until(TEXT.format("message"))
    choose(browser, tmp_path / "text.mp4", walk[1])
    browser.until(f"{TEXT.format('message')}.includes('cannot play the video')")
    lines = browser.until(ENDED)
    assert json.loads(lines[0])["source"] == "video" and not any('"reset"' in line for line in lines)
    assert compare(pairs["one"], lines).answers >= 4


CAMERAS = """
globalThis.tracks = [];
globalThis.ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => {
  const media = await ask(wanted);
  tracks.push(...media.getTracks());
  await new Promise((resolve) => setTimeout(resolve, 500));
  return media;
};
"""
IS_VIDEO = "JSON.parse(egodistill.log()[0]).source === 'video'"
LIVE = "tracks.filter((track) => track.readyState === 'live').length"


@pytest.mark.slow("a browser")
def test_two_taps_on_start_open_one_camera_which_a_video_stops(phone, address, pairs, walk):
    head = Head(phone)
    phone.open(f"{address}index.html?student=one.onnx")
    phone.until("!document.getElementById('start').disabled")
    phone.run(f"{{ {CAMERAS} }}")
    phone.run("{ const tap = document.getElementById('start'); tap.click(); tap.click(); }")
    phone.until("tracks.length === 2")
    lines, live = head.move_until(f"{LOGGED} && [egodistill.log(), {LIVE}]")
    stamps = [row["time"] for row in map(json.loads, lines) if "time" in row]
    assert len(stamps) > 60 and len(set(stamps)) == len(stamps) and live == 1
    choose(phone, walk[0], walk[1])
    lines, live = head.move_until(f"{LOGGED} && {IS_VIDEO} && [egodistill.log(), {LIVE}]")
    rows = [json.loads(line) for line in lines]
    assert live == 0 and rows[0]["source"] == "video"
    table = np.loadtxt(walk[1], delimiter=",", skiprows=1)[:, 0]
    assert np.isin([row["time"] for row in rows if "time" in row], table.round(6)).all() and len(rows) > 100
    assert not phone.errors


@pytest.mark.slow("a browser")
def test_a_camera_that_opens_late_does_not_replace_a_video(phone, address, pairs, walk):
    phone.open(f"{address}index.html?student=one.onnx")
    phone.until("!document.getElementById('start').disabled")
    phone.run(f"{{ {CAMERAS} }}")
    start(phone)
    choose(phone, walk[0], walk[1])
    phone.until(f"tracks.length === 1 && {LIVE} === 0")
    assert phone.until(f"document.getElementById('video').ended && [{IS_VIDEO}]") == [True] and not phone.errors


@pytest.mark.slow("a browser")
def test_the_screen_is_kept_on_after_a_look_at_another_tab(phone, address, pairs):
    phone.open(f"{address}index.html?student=one.onnx")
    phone.run("{ globalThis.locks = 0; navigator.wakeLock.request = async () => ({ release() {}, number: ++locks }); }")
    phone.run("document.dispatchEvent(new Event('visibilitychange'))")
    start(phone)
    phone.until("document.getElementById('video').currentTime > 0")
    assert phone.run("locks") == 1
    phone.run("document.dispatchEvent(new Event('visibilitychange'))")
    assert phone.run("locks") == 2


# --- The server -------------------------------------------------------------------------------------------------


def test_the_server_answers_ranges_and_isolates(folder, address):
    (folder / "digits.txt").write_text("0123456789")

    def get(wanted=None):
        request = urllib.request.Request(f"{address}digits.txt", headers={"Range": wanted} if wanted else {})
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)

    status, text, headers = get()
    assert (status, text) == (200, "0123456789")
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    for wanted, content, span in (
        ("bytes=2-4", "234", "2-4"),
        ("bytes=7-", "789", "7-9"),
        ("bytes=-2", "89", "8-9"),
        ("bytes=5-99", "56789", "5-9"),
    ):
        status, text, headers = get(wanted)
        assert (status, text, headers["Content-Range"]) == (206, content, f"bytes {span}/10")
    for wanted in ("bytes=5-2", f"bytes={'1' * 5000}-"):  # no ranges
        assert get(wanted)[:2] == (200, "0123456789")
    with pytest.raises(urllib.error.HTTPError) as caught:
        get("bytes=10-")
    assert caught.value.code == 416 and caught.value.headers["Content-Range"] == "bytes */10"
    for name, kind in (("page.mjs", "text/javascript"), ("index.html", "text/html")):
        with urllib.request.urlopen(f"{address}{name}") as answer:
            assert answer.headers["Content-Type"] == kind


def test_the_server_tells_faults_in_one_line(folder, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words, told in (
            (["--port", port], f"cannot serve at 127.0.0.1:{port}: "),
            (["--port", "99999"], "cannot serve at 127.0.0.1:99999: "),
            (["--certificate", "gone.pem"], "gone.pem: not a certificate with its key"),
        ):
            done = subprocess.run([sys.executable, folder / "serve.py", *words], capture_output=True, text=True)
            assert done.returncode == 1 and done.stderr.startswith(told) and len(done.stderr.splitlines()) == 1
    with open(tmp_path / "errors.txt", "w") as errors:
        with Served(folder, errors=errors) as found:
            for path, headers in (("%00", {}), ("serve.py/", {"Range": "bytes=0-1"})):
                with pytest.raises(urllib.error.HTTPError) as caught:
                    urllib.request.urlopen(urllib.request.Request(found + path, headers=headers))
                assert caught.value.code == 404
            (folder / "large.bin").write_bytes(bytes(1 << 24))
            with socket.create_connection(("127.0.0.1", int(found.rstrip("/").rpartition(":")[2]))) as client:
                client.sendall(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
                client.recv(1000)
            until(lambda: "Error: " in (tmp_path / "errors.txt").read_text())
    text = (tmp_path / "errors.txt").read_text()
    assert "Traceback" not in text and re.search(r"(?m)^127\.0\.0\.1: (BrokenPipe|ConnectionReset)Error: ", text)


def test_the_server_speaks_https_with_a_certificate(folder, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, to make a certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    words = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=phone", "-days", "2"]
    subprocess.run([*words, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    errors = open(tmp_path / "errors.txt", "w")
    with errors, Served(folder, "--certificate", str(certificate), "--key", str(key), errors=errors) as found:
        assert found.startswith("https://")
        trusts = ssl.create_default_context(cafile=certificate)
        trusts.check_hostname = False
        with urllib.request.urlopen(f"{found}index.html", context=trusts) as answer:
            assert b"EgoDistill" in answer.read()
        with pytest.raises(OSError):
            urllib.request.urlopen(found.replace("https", "http"))
        until(lambda: "127.0.0.1: SSLError: " in (tmp_path / "errors.txt").read_text())
        assert "Traceback" not in (tmp_path / "errors.txt").read_text()
    words = [sys.executable, folder / "serve.py", "--key", key]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and "--key belongs to a --certificate" in done.stderr


@pytest.mark.slow("exports for the browser")
def test_the_comparison_names_the_line_of_a_damaged_log(pairs, folder, tmp_path, monkeypatch):
    log, module = tmp_path / "log.jsonl", comparison()
    header = {"log": "egodistill web 1", "student": pairs["one"].description["student"], "every": 0.5}
    monkeypatch.setattr(module, "load_pair", lambda path: pairs["one"])
    monkeypatch.setattr(sys, "argv", ["compare.py", str(log), "--student", "one.onnx"])
    with pytest.raises(SystemExit, match=r"log\.jsonl: cannot be read"):
        module.main()
    times = [{"time": k / 50, "accel": [0, 0, 9.8], "gyro": [0, 0, 0]} for k in range(300)]
    frame = {"frame": 2.0, "rgb": base64.b64encode(bytes(3 * SIZE**2)).decode()}
    odd = {"answer": 64 / 30, "classes": [["odd", 1.0]], "problem": None}
    for lines, told in (
        ([], "line 1: not the header"),
        ([{"time": 1.0}], "line 1: not the header"),
        ([header | {"student": "x"}], "line 1: the log is of student x, not of"),
        ([{"log": "egodistill web 1"}], "line 1: not the header"),
        ([header, None], "line 2 is not a JSON object"),
        ([header, frame | {"rgb": "AAA"}], "line 2: "),
        ([header, frame | {"rgb": "AAAA"}], "line 2: "),
        ([header, {"frame": 2.0}], "line 2: no key or class 'rgb'"),
        ([header, {"time": 1.0, "accel": 5}], "line 2: "),
        ([header, *times[:100], frame, *times[100:], odd], "line 303: no key or class 'odd'"),
    ):
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        with pytest.raises(SystemExit, match=rf"log\.jsonl: {re.escape(told)}"):
            module.main()
    log.write_text(json.dumps(header) + '\n{"time": 1.')
    with pytest.raises(SystemExit, match="line 2 is not a JSON object"):
        module.main()


def test_the_lock_file_has_the_hash_of_each_package_and_leaves_the_registry_to_npm():
    packages = json.loads((WEB / "package-lock.json").read_text())["packages"]
    about = json.loads((WEB / "package.json").read_text())["dependencies"]
    assert packages.pop("")["dependencies"] == about == {"onnxruntime-web": "1.30.0"}
    assert all(one["integrity"].startswith("sha512-") and "resolved" not in one for one in packages.values())
    assert len(packages) > 10
