"""engine/augmentation: crop, jitter and shift; recorded head motion of others on top of a clip's."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from egodistill import Augment, DataError, EgoDistill, EgoDistillError, finetune
from egodistill.engine.augmentation import (
    RecordedMotion,
    augment_batch,
    crop_at_once,
    crop_frames,
    jitter_frames,
    shift_imu,
)
from egodistill.imu import IMUError
from tests import toys


def draws(*seeds):
    """The random numbers of clips, [b, 13]."""
    return torch.stack([torch.rand(13, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def plain_crop(clip, numbers, share):
    """In numpy, pixel by pixel: the crop begins between its first row and column, and is read between its pixels."""
    size, *places = numbers[:3].double().tolist()
    for axis, place in zip((2, 3), places, strict=True):
        full = clip.shape[axis]
        side = max(1, round(full * (1 - share * size)))
        exact = round(place * (full - side)) + np.clip((np.arange(full) + 0.5) * side / full - 0.5, 0, side - 1)
        low = np.floor(exact).astype(int)
        above = (exact - low).reshape(-1, *[1] * (3 - axis))
        high = np.minimum(low + 1, full - 1)
        clip = np.take(clip, low, axis) * (1 - above) + np.take(clip, high, axis) * above
    return clip


def plain_jitter(clip, numbers, share):
    common, *own = (2 * numbers[3:7].double() - 1).tolist()
    factors = [1 + share * (common + one) / 2 for one in own]
    return np.clip(clip * np.reshape(factors, (3, 1, 1)), 0, 255)


def plain_shift(imu, numbers, share):
    move = round(share * (2 * numbers[7].item() - 1) * len(imu))
    return np.stack([imu[min(max(k + move, 0), len(imu) - 1)] for k in range(len(imu))])


@pytest.mark.parametrize("shape", [(40, 2, 3, 48, 64), (40, 1, 3, 33, 33)])
@pytest.mark.parametrize("share", [0.6, 0.999])
def test_frames_are_changed_as_the_formula_says_one_by_one_or_at_once(shape, share):
    """At once is the code for other devices; on the CPU, `augment_batch()` changes clips one by one."""
    frames, numbers = torch.randint(0, 256, shape, dtype=torch.uint8), draws(*range(40))
    for step, at_once, plain in (
        (crop_frames, crop_at_once, plain_crop),
        (jitter_frames, jitter_frames, plain_jitter),
    ):
        found, single = at_once(frames, numbers, share), step(frames, numbers, share)
        wanted = np.stack([plain(*pair, share) for pair in zip(frames.numpy(), numbers, strict=True)])
        for one in (found, single):
            assert one.dtype == torch.uint8 and one.shape == shape
            assert np.abs(one.numpy() - wanted).max() < 0.502
        assert (found != single).float().mean() < 0.02 and not torch.equal(found, frames)
        batch = {"clip": frames}
        augment_batch(Augment(**{"crop" if step is crop_frames else "jitter": share}), batch, range(40))
        assert torch.equal(batch["clip"], single)
    both = {"clip": frames}
    augment_batch(Augment(crop=share, jitter=0.2), both, range(40))
    assert torch.equal(both["clip"], jitter_frames(crop_frames(frames, numbers, share), numbers, 0.2))


def test_head_motion_is_shifted_as_the_formula_says_one_by_one_or_at_once():
    imu, numbers = torch.randn(40, 100, 6), draws(*range(40))
    wanted = np.stack([plain_shift(*pair, 0.4) for pair in zip(imu.numpy(), numbers, strict=True)])
    batch = {"imu": imu}
    augment_batch(Augment(shift=0.4), batch, range(40))
    for one in (shift_imu(imu, numbers, 0.4), batch["imu"]):
        assert np.array_equal(one.numpy(), wanted)


def test_a_crop_depends_on_the_clips_seed_alone():
    ramp = torch.arange(64, dtype=torch.uint8).expand(2, 2, 3, 64, 64)  # two clips of two frames, brighter to the right
    augment, plain = Augment(crop=0.5), {"frames_2": ramp, "clip": ramp}

    def cropped(seeds, rows):
        batch = {name: x[rows] for name, x in plain.items()}
        augment_batch(augment, batch, seeds)
        assert torch.equal(batch["clip"], batch["frames_2"])  # a teacher's are cropped alike
        return batch["frames_2"]

    both, second = cropped([3, 4], [0, 1]), cropped([4], [1])
    assert both.shape == ramp.shape and both.dtype == torch.uint8
    assert torch.equal(both[1], second[0]) and not torch.equal(both[0], both[1])
    assert torch.equal(both[0, 0], both[0, 1]) and torch.equal(cropped([3], [0])[0], both[0])
    sides = []
    for seed in range(50):
        row = cropped([seed], [0])[0, 0, 0, 0].float()
        sides.append(float(row[-1] - row[0] + 1) / 64)
    assert 0.5 <= min(sides) < 0.55 and 0.95 < max(sides) <= 1
    with pytest.raises(EgoDistillError, match="0 <= crop < 1; got 1"):
        Augment(crop=1)


def test_a_crop_lies_where_its_seed_says():
    """Frames of 48 x 64 that are brighter to the right (red) and downwards (green) show the place of a crop."""
    rows, columns = torch.meshgrid(torch.arange(48), torch.arange(64), indexing="ij")
    frame = torch.stack([columns, rows, rows]).to(torch.uint8)[None]
    for seed in range(40):
        size, down, right, *_ = draws(seed)[0].tolist()
        height, width = 48 * (1 - 0.6 * size), 64 * (1 - 0.6 * size)
        found = crop_frames(frame[None], draws(seed), 0.6)[0, 0].float()
        assert float(found[0].mean()) == pytest.approx(right * (64 - width) + (width - 1) / 2, abs=1)
        assert float(found[1].mean()) == pytest.approx(down * (48 - height) + (height - 1) / 2, abs=1)
        assert float(found[0, 24, 48] - found[0, 24, 16]) == pytest.approx(width / 2, abs=1.5)


def test_jitter_changes_the_colours_of_a_clip_alike_and_nothing_else():
    grey, augment = torch.full((3, 2, 3, 8, 8), 100, dtype=torch.uint8), Augment(jitter=0.4)
    batch = {"clip": grey, "frames_1": grey[:, :1], "frames_1.times": grey[:, 0, 0, 0, 0], "imu": grey[:, 0, 0]}
    before = dict(batch)
    augment_batch(augment, batch, [3, 4, 3])
    clip = batch["clip"].float()
    assert batch["clip"].dtype == torch.uint8 and (clip.amax((1, 3, 4)) == clip.amin((1, 3, 4))).all()
    assert torch.equal(batch["clip"][0], batch["clip"][2]) and not torch.equal(batch["clip"][0], batch["clip"][1])
    assert torch.equal(batch["frames_1"][:, 0], batch["clip"][:, 0])
    assert batch["imu"] is before["imu"] and batch["frames_1.times"] is before["frames_1.times"]
    colours = jitter_frames(grey[:1].expand(200, 2, 3, 8, 8), draws(*range(0, 400, 2)), 0.4)[:, 0, :, 0, 0].float()
    assert 60 <= colours.min() < 72 and 128 < colours.max() <= 140  # 1 - jitter to 1 + jitter
    together = torch.corrcoef(colours.T)  # Brightness and tint have the same weight.
    assert ((together > 0.35) & (together < 0.65))[~torch.eye(3, dtype=bool)].all()
    with pytest.raises(EgoDistillError, match="0 <= jitter < 1; got -1"):
        Augment(jitter=-1)


def test_a_shift_moves_the_head_motion_of_a_clip_and_nothing_else():
    ramp = torch.arange(100.0)[:, None].expand(3, 100, 6)
    batch = {"imu": ramp, "frames_1": torch.zeros(3, 1, 3, 8, 8, dtype=torch.uint8)}
    frames, augment = batch["frames_1"], Augment(shift=0.1)
    augment_batch(augment, batch, [3, 4, 3])
    assert batch["frames_1"] is frames and batch["imu"].shape == ramp.shape
    assert torch.equal(batch["imu"][0], batch["imu"][2]) and not torch.equal(batch["imu"][0], batch["imu"][1])
    moved = shift_imu(ramp[:1].expand(500, 100, 6), draws(*range(500)), 0.1)
    assert set((moved[:, 50, 0] - 50).int().tolist()) == set(range(-10, 11))
    moved = next(one for one in moved if one[50, 0] == 57)
    assert moved[:93, 0].tolist() == list(range(7, 100)) and (moved[93:] == 99).all()
    both = {"imu": ramp[:1].clone(), "frames_1": torch.randint(0, 255, (1, 1, 3, 8, 8), dtype=torch.uint8)}
    alone = dict(both)
    augment_batch(Augment(crop=0.3, jitter=0.3, shift=0.1), both, [4])
    augment_batch(Augment(crop=0.3, jitter=0.3), alone, [4])
    assert torch.equal(both["frames_1"], alone["frames_1"]) and torch.equal(both["imu"][0], batch["imu"][1])


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
    found = [recorded.add(clip[None], draws(seed))[0] for seed in range(seeds)]
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
        assert_close(recorded.add(clip[None], draws(seed))[0], clip, atol=2e-4, rtol=0)


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
    found = recorded.add(clips, draws(*range(60)))
    wanted = torch.cat([recorded.add(clips[seed : seed + 1], draws(seed)) for seed in range(60)])
    assert_close(found, wanted, atol=1e-5, rtol=0)
    same = (wanted == clips).all(2).all(1)
    assert 5 < same.sum() < 25 and torch.equal(found[same], clips[same])


def test_three_of_four_clips_are_changed_and_a_seed_repeats(tmp_path):
    recorded = RecordedMotion([write(tmp_path / "nod.csv", shaken, shaking)], 400, 200.0)
    clip = resting_clip()
    count = len(changed(recorded, clip, 400))
    assert 270 < count < 330
    assert torch.equal(recorded.add(clip[None], draws(5)), recorded.add(clip[None], draws(5)))


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
