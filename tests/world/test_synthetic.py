"""The rendered world as files: balance, labels, sound, pictures and tables, and what rendering refuses."""

import csv
import hashlib
import importlib.util
import itertools
import json
import math
import re
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from painted import heard_at

import egodistill
from egodistill import CLIP_SECONDS, EgoDistillError, EgoDistillOSError, data
from egodistill.world import behaviour, scene, synthetic
from egodistill.world.behaviour import THINGS, TURN, VERBS
from egodistill.world.synthetic import FRAME_RATE, RenderedRecording

SETTINGS = {"seed": 5, "train_acts": 8, "validation_acts": 2, "test_acts": 3, "train_wearers": 2} | {
    "validation_wearers": 1,
    "size": (40, 32),
    "progress": False,
}
TRAINING, VALIDATION, TEST = ("P01", "P02"), ("P99",), ("P30", "P35", "P37")
# What render() must have made of these settings.
RECORDINGS = [
    RenderedRecording(f"{wearer}_101", acts, 5, 40, 32, noise, first=acts * k)
    for wearers, acts, noise in ((TRAINING, 4, 0.25), (VALIDATION, 2, 0.0), (TEST, 1, 0.0))
    for k, wearer in enumerate(wearers)
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world that the tests only read."""
    return synthetic.render(tmp_path_factory.mktemp("synthetic") / "world", workers=1, **SETTINGS)


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(root, pattern="**/*"):
    """Every file below a folder: relative path -> bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob(pattern) if p.is_file()}


def planned(monkeypatch, root, **settings):
    """The recordings that render() would write, and the world, without rendering."""
    written = []
    monkeypatch.setattr(RenderedRecording, "write", lambda self, root: written.append(self))
    return synthetic.render(root, workers=1, progress=False, **settings), written


@pytest.fixture(scope="module")
def many():
    """Plans of 100 recordings of 40 acts, by 25 wearers."""
    recordings = [RenderedRecording(f"P{k // 4 + 1:02d}_{101 + k % 4}", 40, first=40 * k) for k in range(100)]
    return recordings, [recording.draw() for recording in recordings]


# --- Who does what


def test_classes_are_balanced_in_each_split_wearer_and_recording(tmp_path, monkeypatch):
    world, written = planned(
        monkeypatch, tmp_path, train_acts=600, validation_acts=100, test_acts=204, validation_wearers=2, test_wearers=3
    )
    splits = {"train": world.train_wearers, "validation": world.validation_wearers, "test": world.test_wearers}
    assert splits == {"train": tuple(f"P{k:02d}" for k in range(1, 9)), "validation": ("P99", "P98"), "test": TEST}
    for split, acts in (("train", 600), ("validation", 100), ("test", 204)):
        counts = {name: Counter() for name in splits[split]}
        for recording in (one for one in written if one.name[:3] in splits[split]):
            verbs = Counter(act.verb for act in recording.draw().acts)
            assert max(verbs.values()) - min(verbs.get(k, 0) for k in range(20)) <= 1 and verbs.total() <= 40
            counts[recording.name[:3]] += verbs
        assert all(max(c.values()) - min(c.get(k, 0) for k in range(20)) <= 1 for c in counts.values())
        assert max(c.total() for c in counts.values()) - min(c.total() for c in counts.values()) <= 1
        whole = sum(counts.values(), Counter())
        assert whole.total() == acts and max(whole.values()) - min(whole.values()) <= 1
    assert len({one.name for one in written}) == len(written)
    assert {row["participant_id"] for row in table(world.annotations)} == set().union(*splits.values())


def test_first_continues_the_balance_where_the_last_recording_stopped():
    verbs = [act.verb for first in (0, 7, 14) for act in RenderedRecording("P01_101", 7, first=first).draw().acts]
    assert sorted(verbs) == sorted([*range(20), 0])


def test_wearers_of_a_split_do_not_depend_on_the_other_splits(tmp_path, monkeypatch):
    usual = {"train_acts": 20, "test_acts": 20, "test_wearers": 5, "validation_wearers": 3, "validation_acts": 9}
    world, one = planned(monkeypatch, tmp_path / "one", **usual)
    changes = {"train_wearers": 2, "train_acts": 3, "label_noise": 0.5, "validation_wearers": 1}
    other_world, other = planned(monkeypatch, tmp_path / "other", **usual | changes)
    assert world.test_wearers == other_world.test_wearers == ("P30", "P35", "P37", "P31", "P32")
    assert not {*world.test_wearers} & {*world.validation_wearers} and world.validation_wearers[0] == "P99"
    tests = [[recording for recording in some if recording.name[:3] in world.test_wearers] for some in (one, other)]
    assert tests[0] == tests[1]


def test_habits_are_the_persons_and_acts_the_recordings(many):
    _, plans = many
    assert plans[0].wearer == plans[1].wearer and plans[0].wearer.skin != plans[4].wearer.skin
    assert plans[0].acts[0].appearance != plans[1].acts[0].appearance
    assert not np.allclose(plans[0].head.phase, plans[1].head.phase)
    assert RenderedRecording("P01_101", 9).draw().acts != RenderedRecording("P01_101", 9, seed=1).draw().acts


def test_time_and_length_do_not_tell_the_class(many):
    """One-way analysis of variance over 20 classes: F has mean 1, and exceeds 2.4 once in 2,000."""
    _, plans = many
    acts = [act for plan in plans for act in plan.acts]
    verbs = np.array([act.verb for act in acts])
    before = np.array([0, *verbs[:-1]])
    duration = np.array([act.duration for act in acts])
    for values in (
        [act.centre for act in acts],
        [act.length for act in acts],
        duration,
        before,
        [act.pitch for act in acts],
    ):
        values = np.asarray(values, float)
        means = np.array([values[verbs == k].mean() for k in range(20)])
        within = np.mean([values[verbs == k].var(ddof=1) for k in range(20)])
        assert 200 * means.var(ddof=1) / within < 2.4


def test_two_in_five_clips_contain_another_act_or_a_turn(many):
    _, plans = many
    found = []
    for plan in plans:
        turns = [(a.stop + b.start) / 2 for a, b in itertools.pairwise(plan.acts)]
        spans = [(act.start, act.stop) for act in plan.acts] + [(t - TURN / 2, t + TURN / 2) for t in turns]
        for k, act in enumerate(plan.acts):
            others = spans[:k] + spans[k + 1 :]
            found.append(
                any(b < act.centre + CLIP_SECONDS / 2 and e > act.centre - CLIP_SECONDS / 2 for b, e in others)
            )
    assert 0.33 < np.mean(found) < 0.5


def test_untrimmed_recordings_are_long_annotated_to_a_third_and_have_a_table(tmp_path, monkeypatch):
    world, written = planned(monkeypatch, tmp_path, train_acts=8, test_acts=3, untrimmed=2)
    long = [recording for recording in written if recording.untrimmed]
    assert [recording.name for recording in long] == ["P30_201", "P35_201"]
    assert Counter(row["video_id"] for row in table(world.untrimmed)) == {"P30_201": 54, "P35_201": 54}
    assert not {row["video_id"] for row in table(world.annotations)} & {"P30_201", "P35_201"}
    for recording in long:
        plan = recording.draw()
        assert 3.5 < plan.duration / 60 < 4.5
        assert 0.28 < sum(act.length for act in plan.acts) / plan.duration < 0.38
        assert set(Counter(act.verb for act in plan.acts).values()) == {2, 3}
    assert planned(monkeypatch, tmp_path / "none", train_acts=8, test_acts=3)[0].untrimmed is None


# --- Whole recordings

UNLABELLED = ("tap", "carrot", "bin", "tray")


def test_whole_recordings_name_no_act_on_unlabelled_objects_and_none_of_an_idle_hand(tmp_path, monkeypatch):
    counts = {"train_acts": 400, "validation_acts": 80, "test_acts": 120, "validation_wearers": 2}
    world, written = planned(monkeypatch, tmp_path, **counts, unlabelled=UNLABELLED)
    rows, names = table(world.annotations), [thing.noun[0] for thing in THINGS if thing.look in UNLABELLED]
    verbs = {verb for thing in THINGS if thing.look not in UNLABELLED for verb, _ in thing.verbs}
    assert {row["verb"] for row in rows} == verbs and not {row["noun"] for row in rows} & set(names)
    acts = {f"{one.name}_{k}": act for one in written for k, act in enumerate(one.draw().acts)}
    idle = {name for name, act in acts.items() if act.hold is not None}
    other = {name for name, act in acts.items() if THINGS[act.thing].look in UNLABELLED}
    assert {row["narration_id"] for row in rows} == acts.keys() - idle - other and world.untrimmed is None
    assert len(idle) / len(acts) == pytest.approx(0.15, abs=0.05)
    assert len(other - idle) / len(acts) == pytest.approx(0.3 * 0.85, abs=0.05)
    for split, wrong in (("train", 0.25), ("validation", 0.0), ("test", 0.0)):
        own = [row for row in rows if row["participant_id"] in getattr(world, f"{split}_wearers")]
        found = [row["verb"] != VERBS[acts[row["narration_id"]].verb] for row in own]
        assert np.mean(found) == pytest.approx(wrong, abs=0.06 * (split == "train"))


def test_whole_recordings_have_long_gaps_and_room_for_background():
    """An act follows the last one after 0.7 to 4.9 s; a clip with half a second on each side has room between many."""
    room, seconds, labelled = [], 0.0, 0.0
    for k in range(10):
        recording = RenderedRecording(f"P{k + 1:02d}_101", 40, first=40 * k, unlabelled=UNLABELLED)
        plan, long = recording.draw(), replace(recording, unlabelled=(), untrimmed=True).draw()
        gaps = [b.start - a.stop for a, b in itertools.pairwise(plan.acts)]
        assert 0.7 - 1e-9 < min(gaps) and max(gaps) < 4.9
        known = {int(row[0].rsplit("_", 1)[1]) for row in recording.rows()}
        spans = [
            (act.centre - act.length / 2, act.centre + act.length / 2) for act in map(plan.acts.__getitem__, known)
        ]
        assert sorted(spans) == spans and all(a[1] < b[0] for a, b in itertools.pairwise(spans))
        room += [b[0] - a[1] for a, b in itertools.pairwise(spans)]
        seconds, labelled = seconds + plan.duration, labelled + sum(stop - start for start, stop in spans)
        for act, same in zip(plan.acts, long.acts, strict=True):  # nothing else was drawn anew
            assert act == same if act.hold is None else act == same.idle(act.hold)
    assert 0.16 < labelled / seconds < 0.23
    assert np.mean(np.array(room) > CLIP_SECONDS + 1.0) > 0.6


def test_worlds_without_whole_recordings_are_what_they_were():
    """Annotations, head motion and readings of recordings of three kinds, before there were whole ones."""
    found = hashlib.sha256()
    for settings in ({"label_noise": 0.25}, {"untrimmed": True}, {"coupling": 0.5, "things": ("tap", "jug")}):
        recording = RenderedRecording("P07_103", 12, 5, 40, 32, first=3, **settings)
        plan = recording.draw()
        state = np.round(plan.head.state(np.arange(0, 20, 0.5)), 6).tolist()
        readings = np.round(plan.head.readings(5.0, recording.rng(4))[0][1], 4).tolist()
        found.update((repr(recording.rows()) + repr(state) + repr(readings)).encode())
    assert found.hexdigest().startswith("3f50999c00ebe532")


# --- Labels


def test_wrong_labels_are_the_stated_share_half_of_them_within_the_pair():
    recordings = [RenderedRecording(f"P{k + 1:02d}_101", 400, label_noise=0.25) for k in range(5)]
    kinds = Counter()
    for recording in recordings:
        wrong = 0
        for row, act in zip(recording.rows(), recording.draw().acts, strict=True):
            true, said = VERBS[act.verb], row[9]
            wrong += said != true
            thing = THINGS[act.thing]
            assert (said, row[10]) in [pair for some in THINGS for pair in some.verbs]
            assert (row[11], row[12]) == thing.noun and row[8] == f"{said} {thing.noun[0]}"
            if said != true and thing.kind != "single":
                pair = said in [verb for verb, _ in thing.verbs]
                alike = {said, true} in [{*pair} for pair in behaviour.LOOKALIKES]
                kinds["pair" if pair else "alike" if alike else "other"] += 1
        assert wrong == 100
    for kind, share in (("pair", 0.5), ("alike", 0.3), ("other", 0.2)):
        assert abs(kinds[kind] / kinds.total() - share) < 4 * math.sqrt(share * (1 - share) / kinds.total())


def test_labels_of_validation_and_test_are_right(tmp_path, monkeypatch):
    acts = {"train_acts": 80, "validation_acts": 40, "test_acts": 40}
    wearers = {"train_wearers": 2, "validation_wearers": 1, "test_wearers": 1, "untrimmed": 1}
    world, written = planned(monkeypatch, tmp_path, **acts, **wearers)
    rows = iter([*table(world.annotations), *table(world.untrimmed)])
    for recording in written:
        right = [next(rows)["verb"] == VERBS[act.verb] for act in recording.draw().acts]
        assert right.count(False) == (10 if recording.name[:3] in TRAINING else 0), recording.name
    assert next(rows, None) is None


# --- Sound


def around(plan, sound, act, seconds):
    """The sound around the true centre of an act, as floats; silence beyond the recording."""
    half = round(seconds / 2 * synthetic.SOUND_RATE)
    padded = np.pad(sound / 32767, half)
    middle = round((act.centre + act.offset) * synthetic.SOUND_RATE) + half
    return padded[middle - half : middle + half]


@pytest.mark.slow("4,000 sounds")
def test_place_of_the_knock_tells_the_verb_and_its_pitch_not_the_thing(many, monkeypatch):
    """Loudest within 0.1 s of one of the act's ends, or not heard; without the rustle, which is the same if none is."""
    recordings, plans = many
    heard, pitches = {}, {}
    for recording, plan in zip(recordings[:24:2], plans[:24:2], strict=True):
        sound = recording.sound(plan)
        with monkeypatch.context() as patch:
            silent = tuple(replace(thing, heard=thing.heard * (thing.kind == "cyclic")) for thing in THINGS)
            patch.setattr(synthetic, "THINGS", silent)
            rustle = recording.sound(plan)
        assert len(sound) == 800 * round(FRAME_RATE * plan.duration) and np.abs(sound).max() <= 32767
        for act in (act for act in plan.acts if act.kind == "reversal"):
            near = around(plan, sound.astype(float) - rustle, act, act.duration + 0.5)  # the next begins after 0.4 s
            loudest = int(np.abs(near).argmax())
            knock = np.abs(near).max() > 0.07
            heard.setdefault(act.thing, []).append(knock)
            if knock:
                at = loudest / synthetic.SOUND_RATE - 0.25 - act.duration / 2  # since the centre
                assert abs(abs(at) - act.duration / 2) < 0.1 and (at > 0) == act.second
                tones = np.abs(np.fft.rfft(near[loudest : loudest + 1600]))
                pitches.setdefault(act.thing, []).append(10 * tones[20:].argmax() + 200)
    for thing, knocks in heard.items():
        share = THINGS[thing].heard
        assert abs(np.mean(knocks) - share) <= 4 * math.sqrt(share * (1 - share) / len(knocks)) + 0.02
    assert set(pitches) == {0, 1, 2}
    medians = [np.median(np.log(found)) for found in pitches.values()]
    spread = np.log(10) / math.sqrt(12)  # of a log-uniform pitch
    assert all(np.ptp(np.log(found)) > 1.6 for found in pitches.values())
    assert np.ptp(medians) < 4 * 1.25 * spread * math.sqrt(2 / min(map(len, pitches.values())))


def test_sound_of_strokes_has_their_rhythm_in_the_share_that_is_heard(many):
    recordings, plans = many
    follows = {}
    for recording, plan in zip(recordings[:10], plans[:10], strict=True):
        sound = recording.sound(plan)
        for act in (act for act in plan.acts if act.kind == "cyclic"):
            near = around(plan, sound, act, act.duration - 0.2)
            windows = near[: len(near) // 320 * 320].reshape(-1, 320)
            t = act.start + 0.1 + (np.arange(len(windows)) + 0.5) / 50
            height = np.clip(act.path(t)[:, 1], 0, None) ** 2
            both = np.square(windows).mean(1), height**2
            follows.setdefault(act.thing, []).append(height.any() and np.corrcoef(*both)[0, 1] > 0.6)
    for thing, found in follows.items():
        assert abs(np.mean(found) - THINGS[thing].heard) < 4 * 0.5 / math.sqrt(len(found)), THINGS[thing].look


def test_without_knock_or_rhythm_sound_does_not_tell_the_verb(many, monkeypatch):
    """Acts of either verb then rustle steadily, and begin and end as early and late as the others."""
    monkeypatch.setattr(synthetic, "THINGS", tuple(replace(thing, heard=0.0) for thing in THINGS))
    recordings, plans = many
    loud = np.zeros((2, 20))
    for recording, plan in zip(recordings[:4], plans[:4], strict=True):
        for flip in (0, 1):
            turned = [replace(a, second=not a.second) if a.kind == "reversal" else a for a in plan.acts]
            sound = recording.sound(plan._replace(acts=turned) if flip else plan)
            for act in (act for act in plan.acts if act.kind == "reversal"):
                near = around(plan, sound, act, act.duration + 1) ** 2
                part = near[: len(near) // 20 * 20].reshape(20, -1).mean(1)
                loud[flip] += part[::-1] if flip else part
    assert loud.min() > 0.3 * loud.max()  # When the act is would tell the verb, with what one frame shows of it.
    np.testing.assert_allclose(loud[0], loud[1], rtol=0.25)


def test_microphone_is_in_step_with_the_pictures(world):
    """What a reader hears in the file is what was played at that time."""
    for recording in RECORDINGS[:2]:
        plan = recording.draw()
        played = recording.sound(plan) / 32767
        starts = [act.centre - 1 for act in plan.acts]
        for start, heard in zip(starts, heard_at(recording.files(world.root)[0], starts), strict=True):
            wanted = played[round(start * 16000) :][: len(heard)]
            assert np.corrcoef(wanted, heard[: len(wanted)])[0, 1] > 0.9


# --- Files


def test_layout_is_that_of_epic_kitchens(world):
    expected = {"world.json", "EPIC_100_train.csv", "EPIC_100_verb_classes.csv", "true_verbs.csv"}
    for name in (recording.name for recording in RECORDINGS):
        expected.add(f"{name[:3]}/videos/{name}.MP4")
        expected |= {f"{name[:3]}/meta_data/{name}-{sensor}.csv" for sensor in ("accl", "gyro")}
    assert contents(world.root).keys() == expected
    rows = table(world.annotations)
    assert ",".join(rows[0]) == (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
        "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,"
        "all_noun_classes"
    )
    assert len(rows) == 13 and len({row["narration_id"] for row in rows}) == 13
    first, act = rows[0], RECORDINGS[0].draw().acts[0]
    assert (first["narration_id"], first["participant_id"], first["video_id"]) == ("P01_101_0", "P01", "P01_101")
    assert re.fullmatch(r"00:00:0\d\.\d\d", first["start_timestamp"])
    assert int(first["start_frame"]) == round(50 * (act.centre - act.length / 2))
    classes = table(world.root / "EPIC_100_verb_classes.csv")
    assert {row["key"]: int(row["id"]) for row in classes} == dict(pair for thing in THINGS for pair in thing.verbs)

    assert (world.train_wearers, world.validation_wearers, world.test_wearers) == (TRAINING, VALIDATION, TEST)
    segments = data.read_epic_kitchens(world.annotations, world.root, evaluation_wearers=world.test_wearers)
    assert not segments.dropped
    assert Counter(s.split for s in segments) == {"train": 10, "test": 3}
    assert {s.id[:3] for s in segments if s.split == "test"} == set(TEST)
    assert [s.label for s in segments] == [row["verb"] for row in rows]


def test_imu_files_are_the_readings(world):
    for recording in RECORDINGS[:2]:
        paths, plan = recording.files(world.root)[1:], recording.draw()
        headers = [path.read_text().splitlines()[0] for path in paths]
        assert headers == ["Milliseconds,AcclX,AcclY,AcclZ", "Milliseconds,GyroX,GyroY,GyroZ"]
        imu = data.read_imu(paths)
        readings = plan.head.readings(plan.duration, recording.rng(4))
        for (times, values), stamps, seen in zip(
            readings, (imu.accel_time, imu.gyro_time), (imu.accel, imu.gyro), strict=True
        ):
            np.testing.assert_allclose(stamps, times, atol=1e-8)
            np.testing.assert_allclose(seen, values, atol=1e-6)


def test_centre_of_an_annotation_is_exactly_a_frame(world):
    """A single-frame model gets the frame on the grid and not its neighbour."""
    segments = iter(data.read_epic_kitchens(world.annotations, world.root))
    for recording in RECORDINGS:
        video, plan = recording.files(world.root)[0], recording.draw()
        with av.open(str(video)) as container:
            decoded = list(container.decode(video=0))
        seconds = [float(frame.pts * frame.time_base) for frame in decoded]
        np.testing.assert_allclose(seconds, np.arange(len(decoded)) / FRAME_RATE, atol=1e-9)
        info = data.probe(video)
        assert (info.width, info.height, info.fps) == (40, 32, FRAME_RATE)
        assert info.duration == pytest.approx(plan.duration, abs=0.05)
        pictures = [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in decoded]
        for act in plan.acts:
            segment = next(segments)
            assert segment.video == str(video)
            centre = (segment.start + segment.stop) / 2
            number = round(centre * FRAME_RATE)
            assert centre == pytest.approx(number / FRAME_RATE, abs=1e-9)
            assert centre == pytest.approx(act.centre, abs=1e-9)
            assert segment.stop - segment.start == pytest.approx(act.length)
            start = centre - CLIP_SECONDS / 2
            frame = data.read_frames(video, data.clip_times(start, 1))[0]
            errors = [np.abs(frame - picture.astype(int)).mean() for picture in pictures[number - 1 : number + 2]]
            assert errors[1] < 1 and min(errors[0], errors[2]) > errors[1]
    assert next(segments, None) is None


def test_frame_at_an_annotated_centre_shows_the_thing_where_the_camera_projects_it(tmp_path):
    """The decoded frame differs from one of the room alone where the station is, and nowhere else."""
    recording = RenderedRecording("P01_101", 3, 3)
    recording.write(tmp_path)
    plan, rng = recording.draw(), recording.rng(3)
    room = scene.Room(scene.wall_texture(rng), scene.counter_texture(rng), plan.wearer.counter)
    lights = [np.clip(rng.normal(1.0, 0.06, 3) * rng.uniform(0.7, 1.15), 0.5, 1.3) for _ in plan.acts]
    camera = scene.Camera(96, 96)
    frames = data.read_frames(recording.files(tmp_path)[0], [act.centre + 1e-3 for act in plan.acts])
    for act, frame, light in zip(plan.acts, frames, lights, strict=True):
        t = np.array([act.centre])
        rotation, place = plan.head.pose(t)
        (empty,) = camera.render(rotation, place, [], room, light)
        changed = np.abs(frame.transpose(1, 2, 0).astype(int) - empty).max(-1) > 40
        # The station's sprites, projected by hand: a pinhole camera of 54 degrees.
        cos, sin = math.cos(act.azimuth), math.sin(act.azimuth)
        shown = np.zeros((96, 96), bool)
        for part in synthetic.station(act, plan.wearer, t):
            left, up, half_width, half_height = (
                float(np.ravel(value)[0]) for value in (part.left, part.up, part.half[0], part.half[1])
            )
            point = np.array([part.depth * cos - left * sin, part.depth * sin + left * cos, up])
            aside, back, above = rotation[0].T @ (point - place[0])
            focal = 48 / math.tan(math.radians(27))
            column, row = 48 + focal * aside / back, 48 + focal * above / back
            rows, columns = np.indices((96, 96)) + 0.5
            reach = 1.25 * focal * math.hypot(half_width, half_height) / -back
            shown |= np.hypot(rows - row, columns - column) < reach
        assert changed.sum() > 200 and changed[shown].sum() > 0.97 * changed.sum()


def test_a_turn_is_lit_halfway_between_its_stations(tmp_path, monkeypatch):
    seen = []

    def render(self, rotation, position, parts, room, light):
        seen.append((len(parts), np.asarray(light)))
        return np.zeros((len(rotation), self.height, self.width, 3), np.uint8)

    monkeypatch.setattr(scene.Camera, "render", render)
    RenderedRecording("P01_101", acts=3, width=32, height=32).write(tmp_path)
    counts, lights = zip(*seen, strict=True)
    assert counts == (2, 2, 3, 2, 2) and not np.allclose(lights[0], lights[2])
    for turn in (1, 3):
        np.testing.assert_allclose(lights[turn], (lights[turn - 1] + lights[turn + 1]) / 2)


def test_shutter_blurs_what_moves_around_the_time_of_the_frame():
    sharp, still, open_ = (RenderedRecording("P01_101", 3, width=48, height=48, shutter=s) for s in (0.0, 1e-9, 0.05))
    plan = sharp.draw()
    seen = [np.concatenate(list(recording._pictures(plan))).astype(float) for recording in (sharp, still, open_)]
    assert len({pictures.shape for pictures in seen}) == 1  # as many frames, whatever the shutter
    assert np.abs(seen[0] - seen[1]).max() <= 1
    frames, blurred = seen[0][1:-1], seen[2][1:-1]
    own, later, earlier = (np.abs(blurred - other).mean() for other in (frames, seen[0][2:], seen[0][:-2]))
    assert own < min(later, earlier) and abs(later - earlier) < 0.1 * later  # the frame's time is the exposure's middle
    fastest = np.abs(np.diff(seen[0], axis=0)).mean((1, 2, 3)).argmax() - 1
    edges = [np.abs(np.diff(pictures[fastest], axis=1)).mean() for pictures in (frames, blurred)]
    assert edges[1] < 0.8 * edges[0]


def test_a_world_of_before_there_was_a_shutter_is_continued(world):
    note = world.root / "world.json"
    before = note.read_text()
    assert '"shutter": 0.0' in before
    old = json.loads(before)
    del old["shutter"], old["unlabelled"]
    note.write_text(json.dumps(old))
    synthetic.render(world.root, workers=1, **SETTINGS)
    assert note.read_text() == before
    note.write_text(json.dumps(old))
    with pytest.raises(synthetic.WorldError, match=r"other settings \(shutter"):
        synthetic.render(world.root, workers=1, **SETTINGS, shutter=0.02)
    note.write_text("[1, 2]")
    with pytest.raises(synthetic.WorldError, match=r"world\.json: has no settings of a world"):
        synthetic.render(world.root, workers=1, **SETTINGS)
    note.write_text(before)


# --- Rendering


def test_same_arguments_give_the_same_bytes_with_any_number_of_workers(world, tmp_path):
    again = synthetic.render(tmp_path / "again", workers=2, **SETTINGS)
    assert contents(again.root) == contents(world.root)


def test_a_folder_with_other_content_is_left_alone(tmp_path):
    mine = tmp_path / "EPIC_100_train.csv"
    mine.write_text("narration_id,mine\n")
    with pytest.raises(synthetic.WorldError, match=r"contains EPIC_100_train.csv but no world.json; give an empty"):
        synthetic.render(tmp_path, workers=1, **SETTINGS)
    assert mine.read_text() == "narration_id,mine\n" and list(tmp_path.iterdir()) == [mine]


def test_interrupted_rendering_continues(world, tmp_path, monkeypatch, capsys):
    root = tmp_path / "world"
    shutil.copytree(world.root, root)
    video, accl, gyro = RECORDINGS[3].files(root)
    *rest, lost = RECORDINGS[4].files(root)  # of this one a single file
    for file in (video, accl, gyro, lost, root / "EPIC_100_train.csv"):
        file.unlink()
    stamps = {file: file.stat().st_mtime_ns for file in root.glob("P*/*/*")}

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(scene.Camera, "render", interrupted)
        synthetic.render(root, workers=1, **SETTINGS)
    assert accl.exists() and not video.exists()
    assert not list(root.glob("**/*.part")) and not list(root.glob("*/videos/.*"))

    assert capsys.readouterr().err == ""
    synthetic.render(root, workers=1, **SETTINGS | {"progress": True})
    assert re.search(r"render: 13/13 acts, [\d.]+ acts/s", capsys.readouterr().err)
    assert contents(root) == contents(world.root)
    kept = {file for file, stamp in stamps.items() if file.stat().st_mtime_ns == stamp}
    assert kept >= set(stamps) - set(rest)
    synthetic.render(root, workers=1, **SETTINGS | {"progress": True})  # nothing to do, no bar
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("size", "file"), [(10, "world.json"), (9000, "P01_101-accl.csv"), (60_000, "P01_101.MP4")])
def test_full_disk_is_named_with_the_file(tmp_path, full_disk, monkeypatch, size, file):
    if file.endswith("MP4"):  # only the pictures are large
        monkeypatch.setattr(RenderedRecording, "_write_imu", lambda *_: None)
    with full_disk(size), pytest.raises(EgoDistillOSError, match=rf"{file}: cannot be written: File too large"):
        synthetic.render(tmp_path / "w", train_acts=1, test_acts=3, train_wearers=1, workers=1, progress=False)
    assert not list((tmp_path / "w").rglob("*.part")) and not list((tmp_path / "w").rglob(file))


def test_failure_ends_the_rendering_and_not_only_its_recording(tmp_path, monkeypatch):
    settings = {"train_wearers": 29, "train_acts": 29, "test_acts": 9, "size": (32, 32), "progress": False}

    def interrupted(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(synthetic, "write_recordings", interrupted)
        synthetic.render(tmp_path, **settings)
    (tmp_path / "P01").mkdir()
    (tmp_path / "P01" / "videos").write_text("a file in the way")
    with pytest.raises(EgoDistillError, match=r"code 1 .*output above"):
        synthetic.render(tmp_path, workers=2, **settings)
    assert len(list(tmp_path.glob("P*/videos/*.MP4"))) < 16 and not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 6},
        {"train_acts": 17},
        {"validation_acts": 3},
        {"test_acts": 7},
        {"train_wearers": 3},
        {"validation_wearers": 2},
        {"test_wearers": 2},
        {"untrimmed": 1},
        {"size": (32, 40)},
        {"label_noise": 0},
        {"coupling": 0.5},
        {"things": ["tap", "jug"]},
        {"shutter": 0.02},
        {"unlabelled": ["tap"]},
    ],
    ids=str,
)
def test_folder_with_another_world_is_refused_by_name_and_kept(world, change):
    before, (name,) = contents(world.root), change
    with pytest.raises(synthetic.WorldError, match=f"{re.escape(str(world.root))}.*other settings .*{name}"):
        synthetic.render(world.root, workers=1, **SETTINGS | change)
    assert contents(world.root) == before


def test_folder_whose_things_were_others_is_refused(world, monkeypatch):
    changed = (replace(THINGS[0], follow=0.9), *THINGS[1:])
    monkeypatch.setattr(synthetic, "THINGS", changed)
    with pytest.raises(synthetic.WorldError, match="things"):
        synthetic.render(world.root, workers=1, **SETTINGS)


def test_a_world_of_few_things_has_only_their_verbs():
    few = synthetic.RenderedRecording("P01_101", 20, label_noise=0.5, things=("tap", "jug"))
    acts, said = few.draw().acts, [row[9] for row in few.rows()]
    verbs = ["turn-on", "turn-off", "pour"]
    assert {VERBS[act.verb] for act in acts} == set(said) == set(verbs)
    counts = [[VERBS[act.verb] for act in acts].count(verb) for verb in verbs]
    assert max(counts) - min(counts) <= 1  # balanced
    assert sum(VERBS[act.verb] != one for act, one in zip(acts, said, strict=True)) == 10
    everything = tuple(thing.look for thing in THINGS)
    assert (
        synthetic.RenderedRecording("P01_101", 20, things=everything).rows()
        == synthetic.RenderedRecording("P01_101", 20).rows()
    )


@pytest.mark.parametrize(
    "change",
    [
        {"label_noise": 1.0},
        {"label_noise": -0.1},
        {"label_noise": math.nan},
        {"coupling": 1.1},
        {"coupling": -0.1},
        {"coupling": math.nan},
        {"shutter": 0.06},
        {"shutter": -0.01},
        {"shutter": math.nan},
        {"train_wearers": 0},
        {"train_wearers": 30},
        {"train_acts": 1},
        {"train_acts": 8001},
        {"test_acts": 2},
        {"test_acts": 12_001},
        {"test_wearers": 0},
        {"test_wearers": 71, "test_acts": 80},
        {"validation_wearers": 0},
        {"validation_wearers": -1},
        {"validation_wearers": 68, "validation_acts": 80},
        {"validation_acts": 0},
        {"untrimmed": -1},
        {"untrimmed": 4},
        {"size": (33, 32)},
        {"size": (32, 30)},
        {"seed": -1},
        {"things": ["tap", "sofa"]},
        {"things": ["jug"]},
        {"unlabelled": ["sofa"]},
        {"unlabelled": [thing.look for thing in THINGS if thing.look != "jug"]},
        {"seed": 0.5},
        {"train_acts": 8.5},
        {"workers": 0},
    ],
    ids=str,
)
def test_arguments_that_make_no_world_are_named(tmp_path, change):
    name = next(iter(change))
    with pytest.raises(synthetic.WorldError, match=name):
        synthetic.render(tmp_path / "world", **{"workers": 1} | SETTINGS | change)
    assert not (tmp_path / "world").exists()


@pytest.mark.parametrize(("test", "validation"), [(1, 67), (3, 67), (70, 0), (40, 30)])
def test_as_many_wearers_as_there_are_names(tmp_path, monkeypatch, test, validation):
    wearers = {"test_wearers": test, "validation_wearers": validation}
    world, _ = planned(monkeypatch, tmp_path, train_acts=8, test_acts=test, validation_acts=validation, **wearers)
    assert (len(world.test_wearers), len(world.validation_wearers)) == (test, validation)
    assert len({*world.test_wearers, *world.validation_wearers}) == test + validation


# --- The estimate of what inputs can tell


@pytest.fixture(scope="module")
def ceilings():
    path = Path(egodistill.__file__).parent / "benchmarks" / "ceilings.py"
    if not path.exists():
        pytest.skip("not a checkout: there are no benchmarks")
    spec = importlib.util.spec_from_file_location("ceilings", path)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path])  # the script adds its checkout
        patch.setitem(sys.modules, "ceilings", module)
        spec.loader.exec_module(module)
        yield module


def test_bounds_of_the_estimate_are_the_analytic_ones(ceilings):
    assert ceilings.bound(("frames 1",), 1.0) == {"reversal": 50, "cyclic": 50, "single": 100}
    assert ceilings.bound(("frames 1", "imu"), 0.5) == {"reversal": 65.625, "cyclic": 65.625, "single": 100}
    assert ceilings.bound(("frames 1", "sound"), 0.5) == {"reversal": 68.75, "cyclic": 68.75, "single": 100}
    assert ceilings.bound(("frames 2",), 1.0) is None
    assert ceilings.overall({"reversal": 50, "cyclic": 75, "single": 100}, behaviour.EPIC_SHARES) == pytest.approx(63.5)


def test_estimates_from_other_numbers_of_acts_are_not_mixed(ceilings, tmp_path, monkeypatch):
    results = tmp_path / "ceilings.jsonl"
    results.write_text('{"inputs": "N = 1", "coupling": 1.0, "acts": 12000, "kinds": {}}\n')
    monkeypatch.setattr(sys, "argv", ["ceilings.py", "--results", str(results), "--only", "N = 1"])
    with pytest.raises(SystemExit, match=r"ceilings.jsonl: has estimates from 12,000 acts, not 100,000; give --acts"):
        ceilings.main()


def test_estimate_sees_the_act_with_the_error_of_a_pixel_and_only_in_view(ceilings):
    plan = RenderedRecording("P01_101", 40).draw()
    state = plan.head.state(np.arange(round(plan.duration * FRAME_RATE)) / FRAME_RATE)
    state[:2] = 0  # a head that looks ahead
    usual = {"azimuth": 0.1, "pitch": 0.05, "lag": 0.0}
    door, stroke = (next(act for act in plan.acts if act.kind == kind) for kind in ("reversal", "cyclic"))
    door, stroke = replace(door, **usual), replace(stroke, **usual)

    def see(act, count=1):
        return np.mean([ceilings.see_frames(act, count, state, np.random.default_rng(k)) for k in range(400)], axis=0)

    for count in (1, 4):
        grid = np.floor(data.clip_times(door.centre - CLIP_SECONDS / 2, count) * FRAME_RATE + 1e-6) / FRAME_RATE
        for act in (door, replace(door, second=not door.second), stroke):
            t = grid - door.centre + act.centre
            expected = [np.ones(count), act.presence(t), act.progress(t), *act.path(t).T / 0.065]
            expected += [np.full(count, -1.0), np.full(count, -0.5)]  # direction from the thing, in 0.1 rad
            np.testing.assert_allclose(see(act, count), np.stack(expected, 1), atol=0.06)
    assert not see(replace(door, azimuth=0.5)).any() and see(replace(door, azimuth=0.45)).any()  # 27 degrees
    errors = [ceilings.see_frames(door, 1, state, np.random.default_rng(k))[0] for k in range(1000)]
    np.testing.assert_allclose(np.std(errors, axis=0)[2:4], [0.012 / 0.28, 0.012 / 0.065], rtol=0.1)
    # Of a stroke, the blur of a shutter; of the sound, the energies of 100 windows.
    fast = behaviour.draw_stroke(True, np.random.default_rng(0))
    blurred = [
        ceilings.blur(replace(stroke, stroke=s), np.random.default_rng(0))[0] for s in (fast, replace(fast, rate=0))
    ]
    assert blurred[0] > blurred[1] + 0.2


def test_estimate_averages_readings_and_hears_bands(ceilings):
    times = np.arange(0, 10, 0.005)
    values = np.stack([times, 2 * times, np.ones_like(times)], 1)
    found = ceilings.averages(times, values, 3.0)
    middles = 3.0 + (np.arange(ceilings.STEPS) + 0.5) / 50
    np.testing.assert_allclose(found, np.stack([middles, 2 * middles, np.ones_like(middles)], 1), atol=1e-9)
    for band, hertz in enumerate((400, 1200, 4000)):
        tone = 8000 * np.sin(2 * math.pi * hertz * np.arange(32_000) / synthetic.SOUND_RATE)
        loud = ceilings.energies(tone.astype(np.int16))
        assert loud.shape == (100, 3) and (loud.argmax(1) == band).all()


@pytest.mark.slow("a miniature of a benchmark, which trains")
def test_estimate_writes_and_reads_its_lines(ceilings, tmp_path, monkeypatch, capsys):
    results = tmp_path / "ceilings.jsonl"
    chosen = ("N = 1", "N = 1 + head motion")
    monkeypatch.setattr(ceilings, "INPUTS", {name: ceilings.INPUTS[name] for name in chosen})
    silence = staticmethod(lambda plan: np.zeros(round(plan.duration * synthetic.SOUND_RATE), np.int16))
    monkeypatch.setattr(RenderedRecording, "sound", silence)  # neither needs it
    monkeypatch.setattr(ceilings, "PROBES", {"thing from head motion": ("imu", "thing")})
    arguments = ["ceilings.py", "--results", str(results), "--acts", "640", "--epochs", "1", "--coupling", "1"]
    for only in (["--only", "N = 1"], []):
        assert not results.exists() or len(results.read_text().splitlines()) == 1
        monkeypatch.setattr(sys, "argv", [*arguments, "--processes", "1", *only])
        ceilings.main()
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert [line.get("inputs", line.get("probe")) for line in lines] == [*chosen, "thing from head motion"]
    assert lines[0]["bound"] == {"reversal": 50, "cyclic": 50, "single": 100} and lines[0]["acts"] == 640
    assert 30 < np.mean([lines[0]["kinds"][kind] for kind in ("reversal", "cyclic")]) < 70
    assert lines[2]["chance"] == pytest.approx(100 / 12) and lines[2]["error"] < 5
    printed = capsys.readouterr().out
    assert re.search(r"N = 1 \+ head motion .* 85\.0\n", printed)  # the bound
    assert re.search(r"thing from head motion +\d+\.\d +8\.3 +\d\.\d\n", printed)  # chance and standard error
    monkeypatch.setattr(ceilings, "draw", None)  # A second run computes nothing.
    ceilings.main()
    assert len(results.read_text().splitlines()) == 3
    assert capsys.readouterr().out in printed


def test_the_true_verbs_stand_beside_the_annotations(wearer):
    with open(wearer.truth, newline="") as file:
        truth = {row["narration_id"]: row["verb"] for row in csv.DictReader(file)}
    with open(wearer.annotations, newline="") as file:
        said = {row["narration_id"]: row["verb"] for row in csv.DictReader(file)}
    assert truth.keys() == said.keys() and len(truth) == 11
    wrong = {name for name in truth if truth[name] != said[name]}
    assert len(wrong) == 2 and all(name.startswith("P01_") for name in wrong)  # a quarter of 8, none of the test
    drawn = RenderedRecording("P01_101", 8, label_noise=0.25).draw().acts
    assert [truth[f"P01_101_{k}"] for k in range(8)] == [
        synthetic.THINGS[act.thing].verbs[synthetic.ACTIONS[act.verb][1]][0] for act in drawn
    ]
