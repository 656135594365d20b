"""Recorded head motion of others as a random change of training clips: `Augment(motion=...)`.

    from egodistill.engine.motion import RecordedMotion

    motion = RecordedMotion(["walk.csv"], 422, 198.0)       # any recording that `data.read_imu()` reads
    imu = motion.add(imu, torch.rand(13))                   # float [..., T, 6], as if the wearer walked meanwhile

Not from the paper. A student that has only seen heads at rest is misled by a walk. The readings are those of one head
that does both: with R(t) the attitude of the recorded head and a gravity g along u,

    w' = R' w + v,    a' = R' a + (b - R' g u)

where a, w are the clip's readings, b, v the recorded ones, turned upright and then to the clip's u, and R' undoes R. A
clip at rest reads b and v, a recording at rest changes nothing, and gravity counts once. The recording's net turn is
left out, because the pictures of the clip stay as they are: they are right to a few degrees.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..imu import Imu
from ..recordings.sensors import NEAR_GRAVITY, read_imu
from ..support.errors import DataError
from .runtime import send

__all__ = ["RecordedMotion"]

SHARE = 0.75  # of the clips that are changed, so that a student does not forget heads at rest
STEP = 0.25  # seconds between the places in a recording from which a window may be taken


class RecordedMotion:
    """Recordings of head motion (IMU files, or videos with one), windows of which are added to clips.

    Samples are read once, at the rate (Hz) and in the length of the clips, and stay in memory. Raise DataError for a
    recording without a window of a clip's length without gaps, or without gravity, and IMUError for one that cannot be
    read.

    >>> import torch
    >>> from egodistill.engine.motion import RecordedMotion
    >>> motion = RecordedMotion(["walk.csv"], samples=422, rate=198.0)
    >>> motion.add(torch.tensor([0, 0, 9.81, 0, 0, 0]).expand(422, 6), torch.rand(13)).shape
    torch.Size([422, 6])
    """

    def __init__(self, paths: Sequence[str | os.PathLike], samples: int, rate: float) -> None:
        self.samples, self.rate, found = samples, rate, hashlib.sha256()
        self.places: list[tuple[Imu, float]] = []
        for path in paths:
            motion = read_imu(path)
            starts = places_in(motion, samples / rate)
            if not starts:
                raise DataError(
                    f"{os.fspath(path)}: has no {samples / rate:.2f} s without gaps, the length of a clip, to add to it"
                )
            size = np.median(np.linalg.norm(motion.accel, axis=1))
            if abs(size - 9.81) > NEAR_GRAVITY:
                raise DataError(
                    f"{os.fspath(path)}: acceleration is {size:.2f} m/s2 (median), not about 9.8; added motion is "
                    f"turned upright by gravity, so give readings in m/s2 with gravity"
                )
            self.places += [(motion, start) for start in starts]
            for values in (motion.accel_time, motion.accel, motion.gyro_time, motion.gyro):
                found.update(np.ascontiguousarray(values, np.float64).tobytes())
        self.fingerprint = found.hexdigest()

    def add(self, imu: Tensor, draws: Tensor) -> Tensor:
        """Return samples, float [..., T, 6] in m/s2 (with gravity) and rad/s, plus a random window, or as they are.

        Of `draws`, random numbers from 0 to 1 on the CPU, float [..., 13], the last two decide.
        """
        chances = draws[..., 11]
        pairs = draws[..., 11:].reshape(-1, 2).tolist()
        if not any(chance < SHARE for chance, _ in pairs):
            return imu
        none = np.zeros((self.samples, 6), np.float32)  # changes no bit of a clip
        recorded = np.stack([self.window(place) if chance < SHARE else none for chance, place in pairs])
        recorded = send(torch.from_numpy(recorded).to(imu.dtype).view(*chances.shape, *none.shape), imu.device)
        turns = send((2 * math.pi * chances.double() / SHARE).to(imu.dtype), imu.device)
        own, other = imu.unflatten(-1, (2, 3)), recorded.unflatten(-1, (2, 3))
        up, other_up = (F.normalize(one[..., 0, :].mean(-2), dim=-1) for one in (own, other))
        z = torch.eye(3, dtype=imu.dtype, device=imu.device)[2].expand(up.shape)
        upright = shortest(z, up) @ rotations(turns[..., None] * z) @ shortest(other_up, z)
        other = (other.flatten(-3, -2) @ upright.mT).unflatten(-2, (-1, 2))
        rate = other[..., 1, :] - other[..., 1, :].mean(-2, keepdim=True)
        angle = rate.cumsum(-2) / self.rate
        undo = rotations(angle.mean(-2, keepdim=True) - angle)  # of the attitude, the mean of which is the clip's own
        gravity = other[..., 0, :].norm(dim=-1).median(-1, keepdim=True).values * up
        force = (undo @ (own[..., 0, :] - gravity[..., None, :])[..., None])[..., 0] + other[..., 0, :]
        return torch.cat([force, (undo @ own[..., 1, :, None])[..., 0] + rate], -1)

    def window(self, place: float) -> np.ndarray:
        """Return the window at a share of all places, 0 to 1: float32 [T, 6]."""
        motion, start = self.places[int(place * len(self.places))]
        return motion.window(start, self.samples, self.rate)


def places_in(motion: Imu, seconds: float) -> list[float]:
    """Return the starts of windows without gaps, `STEP` apart, in s."""
    if not (len(motion.accel_time) and len(motion.gyro_time)):
        return []
    first = max(motion.accel_time[0], motion.gyro_time[0])
    last = min(motion.accel_time[-1], motion.gyro_time[-1])
    times = np.arange(first, last, STEP / 25)
    covered = np.append(0, np.cumsum(motion.covers(times).all(1))) if len(times) else np.zeros(1)
    size = math.ceil(seconds * 25 / STEP) + 1
    starts = np.arange(0, len(times) - size + 1, 25)
    return times[starts[covered[starts + size] - covered[starts] == size]].tolist() if len(starts) else []


def rotations(turns: Tensor) -> Tensor:
    """Return the rotations [..., 3, 3] by turns [..., 3] in rad (Rodrigues)."""
    size = turns.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    x, y, z = (turns / size).unbind(-1)
    none = torch.zeros_like(x)
    cross = torch.stack([none, -z, y, z, none, -x, -y, x, none], -1).unflatten(-1, (3, 3))
    size = size[..., None]
    return (
        torch.eye(3, dtype=turns.dtype, device=turns.device) + size.sin() * cross + (1 - size.cos()) * (cross @ cross)
    )


def shortest(start: Tensor, end: Tensor) -> Tensor:
    """Return the rotations [..., 3, 3] that turn unit vectors [..., 3] into others by the shortest way."""
    axis, cosine = torch.linalg.cross(start, end), torch.linalg.vecdot(start, end)[..., None]
    turn = F.normalize(axis, dim=-1) * torch.atan2(axis.norm(dim=-1, keepdim=True), cosine)
    units = torch.eye(3, dtype=start.dtype, device=start.device)
    side = torch.linalg.cross(start, units[start.abs().argmin(-1)])
    half = math.pi * F.normalize(side, dim=-1)  # if opposite: about any axis across
    return rotations(torch.where(cosine < -0.999999, half, turn))
