"""filterbank: each number is what its name says, however the sensor is mounted."""

import math

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from egodistill.engine.filterbank import IMUFilterbank


def motion(samples=422, rate=198.0, **waves):
    """One clip [1, samples, 6]: gravity along z, and waves {axis such as "az": (Hz, size)}."""
    times, found = np.arange(samples) / rate, np.zeros((samples, 6))
    found[:, 2] = 9.81
    for axis, (frequency, size) in waves.items():
        found[:, "ax ay az gx gy gz".split().index(axis)] += size * np.sin(2 * np.pi * frequency * times)
    return torch.from_numpy(found).float()[None]


def of(encoder, imu):
    return dict(zip(encoder.names, encoder.numbers(imu)[0].tolist(), strict=True))


def loudest(numbers, signal):
    """The centre in Hz of the band in which a signal is loudest."""
    bands = {name: value for name, value in numbers.items() if name.startswith(f"{signal}, ")}
    assert len(bands) == 12
    return float(max(bands, key=bands.get).removeprefix(f"{signal}, ").removesuffix(" Hz"))


@pytest.mark.parametrize(
    ("axis", "signal"),
    [
        ("ax", "horizontal acceleration"),
        ("ay", "horizontal acceleration"),
        ("az", "vertical acceleration"),
        ("gx", "tilting turn"),
        ("gy", "tilting turn"),
        ("gz", "turn about the vertical"),
    ],
)
@pytest.mark.parametrize("frequency", [0.94, 1.88, 3.0, 7.5, 15.0])
def test_a_wave_is_in_its_band_of_its_signal(axis, signal, frequency):
    encoder = IMUFilterbank()
    numbers, still = of(encoder, motion(**{axis: (frequency, 0.5)})), of(encoder, motion())
    assert loudest(numbers, signal) == pytest.approx(frequency, rel=0.35)
    for other in ("vertical acceleration", "horizontal acceleration", "turn about the vertical", "tilting turn"):
        risen = max(numbers[name] - still[name] for name in numbers if name.startswith(f"{other}, "))
        assert risen > 8 if other == signal else risen < 4  # e-folds of power
    if axis in ("az", "gz"):
        assert numbers[f"kurtosis of {signal}"] == pytest.approx(math.log(2.5), abs=0.05)  # 1.5 of a sine


def test_the_wave_has_its_power():
    """A sine of amplitude A at the centre of a bin has A^2 / 16 in it with a Hann window, and a quarter beside it."""
    encoder = IMUFilterbank(400, 100.0)  # in steps of 20 ms; its first segment has 107 of them
    frequency = 8 * 50 / encoder.length
    numbers = of(encoder, motion(400, 100.0, az=(frequency, 2.0)))
    total = sum(math.exp(value) for name, value in numbers.items() if name.startswith("vertical acceleration, "))
    smoothed = (math.sin(2 * math.pi * frequency / 100) / (2 * math.sin(math.pi * frequency / 100))) ** 2
    assert total == pytest.approx(2.0**2 / 4 * 1.5 * smoothed, rel=0.01)


def test_autocorrelation_peaks_at_the_step():
    encoder = IMUFilterbank()
    numbers = of(encoder, motion(az=(2.0, 1.0)))
    lags = {name: value for name, value in numbers.items() if name.startswith("autocorrelation of vertical")}
    late = {name: value for name, value in lags.items() if name.endswith(" s") and float(name.split()[-2]) > 0.3}
    assert float(max(late, key=late.get).split()[-2]) == pytest.approx(0.5, abs=0.05)
    assert numbers["autocorrelation of vertical acceleration at least"] < -0.8


def test_the_phase_of_a_nod_is_told_from_that_of_a_bow():
    """Turning about x while moving along y: in phase, against it, and a quarter later."""
    encoder, times = IMUFilterbank(), np.arange(422) / 198
    name = [one for one in encoder.names if "cross product" in one and one.endswith(" 1.9 Hz")]
    found = []
    for phase in (0.0, np.pi, np.pi / 2):
        imu = motion(gx=(1.875, 1.0))
        imu[0, :, 1] = torch.from_numpy(np.sin(2 * np.pi * 1.875 * times + phase)).float()
        numbers = of(encoder, imu)
        found.append([numbers[one] for one in name])
    (real, imaginary), (against, _), (quarter, late) = found
    assert abs(real) > 0.9 and abs(imaginary) < 0.1 and against == pytest.approx(-real, abs=0.02)
    assert abs(quarter) < 0.1 and abs(late) > 0.9


@pytest.mark.parametrize(("samples", "rate"), [(422, 198.0), (213, 100.0), (64, 30.0), (1000, 100.0), (1980, 198.0)])
def test_numbers_do_not_depend_on_the_mounting_and_none_is_constant(samples, rate):
    generator = torch.Generator().manual_seed(0)
    imu = torch.randn(64, samples, 6, generator=generator).cumsum(1) * 0.05 * torch.rand(64, 1, 6, generator=generator)
    imu[:, :, :3] += torch.tensor([1.0, -9.0, 3.0])
    encoder = IMUFilterbank(samples, rate)
    before = encoder.numbers(imu)
    assert before.shape[1] == encoder.dim == len(encoder.names) == len(set(encoder.names)) and before.isfinite().all()
    turn = torch.linalg.qr(torch.randn(64, 3, 3, generator=generator))[0]
    turn = turn * torch.linalg.det(turn).sign()[:, None, None]
    after = encoder.numbers((imu.unflatten(2, (2, 3)) @ turn[:, None]).flatten(2))
    deviation = before.std(0)
    assert deviation.min() > 1e-3
    assert ((after - before) / deviation).abs().max() < 0.05


def test_a_real_head_is_not_a_mirror_image():
    """The cross product tells a sensor of the other hand; the powers do not."""
    imu, encoder = motion(gx=(1.5, 1.0), gy=(2.5, 0.5), az=(3.0, 0.5)), IMUFilterbank()
    imu[0, 7:, 1] += 0.7 * imu[0, :-7, 3]  # forward after a nod
    numbers, mirrored = of(encoder, imu), of(encoder, imu[:, :, [1, 0, 2, 4, 3, 5]])
    for name, value in numbers.items():
        assert mirrored[name] == pytest.approx(-value if "cross product" in name else value, abs=2e-3)
    assert max(abs(value) for name, value in numbers.items() if "cross product" in name) > 0.1


def test_too_short_a_clip_is_refused():
    with pytest.raises(ValueError, match="80 samples at 100 Hz are too few for a filterbank"):
        IMUFilterbank(80, 100.0)


def test_mixed_precision_leaves_the_numbers_as_they_are():
    imu, encoder = torch.randn(4, 422, 6) + torch.tensor([0.0, 0, 9.8, 0, 0, 0]), IMUFilterbank(signed=True).eval()
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(imu)
    assert mixed.dtype == torch.float32 and torch.equal(mixed, encoder(imu))


@pytest.mark.parametrize(("samples", "rate"), [(422, 198.0), (1980, 198.0)])
def test_it_costs_at_most_400_000_multiply_adds(samples, rate):
    with FlopCounterMode(display=False) as counter:
        IMUFilterbank(samples, rate).numbers(torch.randn(1, samples, 6))
    assert 0 < counter.get_total_flops() / 2 <= 0.4e6


def test_a_cold_sensor_gives_finite_numbers():
    numbers = IMUFilterbank().eval()(torch.zeros(2, 422, 6))
    assert numbers.isfinite().all()
