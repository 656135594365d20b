"""A textured wall, a camera that pans over it, its gyroscope, and a rendered world with its files."""

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from egodistill.imu import Imu
from egodistill.world import synthetic

RATE = 25
FOCAL = 120.0  # pixels a radian of the rendered pan


def angle(t: np.ndarray, seed: int) -> np.ndarray:
    """A smooth angle in rad, at any time."""
    rng = np.random.default_rng(seed)
    frequency, phase = rng.uniform(0.15, 2.0, 12), rng.uniform(0, 2 * math.pi, 12)
    amplitude = 0.12 * rng.rayleigh(1.0, 12) / (1 + frequency)
    return (amplitude * np.sin(2 * math.pi * frequency * np.asarray(t)[:, None] + phase)).sum(1)


def gyroscope(seconds: float, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Stamps, and rates of turn about a pitch, a roll and a yaw axis, with noise and bias."""
    t = np.arange(0, seconds, 1 / 198)
    rates = [(angle(t + 1e-3, seed + k) - angle(t - 1e-3, seed + k)) / 2e-3 for k in (1, 2, 0)]
    noise = np.random.default_rng(seed).normal(0, 0.01, (len(t), 3))
    return t, np.stack(rates, 1) + noise + [0.02, -0.01, 0.03]


def pan(path: Path, times: np.ndarray, seed: int = 1, size: tuple[int, int] = (160, 120)) -> Path:
    """A video of a wall seen by a camera that yaws and nods; times may be uneven. The wall is shifted exactly."""
    rng = np.random.default_rng(seed)
    wall = np.fft.rfft2(np.kron(rng.uniform(0, 255, (40, 50)), np.ones((8, 8))))
    fy, fx = np.fft.fftfreq(320)[:, None], np.fft.rfftfreq(400)[None]
    wall *= np.exp(-(fx**2 + fy**2) / (2 * 0.08**2))
    yaw, pitch = angle(times, seed), angle(times, seed + 1)
    tick = Fraction(1, 90_000)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "20", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        for t, x, y in zip(times, FOCAL * yaw, FOCAL * pitch, strict=True):
            shifted = wall * np.exp(-2j * np.pi * fy * y) * np.exp(-2j * np.pi * fx * x)
            rows = np.fft.ifft(shifted, axis=0)[100 : 100 + size[1]]
            picture = np.fft.irfft(rows, 400)[:, 120 : 120 + size[0]].clip(0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = round(t / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def gyro_only(stamps: np.ndarray, rates: np.ndarray) -> Imu:
    return Imu(np.empty(0), np.empty((0, 3)), stamps, rates)


def files_of(world: synthetic.World) -> tuple[Path, tuple[Path, Path]]:
    wearer = world.root / "P01"
    return wearer / "videos" / "P01_101.MP4", tuple(
        wearer / "meta_data" / f"P01_101-{sensor}.csv" for sensor in ("accl", "gyro")
    )
