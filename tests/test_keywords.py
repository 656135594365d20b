"""Each keyword of what users call most changes what comes out: options followed through the door, to the result."""

import dataclasses
import inspect
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from painted import held, write_video
from panned import gyroscope
from small_teachers import narrow, random_clips
from streams import open_stream, picture, samples, student
from toys import CLASSES, small

from egodistill import EgoDistillError, Stream, data, distillation, predict, recordings, teachers
from egodistill.datasets.store import StoreWriter


@pytest.fixture(scope="module")
def given(kitchen, panned, tmp_path_factory):
    """Files that all keywords are tried on."""
    folder = tmp_path_factory.mktemp("keywords")
    stamps = np.arange(-1, 7, 1 / 200)
    waves = np.sin(np.outer(stamps, np.arange(1, 7))) + np.array([0, 0, 9.8, 0, 0, 0])
    columns = {"time": stamps} | dict(zip(("ax", "ay", "az", "gx", "gy", "gz"), waves.T, strict=True))
    kept = (stamps < 1.0) | (stamps > 1.08)  # a gap of 80 ms, above max_gap

    def table(name, *without):
        names = [one for one in columns if one not in without]
        rows = np.column_stack([columns[one][kept] for one in names])
        np.savetxt(folder / name, rows, "%.6f", delimiter=",", header=",".join(names), comments="")
        return folder / name

    redacted = list(np.random.default_rng(0).integers(0, 255, (200, 64, 80, 3), dtype=np.uint8))
    redacted[75:125] = [np.zeros((64, 80, 3), np.uint8)] * 50
    times, rates = gyroscope(12)
    rows = np.column_stack([times + 0.7, np.tile([0.1, 0.2, 9.8], (len(times), 1)), rates])
    np.savetxt(folder / "pan.csv", rows, "%.6f", delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="")
    store = folder / "s"
    segments = data.SegmentList([data.Segment(str(k), "a.mp4", 0.0, 1.0) for k in range(4)])
    specs = {"clip": dataclasses.replace(narrow().clip_spec, size=40)}
    writer = StoreWriter.begin(store, segments, lambda: [(k, 0.0) for k in range(4)], specs, [])
    for row, frames in enumerate(random_clips(4, size=40)):
        writer.write(row, {"clip": frames, "clip.times": np.arange(8.0)})
    return {
        "video": kitchen[0].video,
        "imu": table("walk.csv"),
        "gyro": table("gyro.csv", "ax", "ay", "az"),
        "pan": (panned, folder / "pan.csv"),
        "redacted": (write_video(folder / "redacted.mp4", np.arange(200) / 25, pictures=redacted, g=5),),
        "segments": kitchen,
        "store": store,
    }


# --- What comes out of each


def streamed(given, tmp_path, **options):
    """Answers, requests, errors and warnings of 15 s that are not in order: see the comments."""
    times, readings = samples(0, 12)
    readings[:, :3] /= 9.81  # a state to report
    late = np.arange(610, 614)
    lost = np.isin(np.arange(len(times)), late) | ((times > 9) & (times < 9.08))
    chunks = [*np.split(np.arange(len(times)), 120), *np.split(np.arange(600), 30)]  # at the end, a new clock
    found, coming = {"answers": [], "requests": [], "errors": [], "warnings": []}, {}
    with warnings.catch_warnings(record=True) as seen, open_stream(student(), **options) as stream:
        warnings.simplefilter("always")
        for k, part in enumerate(chunks):
            now = times[part[0]]
            try:
                stream.accept_imu(times[part][~lost[part]], readings[part][~lost[part]])
                if k == 31:
                    stream.accept_imu(times[late], readings[late])
                if k == 60:
                    stream.accept_imu([now + 3.0], readings[:1])
                if moment := coming.pop(k, None):
                    stream.accept_frame(moment, picture(k, 48))
                if stream.wants_frame(now):
                    found["requests"].append((k, now))
                    if len(found["requests"]) != 3:  # a lost picture
                        coming[k + 2] = now + 0.2
                if k % 10 == 9:
                    found["answers"] += stream.results()
            except EgoDistillError as error:
                found["errors"].append((k, str(error)))
        found["answers"] += stream.finish()
    answers = [answer._replace(delay=0.0, seconds=0.0) for answer in found["answers"]]
    return found | {"answers": answers, "warnings": [str(one.message) for one in seen]}


def predicted(given, tmp_path, *, imu="imu", **options):
    model = small(class_names=CLASSES, num_frames=2).eval()
    try:
        rows = list(predict(model, given["video"], given[imu], **{"precision": "fp32"} | options))
    except (EgoDistillError, data.IMUError) as error:
        return {"error": str(error)}
    scores = [[dict(row.classes).get(name, 0.0) for name in CLASSES] for row in rows]
    return {
        "starts": [row.start for row in rows],
        "problems": [row.problem for row in rows],
        "scores": np.array(scores),
    }


def prepared(given, tmp_path, *, change=lambda segments: segments, lacking=False, table=None, **options):
    segments = change(given["segments"][:4])
    if table:
        segments = [dataclasses.replace(segment, imu=str(given[table])) for segment in segments]
    options = {"num_frames": 2, "frame_size": 24, "clip_frames": 2, "clip_size": 16, "workers": 1} | options
    options |= {"progress": options.get("progress", False)}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            if lacking:  # the table of the IMU, at first
                late = tmp_path.with_suffix(".csv")
                segments = [dataclasses.replace(segment, imu=str(late)) for segment in segments]
                data.prepare(segments, tmp_path, **options | {"max_bad": 1.0, "retry_failed": False})
                shutil.copy(given["imu"], late)
            data.prepare(segments, tmp_path, **options)
        except EgoDistillError as error:
            seen.append(error)
    return (held(tmp_path) if (tmp_path / "store.json").exists() else {}) | {
        "said": [str(getattr(one, "message", one)).replace(str(tmp_path), "") for one in seen],
    }


def checked(given, tmp_path, *, what="pan", **options):
    found = recordings.check(*given[what], **options)
    return {field.name: repr(getattr(found, field.name)) for field in dataclasses.fields(found)}


def extracted(given, tmp_path, *, teacher=narrow, before=None, rows=slice(None), **options):
    path = Path(shutil.copytree(given["store"], tmp_path / "s"))
    found = {}
    try:
        if before:
            teachers.extract(before(), data.ClipStore(path), progress=False)
        teachers.extract(teacher(), data.ClipStore(path), **{"progress": False} | options)
    except EgoDistillError as error:
        found["error"] = str(error)
    store = data.ClipStore(path)
    for name in (name for name in store.names if name.startswith("slowfast")):
        found |= {f"{name} done": (rows := store.done(name)), name: store.read(name, rows)}
    return found


# --- Another value of each keyword, and what else both calls are given


NEWEST = {"frames": "newest"}
DOUBLED = {"change": lambda segments: [*segments, dataclasses.replace(segments[0], id="again")]}
THRICE = {"change": lambda rows: [dataclasses.replace(one, id=f"{one.id} {k}") for k in range(3) for one in rows]}
OUTSIDE = {"change": lambda segments: [*segments, dataclasses.replace(segments[0], id="late", start=50.0, stop=51.0)]}
DIFFERENT = {
    streamed: {
        "every": (0.7, {}),
        "frames": ("newest", {}),
        "slack": (0.3, {}),
        "tolerance": (0.1, {}),
        "max_age": (2.0, NEWEST),
        "min_coverage": (0.99, {}),
        "max_gap": (0.12, {"min_coverage": 0.99}),
        "imu_axes": ("XZy", {}),
        "frame_clock": ((0.1, 1.0), {}),
        "gate": ((lambda *_: True), NEWEST),
        "period": (1.0, NEWEST),
        "camera_delay": (0.3, {}),
        "camera_timeout": (0.3, NEWEST | {"period": 1.0}),
        "max_pending": (1, {}),
        "max_jump": (5.0, {}),
        "on_restart": ("reset", {}),
        "top": (3, {}),
        "precision": ("bf16", {}),
        "report": (str, {}),
    },
    predicted: {
        "imu_offset": (0.2, {}),
        "imu_stretch": (1.01, {}),
        "zero_accel": (True, {"imu": "gyro"}),
        "imu_axes": ("XZy", {}),
        "min_coverage": (0.99, {}),
        "max_gap": (0.12, {"min_coverage": 0.99}),
        "max_hold": (0.01, {}),
        "stride": (1.0, {}),
        "top": (2, {}),
        "exact": (False, {}),
        "tolerance": (0.25, {}),
        "precision": ("bf16", {}),
    },
    prepared: {
        "num_frames": (3, {}),
        "frame_size": (20, {}),
        "clip_frames": (3, {}),
        "clip_size": (20, {}),
        "clip_seconds": (1.5, {}),
        "imu_rate": (50.0, {}),
        "imu": (False, {}),
        "ends": (False, {}),
        "sampling": ("last", {}),
        "seed": (1, {"sampling": "random"}),
        "exact": (False, {}),
        "tolerance": (0.25, {}),
        "min_coverage": (0.5, {"change": lambda s: [dataclasses.replace(one, imu_offset=-3.2) for one in s]}),
        "max_gap": (0.001, {}),
        "max_hold": (0.01, {}),
        "zero_accel": (True, {"table": "gyro"}),
        "rank": (1, {"world_size": 2}),
        "world_size": (2, THRICE),  # in several shards
        "max_bad": (0.0, OUTSIDE | {"max_bad": 0.9}),
        "retry_failed": (True, {"lacking": True}),
        "class_names": (["wash", "cut", "unused"], {}),
        "consumer": (lambda: distillation.EndFeatures(small(frame_size=24).eval()), {"ends": False}),
        "strict": (True, DOUBLED),
    },
    checked: {
        "imu_offset": (-0.7, {}),
        "imu_stretch": (1.02, {}),
        "imu_axes": ("XZy", {}),
        "offset": (False, {}),
        "max_offset": (0.3, {}),
        "excerpts": (1, {"seconds": 2.0}),
        "seconds": (3.0, {"excerpts": 2}),
        "samples": (0, {"what": "redacted", "excerpts": 2, "seconds": 1.0}),
    },
    extracted: {
        "views": (3, {}),
        "precision": ("bf16", {}),
        "rank": (1, {"world_size": 2, "batch_size": 2}),
        "world_size": (2, {"batch_size": 2}),
        "overwrite": (True, {"before": lambda: narrow(1)}),
    },
}
SAME = {  # what changes only how it is computed, or shown
    streamed: {},
    predicted: {"batch_size": 1, "device": "cpu"},
    prepared: {"workers": 2, "progress": True},
    checked: {},
    extracted: {"batch_size": 3, "device": "cpu", "progress": True},
}
ELSEWHERE = {
    predicted: {"compile"},  # test_inference.py: compiling takes a minute
    streamed: {"before_frames"},  # tests/deploy/test_stream_alone.py: for another student
}
CALLS = {
    streamed: Stream,
    predicted: predict,
    prepared: data.prepare,
    checked: recordings.check,
    extracted: teachers.extract,
}
CASES = [(what, name) for what, table in DIFFERENT.items() for name in table]


@pytest.mark.parametrize("what", CALLS, ids=lambda what: what.__name__)
def test_the_table_has_every_keyword(what):
    keywords = [p.name for p in inspect.signature(CALLS[what]).parameters.values() if p.kind == p.KEYWORD_ONLY]
    assert set(keywords) == set(DIFFERENT[what]) | set(SAME[what]) | ELSEWHERE.get(what, set())


def differ(one, other):
    if set(one) != set(other):
        return True
    return any(
        not np.array_equal(one[k], other[k]) if isinstance(one[k], np.ndarray) else one[k] != other[k] for k in one
    )


@pytest.fixture(scope="module")
def plain(given, tmp_path_factory):
    """What comes out of a call with these options, which is computed once."""
    known = {}

    def result(what, /, **besides):
        key = what, *((name, id(value)) for name, value in sorted(besides.items()))
        if key not in known:
            known[key] = what(given, tmp_path_factory.mktemp("plain"), **besides)
        return known[key]

    return result


@pytest.mark.parametrize("what", DIFFERENT, ids=lambda one: one.__name__)
def test_the_same_values_give_the_same(given, plain, tmp_path, what):
    assert not differ(plain(what), what(given, tmp_path))


@pytest.mark.parametrize(("what", "name"), CASES, ids=lambda one: getattr(one, "__name__", one))
def test_another_value_changes_what_comes_out(given, plain, tmp_path, what, name):
    value, besides = DIFFERENT[what][name]
    value = value() if name == "consumer" else value
    assert differ(plain(what, **besides), what(given, tmp_path, **besides | {name: value}))


@pytest.mark.parametrize(
    ("what", "name"), [(w, n) for w in SAME for n in SAME[w]], ids=lambda o: getattr(o, "__name__", o)
)
def test_how_it_is_computed_changes_nothing(given, plain, tmp_path, what, name):
    wanted, other = plain(what), what(given, tmp_path, **{name: SAME[what][name]})
    assert set(wanted) == set(other)
    for key, value in wanted.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(other[key], value, rtol=1e-4, atol=1e-5)
        else:
            assert other[key] == value
