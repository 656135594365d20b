"""head_encoders: what is taken away is not read, and what is added is."""

import pytest
import torch
from numpy.testing import assert_allclose

from egodistill import EgoDistill
from lab import head_encoders as encoders


@pytest.mark.parametrize(("sensor", "own"), [(0, slice(0, 3)), (1, slice(3, 6))])
@pytest.mark.parametrize("kind", ["paper", "spectrum"])
def test_a_sensor_that_is_taken_away_changes_nothing(kind, sensor, own):
    name = f"{kind}_without_{['accelerometer', 'gyroscope'][sensor]}"
    encoder = getattr(encoders, name)
    model = EgoDistill(3, image_encoder="resnet10x4", image_weights=None, frame_size=32, imu_encoder=encoder).eval()
    imu = torch.randn(2, 422, 6)
    other, moved = imu.clone(), imu.clone()
    other[:, :, own] += torch.randn(2, 422, 3)
    moved[:, :, {0: 4, 1: 1}[sensor]] += torch.randn(2, 422)
    assert torch.equal(model.encode_imu(imu), model.encode_imu(other))
    assert not torch.equal(model.encode_imu(imu), model.encode_imu(moved))


def test_the_net_turn_is_taken_from_spectrum_and_given_to_the_cnn():
    imu = torch.randn(2, 422, 6)
    turned = imu + torch.tensor([0, 0, 0, 0.3, 0, 0])
    spectrum, cnn = encoders.SpectrumWithoutTurn().eval(), encoders.ScaledCNN().eval()
    assert_allclose(spectrum(imu), spectrum(turned), atol=1e-4)
    changed = (cnn(imu) - cnn(turned)).abs().max(0).values
    assert changed[:-3].max() < 1e-3 and changed[-3:].tolist() == pytest.approx([0.3, 0, 0], abs=1e-3)
