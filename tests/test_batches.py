"""Batches of a store."""

import time

import numpy as np
import pytest
import torch
from toys import QUIET, Store

from egodistill import EgoDistill, EgoDistillError, batches, data, finetune


def test_reading_ahead_hides_the_reading():
    class Slow(Store):
        def read(self, name, index):
            time.sleep(0.02)
            return super().read(name, index)

    waits = []
    for _, wait in batches.read(Slow(32), ["imu"], torch.arange(32), 4, torch.device("cpu")):
        time.sleep(0.04)
        waits.append(wait)
    assert len(waits) == 8 and np.median(waits[1:]) < 0.01


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"imu_rate": 100.0}, "'imu' are not .* imu_rate is 198.0 there, 100.0 in the model"),
        ({"imu_samples": 300, "imu_vector": "mean"}, "imu_samples is 422 there, 300"),
        ({"clip_seconds": 1.0}, "'frames_1' are not .* seconds is 2.13.* there, 1.0"),
        ({"frame_size": 32}, "frames are 40 pixels wide and the model's 32"),
        ({"exact": False}, "exact is True there, False"),
        ({"sampling": "first"}, "no array 'frames_1_first'"),
        ({"num_frames": 2}, "no array 'frames_2'"),
    ],
)
def test_a_student_for_other_clips_than_the_stores_is_refused(store, options, words):
    arguments = {"image_weights": None, "image_encoder": "resnet10x8", "frame_size": 40, "hidden": 8} | options
    model = EgoDistill(3, **arguments)
    with pytest.raises(EgoDistillError, match=words):
        finetune(model, store.split("test"), epochs=1, **QUIET)


def test_a_student_reads_the_frames_that_it_is_for(kitchen, tmp_path):
    """Several choices of frames in one store."""
    options = {"num_frames": 2, "frame_size": 32, "ends": False, "workers": 1, "progress": False}
    store = data.prepare(kitchen[6:], tmp_path / "s", sampling=("uniform", "last", "random"), seed=3, **options)
    assert store.names == ["frames_2", "frames_2_last", "frames_2_random", "imu"]
    for rule, name in (("uniform", "frames_2"), ("last", "frames_2_last"), ("random", "frames_2_random")):
        arguments = {"image_weights": None, "image_encoder": "resnet10x8", "frame_size": 32, "hidden": 8}
        model = EgoDistill(3, num_frames=2, sampling=rule, **arguments)
        assert batches.arrays_of(model, store) == [name, "imu"]
    alone = data.prepare(kitchen[6:], tmp_path / "alone", sampling="random", seed=3, **options)
    assert (alone.read("frames_2_random", slice(None)) == store.read("frames_2_random", slice(None))).all()


def test_a_crop_depends_on_the_clips_seed_alone():
    ramp = torch.arange(64, dtype=torch.uint8).expand(2, 2, 3, 64, 64)  # two clips of two frames, brighter to the right
    augment, plain = batches.Augment(crop=0.5), {"frames_2": ramp, "clip": ramp}

    def cropped(seeds, rows):
        batch = {name: x[rows] for name, x in plain.items()}
        augment.apply(batch, seeds)
        assert torch.equal(batch["clip"], ramp[rows])  # a teacher's
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
        batches.Augment(crop=1)
