"""engine/motion: recorded head motion of others on top of a clip's."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from egodistill import Augment, DataError, EgoDistill, EgoDistillError, finetune
from egodistill.engine import augmentation
from egodistill.engine.augmentation import draw
from egodistill.engine.motion import RecordedMotion
from egodistill.imu import IMUError
from tests import toys

UP = torch.tensor([0.3, -0.4, math.sqrt(0.75)])


def write(path, force, rate, seconds=30.0, hertz=100.0, gap=None):
    """Write a table of motion: functions of time [n] -> [n, 3]."""
    times = np.arange(round(seconds * hertz)) / hertz
    if gap:
        times = times[(times < gap[0]) | (times > gap[1])]
    values = np.column_stack([times, force(times), rate(times)])
    np.savetxt(path, values, delimiter=",", header="time,ax,ay,az,gx,gy,gz", comments="", fmt="%.9f")
    return path


def at_rest(times, up=(0.0, 0.0, 1.0)):
    return np.tile(9.81 * np.array(up), (len(times), 1))


def still(times):
    return np.zeros((len(times), 3))


def shaken(times):
    """A nod about the sensor's x axis: the head turns by 0.2 rad, at 1 Hz."""
    angle = 0.2 * np.sin(2 * np.pi * times)
    return 9.81 * np.column_stack([0 * times, np.sin(angle), np.cos(angle)])


def shaking(times):
    return np.column_stack([0.4 * np.pi * np.cos(2 * np.pi * times), 0 * times, 0 * times])


def resting_clip(samples=400):
    return torch.cat([(9.81 * UP).expand(samples, 3), torch.zeros(samples, 3)], 1)


def changed(recorded, clip, seeds=20):
    """The changed clips of some seeds; those that stay as they are left out."""
    found = [recorded.add(clip, draw(seed)) for seed in range(seeds)]
    return [one for one in found if not torch.equal(one, clip)]


def test_a_clip_at_rest_reads_the_recording_upright_about_any_heading(tmp_path):
    recorded = RecordedMotion([write(tmp_path / "nod.csv", shaken, shaking)], 400, 200.0)
    axes = []
    for found in changed(recorded, resting_clip()):
        force, rate = found[:, :3], found[:, 3:]
        assert_close(force.norm(dim=1), torch.full((400,), 9.81), atol=0.02, rtol=0)  # it turns, and nothing else
        assert_close(rate.norm(dim=1).max().item(), 0.4 * math.pi, atol=0.02, rtol=0)
        assert (rate @ UP).abs().max() < 0.01  # about a horizontal axis
        # What the gyroscope says and what gravity says are one motion: u' = -w x u.
        up = force / 9.81
        slope = (up[2:] - up[:-2]) * 100
        assert_close(slope, torch.linalg.cross(up, rate)[1:-1], atol=0.02, rtol=0)
        axes.append(rate[rate.norm(dim=1).argmax()])
    directions = torch.stack(axes)
    assert len(axes) > 10 and np.linalg.matrix_rank(directions.numpy(), tol=0.3) == 2


@pytest.mark.parametrize("up", [(-0.6, 0.0, -0.8), (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)])
def test_a_recording_at_rest_changes_nothing_however_the_sensor_sits(up, tmp_path):
    tilted = write(tmp_path / "rest.csv", lambda times: at_rest(times, up), still)
    clip = torch.randn(300, 6) + torch.cat([9.81 * UP, torch.zeros(3)])
    clip[:, :3] -= clip[:, :3].mean(0) - 9.81 * UP
    recorded = RecordedMotion([tilted], 300, 100.0)
    for seed in range(10):
        assert_close(recorded.add(clip, draw(seed)), clip, atol=2e-4, rtol=0)


def test_gravity_counts_once_where_both_turn(tmp_path):
    """A clip and a recording that each nod about one axis: together they read one larger nod."""
    recorded = RecordedMotion([write(tmp_path / "nod.csv", shaken, shaking)], 400, 200.0)
    times = torch.arange(400) / 200
    angle = 0.15 * torch.sin(2 * math.pi * 0.7 * times)
    none = torch.zeros(400)
    clip = torch.stack([none, 9.81 * angle.sin(), 9.81 * angle.cos(), none, none, none], 1)
    clip[:, 3] = 0.15 * 2 * math.pi * 0.7 * torch.cos(2 * math.pi * 0.7 * times)
    for found in changed(recorded, clip):
        assert_close(found[:, :3].norm(dim=1), torch.full((400,), 9.81), atol=0.15, rtol=0)


def test_a_net_turn_is_left_out_and_a_gap_is_not_taken(tmp_path):
    turning = write(tmp_path / "turn.csv", at_rest, lambda times: np.tile([0.0, 0.0, 0.5], (len(times), 1)))
    clip = resting_clip()
    for found in changed(RecordedMotion([turning], 400, 200.0), clip):
        assert_close(found, clip, atol=1e-3, rtol=0)
    holed = write(tmp_path / "gap.csv", shaken, lambda times: shaking(times) + 5.0 * (np.abs(times - 15) < 1)[:, None],
                  gap=(14.0, 16.0))  # fmt: skip
    for found in changed(RecordedMotion([holed], 400, 200.0), clip, 60):
        assert found[:, 3:].norm(dim=1).max() < 1.5  # the wild second is beside the gap


def test_motion_is_added_to_clips_at_once_as_one_by_one(tmp_path):
    recorded = RecordedMotion([write(tmp_path / "nod.csv", shaken, shaking)], 400, 200.0)
    clips = resting_clip() + 0.1 * torch.randn(60, 400, 6)
    clips[::5, :, 2] *= -1  # the head upside down
    clips[::7] = torch.tensor([0.0, 0.0, -9.81, 0.0, 0.0, 0.0])  # exactly
    found = recorded.add(clips, torch.stack([draw(seed) for seed in range(60)]))
    wanted = torch.stack([recorded.add(clip, draw(seed)) for seed, clip in enumerate(clips)])
    assert_close(found, wanted, atol=1e-5, rtol=0)
    same = (wanted == clips).all(2).all(1)
    assert 5 < same.sum() < 25 and torch.equal(found[same], clips[same])


def test_three_of_four_clips_are_changed_and_a_seed_repeats(tmp_path):
    recorded = RecordedMotion([write(tmp_path / "nod.csv", shaken, shaking)], 400, 200.0)
    clip = resting_clip()
    count = len(changed(recorded, clip, 400))
    assert 270 < count < 330
    assert torch.equal(recorded.add(clip, draw(5)), recorded.add(clip, draw(5)))


@pytest.mark.parametrize(
    ("force", "seconds", "words"),
    [
        (lambda times: at_rest(times) / 9.81, 30.0, "the acceleration is in g"),
        (still, 30.0, "acceleration is 0.00 m/s2"),
        (at_rest, 1.9, r"has no 2\.00 s without gaps"),
        (lambda times: np.where((times % 1.0 < 0.5)[:, None], at_rest(times), np.nan), 30.0, "without gaps"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_recording_that_cannot_be_added_is_named(tmp_path, force, seconds, words):
    path = write(tmp_path / "walk.csv", force, shaking, seconds)
    with pytest.raises((EgoDistillError, IMUError), match=words) as error:
        RecordedMotion([path], 400, 200.0)
    assert str(path) in str(error.value)


def test_motion_of_other_things_than_paths_is_refused():
    with pytest.raises(EgoDistillError, match=r"motion .* must be paths"):
        Augment(motion=3)
    with pytest.raises(EgoDistillError, match="give the recordings that are added"):
        augmentation.apply(Augment(motion="walk.csv"), {"imu": torch.zeros(1, 422, 6)}, [0])


def test_training_keeps_paths_and_a_checksum_and_refuses_other_samples(tmp_path):
    path = write(tmp_path / "walk.csv", shaken, shaking)
    store = toys.Store(12)
    options = toys.QUIET | {"epochs": 2, "batch_size": 4}
    history = finetune(toys.small(), store, augment=Augment(motion=path), out=tmp_path / "a.safetensors", **options)
    plain = finetune(toys.small(), store, **options)
    assert history[-1]["loss"] != plain[-1]["loss"]
    saved = EgoDistill.load(tmp_path / "a.safetensors").trained_with
    assert saved["added motion"] == [str(path)]
    assert saved["about"]["checksum of the added motion"] == RecordedMotion([path], 422, 198.0).fingerprint
    moved = tmp_path / "elsewhere.csv"
    path.rename(moved)  # the same samples elsewhere are the same training
    again = finetune(toys.small(), store, augment=Augment(motion=moved), out=tmp_path / "a.safetensors", **options)
    assert [row["loss"] for row in again] == [row["loss"] for row in history]
    write(moved, shaken, lambda times: 2 * shaking(times))
    with pytest.raises(DataError, match="checksum of the added motion"):
        finetune(toys.small(), store, augment=Augment(motion=moved), out=tmp_path / "a.safetensors", **options)
