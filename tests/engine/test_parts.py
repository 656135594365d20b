"""What a student is built of: refused before anything is built."""

import pytest
import torch
from torch import nn

from egodistill import EgoDistill, student
from egodistill.engine import parts


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"aggregator": "mean"}, "aggregator must be 'gru' or 'concat'"),
        ({"imu_vector": "last"}, "imu_vector must be 'flatten' or 'mean'"),
        ({"imu_rate": float("nan")}, "imu_rate=nan must be above 0"),
        ({"clip_seconds": 1e5, "imu_rate": 1e5}, "imu_samples must be a whole number, .*; got 10000000000"),
        ({"num_frames": 1.5}, r"num_frames \(--num-frames\) must be a whole number"),
        ({"imu_axes": 3}, "imu_axes=3 must be a name"),
        ({"class_names": ["a"]}, "1 class names for num_classes=4"),
        ({"imu_encoder": "spektrum"}, "must be 'cnn', 'spectrum'"),
        ({"imu_encoder": "filterbank-unsure"}, "the last of which is 'unsure'"),
        ({"image_encoder": "rednet18"}, "it is not one of the tested"),
    ],
)
def test_no_weights_are_downloaded_for_what_does_not_fit(wrong, words, monkeypatch):
    monkeypatch.setattr(student, "load_image_weights", lambda *_: pytest.fail("weights were loaded"))
    with pytest.raises(ValueError, match=words):
        EgoDistill(4, **wrong)


def test_a_network_keeps_its_modes_and_its_statistics():
    network = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))
    network[0].eval()
    same, found = parts.custom_network("imu_encoder", network, [torch.ones(2, 6)], [("m",)])
    assert same is network and found.shape == (2, 3) and not found.requires_grad
    assert network.training and not network[0].training and not network[0].running_mean.any()
    with pytest.raises(ValueError, match=r"imu_encoder=Sequential must return float \[2, 4\] or \[2, c, t\] for "):
        parts.custom_network("imu_encoder", network, [torch.ones(2, 6)], [(4,), ("c", "t")])
