"""A camera and an IMU format of one's own, as a user has them in a file: logs in microseconds, degrees and g."""

from pathlib import Path

import numpy as np

from egodistill.imu import Imu
from egodistill.recordings import Recording

NUMBER = 3


def write_log(path, motion):
    """Write the samples of a recording that has one clock for both sensors."""
    gyro = np.stack([np.interp(motion.accel_time, motion.gyro_time, axis) for axis in motion.gyro.T], axis=1)
    rows = np.column_stack([motion.accel_time * 1e6, np.rad2deg(gyro), motion.accel / 9.80665])
    np.savetxt(path, rows, delimiter=",")
    return Path(path)


def read_log(path):
    """Read such a log."""
    stamps, gyro, accel = np.split(np.loadtxt(path, delimiter=","), [1, 4], axis=1)
    return Imu(stamps[:, 0] / 1e6, accel * 9.80665, stamps[:, 0] / 1e6, np.deg2rad(gyro))


def wrist(path):
    """The reader of this camera, whose log begins a quarter of a second after the video."""
    log = path.with_suffix(".log")
    return Recording(path, log, imu_offset=0.25) if log.is_file() else None


def wrong(path):
    """Neither a reader of recordings nor one of samples."""
    return 3


def broken(path):
    """A reader with a fault."""
    return 1 / 0
