"""Picture motion against the gyroscope: planted lags and drifts are found, and noise is not believed."""

import dataclasses

import numpy as np
import panned as panned_world
import pytest
from painted import move, write_video
from panned import FOCAL, RATE, files_of, gyro_only, gyroscope, pan

from egodistill import DataError, behaviour
from egodistill.imu import read_imu
from egodistill.offset import Excerpt, MotionMeter, _drift, estimate_offset, survey
from egodistill.video import VideoError


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


def test_drift_shows_in_the_stretches(tmp_path):
    video = pan(tmp_path / "long.mp4", np.arange(40 * RATE) / RATE)
    stamps, rates = gyroscope(40)
    imu = gyro_only((stamps - 0.2) / 1.004, rates)  # 0.2 s early at the start, 0.36 s at the end
    offset = estimate_offset(video, imu, excerpts=4, seconds=6)
    assert len(offset.excerpts) == 4
    assert offset.drift == pytest.approx(0.004, rel=0.1)
    for excerpt in offset.excerpts:
        assert excerpt.stop - excerpt.start == pytest.approx(6, abs=0.1)
        middle = (excerpt.start + excerpt.stop) / 2
        assert excerpt.seconds == pytest.approx(0.2 + 0.004 * middle, abs=0.02)
        assert excerpt.correlation > 0.97
    keys = survey(video, 4, 6.0).keys
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
    stamps, rates = gyroscope(12)
    for lag in (0.0, 0.1, -0.1):
        found = estimate_offset(video, gyro_only(stamps - lag, rates))
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


def test_stabilised_walk_is_not_trusted(sample_data):
    """The camera hides its turns: at the true offset, 0, the correlation is 0.7 over the whole walk, chance 0.7."""
    video = sample_data / "gopro" / "max-heromode.mp4"
    narrow = estimate_offset(video, max_offset=0.05)
    assert 0.6 < narrow.correlation < 0.8
    assert not estimate_offset(video).reliable


def test_what_offsets_cannot_be_had_from(panned, tmp_path):
    stamps, rates = gyroscope(12)
    with pytest.raises(DataError, match="never turns"):
        estimate_offset(panned, gyro_only(stamps, np.zeros_like(rates)))
    with pytest.raises(DataError, match=r"gyroscope \(100.0 to 112.0 s\) .* none of the decoded frames"):
        estimate_offset(panned, gyro_only(stamps + 100, rates))
    with pytest.raises(DataError, match="too few frames"):
        estimate_offset(pan(tmp_path / "short.mp4", np.arange(5) / RATE), gyro_only(stamps, rates))
    with pytest.raises(DataError, match="max_offset"):
        estimate_offset(panned, gyro_only(stamps, rates), max_offset=0)
    with pytest.raises(VideoError, match="no such file"):
        estimate_offset(tmp_path / "none.mp4", gyro_only(stamps, rates))


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


def test_the_drift_is_the_weighted_slope_through_the_excerpts(tmp_path):
    """Noise in one half of the readings makes its excerpts count less."""
    video = pan(tmp_path / "long.mp4", np.arange(40 * RATE) / RATE)
    stamps, rates = gyroscope(40)
    rates[stamps > 25] += np.random.default_rng(0).normal(0, 2.5, rates[stamps > 25].shape)
    found = estimate_offset(video, gyro_only((stamps - 0.2) / 1.004, rates), excerpts=5, seconds=4)
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
