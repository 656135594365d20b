"""The rendered world: is its physics true, does nothing tell the verb, are its files as said?"""

import csv
import itertools
import math
import re
import shutil
from collections import Counter
from dataclasses import replace

import av
import numpy as np
import pytest
import torch

from egodistill import EgoDistillOSError, data, synthetic

FRAME_RATE, PAIRS = synthetic.FRAME_RATE, synthetic.PAIRS
Camera, HeadMotion, Recording = synthetic.Camera, synthetic.HeadMotion, synthetic.Recording
Placed, Room = synthetic.Placed, synthetic.Room

GRAVITY = 9.81
SETTINGS = {"seed": 5, "train_acts": 16, "test_acts": 6, "train_wearers": 2, "size": (40, 32), "progress": False}
TRAINING, EVALUATION = ("P01", "P02"), ("P30", "P35", "P37")
# What render() must have made of these settings: name, acts, share of wrong verbs.
RECORDINGS = [
    Recording(f"{wearer}_101", acts, 5, 40, 32, noise)
    for wearers, acts, noise in ((TRAINING, 8, 0.25), (EVALUATION, 2, 0.0))
    for wearer in wearers
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A small world that the tests only read."""
    return synthetic.render(tmp_path_factory.mktemp("synthetic") / "world", workers=1, **SETTINGS)


@pytest.fixture
def wearer():
    return synthetic.draw_wearer("P01", 0)


def table(world):
    with open(world.annotations, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(root, pattern="**/*"):
    """Every file below a folder: relative path -> bytes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.glob(pattern) if p.is_file()}


def one_act(pair=0, backward=False, **changes):
    """An act of a typical wearer, ten seconds after the start, with the head going along."""
    act = synthetic.Act(
        pair=pair,
        backward=backward,
        centre=10.0,
        offset=0.07,
        duration=1.1,
        hesitation=0.1,
        lag=0.05,
        follow=0.9,
        lean=(0.03, -0.02, 0.01),
        azimuth=0.6,
        pitch=0.3,
        length=1.8,
        appearance=7,
    )
    return replace(act, **changes)


def steady(*acts):
    """The motion of a head that does not sway."""
    motion = HeadMotion(synthetic.draw_wearer("P01", 0), list(acts), np.random.default_rng(0))
    motion.amplitude[:] = 0
    return motion


def axes(yaw, pitch, roll):
    """Camera axes (left, back, up) as columns, from where the camera looks and how it is tilted."""
    forward = np.array([math.cos(pitch) * math.cos(yaw), math.cos(pitch) * math.sin(yaw), -math.sin(pitch)])
    level = np.array([-math.sin(yaw), math.cos(yaw), 0])
    upright = np.cross(forward, level)
    left = math.cos(roll) * level - math.sin(roll) * upright  # a positive roll lowers the left side
    up = math.sin(roll) * level + math.cos(roll) * upright
    return np.stack([left, -forward, up], 1)


# --- Head motion and IMU -------------------------------------------------------------------------


def turned(rates, steps):
    """Rotations [n + 1, 3, 3] since the start, after each step with a constant body rate."""
    result = [np.eye(3)]
    for rate, step in zip(rates, steps, strict=True):
        x, y, z = rate * step
        angle = math.sqrt(x * x + y * y + z * z)
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        sine, versine = np.sinc(angle / math.pi), 0.5 * np.sinc(angle / 2 / math.pi) ** 2
        result.append(result[-1] @ (np.eye(3) + sine * cross + versine * cross @ cross))
    return np.stack(result)


def angle_between(a, b):
    """The angle in radians of the rotation from one orientation to another."""
    distance = np.linalg.norm(a - b, axis=(-2, -1)) / math.sqrt(8)
    return 2 * np.arcsin(np.minimum(distance, 1))


def test_rotation_is_that_of_a_camera_that_looks_left_down_and_tilts():
    state = np.random.default_rng(0).uniform(-1, 1, (6, 20))
    for k, rotation in enumerate(HeadMotion.rotation(state)):
        np.testing.assert_allclose(rotation, axes(*state[:3, k]), atol=1e-12)


def test_gyroscope_integrates_back_to_the_rotation():
    _, acts, motion = Recording("P01_101", 3).draw()
    edges = np.arange(acts[0].centre - 0.8, acts[1].centre + 1, 0.002)
    state = motion.state(edges)
    assert np.ptp(state[0]) > math.radians(40) and np.ptp(state[1]) > 0.02  # a turn is in it
    middles = (edges[:-1] + edges[1:]) / 2
    rotation = HeadMotion.rotation(state)
    seen = rotation[0] @ turned(motion.imu(middles)[1], np.diff(edges))
    assert angle_between(seen, rotation).max() < 1e-4


def test_still_accelerometer_reads_gravity_in_camera_axes():
    def force(pitch, roll=0.0):
        motion = steady(one_act(follow=0.0, pitch=pitch))
        motion.frequency[2, 0], motion.phase[2, 0] = 0, math.pi / 2
        motion.amplitude[2, 0] = roll
        force, rate = motion.imu(np.array([1.0]))
        np.testing.assert_allclose(rate, 0, atol=1e-9)
        return force[0] / GRAVITY

    np.testing.assert_allclose(force(0.0), [0, 0, 1], atol=1e-6)
    # Looking down, the axis towards the wearer points up; a side that is lowered reads less.
    np.testing.assert_allclose(force(0.3), [0, math.sin(0.3), math.cos(0.3)], atol=1e-6)
    np.testing.assert_allclose(force(0.0, 0.2), [-math.sin(0.2), 0, math.cos(0.2)], atol=1e-6)


def test_specific_force_is_acceleration_minus_gravity():
    _, acts, motion = Recording("P02_101", 3).draw()
    t, h = np.arange(acts[0].centre - 1, acts[2].centre + 1, 0.01), 4e-3
    # Another step and another formula than imu() has: five points, of fourth order.
    far, near, here, after, beyond = (motion.state(t + k * h)[3:] for k in (-2, -1, 0, 1, 2))
    acceleration = ((-far + 16 * near - 30 * here + 16 * after - beyond) / (12 * h * h)).T
    assert np.abs(acceleration).max() > 0.5
    force = motion.imu(t)[0]
    state = motion.state(t)
    for k in range(len(t)):
        expected = axes(*state[:3, k]).T @ (acceleration[k] + [0, 0, GRAVITY])
        np.testing.assert_allclose(force[k], expected, atol=0.02)


def test_head_turns_left_and_down_by_the_angles_of_the_pair_and_leans():
    left, forward, up = one_act().lean
    cos, sin = math.cos(0.6), math.sin(0.6)
    lean = [forward * cos - left * sin, forward * sin + left * cos, up]
    for number, pair in enumerate(PAIRS):
        for backward in (False, True):
            before, after = steady(one_act(number, backward)).state(np.array([8.5, 11.5])).T
            change = (after - before) / (-0.9 if backward else 0.9)  # the act's `follow`
            np.testing.assert_allclose(np.degrees(change[:3]), [pair.yaw, pair.pitch, 0])
            np.testing.assert_allclose(change[3:], lean)
            # Half way it faces the station.
            np.testing.assert_allclose((before + after) / 2, [0.6, 0.3, 0, 0, 0, 0], atol=1e-12)


def test_head_moves_smoothly_and_turns_to_the_next_station_outside_the_clips():
    _, acts, motion = Recording("P01_101", 8).draw()
    motion.amplitude[:] = 0
    speed = np.diff(motion.state(np.arange(0, acts[-1].centre + 3, 1e-3))) * 1e3
    assert np.abs(np.diff(speed)).max() < 0.06  # no jumps: at most 60 rad/s2 or m/s2
    for act in acts:
        clip = act.centre + np.linspace(-1, 1, 9) * data.CLIP_SECONDS / 2
        np.testing.assert_allclose(motion.state(clip), steady(act).state(clip), atol=1e-9)


def imu_files(recording, root):
    """The IMU files of a recording alone, without its pictures."""
    paths = recording.files(root)[1:]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    motion = recording.draw()[2]
    recording._write_imu(motion, paths)
    return paths, motion


def test_imu_files_are_the_motion_with_noise_bias_and_drift(tmp_path):
    recording = Recording("P02_101", 5, seed=1)
    paths, motion = imu_files(recording, tmp_path)
    acts = motion.acts
    headers = [path.read_text().splitlines()[0] for path in paths]
    assert headers == ["Milliseconds,AcclX,AcclY,AcclZ", "Milliseconds,GyroX,GyroY,GyroZ"]

    imu = data.read_imu(paths)
    assert len(imu.accel) != len(imu.gyro)
    sensors = ((imu.accel_time, imu.accel, 197.9, 0.06, 0.1), (imu.gyro_time, imu.gyro, 198.2, 0.006, 0.015))
    for k, (stamps, values, rate, noise, bias) in enumerate(sensors):
        np.testing.assert_allclose(np.diff(stamps), 1 / rate, atol=2e-9)
        assert stamps[0] < 0.003
        assert recording.duration - 2 / rate < stamps[-1] <= recording.duration
        wrong = values - motion.imu(stamps)[k]
        assert np.diff(wrong, axis=0).std() / math.sqrt(2) == pytest.approx(noise, rel=0.1)
        slow = [part.mean(0) for part in np.array_split(wrong - wrong.mean(0), 10)]
        assert 2 * noise / math.sqrt(len(wrong) / 10) < np.abs(slow).max() < bias  # it drifts

    # The bias is another one in each recording and on each axis.
    offsets = []
    for number in range(101, 113):
        paths, clean = imu_files(Recording(f"P03_{number}", 1), tmp_path)
        other = data.read_imu(paths)
        offsets.append(
            [
                (other.accel - clean.imu(other.accel_time)[0])[:100].mean(0) / 0.1,
                (other.gyro - clean.imu(other.gyro_time)[1])[:100].mean(0) / 0.015,
            ]
        )
    spread = np.sqrt(np.square(offsets).mean((0, 2)))  # 36 numbers a sensor
    np.testing.assert_allclose(spread, 1, atol=0.4)

    # The whole road once: from the file back to the orientation of the head, over a turn.
    inside = (imu.gyro_time > acts[0].centre - 0.8) & (imu.gyro_time < acts[1].centre + 0.8)
    stamps = imu.gyro_time[inside]
    rates = (imu.gyro - (imu.gyro - motion.imu(imu.gyro_time)[1])[inside].mean(0))[inside]
    truth = HeadMotion.rotation(motion.state(stamps))
    seen = truth[0] @ turned((rates[:-1] + rates[1:]) / 2, np.diff(stamps))
    assert angle_between(truth[0], truth).max() > 0.8 and angle_between(seen, truth).max() < 0.01


# --- Pictures ------------------------------------------------------------------------------------


def picture_shift(before, after):
    """By how many pixels (right, down) a picture [3, H, W] has moved, by phase correlation."""
    height, width = before.shape[1:]
    window = np.hanning(height)[:, None] * np.hanning(width)
    one, other = ((p.mean(0) - p.mean()) * window for p in (before, after))
    cross = np.conj(np.fft.fft2(one)) * np.fft.fft2(other)
    peak = np.fft.ifft2(cross / np.abs(cross).clip(1e-9)).real
    y, x = np.unravel_index(peak.argmax(), peak.shape)
    result = []
    for line, at in ((peak[y], x), (peak[:, x], y)):
        low, top, high = line[at - 1], line[at], line[(at + 1) % len(line)]
        place = at + (low - high) / (2 * (low - 2 * top + high))  # vertex of the parabola
        result.append((place + len(line) / 2) % len(line) - len(line) / 2)
    return result


@pytest.fixture(scope="module")
def turns(tmp_path_factory):
    """A recording whose stations lie high and low by turns: gyroscope, shifts, times of frames."""
    draw = synthetic.draw_acts

    def high_and_low(*arguments):
        return [replace(a, pitch=0.1 + 0.3 * (k % 2)) for k, a in enumerate(draw(*arguments))]

    recording = Recording("P01_101", 7, 3, 96, 96)
    root = tmp_path_factory.mktemp("turns")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "draw_acts", high_and_low)
        recording.write(root)
        _, acts, motion = recording.draw()
    video, *tables = recording.files(root)
    begins = [(a.centre + b.centre) / 2 - 0.275 for a, b in itertools.pairwise(acts)]
    frames = np.array([np.ceil(t * FRAME_RATE) + np.arange(11) for t in begins]) / FRAME_RATE
    pictures = data.read_frames(video, frames.ravel() + 1e-3).reshape(*frames.shape, 3, 96, 96)
    shifts = np.array([[picture_shift(a, b) for a, b in itertools.pairwise(turn)] for turn in pictures])
    return motion, data.read_imu(tables), frames, shifts.reshape(-1, 2)


def angles(imu, frames, axis, late=0.0):
    """What the gyroscope turned about an axis from each frame to the next (rad)."""
    step = np.diff(imu.gyro_time) * (imu.gyro[1:, axis] + imu.gyro[:-1, axis]) / 2
    angle = np.interp(frames + late, imu.gyro_time, np.concatenate([[0], np.cumsum(step)]))
    return np.diff(angle).ravel()


def slope_and_correlation(x, y):
    return x @ y / (x @ x), np.corrcoef(x, y)[0, 1]


def test_pictures_move_right_and_up_as_the_head_turns_left_and_down(turns):
    """Through the files: frames out of the MP4 against the gyroscope's CSV, on one clock."""
    motion, imu, frames, shifts = turns
    focal = Camera(96, 96).focal
    for axis, name, moved in ((2, "left", shifts[:, 0]), (0, "down", -shifts[:, 1])):
        expected = focal * angles(imu, frames, axis)
        assert expected.max() > 4, name
        slope, correlation = slope_and_correlation(expected, moved)
        assert correlation > 0.98 and slope == pytest.approx(1, abs=0.06), (name, slope)
        lags = np.arange(-60, 61, 5) / 1000
        fit = [np.corrcoef(angles(imu, frames, axis, lag), moved)[0, 1] for lag in lags]
        assert abs(lags[np.argmax(fit)]) <= 0.01, name
    # A turn about the vertical moves the picture of a camera that looks down by less.
    yaw, pitch = (motion.state(frames.ravel())[k].reshape(frames.shape) for k in (0, 1))
    expected = focal * (np.diff(yaw) * np.cos(pitch[:, 1:])).ravel()
    slope, correlation = slope_and_correlation(expected, shifts[:, 0])
    assert correlation > 0.98 and slope == pytest.approx(1, abs=0.06)


GREY = torch.full((1, 3, 4, 4), 0.25)
# A white spot with a soft rim, so that its centre is found to a fraction of a pixel.
RADIUS = torch.linspace(-1, 1, 48).square()
SPOT = (1 - RADIUS - RADIUS[:, None]).clamp(min=0).square().expand(1, 4, 48, 48)


def pose(left=0.0, forward=0.0, up=0.0, yaw=0.0, pitch=0.0, roll=0.0):
    """A head state [6, 1]; left and forward are those of a head that looks along x."""
    return np.array([[yaw], [pitch], [roll], [forward], [left], [up]])


def spot(camera, state, part, azimuth=0.0):
    """Where a bright spot is before a grey wall: (column, row) of its centre, and its light."""
    room = Room(GREY, GREY, -0.45)
    picture = camera.render(state, [(azimuth, [part])], room, np.ones(3))[0].astype(float)[..., 1]
    mask = picture - picture.min()
    rows, columns = np.indices(mask.shape) + 0.5
    return (mask * columns).sum() / mask.sum(), (mask * rows).sum() / mask.sum(), mask.sum()


def test_near_things_shift_more_than_far_ones():
    camera, shift = Camera(96, 64), 0.1
    assert 2 * math.degrees(math.atan(48 / camera.focal)) == pytest.approx(54)
    for depth in (0.6, 0.95):
        still, moved, lifted, nearer = (
            np.array(spot(camera, state, Placed(SPOT, depth, 0.05, 0.02, (0.08, 0.08))))
            for state in (pose(), pose(left=shift), pose(up=shift), pose(forward=shift))
        )
        step = camera.focal * shift / depth  # 15.7 and 9.9 pixels
        np.testing.assert_allclose((moved - still)[:2], [step, 0], atol=0.05)
        np.testing.assert_allclose((lifted - still)[:2], [0, step], atol=0.05)
        assert nearer[2] / still[2] == pytest.approx((depth / (depth - shift)) ** 2, rel=0.05)

    room = Room(synthetic.wall_texture(np.random.default_rng(0)), GREY, -9.0)
    still, moved = (
        camera.render(state, [], room, np.ones(3))[0].transpose(2, 0, 1).astype(float)
        for state in (pose(), pose(left=shift))
    )
    expected = [camera.focal * shift / room.radius, 0]  # 4.3 pixels
    np.testing.assert_allclose(picture_shift(still, moved), expected, atol=0.3)


def test_wall_stands_still_while_the_head_turns_all_around():
    """Wherever a chunk of pictures begins: the wall's texture is unrolled around its middle."""
    camera, room = Camera(48, 48), Room(synthetic.wall_texture(np.random.default_rng(0)), GREY, -9)
    yaws = np.radians(np.arange(-400, 401, 20))
    state = np.concatenate([pose(yaw=yaw) for yaw in yaws], axis=1)

    def look(state):
        return camera.render(state, [], room, np.ones(3)).astype(int)

    one_by_one = np.concatenate([look(state[:, k : k + 1]) for k in range(len(yaws))])
    for size in (2, 3):
        chunks = [look(state[:, k : k + size]) for k in range(0, len(yaws), size)]
        assert np.abs(np.concatenate(chunks) - one_by_one).max() <= 2  # rounding of float32
    assert np.abs(one_by_one[0] - one_by_one[18]).max() <= 2  # a full turn
    assert np.abs(one_by_one[0] - one_by_one[9]).mean() > 10


def test_sprites_are_where_a_pinhole_camera_sees_them():
    camera, rng = Camera(120, 90), np.random.default_rng(0)
    for _ in range(10):
        azimuth, depth = rng.uniform(-3, 3), rng.uniform(0.6, 0.9)
        left, up = rng.uniform(-0.1, 0.1, 2)
        yaw, pitch, roll = azimuth + rng.uniform(-0.2, 0.2), *rng.uniform(-0.2, 0.2, 2)
        x, y, z = place = rng.uniform(-0.08, 0.08, 3)
        cos, sin = math.cos(azimuth), math.sin(azimuth)
        point = np.array([depth * cos - left * sin, depth * sin + left * cos, up])
        right, back, above = axes(yaw, pitch, roll).T @ (point - place) * [-1, 1, 1]
        expected = 60 + camera.focal * right / -back, 45 - camera.focal * above / -back
        state = np.array([[yaw], [pitch], [roll], [x], [y], [z]])
        part = Placed(SPOT, depth, left, up, (0.05, 0.05))
        np.testing.assert_allclose(spot(camera, state, part, azimuth)[:2], expected, atol=0.1)


def test_only_pixels_without_sprite_are_left_out(wearer, monkeypatch):
    """Camera.window() saves time and changes no picture."""
    _, acts, motion = Recording("P01_101", 8).draw()
    room, rng = Room(GREY, GREY, wearer.counter), np.random.default_rng(0)
    scenes = []
    for one, two in itertools.pairwise(acts):  # each act, and the turn to the next one
        t = one.centre + np.linspace(-1, 1.6, 7)
        parts = [(act.azimuth, synthetic.station(act, wearer, t)) for act in (one, two)]
        scenes.append((motion.state(t), parts))
    for _ in range(20):  # Squares that fill their picture, standing on a tip, from all sides.
        left, up = rng.normal(0, 0.1, (2, 2))
        part = Placed(torch.ones(1, 4, 8, 8), 0.7, left, up, (0.06, 0.06), math.pi / 4)
        scenes.append((rng.uniform(-0.15, 0.15, (6, 2)), [(0.0, [part])]))

    def pictures():
        camera = Camera(48, 48)
        return np.concatenate([camera.render(*scene, room, np.ones(3)) for scene in scenes])

    fast, everywhere = pictures(), (slice(0, 48), slice(0, 48))
    monkeypatch.setattr(Camera, "window", lambda *_: everywhere)
    np.testing.assert_array_equal(fast, pictures())


# --- Nothing but the motion tells the verb -------------------------------------------------------


@pytest.mark.parametrize("number", range(len(PAIRS)), ids=[pair.forward for pair in PAIRS])
def test_backward_verb_is_the_forward_verb_in_the_mirror_of_time(number, wearer):
    forward, backward = one_act(number), one_act(number, backward=True)
    centre = forward.centre + forward.offset
    apart = np.linspace(-1.3, 1.3, 53)  # seconds from the true centre
    there, back = centre + apart, centre - apart
    for name in ("progress", "presence"):
        one, other = getattr(forward, name)(there), getattr(backward, name)(back)
        np.testing.assert_allclose(one, other, atol=1e-12)
    done = forward.progress(there)
    assert done[0] == 0 and done[-1] == 1
    assert (np.diff(done) >= 0).all()
    np.testing.assert_allclose(forward.progress(there, forward.lag), forward.progress(there - forward.lag), atol=1e-12)
    presence = forward.presence(there)
    assert presence[0] == presence[-1] == 0 and presence[26] == 1

    assert steady(forward).state(there) == pytest.approx(steady(backward).state(back), abs=1e-12)
    things = synthetic.station(forward, wearer, there), synthetic.station(backward, wearer, back)
    for one, other in zip(*things, strict=True):
        assert torch.equal(one.image, other.image)
        for name in Placed._fields[1:]:
            np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-12)

    camera, rng = Camera(48, 48), np.random.default_rng(0)
    room = Room(synthetic.wall_texture(rng), torch.rand(1, 3, 64, 64), wearer.counter)

    def film(act, t):
        parts = [(act.azimuth, synthetic.station(act, wearer, t))]
        return camera.render(steady(act).state(t), parts, room, np.ones(3))

    # At the true centre the picture is the same to the last bit, before and after it is not.
    t = centre + np.array([-0.25, 0, 0.25])
    there, back = film(forward, t), film(backward, t)
    np.testing.assert_array_equal(film(forward, t[1:2]), film(backward, t[1:2]))
    assert np.abs(there[0].astype(int) - back[0]).max() > 20
    mirrored = back[::-1].astype(int)
    assert np.abs(there - mirrored).max() <= 1  # but for the rounding of float32


class OtherVerbs:
    """Random numbers as those of a generator, with the verbs of every pair exchanged."""

    def __init__(self, seed):
        self.generator = np.random.default_rng(seed)

    def __getattr__(self, name):
        return getattr(self.generator, name)

    def permutation(self, verbs):
        return self.generator.permutation(verbs) ^ 1


def test_all_but_the_verb_is_drawn_without_knowing_it(wearer):
    acts = synthetic.draw_acts(wearer, 96, np.random.default_rng(1))
    others = synthetic.draw_acts(wearer, 96, OtherVerbs(1))
    assert [replace(act, backward=not act.backward) for act in others] == acts


def test_acts_are_balanced_and_the_head_follows_in_the_stated_share(wearer):
    acts = synthetic.draw_acts(wearer, 3200, np.random.default_rng(2))
    assert set(Counter((act.pair, act.backward) for act in acts).values()) == {400}
    some = synthetic.draw_acts(wearer, 61, np.random.default_rng(2))
    counts = Counter((act.pair, act.backward) for act in some)
    assert len(counts) == 8 and max(counts.values()) - min(counts.values()) <= 1
    order = [2 * act.pair + act.backward for act in acts]
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.08  # neither is the order a hint
    for number, pair in enumerate(PAIRS):
        follows = np.array([act.follow != 0 for act in acts if act.pair == number])
        if pair.follow in (0, 1):
            assert (follows == bool(pair.follow)).all()
        else:
            spread = math.sqrt(pair.follow * (1 - pair.follow) / len(follows))
            assert abs(follows.mean() - pair.follow) < 4 * spread
    assert {pair.follow for pair in PAIRS} == {0, 0.5, 1}
    offsets = np.array([act.offset for act in acts])
    assert abs(offsets.mean()) < 4 * offsets.std() / math.sqrt(3200)  # on average in the middle
    assert np.abs(offsets).max() <= 0.1


def test_ceilings_are_what_a_perfect_classifier_reaches():
    """It knows pair and motion of the head, and guesses where the head stays."""
    ceilings = synthetic.ceilings()
    assert ceilings == {"frame": 0.5, "frame + imu": 0.8125, "frame + audio": 0.6875, "clip": 1.0}
    last = {"frame": 0.5, "frame + imu": 0.625, "frame + audio": 0.625, "clip": 1.0}
    assert synthetic.ceilings(PAIRS[2:]) == last

    rng, right = np.random.default_rng(3), []
    for name in ("P01", "P02", "P30"):
        for act in synthetic.draw_acts(synthetic.draw_wearer(name, 0), 800, rng):
            ends = np.array([act.centre - 1.3, act.centre + 1.3])
            yaw, pitch = np.diff(steady(act).state(ends))[:2, 0]
            along = yaw * PAIRS[act.pair].yaw + pitch * PAIRS[act.pair].pitch
            guess = along < 0 if along else rng.random() < 0.5
            right.append(guess == act.backward)
    # Only guesses vary: none in the pairs with follow 1, 3/4 of right ones in that with 1/2, ...
    spread = math.sqrt((3 / 16 + 1 / 4) / 4 / len(right))
    assert abs(np.mean(right) - ceilings["frame + imu"]) < 4 * spread


def test_sound_tells_the_verb_by_its_knock_alone(monkeypatch):
    """A knock before the middle is the forward verb's; without one there is nothing to tell it by."""
    right, pitches = [], {}
    for number in range(12):
        recording = Recording(f"P{number + 1:02d}_101", 48)
        _, acts, _ = recording.draw()
        sound = recording.sound(acts) / 32767
        assert len(sound) == 800 * round(20 * recording.duration) and np.abs(sound).max() < 1
        knocks = 0
        for act in acts:
            middle = round(act.centre * 16000)
            near = sound[middle - 16000 : middle + 16000]
            loudest = int(np.abs(near).argmax())
            if heard := np.abs(near).max() > 0.14:
                knocks += 1
                tones = np.abs(np.fft.rfft(near[loudest : loudest + 1600]))
                pitches.setdefault(act.pair, []).append(tones.argmax() * 10 / PAIRS[act.pair].hertz)
            right.append((loudest > 16000) == act.backward if heard else 0.5)
        assert 0 < knocks < len(acts)
    spread = math.sqrt(3 / 4 / 16 / len(right))  # in three of four pairs 1 or 1/2, evenly
    assert abs(np.mean(right) - synthetic.ceilings()["frame + audio"]) < 4 * spread
    assert set(pitches) == {0, 1, 2}  # the knife makes none
    assert all(0.85 < np.median(found) < 1.15 for found in pitches.values())

    # With nothing to knock, acts of the other verb rustle as loud as these do, in the mirror of time.
    monkeypatch.setattr(synthetic, "PAIRS", tuple(replace(pair, heard=0.0) for pair in PAIRS))
    loud = np.zeros((2, 20))
    for name in ("P01_101", "P01_102", "P02_101", "P02_102"):
        recording = Recording(name, 48)
        _, acts, _ = recording.draw()
        for flip in (0, 1):
            turned = [replace(act, backward=not act.backward) for act in acts] if flip else acts
            sound = recording.sound(turned) / 32767
            for act in acts:
                middle = round((act.centre + act.offset) * 16000)
                part = (sound[middle - 16000 : middle + 16000] ** 2).reshape(20, -1).mean(1)
                loud[flip] += part[::-1] if flip else part
    np.testing.assert_allclose(loud[0], loud[1], rtol=0.1)


def test_microphone_is_in_step_with_the_pictures(world):
    """What a reader hears in the file is what was played at that time."""
    for recording in RECORDINGS[:2]:
        _, acts, _ = recording.draw()
        played = recording.sound(acts) / 32767
        video = world.root / recording.name[:3] / "videos" / f"{recording.name}.MP4"
        starts = [act.centre - 1 for act in acts]
        for start, heard in zip(starts, data.read_audio(video, starts), strict=True):
            wanted = played[round(start * 16000) :][: len(heard)]
            assert np.corrcoef(wanted, heard)[0, 1] > 0.95


def test_head_that_does_not_follow_knows_no_verb(wearer):
    acts = synthetic.draw_acts(wearer, 40, np.random.default_rng(4))
    others = [act if act.follow else replace(act, backward=not act.backward) for act in acts]
    assert acts != others
    one, other = (HeadMotion(wearer, list_, np.random.default_rng(0)) for list_ in (acts, others))
    t = np.arange(0, acts[-1].centre, 0.1)
    np.testing.assert_allclose(one.state(t), other.state(t), atol=1e-12)


# --- Files ---------------------------------------------------------------------------------------


def test_layout_is_that_of_epic_kitchens(world):
    expected = {"world.json", "EPIC_100_train.csv", "EPIC_100_verb_classes.csv"}
    for name in (recording.name for recording in RECORDINGS):
        expected.add(f"{name[:3]}/videos/{name}.MP4")
        expected |= {f"{name[:3]}/meta_data/{name}-{sensor}.csv" for sensor in ("accl", "gyro")}
    assert contents(world.root).keys() == expected
    rows = table(world)
    assert ",".join(rows[0]) == (
        "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,"
        "start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,"
        "all_noun_classes"
    )
    assert len(rows) == 22 and len({row["narration_id"] for row in rows}) == 22
    first = rows[0]
    assert (first["narration_id"], first["participant_id"], first["video_id"]) == ("P01_101_0", "P01", "P01_101")
    assert re.fullmatch(r"00:00:0\d\.\d\d", first["start_timestamp"])

    segments = data.read_epic_kitchens(world.annotations, world.root)
    assert not segments.dropped
    assert Counter(s.split for s in segments) == {"train": 16, "test": 6}
    assert {s.id[:3] for s in segments if s.split == "test"} == set(EVALUATION)
    assert [s.label for s in segments] == [row["verb"] for row in rows]


def test_long_recordings_are_cut_and_acts_shared_evenly(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Recording, "write", lambda self, root: written.append(self))
    world = synthetic.render(tmp_path, train_acts=205, test_acts=7, train_wearers=2, workers=1)
    names = [(recording.name, recording.acts) for recording in written]
    assert names == [
        ("P01_101", 34),
        ("P01_102", 34),
        ("P01_103", 34),
        ("P02_101", 34),
        ("P02_102", 34),
        ("P02_103", 35),
        ("P30_101", 2),
        ("P35_101", 2),
        ("P37_101", 3),
    ]
    assert len(table(world)) == 212
    # Habits are the person's, acts and sway the recording's.
    (one, acts, motion), (same, others, motion_2), (other, *_) = (
        recording.draw() for recording in (written[0], written[1], written[3])
    )
    assert one == same and one.skin != other.skin and one.pace != other.pace
    assert acts[0].appearance != others[0].appearance
    assert not np.allclose(motion.phase, motion_2.phase)


def test_wrong_verbs_are_the_stated_share_and_never_the_true_one(world):
    rows = iter(table(world))
    for recording in RECORDINGS:
        wrong = 0
        for act in recording.draw()[1]:
            row, pair = next(rows), PAIRS[act.pair]
            said = next(p for p in PAIRS if row["verb"] in (p.forward, p.backward))
            assert int(row["verb_class"]) == said.classes[row["verb"] == said.backward]
            assert (row["noun"], int(row["noun_class"])) == (pair.noun, pair.classes[2])
            wrong += row["verb"] != (pair.backward if act.backward else pair.forward)
        assert wrong == (2 if recording.name[:3] in TRAINING else 0), recording.name
    assert next(rows, None) is None

    # Each wrong verb is as likely as any other, whatever the true one is: chi-square, 7 classes.
    recording = Recording("P01_101", 2000, label_noise=0.25)
    verbs = [verb for pair in PAIRS for verb in (pair.forward, pair.backward)]
    steps = Counter(
        (verbs.index(row[9]) - 2 * act.pair - act.backward) % 8
        for row, act in zip(recording.rows(), recording.draw()[1], strict=True)
    )
    assert steps.pop(0) == 1500 and len(steps) == 7
    assert sum((count - 500 / 7) ** 2 / (500 / 7) for count in steps.values()) < 22.5  # p 0.001


def test_centre_of_an_annotation_is_exactly_a_frame(world):
    """The road of a single-frame model picks the frame on the grid and not its neighbour."""
    segments = iter(data.read_epic_kitchens(world.annotations, world.root))
    for recording in RECORDINGS:
        video = recording.files(world.root)[0]
        with av.open(str(video)) as container:
            decoded = list(container.decode(video=0))
        seconds = [float(frame.pts * frame.time_base) for frame in decoded]
        np.testing.assert_allclose(seconds, np.arange(len(decoded)) / FRAME_RATE, atol=1e-9)
        info = data.probe(video)
        assert (info.width, info.height, info.fps) == (40, 32, FRAME_RATE)
        assert info.duration == pytest.approx(recording.duration, abs=0.05)
        pictures = [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in decoded]
        for act in recording.draw()[1]:
            segment = next(segments)
            assert segment.video == str(video)
            centre = (segment.start + segment.stop) / 2
            number = round(centre * FRAME_RATE)
            assert centre == pytest.approx(number / FRAME_RATE, abs=1e-9)
            assert centre == pytest.approx(act.centre, abs=1e-9)
            assert 1.6 <= round(segment.stop - segment.start, 6) <= 2.0  # less than a clip
            (start,) = data.clip_starts(segment.start, segment.stop, info.duration)
            frame = data.read_frames(video, data.clip_times(start, 1))[0]
            errors = [np.abs(frame - picture.astype(int)).mean() for picture in pictures[number - 1 : number + 2]]
            assert errors[1] < 1 and min(errors[0], errors[2]) > 2 * errors[1]
    assert next(segments, None) is None


def test_world_goes_through_the_clip_store(world, tmp_path):
    segments = data.read_epic_kitchens(world.annotations, world.root)
    store = data.prepare(
        segments,
        tmp_path / "store",
        num_frames=(1, 4),
        frame_size=32,
        clip_frames=8,
        clip_size=32,
        workers=1,
        progress=False,
    )
    assert len(store) == 22 and not store.failures and store.splits == ["test", "train"]
    assert store.class_names == sorted(v for pair in PAIRS for v in (pair.forward, pair.backward))
    assert [store.class_names[k] for k in store.labels] == [row["verb"] for row in table(world)]
    # Its IMU windows are the motion in these clips, up to bias and noise.
    imu, clips = store.read("imu", np.arange(22)), iter(zip(range(22), store.clips, strict=True))
    for recording in RECORDINGS:
        motion = recording.draw()[2]
        for _ in range(recording.acts):
            row, clip = next(clips)
            t = clip["start"] + np.arange(data.IMU_SAMPLES) / data.IMU_RATE
            wrong = imu[row] - np.concatenate(motion.imu(t), axis=1)
            wrong = (wrong - wrong.mean(0)).std(0)
            assert (wrong < [0.1] * 3 + [0.01] * 3).all()


def test_same_arguments_give_the_same_bytes(world, tmp_path):
    again = synthetic.render(tmp_path / "again", workers=2, **SETTINGS)
    assert contents(again.root) == contents(world.root)


def test_another_seed_gives_another_world(world, tmp_path):
    other = synthetic.render(tmp_path / "other", workers=1, **SETTINGS | {"seed": 6})
    one, two = contents(world.root), contents(other.root)
    assert one.keys() == two.keys()
    same = {name for name in one if one[name] == two[name]}
    assert same == {"EPIC_100_verb_classes.csv"}


def test_evaluation_wearers_do_not_depend_on_the_training_wearers(world, tmp_path):
    changes = {"train_wearers": 1, "train_acts": 3, "label_noise": 0.5}
    other = synthetic.render(tmp_path / "other", workers=1, **SETTINGS | changes)
    one, two = (contents(w.root, "P3*/**/*") for w in (world, other))
    assert len(one) == 9 and one == two
    one, two = ([row for row in table(w) if row["participant_id"] in EVALUATION] for w in (world, other))
    assert one == two


def test_interrupted_rendering_goes_on(world, tmp_path, monkeypatch, capsys):
    root = tmp_path / "world"
    shutil.copytree(world.root, root)
    video, accl, gyro = RECORDINGS[1].files(root)
    *rest, lost = RECORDINGS[4].files(root)  # of this one a single file
    for file in (video, accl, gyro, lost, root / "EPIC_100_train.csv"):
        file.unlink()
    stamps = {file: file.stat().st_mtime_ns for file in root.glob("P*/*/*")}

    render, calls = Camera.render, []

    def interrupted(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(1)
        return render(*arguments)

    monkeypatch.setattr(Camera, "render", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic.render(root, workers=1, **SETTINGS)
    assert not video.exists() and not list(root.glob("**/*.part"))
    assert not list(root.glob("*/videos/.*"))

    monkeypatch.setattr(Camera, "render", render)
    assert capsys.readouterr().err == ""
    synthetic.render(root, workers=1, **SETTINGS | {"progress": True})
    assert re.search(r"render: 22/22 acts, [\d.]+ acts/s", capsys.readouterr().err)
    assert contents(root) == contents(world.root)
    kept = {file for file, stamp in stamps.items() if file.stat().st_mtime_ns == stamp}
    assert kept >= set(stamps) - set(rest)
    synthetic.render(root, workers=1, **SETTINGS | {"progress": True})  # nothing to do, no bar
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("size", "file"), [(10, "world.json"), (9000, "P01_101-accl.csv"), (60_000, "P01_101.MP4")])
def test_full_disk_is_told_with_the_file(tmp_path, full_disk, size, file):
    with full_disk(size), pytest.raises(EgoDistillOSError, match=rf"{file}: cannot be written: File too large"):
        synthetic.render(tmp_path / "w", train_acts=1, test_acts=3, train_wearers=1, workers=1, progress=False)
    assert not list((tmp_path / "w").rglob("*.part")) and not list((tmp_path / "w").rglob(file))


def test_failure_ends_the_rendering_and_not_only_its_recording(tmp_path):
    """So does Ctrl-C: what waits for a process is not begun any more."""
    (tmp_path / "P01").mkdir()
    (tmp_path / "P01" / "videos").write_text("a file in the way")
    with pytest.raises(FileExistsError):
        synthetic.render(
            tmp_path, train_wearers=29, train_acts=29, test_acts=9, size=(32, 32), workers=2, progress=False
        )
    assert len(list(tmp_path.glob("P*/videos/*.MP4"))) < 16 and not list(tmp_path.glob("*.csv"))


@pytest.mark.parametrize(
    "change",
    [{"seed": 6}, {"train_acts": 17}, {"test_acts": 7}, {"train_wearers": 3}, {"size": (32, 40)}, {"label_noise": 0}],
)
def test_folder_with_another_world_is_refused_and_kept(world, change):
    before = contents(world.root)
    with pytest.raises(synthetic.WorldError, match=re.escape(str(world.root))):
        synthetic.render(world.root, workers=1, **SETTINGS | change)
    assert contents(world.root) == before


@pytest.mark.parametrize(
    "change",
    [
        {"label_noise": 1.0},
        {"label_noise": -0.1},
        {"label_noise": math.nan},
        {"train_wearers": 0},
        {"train_wearers": 30},
        {"train_acts": 1},
        {"test_acts": 2},
        {"size": (33, 32)},
        {"size": (32, 30)},
        {"seed": -1},
    ],
)
def test_arguments_that_make_no_world_are_named(tmp_path, change):
    (name,) = change
    with pytest.raises(synthetic.WorldError, match=name):
        synthetic.render(tmp_path / "world", workers=1, **SETTINGS | change)
    assert not (tmp_path / "world").exists()


# --- Numbers by an independent computation


def test_the_sensors_have_clocks_of_their_own(tmp_path):
    """First stamp and rate of each, as in the table of the sensors."""
    paths, _ = imu_files(Recording("P02_101", 3, seed=1), tmp_path)
    imu = data.read_imu(paths)
    for stamps, first, rate in ((imu.accel_time, 0.0, 197.9), (imu.gyro_time, 0.0021, 198.2)):
        np.testing.assert_allclose(stamps, first + np.arange(len(stamps)) / rate, atol=1e-8)


def test_the_drift_is_a_random_walk_of_the_stated_size(tmp_path):
    """Its spread after t seconds is the drift times the root of t, whatever the rate."""
    changes = []
    for number in range(101, 125):
        paths, motion = imu_files(Recording(f"P04_{number}", 8), tmp_path)
        imu = data.read_imu(paths)
        wrong = [
            imu.accel - motion.imu(imu.accel_time)[0],
            imu.gyro - motion.imu(imu.gyro_time)[1],
        ]
        # Means over 2 s, 10 s apart; a walk's two means differ by drift * sqrt(10 - 2 / 3).
        changes.append([(part[2200:2596].mean(0) - part[220:616].mean(0)) for part in wrong])
    spread = np.sqrt(np.square(changes).mean((0, 2)))
    np.testing.assert_allclose(spread / math.sqrt(10 - 2 / 3), [0.02, 0.002], rtol=0.35)


def test_ceilings_are_means_over_pairs_of_any_shares():
    pairs = tuple(replace(PAIRS[0], follow=f, heard=h) for f, h in ((0.2, 0.9), (0.7, 0.3), (0.4, 0.0)))
    found = synthetic.ceilings(pairs)
    assert found["frame + imu"] == pytest.approx(((1 + 0.2) + (1 + 0.7) + (1 + 0.4)) / 6)
    assert found["frame + audio"] == pytest.approx(((1 + 0.9) + (1 + 0.3) + 1) / 6)


def test_readings_are_derivatives_of_the_pose():
    """By finite differences of other steps, and the vector of rotation between two poses."""
    acts = synthetic.draw_acts(synthetic.draw_wearer("P03", 0), 4, np.random.default_rng(0))
    motion = HeadMotion(synthetic.draw_wearer("P03", 0), acts, np.random.default_rng(1))
    t, step = np.linspace(1.0, 10.0, 200), 2e-4
    force, rate = motion.imu(t)
    before, here, after = (HeadMotion.rotation(motion.state(t + d)) for d in (-step, 0.0, step))
    between = np.einsum("nji,njk->nik", before, after)  # in the axes of the camera
    angle = np.arccos(np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1))
    axis = np.stack([between[:, k, j] - between[:, j, k] for j, k in ((1, 2), (2, 0), (0, 1))], 1)
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    np.testing.assert_allclose(rate, axis * (angle / (2 * step))[:, None], atol=2e-3)
    step = 5e-3  # a fourth-order second derivative of the place
    places = [motion.state(t + k * step)[3:].T for k in (-2, -1, 0, 1, 2)]
    acceleration = sum(w * p for w, p in zip((-1, 16, -30, 16, -1), places, strict=True)) / (12 * step**2)
    wanted = np.einsum("nij,ni->nj", here, acceleration + np.array([0, 0, 9.81]))
    np.testing.assert_allclose(force, wanted, atol=5e-3)


def test_a_turn_is_lit_halfway_between_its_stations(monkeypatch):
    seen = []

    class Camera:
        def __init__(self, width, height):
            """Take any size."""

        def render(self, state, parts, room, light):
            seen.append((len(parts), np.asarray(light)))

    monkeypatch.setattr(synthetic, "Camera", Camera)
    monkeypatch.setattr(synthetic, "station", lambda act, wearer, t: [])
    recording = synthetic.Recording("P01_101", acts=3)
    for _ in recording._pictures(*recording.draw(), None, np.random.default_rng(0)):
        pass
    counts, lights = zip(*seen, strict=True)
    assert counts == (1, 2, 1, 2, 1) and not np.allclose(lights[0], lights[2])
    for turn in (1, 3):
        np.testing.assert_allclose(lights[turn], (lights[turn - 1] + lights[turn + 1]) / 2)
