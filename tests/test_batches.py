"""Batches of a store."""

import time

import numpy as np
import torch
from toys import Store

from egodistill import batches


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
