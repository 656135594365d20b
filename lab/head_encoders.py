"""IMU encoders with something taken away or added, from which `lead.py` tells what a lead is made of.

They are a file of their own because a bench refuses to continue a folder whose networks come from a changed file.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from egodistill.engine.spectrum import IMUSpectrum
from egodistill.student import IMUEncoder


class Zeroed(nn.Module):
    """An encoder that gets zeros for one of the sensors, in training and in tests.

    Args:
        encoder: The encoder.
        sensor: Which one is zero: 0, the accelerometer, or 1, the gyroscope.
    """

    def __init__(self, encoder: nn.Module, sensor: int) -> None:
        super().__init__()
        self.encoder, self.removes_mean = encoder, getattr(encoder, "removes_mean", False)
        self.register_buffer("kept", torch.ones(6), persistent=False)
        self.kept[3 * sensor : 3 * sensor + 3] = 0.0

    def forward(self, imu: Tensor) -> Tensor:
        return self.encoder(imu * self.kept)


class SpectrumWithoutTurn(IMUSpectrum):
    """An `IMUSpectrum` that gets the gyroscope without its mean over the clip, as the paper's encoder does."""

    def forward(self, imu: Tensor) -> Tensor:
        return super().forward(imu - imu.mean(1, keepdim=True))


class ScaledCNN(nn.Module):
    """The paper's encoder with what an `IMUSpectrum` has: readings of about the same size, and the net turn beside."""

    removes_mean = True

    def __init__(self) -> None:
        super().__init__()
        self.encoder = IMUEncoder()
        self.scale, self.turn = nn.BatchNorm1d(6, affine=False), nn.BatchNorm1d(3, affine=False)

    def forward(self, imu: Tensor) -> Tensor:
        mean = imu.mean(1, keepdim=True)
        found = self.encoder(self.scale((imu - mean).transpose(1, 2)).transpose(1, 2))
        return torch.cat([found.flatten(1), self.turn(mean[:, 0, 3:])], 1)


def paper_without_accelerometer() -> nn.Module:
    return Zeroed(IMUEncoder(), 0)


def paper_without_gyroscope() -> nn.Module:
    return Zeroed(IMUEncoder(), 1)


def spectrum_without_accelerometer() -> nn.Module:
    return Zeroed(IMUSpectrum(), 0)


def spectrum_without_gyroscope() -> nn.Module:
    return Zeroed(IMUSpectrum(), 1)
