"""An IMU encoder of plain numbers: window means and a coarse spectrum of each channel of head motion.

from egodistill.engine.spectrum import IMUSpectrum

encoder = IMUSpectrum(samples=422, rate=198.0)           # or EgoDistill(..., imu_encoder="spectrum")
encoder(imu)                                             # float [B, 422, 6] -> [B, 198]
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..support.defaults import IMU_RATE, IMU_SAMPLES

__all__ = ["IMUSpectrum"]


class IMUSpectrum(nn.Module):
    """An IMU encoder without weights: window means and a coarse log spectrum of each channel, [B, T, 6] -> [B, m].

    The six channels of a clip of 422 samples give 6 * (21 + 12) = 198 numbers: the means over windows of 0.1 s, and the
    log magnitudes of the first 12 frequencies after zero (up to 8 Hz) of the clip's middle 70 %. The accelerometer's
    mean over the clip, which is gravity, is removed; the gyroscope's, the net turn of the head, is kept, so use
    `imu.Imu.without_bias()` with a sensor that is not calibrated. The channels, and then the numbers, are normalised
    with the statistics of the training clips, which batch norm keeps.

    Not from the paper. `samples` is T, `rate` theirs in Hz, `dropout` that of the numbers.

    >>> import torch
    >>> from egodistill.engine.spectrum import IMUSpectrum
    >>> IMUSpectrum()(torch.randn(2, 422, 6)).shape
    torch.Size([2, 198])
    """

    removes_mean = True  # `EgoDistill.encode_imu()` passes the samples as they are

    def __init__(self, samples: int = IMU_SAMPLES, rate: float = IMU_RATE, dropout: float = 0.5) -> None:
        super().__init__()
        means, sines = window_means(samples, rate), waves(samples, rate)
        self.windows, self.bands = means.shape[1], sines.shape[1] // 2
        self.dim = 6 * (self.windows + self.bands)
        self.register_buffer("basis", torch.cat([means, sines], dim=1), persistent=False)
        self.register_buffer("gravity", torch.tensor([1.0, 1, 1, 0, 0, 0]), persistent=False)
        self.scale = nn.BatchNorm1d(6, affine=False)
        self.norm = nn.BatchNorm1d(self.dim, affine=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, imu: Tensor) -> Tensor:
        imu = imu - imu.mean(dim=1, keepdim=True) * self.gravity
        found = self.scale(imu.transpose(1, 2)) @ self.basis
        means, cosines, sines = found.split([self.windows, self.bands, self.bands], dim=2)
        magnitudes = (cosines.square() + sines.square() + 1e-12).sqrt()
        numbers = torch.cat([means.flatten(1), (0.05 + magnitudes).log().flatten(1)], dim=1)
        return self.dropout(self.norm(numbers))


def window_means(samples: int, rate: float) -> Tensor:
    """Return the matrix [samples, windows] of the means over windows of 0.1 s."""
    size = min(max(1, round(0.1 * rate)), samples)
    count = samples // size
    matrix = torch.zeros(samples, count)
    matrix[: count * size] = torch.eye(count).repeat_interleave(size, 0) / size
    return matrix


def waves(samples: int, rate: float) -> Tensor:
    """Return cosines and sines of the middle 70 % of a clip, [samples, 2 * bands], with a Hann window, without mean.

    They are constant over steps of 20 ms. What is faster than 25 Hz folds back, at most about a fifth of its amplitude.
    """
    step = max(1, round(rate / 50))
    steps = samples // step
    length = int(0.7 * steps)
    first, bands = (steps - length) // 2 * step, min(12, length // 2)
    time = torch.arange(length, dtype=torch.float64)
    angles = 2 * math.pi * time[:, None] * torch.arange(1, bands + 1) / max(1, length)
    waves = torch.cat([angles.cos(), angles.sin()], 1) * torch.hann_window(length, False, dtype=torch.float64)[:, None]
    matrix = torch.zeros(samples, 2 * bands)
    matrix[first : first + length * step] = (waves - waves.mean(0)).repeat_interleave(step, 0) / step
    return matrix
