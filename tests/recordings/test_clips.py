"""Clips of a recording in one pass: frames and samples at the times that their specs say."""

import math
from dataclasses import replace

import av
import numpy as np
import pytest
from painted import (
    CLIP,
    STEADY,
    X264,
    break_packets,
    chirp,
    expected_numbers,
    move,
    number_of,
    ramp,
    write_epic_imu,
    write_sound,
    write_video,
)

from egodistill.data import read_imu
from egodistill.imu import CoverageError
from egodistill.recordings import read_clip
from egodistill.recordings.clips import decode_clips
from egodistill.recordings.recording import Recording
from egodistill.recordings.spec import ClipSpec
from egodistill.video import VideoError, read_frames

STUDENT = ClipSpec(frames=4, size=40, imu_samples=422)


@pytest.fixture
def walk(kitchen):
    return kitchen[3].recording


def test_a_clip_is_what_its_spec_says(walk):
    clip = read_clip(walk, 1.5, STUDENT)
    times = 1.5 + (np.arange(4) + 0.5) / 4 * CLIP
    assert [number_of(picture) for picture in clip["frames"]] == expected_numbers(STEADY, times)
    np.testing.assert_allclose(clip["frames.times"], STEADY[expected_numbers(STEADY, times)], atol=1e-6)
    np.testing.assert_allclose(clip["imu"][:, :3], ramp(1.5 + np.arange(422) / 198, 2, 9.8), atol=1e-4)
    assert {name: (str(a.dtype), a.shape) for name, a in clip.items() if name != "imu"} == STUDENT.parts()[
        "frames"
    ].arrays("frames")
    keys = read_clip(walk, 1.5, replace(STUDENT, exact=False, sampling="last", size=24, crop=True, imu_samples=0))
    asked = 1.5 + (np.arange(60, 64) + 0.5) / 30
    np.testing.assert_array_equal(keys["frames"], read_frames(walk.video, asked, 24, crop=True, exact=False))
    assert "imu" not in keys
    with pytest.raises(CoverageError, match=r"P02_102-accl\.csv and .*covers"):
        read_clip(walk, 5.0, STUDENT)
    late = read_clip(walk, 4.8, STUDENT, min_coverage=0.3)  # the last picture is held
    assert late["imu"].shape == (422, 6) and late["frames.times"][-1] == pytest.approx(STEADY[-1], abs=1e-6)
    with pytest.raises(
        VideoError, match=r"P02_102\.MP4: the clip ends at 8\.\d+ s, but the video at 5\.993 s, over max_hold"
    ):
        read_clip(walk, 5.9, STUDENT, min_coverage=0.01)
    assert read_clip(walk, 5.9, STUDENT, min_coverage=0.01, max_hold=2.2)["frames"].shape[0] == 4
    one = replace(STUDENT, frames=1)  # whose frame is within a second of the end, while the clip is not
    with pytest.raises(VideoError, match=r"the clip ends at 7\.\d+ s, but the video at 5\.993 s"):
        read_clip(walk, 4.95, one, min_coverage=0.01)


def test_the_clock_moves_the_imu_and_not_the_pictures(walk):
    moved = replace(walk, imu_offset=0.2, imu_stretch=1.01)
    one, other = read_clip(walk, 1.5, STUDENT), read_clip(moved, 1.5, STUDENT)
    np.testing.assert_array_equal(one["frames"], other["frames"])
    by_hand = read_imu(walk.imu).on_clock(0.2, 1.01).window(1.5)
    np.testing.assert_array_equal(other["imu"], by_hand)
    assert (one["imu"] != other["imu"]).any()


def test_clips_come_in_one_pass_and_a_bad_one_costs_itself(kitchen, tmp_path):
    source = write_video(tmp_path / "a.mp4", STEADY, bf=0, g=1, crf=10)
    video = break_packets(source, tmp_path / "b.mp4", set(range(90, 125)))
    walk = Recording(video, write_epic_imu(tmp_path, "short", 5.5))
    starts = {7: 0.6, 3: 3.3, 5: 5.0, 1: 0.2}
    found = list(decode_clips(walk, starts, STUDENT.parts()))
    assert [row for row, _ in found] == [5, 1, 7, 3]  # what fails at once, then in the order of time
    assert isinstance(found[0][1], CoverageError) and isinstance(found[3][1], VideoError)
    assert "b.mp4: no frame at" in str(found[3][1])
    for row, clip in found[1:3]:
        np.testing.assert_array_equal(clip["frames"], read_clip(walk, starts[row], STUDENT)["frames"])
    gone = replace(walk, video=str(tmp_path / "no.mp4"))
    assert {row: str(error)[-12:] for row, error in decode_clips(gone, starts, STUDENT.parts())} == dict.fromkeys(
        starts, "no such file"
    )
    assert dict(decode_clips(walk, {}, STUDENT.parts())) == {}


def test_overlapping_clips_only_are_held(kitchen, monkeypatch):
    """Exact frames and key frames are read side by side, not one after the other."""
    walk, held, empty = kitchen[0].recording, [], np.empty
    specs = {"a": ClipSpec(frames=2, size=16), "b": ClipSpec(frames=3, size=16, exact=False)}

    def counted(*arguments):
        held.append(arguments)
        return empty(*arguments)

    monkeypatch.setattr(np, "empty", counted)
    most = 0
    for done, _ in enumerate(decode_clips(walk, {k: k / 10 for k in range(38)}, specs), 1):
        most = max(most, len([a for a in held if a[0] == (2, 3, 16, 16)]) - done)
    assert done == 38 and most <= math.ceil(CLIP * 10) + 12  # a key frame may be half a second away


def test_the_tolerance_of_each_spec_chooses_its_frames(walk):
    """Also when clips overlap, and whichever other clips are read in the same pass."""
    specs = {
        "exact": ClipSpec(frames=4, size=40),
        "keys": ClipSpec(frames=4, size=40, exact=False),
        "near": ClipSpec(frames=4, size=40, tolerance=0.1),
        "far": ClipSpec(frames=2, size=40, tolerance=0.5),
    }
    starts = {k: k / 7 for k in range(26)}
    found = dict(decode_clips(walk, starts, specs))
    for row, start in starts.items():
        for name, spec in specs.items():
            options = {"exact": spec.exact, "tolerance": spec.tolerance}
            alone = [read_frames(walk.video, [t], 40, **options)[0] for t in spec.times(start)]
            np.testing.assert_array_equal(found[row][name], alone)
            shown = STEADY[[number_of(picture) for picture in found[row][name]]]
            np.testing.assert_allclose(found[row][f"{name}.times"], shown, atol=1e-6)
            assert not spec.tolerance or np.abs(shown - spec.times(start)).max() <= spec.tolerance + 1e-6


def test_the_frames_of_a_video_that_varies_have_their_own_times(tmp_path):
    times = np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.1], 100))
    walk = Recording(write_video(tmp_path / "uneven.mp4", times - times[0], **X264))
    clip = read_clip(walk, 1.0, ClipSpec(frames=8, size=40))
    shown = (times - times[0])[[number_of(picture) for picture in clip["frames"]]]
    np.testing.assert_allclose(clip["frames.times"], shown, atol=1e-4)


# --- Values that are not the usual ones


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """A transport stream, whose clock starts at 1.4 s, with pictures, sound and two tables of a ramp."""
    folder = tmp_path_factory.mktemp("late")
    plain = write_sound(folder / "plain.mp4", chirp(np.arange(8 * 48000) / 48000), 48000, pictures=240)
    video = move(plain, str(folder / "late.ts"), 1.4)
    with av.open(video) as container:
        assert container.start_time > 1_000_000
    return Recording(video, write_epic_imu(folder, "late", 8, slope=2), imu_offset=0.3, imu_stretch=1.02)


def test_pictures_and_imu_of_a_late_file_are_on_the_players_clock(late):
    """With a clock of the IMU, clips of another length, and another rate, all at once."""
    spec = ClipSpec(frames=5, size=32, imu_samples=150, imu_rate=50.0, seconds=3.0)
    clip = read_clip(late, 1.5, spec)
    asked = 1.5 + (np.arange(5) + 0.5) / 5 * 3.0
    np.testing.assert_allclose(spec.times(1.5), asked)
    assert ((clip["frames.times"] <= asked + 1e-6) & (clip["frames.times"] > asked - 1 / 30 - 1e-3)).all()
    # The file's k-th picture is a grey of k, shown from k / 30 s on.
    np.testing.assert_allclose(clip["frames"].mean((1, 2, 3)), 30 * clip["frames.times"], atol=4)
    stamps = (1.5 + np.arange(150) / 50 - 0.3) / 1.02
    np.testing.assert_allclose(clip["imu"][:, :3], ramp(stamps, 2, 9.8), atol=1e-4)
    np.testing.assert_allclose(clip["imu"][:, 3:], ramp(stamps, -2), atol=1e-4)


def test_limits_of_the_imu_reach_the_window(tmp_path, kitchen):
    stamps = np.arange(0, 6, 0.1)  # 10 Hz: all steps are longer than the usual limit
    columns = np.column_stack([1000 * stamps, ramp(stamps, 1)])
    pair = tuple(str(tmp_path / f"{word}.csv") for word in ("Accl", "Gyro"))
    for path, word in zip(pair, ("Accl", "Gyro"), strict=True):
        np.savetxt(path, columns, delimiter=",", header=f"Milliseconds,{word}X,{word}Y,{word}Z", comments="")
    slow = replace(kitchen[0].recording, imu=pair)
    with pytest.raises(CoverageError, match=r"over max_gap=0\.05"):
        read_clip(slow, 1.0, ClipSpec(imu_samples=422))
    clip = read_clip(slow, 1.0, ClipSpec(imu_samples=422), max_gap=0.11)
    np.testing.assert_allclose(clip["imu"][:, :3], ramp(1.0 + np.arange(422) / 198, 1), atol=1e-4)


def test_random_frames_differ_between_rows_and_are_those_of_the_spec(walk):
    spec = ClipSpec(frames=4, size=40, sampling="random", seed=5)
    found = dict(decode_clips(walk, {3: 1.0, 8: 1.0}, {"frames": spec}))
    for row, clip in found.items():
        numbers = expected_numbers(STEADY, spec.times(1.0, row))
        assert [number_of(picture) for picture in clip["frames"]] == numbers
    assert not np.array_equal(spec.times(1.0, 3), spec.times(1.0, 8))
    assert not np.array_equal(spec.times(1.0, 3), replace(spec, seed=6).times(1.0, 3))
