"""Picture motion against the gyroscope: planted lags and drifts are found, and noise is not believed."""

import collections
import dataclasses
import importlib.util
import math
import tracemalloc

import heads
import numpy as np
import panned as panned_world
import pytest
from painted import move, write_video
from panned import FOCAL, RATE, files_of, gyro_only, gyroscope, pan

from egodistill import DataError, cameras
from egodistill.data import read_imu
from egodistill.imu import Imu
from egodistill.recordings.offset import (
    Excerpt,
    Hand,
    MotionMeter,
    Rates,
    _drift,
    _turns,
    axes_of,
    estimate_offset,
    hand_of,
    offset_of,
    rates_of,
    survey,
)
from egodistill.recordings.recording import open_recording
from egodistill.video import VideoError
from egodistill.world import behaviour


@pytest.mark.parametrize("lag", [0.30, -0.30, 1.234])
@pytest.mark.parametrize(("order", "signs"), [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1))])
def test_planted_lag_is_found(panned, lag, order, signs):
    stamps, rates = gyroscope(12)
    imu = gyro_only(stamps - lag, rates[:, order] * signs)  # stamps that are `lag` too early need it added
    offset = estimate_offset(panned, imu)
    assert offset.reliable
    assert offset.seconds == pytest.approx(lag, abs=0.005)
    assert offset.correlation > 0.98 > offset.chance
    # Yaw moves the picture sideways, pitch up and down, roll neither, at FOCAL pixels a radian.
    expected = np.zeros((2, 3))
    expected[0, order.index(2)], expected[1, order.index(0)] = FOCAL, FOCAL
    np.testing.assert_allclose(offset.pixels_per_radian, expected * signs, atol=0.03 * FOCAL)


def test_uneven_frame_times_do_not_blur_the_offset(tmp_path):
    times = np.cumsum(np.random.default_rng(0).choice([0.02, 0.04, 0.1], 200))
    times -= times[0]
    video = pan(tmp_path / "uneven.mp4", times)
    stamps, rates = gyroscope(times[-1] + 1)
    offset = estimate_offset(video, gyro_only(stamps - 0.3, rates), max_offset=1)
    assert offset.reliable and offset.seconds == pytest.approx(0.3, abs=0.01)
    assert offset.correlation > 0.99


@pytest.mark.parametrize("lag", [0.30, -0.30])
def test_lag_in_a_rendered_world(wearer, lag):
    video, files = files_of(wearer)
    imu = read_imu(files)
    late = dataclasses.replace(imu, gyro_time=imu.gyro_time - lag, gyro=-imu.gyro[:, [1, 2, 0]])
    offset = estimate_offset(video, late, max_offset=1)
    own = behaviour.draw_wearer("P01", 0).clock[0]  # of the sensor of this wearer
    assert offset.reliable and offset.seconds == pytest.approx(lag + own, abs=0.015)


@pytest.mark.slow("the longest recording")
def test_drift_shows_in_the_stretches(long_pan):
    stamps, rates = gyroscope(40)
    imu = gyro_only((stamps - 0.2) / 1.004, rates)  # 0.2 s early at the start, 0.36 s at the end
    offset = estimate_offset(long_pan, imu, excerpts=4, seconds=6)
    assert len(offset.excerpts) == 4
    assert offset.drift == pytest.approx(0.004, rel=0.1)
    for excerpt in offset.excerpts:
        assert excerpt.stop - excerpt.start == pytest.approx(6, abs=0.1)
        middle = (excerpt.start + excerpt.stop) / 2
        assert excerpt.seconds == pytest.approx(0.2 + 0.004 * middle, abs=0.02)
        assert excerpt.correlation > 0.97
    keys = survey(long_pan, 4, 6.0).keys
    assert np.median(np.diff(keys)) == pytest.approx(10, abs=0.1)  # x264's usual 250 frames


def test_only_the_excerpts_are_decoded(panned, monkeypatch):
    decoded = []
    meter = MotionMeter.__call__
    monkeypatch.setattr(
        MotionMeter, "__call__", lambda self, now, frame: (decoded.append(now), meter(self, now, frame))[1]
    )
    assert len(survey(panned, 2, 2.0).times) == len(decoded)
    assert len(decoded) == pytest.approx(2 * 2 * RATE, abs=3)
    assert min(decoded) == 0 and max(decoded) > 11.9  # from one end to the other


@pytest.mark.parametrize("at", [1.0, 11.0])
def test_the_only_turn_at_an_end_is_not_lost(tmp_path, monkeypatch, at):
    """The IMU spans just the video: pictures within `max_offset` of its ends count where a lag leaves them covered."""
    smooth = panned_world.angle
    monkeypatch.setattr(
        panned_world, "angle", lambda t, seed: smooth(t, seed) * np.exp(-(((np.asarray(t) - at) / 0.35) ** 2))
    )
    video = pan(tmp_path / "turn.mp4", np.arange(12 * RATE) / RATE)
    (stamps, rates), seen = gyroscope(12), survey(video, 6, 20.0)
    for lag in (0.0, 0.1, -0.1):
        found = offset_of(video, seen, gyro_only(stamps - lag, rates), 2.0)
        assert found.reliable and found.seconds == pytest.approx(lag, abs=0.02) and found.reason is None


def test_an_offset_that_is_not_reliable_says_why(panned):
    stamps, rates = gyroscope(12)
    edge = estimate_offset(panned, gyro_only(stamps - 0.55, rates), max_offset=0.5)
    assert "at the edge" in edge.reason and "0.5 s" in edge.reason
    noise = estimate_offset(panned, gyro_only(stamps, np.random.default_rng(0).normal(0, 1, rates.shape)))
    assert "by chance" in noise.reason and "12.0 s" in noise.reason


@pytest.mark.parametrize("smooth", [1, 80])
@pytest.mark.parametrize("seed", range(4))
def test_noise_is_no_reliable_answer(panned, smooth, seed):
    stamps, rates = gyroscope(12)
    noise = np.random.default_rng(seed).normal(0, 1, rates.shape)
    noise = np.stack([np.convolve(axis, np.hanning(smooth + 2), "same") for axis in noise.T], 1)
    offset = estimate_offset(panned, gyro_only(stamps, noise))
    assert not offset.reliable
    assert offset.correlation < 0.65


def test_offset_at_the_edge_of_the_search_is_not_trusted(panned):
    stamps, rates = gyroscope(12)
    offset = estimate_offset(panned, gyro_only(stamps - 0.55, rates), max_offset=0.5)
    assert offset.seconds == pytest.approx(0.5, abs=0.01) and not offset.reliable


@pytest.fixture(scope="module")
def walk(sample_data):
    """A walk with a camera that stabilises its picture: what this shows, and its IMU."""
    video = sample_data / "gopro" / "max-heromode.mp4"
    return survey(video, 6, 20.0), read_imu(video)


def test_stabilised_walk_is_not_trusted(sample_data, walk):
    """The camera hides its turns: at the true offset, 0, the correlation is 0.7 over the whole walk, chance 0.7."""
    video = sample_data / "gopro" / "max-heromode.mp4"
    narrow = estimate_offset(video, max_offset=0.05)
    assert 0.6 < narrow.correlation < 0.8
    assert not offset_of(video, *walk, 2.0).reliable


def test_what_offsets_cannot_be_had_from(panned, tmp_path):
    stamps, rates = gyroscope(12)
    with pytest.raises(DataError, match="never turns"):
        estimate_offset(panned, gyro_only(stamps, np.zeros_like(rates)))
    with pytest.raises(DataError, match=r"gyroscope \(100.0 to 112.0 s\) .* none of the decoded frames"):
        estimate_offset(panned, gyro_only(stamps + 100, rates))
    with pytest.raises(DataError, match="too few frames"):
        estimate_offset(pan(tmp_path / "short.mp4", np.arange(5) / RATE), gyro_only(stamps, rates))
    with pytest.raises(DataError, match="the gyroscope has 0 samples"):
        estimate_offset(panned, gyro_only(stamps[:0], rates[:0]))
    with pytest.raises(DataError, match="excerpts and seconds must be above 0, not 6 and nan"):
        estimate_offset(panned, gyro_only(stamps, rates), seconds=math.nan)
    with pytest.raises(DataError, match="max_offset"):
        estimate_offset(panned, gyro_only(stamps, rates), max_offset=0)
    with pytest.raises(VideoError, match="no such file"):
        estimate_offset(tmp_path / "none.mp4", gyro_only(stamps, rates))


def test_a_wide_search_needs_no_more_memory(panned):
    """With all lags at once it needs 94 MB."""
    stamps, rates = gyroscope(12)
    seen, imu = survey(panned, 1, 12.0), gyro_only(stamps - 7.0, rates)
    tracemalloc.start()
    found = offset_of(panned, seen, imu, 10.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.seconds == pytest.approx(7.0, abs=0.01) and peak < 50e6


# --- Values that are not the usual ones


@pytest.mark.parametrize("rate", [198, 25])
@pytest.mark.parametrize("lag", [0.3, 0.305, -0.137])
def test_an_offset_is_exact_where_readings_surround_the_video(panned, lag, rate):
    """To a fraction of a millisecond, between two steps of the search, too; at 25 Hz, rectangles would be 20 ms off."""
    t = np.arange(-3, 15, 1 / rate)
    rates = [(panned_world.angle(t + 1e-3, k) - panned_world.angle(t - 1e-3, k)) / 2e-3 for k in (2, 3, 1)]
    found = estimate_offset(panned, gyro_only(t - lag, np.stack(rates, 1)))
    assert found.seconds == pytest.approx(lag, abs=3e-4) and found.correlation > 0.999
    assert found.excerpts[0].seconds == pytest.approx(lag, abs=1e-3)


def test_a_late_file_has_the_same_offset(panned, tmp_path):
    stamps, rates = gyroscope(12)
    imu = gyro_only(stamps - 0.3, rates)
    late = move(str(panned), str(tmp_path / "late.ts"), 1.4)
    found = estimate_offset(late, imu)
    assert found.reliable and found.seconds == pytest.approx(estimate_offset(panned, imu).seconds, abs=1e-3)
    assert found.excerpts[0].start == pytest.approx(0, abs=0.05)


def test_image_shifts_are_in_pixels_of_the_video(tmp_path):
    """Larger than the small images on which they are measured."""
    video = pan(tmp_path / "large.mp4", np.arange(12 * RATE) / RATE, size=(256, 204))
    stamps, rates = gyroscope(12)
    found = estimate_offset(video, gyro_only(stamps, rates))
    np.testing.assert_allclose(found.pixels_per_radian, FOCAL * np.array([[0, 0, 1], [1, 0, 0]]), atol=0.04 * FOCAL)


def test_the_drift_is_the_weighted_slope_through_the_excerpts(long_pan):
    """Noise in one half of the readings makes its excerpts count less."""
    stamps, rates = gyroscope(40)
    rates[stamps > 25] += np.random.default_rng(0).normal(0, 2.5, rates[stamps > 25].shape)
    found = estimate_offset(long_pan, gyro_only((stamps - 0.2) / 1.004, rates), excerpts=5, seconds=4)
    middle, seconds, weight = np.array([((e.start + e.stop) / 2, e.seconds, e.correlation) for e in found.excerpts]).T
    assert len(found.excerpts) == 5 and weight.min() > 0.5 * weight.max() and weight.min() < 0.9 * weight.max()
    # The slope of the least squares of weight * residual, by hand.
    square = weight**2
    centre, level = (square * middle).sum() / square.sum(), (square * seconds).sum() / square.sum()
    slope = (square * (middle - centre) * (seconds - level)).sum() / (square * (middle - centre) ** 2).sum()
    assert found.drift == pytest.approx(slope, rel=1e-6)
    assert found.drift != pytest.approx(np.polyfit(middle, seconds, 1)[0], rel=1e-4)


def test_a_shift_weighs_as_much_as_its_pictures_have_in_common(tmp_path):
    """Steps of the pan weigh nearly 1; a cut to another picture, nearly nothing."""
    times = np.arange(40) / RATE
    video = pan(tmp_path / "pan.mp4", times)
    (smooth,) = survey(video, 1, 2.0).motions
    assert len(smooth.weights) == 39 and smooth.weights.min() > 0.6 and smooth.weights.max() <= 1
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 255, (96, 128, 3), dtype=np.uint8) for _ in range(8)]
    cuts = write_video(tmp_path / "cuts.mp4", times[:8], pictures=pictures, crf=5)
    (motion,) = survey(cuts, 1, 2.0).motions
    assert motion.weights.max() < 0.4


@pytest.mark.parametrize("best", [1.0, 0.4])
def test_the_drift_is_that_of_excerpts_with_half_of_the_best_correlation(best):
    """With an image that is stabilised, no correlation is high."""
    shares = ((0.0, 1.0), (100.0, 0.6), (200.0, 0.51))
    good = [Excerpt(start, start + 20, 0.3 + 1e-4 * start, best * share) for start, share in shares]
    bad = [Excerpt(300.0, 320.0, 1.9, best * 0.49), Excerpt(400.0, 420.0, -1.9, 0.0)]
    assert _drift([*good, *bad]) == pytest.approx(1e-4)
    assert _drift([*good[:2], *bad]) is None


# --- Axes


@pytest.fixture(scope="module")
def neon(sample_data):
    """Real glasses: what their picture shows, and their IMU in the axes of the camera."""
    recording = open_recording(sample_data / "neon" / "scene_300p.mp4")
    return survey(recording.video, 6, 20.0), recording.motion()


def test_the_axes_of_real_glasses_are_right(neon):
    found = axes_of(rates_of(*neon))
    assert found.turn == "XYZ" and found.reliable
    assert (found.stretches, found.share) == (5, 1.0)
    best, second = list(found.fits.values())[:2]
    assert len(found.fits) == 24 and best > 0.99 and second < 0.55
    assert found.pixels_per_radian == pytest.approx((221, 210), abs=6)  # focal length of the 300-pixel copy: 222


@pytest.mark.parametrize("turn", _turns(), ids=cameras.turn_text)
def test_each_planted_turn_is_found_and_undone(neon, turn):
    """With a clock that is 0.4 s late, which is found first."""
    seen, right = neon
    wrong = dataclasses.replace(right, gyro=right.gyro @ turn, gyro_time=right.gyro_time - 0.4)
    late = offset_of("neon", seen, wrong, 1.0)
    found = axes_of(rates_of(seen, wrong, late))
    assert late.reliable and late.seconds == pytest.approx(0.405, abs=0.01) and found.reliable
    np.testing.assert_array_equal(cameras.turn_matrix(found.turn), turn)
    np.testing.assert_allclose(wrong.gyro @ cameras.turn_matrix(found.turn).T, right.gyro, atol=1e-12)


def test_a_stabilised_walk_does_not_tell_its_axes(walk):
    found = axes_of(rates_of(*walk))
    assert not found.reliable and found.share < 0.9 and "of resamples of 11 stretches" in found.reason


@pytest.mark.parametrize(
    ("side", "turn"),  # from its README: IMU to the camera on its side; section G of our notes: camera to GoPro
    [
        ("left", [[0.0830, 0.9960, -0.0321], [0.7719, -0.0846, -0.6301], [-0.6303, 0.0275, -0.7759]]),
        ("right", [[0.9927, 0.0746, -0.0949], [0.1166, -0.7953, 0.5949], [-0.0310, -0.6017, -0.7981]]),
    ],
)
def test_a_third_of_a_second_of_aria_fits_but_is_not_enough(sample_data, side, turn):
    folder = sample_data / "aria-everyday"
    imu = read_imu(folder / f"imu-{side}.csv")
    gyro = imu.gyro @ (np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]]) @ turn).T
    found = axes_of(rates_of(survey(folder / "rgb.mp4", 6, 20.0), dataclasses.replace(imu, gyro=gyro)))
    assert found.turn == "XYZ" and found.fits["XYZ"] > 0.8
    assert found.reason == "4 stretches of 1 s with readings are needed, and there are 1"


def rates(gains=(300.0, -300.0), seconds=8.0, noise=0.02, still=()):
    """A made-up head that turns about all axes, or not about those in `still`, and what a lens shows of it."""
    rng = np.random.default_rng(3)
    t = np.arange(0, seconds, 1 / 25)
    turns = np.stack([panned_world.angle(t, k) for k in range(3)], 1)
    turns[:, list(still)] = 0
    shifts = turns[:, [2, 0]] * gains + rng.normal(0, 5, (len(t), 2))
    turns += rng.normal(0, noise, turns.shape)
    return Rates(t, shifts, turns, np.zeros_like(turns), np.ones(len(t)))


def test_the_certainty_of_axes_is_that_of_separate_stretches():
    assert axes_of([rates()]).reliable
    assert axes_of([rates(seconds=2.0), rates(seconds=2.0)]).reliable
    short = axes_of([rates(seconds=3.0)])
    assert short.turn == "XYZ" and short.reason == "4 stretches of 1 s with readings are needed, and there are 3"
    lost = rates()
    assert "there are 0" in axes_of([lost._replace(weights=np.zeros(len(lost.times)))]).reason
    assert "there are 0" in axes_of([]).reason
    half = lost._replace(turns=np.where(lost.times[:, None] < 4, lost.turns, lost.turns[:, [1, 0, 2]]))
    found = axes_of([half])
    assert not found.reliable and found.share < 0.99 and "of resamples of 8 stretches" in found.reason


def test_a_head_that_does_not_nod_does_not_tell_the_axes():
    found = axes_of([rates(still=(0, 1))])
    assert not found.reliable
    assert "record more head rotation about all three axes" in found.reason and found.turn[2] == "Z"


def test_a_picture_that_no_turn_explains_does_not_tell_the_axes():
    """Of a camera that hides a part of the motion, and of axes that lie askew."""
    hidden = axes_of([rates(gains=(300.0, -80.0))])
    assert hidden.turn == "XYZ" and hidden.share == 1 and not hidden.reliable
    assert "the best rotation, XYZ, fits the picture with 0.8" in hidden.reason and "0.9 is needed" in hidden.reason
    one = rates()
    for degrees, reliable in ((12, True), (27, False)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        found = axes_of(
            [one._replace(turns=one.turns @ [[1, 0, 0], [0, c, s], [0, -s, c]] @ [[c, 0, s], [0, 1, 0], [-s, 0, c]])]
        )
        assert found.turn == "XYZ" and found.reliable == reliable


def test_axes_that_turn_together_are_told_apart():
    """A head that rolls as it turns to the side: the roll is as correlated with the picture as the turn."""
    one = rates(noise=0.003)
    together = one._replace(
        turns=np.stack([one.turns[:, 0], one.turns[:, 2] * 0.7 + 0.1 * one.turns[:, 1], one.turns[:, 2]], 1)
    )
    found = axes_of([together])
    assert np.corrcoef(together.turns[:, 1], together.turns[:, 2])[0, 1] > 0.97
    assert found.turn == "XYZ" and found.reliable and found.fits["XYZ"] > 0.95


@pytest.mark.parametrize("rotation", [0, 90, -90, 180, 270])
def test_shifts_are_those_of_the_upright_picture(panned, rotation):
    """A pixel that moves in the picture as coded is followed in the picture as players show it."""
    seen = survey(panned, 1, 2.0)
    before, after = np.zeros((9, 9)), np.zeros((9, 9))
    before[4, 4] = after[4 + 1, 4 + 3] = 1
    (y0, x0), (y1, x1) = (np.argwhere(np.rot90(one, rotation // 90))[0] for one in (before, after))
    motion = seen.motions[0]
    moved = dataclasses.replace(motion, shifts=np.full_like(motion.shifts, 1) * [3, 1])
    stamps, turned = gyroscope(12)
    (found,) = rates_of(seen._replace(motions=[moved], rotation=rotation), gyro_only(stamps, turned))
    np.testing.assert_allclose(found.shifts[0] * np.diff(motion.times)[0], [x1 - x0, y1 - y0], atol=1e-9)


def test_rates_are_means_between_frames_on_the_videos_clock(panned):
    seen = survey(panned, 1, 4.0)
    stamps = np.arange(0, 3, 0.005)
    imu = gyro_only(stamps - 0.25, np.stack([stamps, 0 * stamps + 0.5, -stamps], 1))
    imu = dataclasses.replace(imu, accel_time=imu.gyro_time, accel=np.stack([stamps, 2 * stamps, 9.8 + 0 * stamps], 1))
    clock = dataclasses.replace(estimate_offset(panned, gyro_only(*gyroscope(12))), seconds=0.25, correlation=9.0)
    (found,) = rates_of(seen, imu, clock)
    inside = found.weights > 0
    assert 0 < inside.sum() < len(inside) and found.times[inside].max() < 3
    t = found.times[inside]
    np.testing.assert_allclose(found.turns[inside], np.stack([t, 0 * t + 0.5, -t], 1), atol=1e-9)
    np.testing.assert_allclose(found.accel[inside], np.stack([t, 2 * t, 9.8 + 0 * t], 1), atol=1e-9)
    lost = (stamps < 1.0) | (stamps > 1.3)  # a gap; the samples of a slow sensor are further apart without one
    (gap,) = rates_of(seen, gyro_only(stamps[lost], np.ones((lost.sum(), 3))))
    empty = gap.times[(gap.weights == 0) & (gap.times < 2.9)]
    assert 1.0 - 1 / RATE < empty.min() < 1.02 and 1.28 < empty.max() < 1.3 + 1 / RATE
    (slow,) = rates_of(seen, gyro_only(stamps[::20], np.ones((len(stamps[::20]), 3))))
    assert (slow.weights > 0).sum() > 2.7 * RATE
    (unmoved,) = rates_of(seen, imu)
    assert unmoved.turns[10, 0] == pytest.approx(unmoved.times[10] + 0.25)


def test_axes_are_found_although_clocks_drift(long_pan):
    """At the common offset, the first and the last excerpt would be 0.2 s off."""
    stamps, turned = gyroscope(40)
    imu = gyro_only((stamps - 0.2) / 1.01, turned)
    seen = survey(long_pan, 4, 6.0)
    late = offset_of(long_pan, seen, imu, 2.0)
    found = axes_of(rates_of(seen, imu, late))
    assert found.turn == "xyZ" and found.fits["xyZ"] > 0.95  # `pan` nods the other way than a GoPro
    assert found.pixels_per_radian == pytest.approx((FOCAL, FOCAL), rel=0.05)
    common = axes_of(rates_of(seen, dataclasses.replace(imu, gyro_time=imu.gyro_time + late.seconds)))
    assert common.fits["xyZ"] < found.fits["xyZ"] - 0.02


# --- The hand of axes


def signed():
    """The 48 ways to name three axes: permutations with signs, [48, 3, 3]."""
    return np.concatenate([_turns(), -_turns()])


def as_imu(times, accel, gyro):
    return Imu(times, accel, times, gyro)


@pytest.mark.parametrize("way", signed(), ids=cameras.turn_text)
def test_each_mirror_image_is_told_without_a_picture(way):
    times, accel, gyro = heads.head(seconds=6.0)
    found = hand_of(as_imu(times, accel @ way.T, gyro @ way.T))
    assert found.mirrored == (np.linalg.det(way) < 0) and abs(found.correlation) > 0.9
    assert found.correlation == pytest.approx(np.linalg.det(way) * hand_of(as_imu(times, accel, gyro)).correlation)


@pytest.mark.parametrize(
    ("pairs", "turn", "correlation", "share", "told"),
    [
        (19, 0.1, 0.71, 1.0, True),  # 6 errors of sqrt((1 - r2) / 37) are at 0.702
        (19, 0.1, 0.69, 1.0, False),
        (4, 0.1, 0.95, 1.0, True),
        (3, 0.1, 0.99, 1.0, False),
        (19, 0.0088, 0.9, 1.0, True),  # half a degree
        (19, 0.0086, 0.9, 1.0, False),
        (19, 0.1, 0.9, 0.11, True),  # gravity follows a tenth of the turns
        (19, 0.1, 0.9, 0.09, False),
    ],
)
def test_a_hand_is_told_from_its_limits_on(pairs, turn, correlation, share, told):
    expected = pairs * turn**2
    for sign in (1, -1):
        both = sign * share * expected
        found = Hand(pairs, expected, (both / correlation) ** 2 / expected, both)
        assert found.correlation == pytest.approx(sign * correlation)
        assert found.mirrored == (sign < 0 if told else None)


@pytest.mark.parametrize("seed", range(5))
def test_a_camera_that_stands_has_no_hand(seed):
    times, accel, gyro = heads.still(seconds=60.0, seed=seed)
    assert hand_of(as_imu(times, accel, gyro)).mirrored is None
    for none in (as_imu(times, 0 * accel, gyro), as_imu(times[:1], accel[:1], gyro[:1])):
        assert hand_of(none).mirrored is None
    assert hand_of(dataclasses.replace(as_imu(times, accel, gyro), accel_time=times[:0], accel=accel[:0])) == Hand()


def test_the_hand_of_a_real_walk_and_of_real_glasses(sample_data, neon, walk):
    assert hand_of(neon[1]).mirrored is False and hand_of(neon[1]).correlation == pytest.approx(0.92, abs=0.02)
    assert hand_of(walk[1]).mirrored is False and hand_of(walk[1]).correlation == pytest.approx(0.85, abs=0.02)


def test_the_hand_of_a_rendered_wearer(wearer):
    imu = read_imu(files_of(wearer)[1])
    assert hand_of(imu).mirrored is False
    swap = [1, 0, 2]
    assert hand_of(dataclasses.replace(imu, accel=imu.accel[:, swap], gyro=imu.gyro[:, swap])).mirrored


def test_the_hand_of_458_real_recordings(sample_data):
    """16 hours of heads: none is called mirrored; with two columns exchanged all are, but for at most three."""
    spec = importlib.util.spec_from_file_location("load", sample_data / "classyglass" / "load.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    counts = {"right": collections.Counter(), "exchanged": collections.Counter()}
    for _, _, _, samples in module.recordings():
        times = np.arange(len(samples)) / 100
        for name, columns in (("right", [0, 1, 2]), ("exchanged", [1, 0, 2])):
            found = hand_of(as_imu(times, samples[:, columns], samples[:, 3:][:, columns]))
            counts[name][found.mirrored] += 1
    assert counts["right"].total() == counts["exchanged"].total() == 458
    assert counts["right"][True] == counts["exchanged"][False] == 0
    assert counts["right"][None] <= 3 and counts["exchanged"][None] <= 3
