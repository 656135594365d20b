"""Batches of a store."""

import time

import numpy as np
import pytest
import torch
from toys import Store

from egodistill import EgoDistillError, batches


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
