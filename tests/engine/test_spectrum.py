"""spectrum: the numbers of a Fourier transform, for clips of any length."""

import numpy as np
import pytest
import torch
from toys import settle

from egodistill.engine.spectrum import IMUSpectrum, waves


def test_imu_spectrum_agrees_with_numpy():
    """Window means and log magnitudes of a Fourier transform: catches a wrong window, axis, order or mean."""
    encoder = settle(IMUSpectrum())
    imu = np.random.default_rng(0).standard_normal((3, 422, 6)).cumsum(1) * 0.1 + [0, 0, 9.81, 0.3, 0, 0]
    x = imu - imu.mean(1, keepdims=True) * [1, 1, 1, 0, 0, 0]
    x = (x - encoder.scale.running_mean.numpy()) / np.sqrt(encoder.scale.running_var.numpy() + 1e-5)
    means = x[:, :420].reshape(3, 21, 20, 6).mean(2)
    slow = x[:, :420].reshape(3, 105, 4, 6).mean(2)[:, 16:89]
    bent = (slow - slow.mean(1, keepdims=True)) * np.hanning(73)[:, None]
    spectrum = np.log(0.05 + np.abs(np.fft.rfft(bent, axis=1))[:, 1:13])
    wanted = np.concatenate([one.transpose(0, 2, 1).reshape(3, -1) for one in (means, spectrum)], 1)
    wanted = (wanted - encoder.norm.running_mean.numpy()) / np.sqrt(encoder.norm.running_var.numpy() + 1e-5)
    with torch.no_grad():
        found = encoder(torch.tensor(imu, dtype=torch.float32)).numpy()
    assert found.shape == (3, 198)
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_the_bands_pass_little_of_what_folds_back():
    """Above 25 Hz, half the rate of their steps: about a fifth of what a band passes at its own frequency."""
    basis, time = waves(422, 198.0).double(), torch.arange(422) / 198

    def passed(frequencies):
        parts = [wave(2 * torch.pi * frequencies[:, None] * time).double() @ basis for wave in (torch.cos, torch.sin)]
        return torch.stack(parts).square().sum(0).unflatten(1, (2, -1)).sum(1).sqrt()

    own, above = passed(torch.arange(0.5, 9, 0.1)).max(0).values, passed(torch.arange(25, 99, 0.2)).max(0).values
    assert 0.15 < (above / own).max() < 0.22


@pytest.mark.parametrize(("samples", "rate", "size"), [(1, 198, 6), (10, 198, 6), (60, 30, 192), (1000, 800, 144)])
def test_imu_spectrum_takes_clips_of_any_length_and_rate(samples, rate, size):
    encoder = IMUSpectrum(samples, rate).eval()
    assert encoder(torch.randn(2, samples, 6)).shape == (2, size) and encoder.dim == size
