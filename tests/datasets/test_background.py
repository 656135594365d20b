"""Background: clips beside all segments of training recordings, as many as were asked for, or a reason why not."""

import csv
import random
import shutil
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from heads import write_log
from painted import CLIP, write_video

from egodistill import data
from egodistill.datasets import annotations, background, segments
from egodistill.support.defaults import NONE
from egodistill.support.errors import DataError, NoteWarning
from egodistill.support.records import start_and_stop

LENGTHS = {"long": 90.0, "short": 30.0, "test": 60.0}  # seconds


@pytest.fixture(scope="module")
def films(once):
    """Three videos of two pictures a second, and a last one of a 30th."""

    def make(folder):
        for name, seconds in LENGTHS.items():
            times = [*np.arange(2 * seconds) / 2, seconds - 1 / 30]
            write_video(folder / f"{name}.mp4", times, metadata={"title": name})
        return folder

    return once("background-films", make)


def rows(folder, seed=0):
    """Segments of a few seconds that may overlap, with and without labels, in no order; every other second on average.

    One recording is for testing. Each row has its own recording's IMU, clock, axes and wearer.
    """
    rng, found = random.Random(seed), []
    for name, seconds in LENGTHS.items():
        own = {"imu": f"{name}.csv", "imu_offset": 7.5, "imu_axes": "XZy", "wearer": f"P-{name}"}
        for number in range(round(seconds / 6)):
            start = rng.uniform(0, seconds - 4)
            label, split = rng.choice(["wash", "cut", None]), "test" if name == "test" else "train"
            part = (f"{name}_{number}", str(folder / f"{name}.mp4"), start, start + rng.uniform(0.3, 4), label)
            found.append(data.Segment(*part, split=split, **own))
    rng.shuffle(found)
    return found


def taken(given, count, **options):
    """What is added, and what the note says."""
    with pytest.warns(NoteWarning) as said:
        found = data.with_background(given, count, **options)
    assert [one for one in found if one in given] == list(given) and len(said) == 1  # the rows stay, in their order
    return [one for one in found if one not in given], str(said[0].message)


def places(added):
    return sorted((Path(one.path).name, one.start, one.stop) for one in added)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("margin", [0.0, 0.5, 1.2])
def test_background_lies_beside_every_segment_of_training_recordings(films, seed, margin):
    given = rows(films, seed)
    added, note = taken(given, 6, margin=margin)
    assert len(added) == len({one.id for one in [*added, *given]}) - len(given) == 6 and "6 clips" in note
    for one in added:
        name = Path(one.path).stem
        assert (one.label, one.split, one.wearer, one.imu) == (NONE, "train", f"P-{name}", f"{name}.csv")
        assert (one.imu_offset, one.imu_axes) == (7.5, "XZy") and name != "test"
        assert one.stop - one.start == pytest.approx(CLIP) and len(data.clip_starts(one.start, one.stop, 90)) == 1
        assert margin - 1e-6 <= one.start and one.stop <= LENGTHS[name] - margin + 1e-6
        for other in [*given, *(clip for clip in added if clip is not one)]:
            apart = 0.0 if other in added else margin
            assert other.path != one.path or max(other.start - one.stop, one.start - other.stop) >= apart - 1e-6


def test_the_same_table_gives_the_same_clips_in_another_order_and_folder(films, tmp_path, monkeypatch):
    given, other = rows(films), shutil.copytree(films, tmp_path / "deep" / "films")
    moved = [replace(one, video=str(other / Path(one.video).name)) for one in given]
    once = places(taken(given, 6)[0])
    assert places(taken(given[::-1], 6)[0]) == once
    assert places(taken(moved, 6)[0]) == once
    monkeypatch.chdir(other)
    assert places(taken([replace(one, video=Path(one.video).name) for one in given], 6)[0]) == once
    # A few of many are a part of them, so that an edit of the table moves few clips.
    assert set(places(taken(given, 3)[0])) < set(once)


def test_each_recording_gives_in_proportion_to_its_room(films):
    given = [
        data.Segment(name, str(films / f"{name}.mp4"), 10, 20, "cut", split="test" if name == "test" else "train")
        for name in LENGTHS
    ]
    every, note = taken(given, 1000)
    room = Counter(Path(one.path).stem for one in every)
    assert room["long"] > 3 * room["short"] and f"there is room for no more, {1000:,} were wanted" in note
    for count in (5, 12, 20):
        added, note = taken(given, count)
        shares = Counter(Path(one.path).stem for one in added)
        assert all(abs(shares[name] - count * room[name] / len(every)) <= 1 for name in room) and len(added) == count
        used = {name: f"{CLIP * number:.1f} s of {name}.mp4" for name, number in shares.items()}
        assert f": {used['short']}, {used['long']}" in note and "2 training recordings" in note
        assert f"{CLIP * count:.1f} of 100.0 s without a segment ({CLIP * count:.0f} %)" in note


def test_clips_lie_in_the_middle_of_what_is_free(films):
    """Also if a row lies behind the end of its video."""
    given = [
        data.Segment(str(k), str(films / "short.mp4"), *times, "cut")
        for k, times in enumerate([(0, 10), (15, 30), (44, 50)])
    ]
    (clip,) = taken(given, 5)[0]
    assert (clip.start, clip.stop) == pytest.approx((12.5 - CLIP / 2, 12.5 + CLIP / 2))
    one, other = taken(given, 5, margin=0.25)[0]
    assert (one.start, other.stop) == pytest.approx((10.25 + (4.5 - 2 * CLIP) / 4, 14.75 - (4.5 - 2 * CLIP) / 4))
    with pytest.raises(
        DataError, match=r"no training recording has 5.1 s without a segment \(a clip, and 1.5 s before"
    ):
        data.with_background(given, 5, margin=1.5)


def test_of_a_recording_of_several_splits_only_what_is_between_training_segments(films):
    times = {10: "train", 30: "train", 40: "test", 60: "train"}
    given = [data.Segment(str(k), str(films / "long.mp4"), k, k + 5, "cut", split=one) for k, one in times.items()]
    added, _ = taken(given, 100)
    assert added and all(one.stop < 10 or 15 < one.start < one.stop < 30 or 65 < one.start for one in added)
    with pytest.raises(DataError, match="no training recording has"):
        data.with_background([replace(one, split="test") for one in given], 3)


def test_what_gives_no_clips_is_covered_all_the_same(films, tmp_path):
    """Rows of a class that is too rare, that are skipped, of another tier, or without a class have times, too."""
    given = segments.SegmentList(rows(films))
    few = segments.subsample(given, 3)
    kept = taken(few, 6)[0]
    assert len(few) < len(given) and all(
        other.path != one.path or max(other.start - one.stop, one.start - other.stop) >= 0.49
        for one in kept
        for other in given
    )
    shutil.copy(films / "short.mp4", tmp_path / "short.mp4")
    lines = ["left\t\t1.0\t8.0\thold", "right\t\t7.0\t17.0\tcut", "left\t\t20.0\t29.0\t", "right\t\t9.0\t9.0\tclap"]
    (tmp_path / "short.txt").write_text("\n".join(lines))
    with pytest.raises(DataError, match="no training recording has"):
        data.with_background(data.read_labels(tmp_path / "short.txt", tier="left"), 3)


def test_real_annotations_of_all_that_happens_are_not_taken_for_sparse_ones(sample):
    """The numbers that the guide and the log name."""
    with open(sample("epic-kitchens-100/EPIC_100_video_info.csv"), newline="") as file:
        lengths = {row["video_id"]: float(row["duration"]) for row in csv.DictReader(file)}
    parts = defaultdict(list)
    for name in ("validation", "uda_target_val"):
        with open(sample(f"epic-kitchens-100/EPIC_100_{name}.csv"), newline="") as file:
            for row in csv.DictReader(file):
                times = start_and_stop(name, row["start_timestamp"], row["stop_timestamp"])
                parts[row["video_id"]].append(data.Segment(row["narration_id"], "v.mp4", *times))
    rooms = {
        margin: [background.room(rows, 0.0, lengths[name], margin, CLIP) for name, rows in parts.items()]
        for margin in (0.3, 0.5, 1.0)
    }
    shares = [room.covered / room.length for room in rooms[0.5]]
    assert len(shares) == 193 and sum(map(len, parts.values())) == 17574
    assert [round(share, 2) for share in (min(shares), np.median(shares), max(shares))] == [0.18, 0.73, 0.94]
    assert [sum(len(room.starts) for room in rooms[margin]) for margin in rooms] == [5122, 4562, 3708]


def test_rows_of_this_class_stay_and_are_counted_beside(films):
    own = [replace(one, label=NONE) if one.id == "long_3" else one for one in rows(films)]
    assert len(taken(own, 4)[0]) == 4
    again, _ = taken([*own, *taken(own, 4)[0]], 4)
    assert len({one.id for one in (*own, *taken(own, 4)[0], *again)}) == len(own) + 8


def test_where_few_have_a_label_the_user_says_that_nothing_happens(films):
    def part(name, stop):
        return data.Segment(name, str(films / f"{name}.mp4"), 0, stop, "cut")

    few = [part("long", 8.9), part("short", 20)]
    said = r"long.mp4: segments cover 8.9 of 90.0 s; that is less than a tenth, .* or give sparse=True \(--sparse\)"
    with pytest.raises(DataError, match=said):
        data.with_background(few, 5)
    with pytest.raises(DataError, match=r"cover 8.0 of 90.0 s \(9.0 of 120.0 s in 2 such recordings\);"):
        data.with_background([part("long", 8), part("short", 1)], 5)
    assert len(taken(few, 5, sparse=True)[0]) == 5
    assert len(taken([part("long", 9.1), part("short", 20)], 5)[0]) == 5
    known = segments.SegmentList([part("long", 80)], origin=segments.Origin("fho_main.json", is_sparse=True))
    with pytest.raises(DataError, match=r"cover 80.0 of 90.0 s; its data set does not label all that happens"):
        data.with_background(known, 1)
    assert len(taken(known, 1, sparse=True)[0]) == 1


@pytest.mark.parametrize("offset", [0.0, 50.0])
def test_head_motion_alone_begins_with_its_samples(tmp_path, offset):
    write_log(tmp_path / "walk.csv", begin=200.0, seconds=20.0, rate=60.0)
    times = [(203 + offset, 206 + offset), (210 + offset, 214 + offset)]
    given = [
        data.Segment(str(k), "", *time, "walk", str(tmp_path / "walk.csv"), imu_offset=offset)
        for k, time in enumerate(times)
    ]
    added, note = taken(given, 100, margin=0.3)
    found = [round(one.start - offset, 1) for one in added]
    assert found == [200.4, 206.9, 214.6, 217.3] and "of 13.0 s" in note
    store = data.prepare([*given, *added], tmp_path / "s", num_frames=[], ends=False, workers=1, progress=False)
    assert not store.failures and Counter(clip["label"] for clip in store.clips)[NONE] == len(added)


def test_what_cannot_be_is_said(films, tmp_path):
    given = rows(films)
    for count in (0, -3, 2.5, True, None):
        with pytest.raises(DataError, match=r"count \(--background\) must be a whole number, at least 1; got"):
            data.with_background(given, count)
    with pytest.raises(DataError, match="margin must be at least 0 s, and finite; got nan"):
        data.with_background(given, 3, margin=float("nan"))
    (tmp_path / "t.csv").write_text(f"video,start,stop,label\n{films / 'long.mp4'},0,20,\n")
    with pytest.raises(DataError, match=r"t.csv: no segment has a label, so nothing says where background is"):
        data.with_background(annotations.read_annotations(tmp_path / "t.csv"), 3)


def test_a_store_follows_edits_however_many_clips_of_background_move(films, tmp_path):
    """Half of a table is no edit, but background does not count; the result is that of a fresh run."""
    given = [data.Segment(f"{k}", str(films / "long.mp4"), 10 * k, 10 * k + 5, "ab"[k % 2]) for k in range(9)]
    options = {"imu": False, "ends": False, "frame_size": 16, "workers": 1, "progress": False}

    def prepare(rows, folder):
        with pytest.warns(NoteWarning):
            store = data.prepare(data.with_background(rows, 9), tmp_path / folder, **options)
        return Counter(clip["label"] for clip in store.clips), store.fingerprint

    counts, _ = prepare(given, "store")
    assert counts == {NONE: 9, "a": 15, "b": 12}
    covered = [replace(given[0], id=f"new {k}", start=10 * k + 5, stop=10 * k + 10) for k in range(4)]
    edited = prepare([*given, *covered], "store")
    assert edited == prepare([*given, *covered], "fresh") and edited[0] == {NONE: 5, "a": 27, "b": 12}
