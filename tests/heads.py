"""The head motion of a wearer, with the noise of sensors, as accelerometer and gyroscope measure it."""

import csv

import numpy as np


def write_log(path, *, begin=0.0, gyro_unit=1.0, accel_unit=1.0, gravity=True, **options):
    """A table of `head()`, as a logger writes it; the row of a segment of it without a video begins with ""."""
    times, accel, gyro = head(**options)
    accel = accel if gravity else accel - accel.mean(0)
    with open(path, "w", newline="") as file:
        table = csv.writer(file)
        table.writerow("time,ax,ay,az,gx,gy,gz".split(","))
        table.writerows(np.column_stack([begin + times, accel * accel_unit, gyro * gyro_unit]).round(6).tolist())
    return path


def head(seconds=10.0, rate=200.0, seed=0):
    """A head that nods and shakes, with the gravity that its accelerometer measures, and noise."""
    times, rng = np.arange(round(seconds * rate)) / rate, np.random.default_rng(seed)
    phase = [np.sin(1.3 * times + 0.3), np.sin(0.9 * times)]
    pitch, gyro = 0.25 * phase[0], np.zeros((len(times), 3))
    gyro[:, 0], gyro[:, 2] = 0.25 * 1.3 * np.cos(1.3 * times + 0.3), 0.5 * phase[1]
    accel = 9.81 * np.stack([np.zeros_like(pitch), np.sin(pitch), np.cos(pitch)], axis=1)
    noise = rng.normal(0, 1, (len(times), 6)) * [0.05, 0.05, 0.05, 0.005, 0.005, 0.005]
    return times, accel + noise[:, :3], gyro + noise[:, 3:]


def still(seconds=10.0, rate=200.0, seed=0):
    """A camera on a tripod: gravity and the noise of the sensors."""
    times, rng = np.arange(round(seconds * rate)) / rate, np.random.default_rng(seed)
    noise = rng.normal(0, 1, (len(times), 6)) * [0.02, 0.02, 0.02, 0.002, 0.002, 0.002]
    return times, noise[:, :3] + np.array([0, 0, 9.81]), noise[:, 3:] + np.array([0.01, -0.02, 0.0])


def sitting(seconds=10.0, rate=200.0, seed=0):
    """A wearer who sits still, breathes and sways a little."""
    times, accel, gyro = still(seconds, rate, seed)
    sway = 0.02 * np.sin(1.5 * times)
    accel[:, 1] += 9.81 * np.sin(sway)
    gyro[:, 0] += 0.02 * 1.5 * np.cos(1.5 * times)
    return times, accel, gyro
