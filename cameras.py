"""Read the IMU logs of other cameras: Gyroflow (.gcsv) and Pupil Labs Neon (Cloud format).

    import cameras  # or: from egodistill import cameras

    log = cameras.read_gyroflow("walk.gcsv")            # a log as Gyroflow reads it, beside its video
    log = cameras.read_neon("recording/imu.csv")        # with world_timestamps.csv beside it
    print(log.times[:3], log.accel.shape, log.notes)

Both need only numpy. `data.read_imu()` calls these functions and checks the values. Axes are those of a GoPro:
X to the left as seen from behind, Y out of the back to the user, Z up; a camera held still and upright reads +9.8 on Z.
Times are seconds on the video's clock.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

__all__ = [
    "FRAME_TIMES",
    "NEON_TIME",
    "CameraError",
    "Log",
    "axes_and_turn",
    "frame_stamps",
    "read_gyroflow",
    "read_neon",
    "turn_matrix",
    "turn_text",
]

GRAVITY = 9.80665  # m/s2
LATEST = 1e6  # seconds, eleven days: anything beyond is not a time since the start of the video
MAX_READING = 1e30  # as in imu.py: windows are float32
MAX_LOG = 1 << 30  # bytes; an hour at 1000 Hz has 0.3 GB
FRAME_TIMES = "world_timestamps.csv"  # a Neon recording has one row per frame of its scene video in it


class CameraError(ValueError):
    """A log that cannot be used. The message names the file."""


class Log(NamedTuple):
    """The samples of a log.

    Attributes:
        times: [n], in seconds on the video's clock.
        accel: Accelerometer, [n, 3] in m/s2, or None.
        gyro: Gyroscope, [n, 3] in rad/s.
        notes: What is unusual about the log.
        device: Name or number of the camera, where the log has one.
        noted: Names of states that notes tell already, see `imu.Imu`.
    """

    times: np.ndarray
    accel: np.ndarray | None
    gyro: np.ndarray
    notes: list[str]
    device: str = ""
    noted: tuple[str, ...] = ()


# --- Turns of axes -------------------------------------------------------------------------------------------------


def turn_matrix(text: str) -> np.ndarray | None:
    """Return the matrix [3, 3] that a text such as "XZy" stands for, or None if it is not a turn of axes.

    The rows of the matrix are the new axes, so that `samples @ matrix.T` turns samples [n, 3].

    Args:
        text: Letter i names the column of the samples that becomes axis i, a small letter with the opposite sign.

    >>> from egodistill import cameras
    >>> cameras.turn_matrix("XZy").tolist()
    [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]
    >>> cameras.turn_matrix("glasses") is None
    True
    """
    if sorted(text.upper()) != ["X", "Y", "Z"]:
        return None
    matrix = np.zeros((3, 3))
    for i, letter in enumerate(text):
        matrix[i, "XYZ".index(letter.upper())] = 1 if letter.isupper() else -1
    return matrix


def turn_text(matrix: np.ndarray) -> str:
    """Return the text that stands for a turn of axes.

    Args:
        matrix: [3, 3], from `turn_matrix()`, or a product of several.

    >>> from egodistill import cameras
    >>> cameras.turn_text(cameras.turn_matrix("yXZ") @ cameras.turn_matrix("XZy"))
    'zXy'
    """
    columns = np.abs(matrix).argmax(1)
    letters = zip(columns, np.asarray(matrix)[range(3), columns], strict=True)
    return "".join("XYZ"[k] if sign > 0 else "xyz"[k] for k, sign in letters)


def axes_and_turn(text: str) -> tuple[str, np.ndarray | None]:
    """Return the name of a recording's axes, and the matrix [3, 3] that turns its samples into them, or None.

    Args:
        text: "gopro", axes as in this module; a turn into these, as in
            `turn_matrix()`; or a name of your own for other axes.

    Raises:
        CameraError: The text is something else, or a turn that mirrors, which a gyroscope cannot follow.

    >>> from egodistill import cameras
    >>> cameras.axes_and_turn("glasses"), cameras.axes_and_turn("xyZ")[0]
    (('glasses', None), 'gopro')
    >>> cameras.axes_and_turn("XYz")
    Traceback (most recent call last):
    ...
    egodistill.cameras.CameraError: the rotation of axes 'XYz' mirrors them; change the case of one letter, or of all
    """
    if isinstance(text, str) and text.lower() == "gopro":
        return "gopro", None
    matrix = turn_matrix(text) if isinstance(text, str) else None
    if matrix is not None:
        if np.linalg.det(matrix) < 0:
            raise CameraError(f"the rotation of axes {text!r} mirrors them; change the case of one letter, or of all")
        return "gopro", matrix
    if not isinstance(text, str) or not re.fullmatch(r"\w[\w.-]*", text) or re.fullmatch("[xyzXYZ]+", text):
        raise CameraError(
            f"axes must be 'gopro', a name of your own (letters, digits, '_', '-', '.'), or a rotation such as 'XZy': "
            f"the columns that point left, to the user and up, small letters for the opposite; got {text!r}"
        )
    return text, None


# --- Gyroflow ----------------------------------------------------------------------------------------------------

# Rows: X, Y, Z of a GoPro from Gyroflow's axes after `orientation`, which are up, left, back.
GYROFLOW_AXES = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])


def read_gyroflow(path: str | os.PathLike) -> Log:
    """Return the samples of a Gyroflow IMU log (.gcsv, format 1.3), whose times count from the start of the video.

    `gscale` and `ascale` turn the rows into rad/s and g, `tscale` (0.001 if missing) the column `t`, or `time`, into
    seconds. Letter i of `orientation` names the column of Gyroflow's axis i, a small letter with the opposite sign; a
    log without the key has xzY, as Gyroflow assumes. Raise CameraError that names file and line.

    Args:
        path: The log.

    >>> from pathlib import Path
    >>> from egodistill import cameras
    >>> rows = "".join(f"{5 * k},0,0,100,2048,0,0\\n" for k in range(3))
    >>> head = "GYROFLOW IMU LOG\\norientation,XYZ\\ngscale,0.001\\nascale,0.00048828125\\nt,gx,gy,gz,ax,ay,az\\n"
    >>> size = Path("walk.gcsv").write_text(head + rows)
    >>> log = cameras.read_gyroflow("walk.gcsv")
    >>> log.times.tolist(), log.accel[0].tolist(), log.gyro[0].tolist()
    ([0.0, 0.005, 0.01], [0.0, 0.0, 9.80665], [0.0, 0.1, 0.0])
    """
    lines = _lines(path)
    if not lines or not re.match(r"\s*(GYROFLOW|CAMERA) IMU LOG", lines[0]):
        raise CameraError(f"{path}: line 1 is not 'GYROFLOW IMU LOG' or 'CAMERA IMU LOG': not a Gyroflow log")
    fields: dict[str, tuple[str, int]] = {}  # {key: (value, number of its line)}
    for start, line in enumerate(lines[1:], 2):
        key, value = re.match(r"(\w*)\s*[,:]?\s*(.*)", line.strip()).groups()
        if key.lower() in ("t", "time") and line.count(",") > 1:  # "time,12:00" is a key with its value
            break
        fields[key.lower()] = value, start
    else:
        raise CameraError(f"{path}: no line 't,gx,gy,gz,ax,ay,az' above the samples")
    names = ["t", *(name.strip().lower() for name in line.split(",")[1:])]
    sensors = [("g", "gyroscope"), *([("a", "accelerometer")] if "ax" in names else [])]
    wanted = ["t", *(first + axis for first, _ in sensors for axis in "xyz")]
    if missing := [name for name in wanted if name not in names]:
        raise CameraError(f"{path}: line {start} has no column {', '.join(missing)}")
    table = _samples(path, lines, start, [names.index(name) for name in wanted])
    times = table[:, 0] * _scale(path, fields, "tscale", 0.001)
    if np.abs(times).max() > LATEST:
        late = int(np.argmax(np.abs(times) > LATEST))
        row = [number for number, row in enumerate(lines[start:], start + 1) if row.strip()][late]
        raise CameraError(
            f"{path}: line {row}: the time {times[late]:.0f} s is over eleven days from the start of the "
            f"video; write times since its first frame, not UTC, or correct tscale"
        )
    turn = GYROFLOW_AXES @ _orientation(path, fields)
    gyro = table[:, 1:4] * _scale(path, fields, "gscale") @ turn.T
    notes: list[str] = []
    noted: tuple[str, ...] = ()
    accel = None
    if len(sensors) == 2:
        accel = table[:, 4:] * _scale(path, fields, "ascale") @ turn.T
        norm = float(np.median(np.linalg.norm(accel, axis=1)))
        if 0.9 < norm / GRAVITY < 1.1:
            notes.append("its ascale gives m/s2 and not g, which is what was read")
        else:
            accel *= GRAVITY
            if not 0.8 < norm < 1.2:
                notes.append(f"the median acceleration is {norm:.2f} g, not about 1: is ascale right?")
                noted = ("accelerometer units",)
    return Log(times, accel, gyro, notes, fields.get("id", ("", 0))[0], noted)


def _scale(path: str | os.PathLike, fields: dict[str, tuple[str, int]], key: str, usual: float | None = None) -> float:
    if key not in fields and usual is None:
        what = {"gscale": "gyroscope, in rad/s", "ascale": "accelerometer, in g"}[key]
        raise CameraError(f"{path}: no line '{key},FACTOR' above the samples: the unit of the {what}, is unknown")
    text, number = fields.get(key, (str(usual), 0))
    try:
        scale = float(text)
    except ValueError:
        scale = 0.0
    if not 0 < abs(scale) < 1e6:  # NaN: False
        raise CameraError(f"{path}: line {number}: {key} must be a number other than 0, not {text!r}")
    return scale


def _orientation(path: str | os.PathLike, fields: dict[str, tuple[str, int]]) -> np.ndarray:
    """Return the matrix [3, 3] from the columns of a log to Gyroflow's axes."""
    text, number = fields.get("orientation", ("xzY", 0))
    matrix = turn_matrix(text)
    if matrix is None:
        raise CameraError(
            f"{path}: line {number}: the orientation {text!r} does not say where the axes point; write the letters of "
            f"the columns that point up, left and back, small ones for the opposite (Gyroflow finds them: Auto)"
        )
    return matrix


# --- Pupil Labs Neon -----------------------------------------------------------------------------------------------

NEON_TIME = "timestamp [ns]"
NEON_READINGS = [f"gyro {axis} [deg/s]" for axis in "xyz"] + [f"acceleration {axis} [g]" for axis in "xyz"]
# From the module's axes (right, forward, up) to those of its scene camera, which looks 12 degrees further down.
DOWN = np.deg2rad(12.0)
NEON_AXES = np.array([[-1, 0, 0], [0, -np.cos(DOWN), np.sin(DOWN)], [0, np.sin(DOWN), np.cos(DOWN)]])


def read_neon(path: str | os.PathLike) -> Log:
    """Return the samples of a Neon recording's imu.csv, as Pupil Cloud and Neon Player write it.

    Zero is the first row of world_timestamps.csv beside it: the first frame of the scene video. The accelerometer's
    values are turned from g into m/s2, the gyroscope's from degrees into radians per second, and the axes into those of
    the scene camera. Raise CameraError that names the file, also if no sample is from the time of the frames.

    Args:
        path: The file imu.csv, with world_timestamps.csv beside it.

    >>> from pathlib import Path
    >>> from egodistill import cameras
    >>> Path("neon").mkdir()
    >>> frames = "1728546108000000000\\n1728546109000000000\\n"
    >>> size = Path("neon/world_timestamps.csv").write_text("timestamp [ns]\\n" + frames)
    >>> axes = [f"gyro {axis} [deg/s]" for axis in "xyz"] + [f"acceleration {axis} [g]" for axis in "xyz"]
    >>> rows = "1728546108250000000,0,0,90,0,0,1\\n1728546108260000000,0,0,90,0,0,1\\n"
    >>> size = Path("neon/imu.csv").write_text(",".join(["timestamp [ns]", *axes]) + "\\n" + rows)
    >>> log = cameras.read_neon("neon/imu.csv")
    >>> log.times.tolist(), log.accel[0].round(2).tolist(), log.gyro[0].round(2).tolist()
    ([0.25, 0.26], [0.0, 2.04, 9.59], [0.0, 0.33, 1.54])
    """
    path = Path(path)
    lines = _lines(path)
    names = _names(lines[0] if lines else "")
    if missing := [name for name in (NEON_TIME, *NEON_READINGS) if name not in names]:
        raise CameraError(f"{path}: line 1 has no column {', '.join(missing)}, as imu.csv of a Neon recording has")
    table = _samples(path, lines, 1, [names.index(name) for name in NEON_READINGS])
    frames = frame_stamps(path.with_name(FRAME_TIMES))
    times, length = (_stamps(path, lines, names) - frames[0]) * 1e-9, float(frames[-1] - frames[0]) * 1e-9
    if times.max() < 0 or times.min() > length:
        raise CameraError(
            f"{path}: its samples are from {times.min():.1f} to {times.max():.1f} s after the first frame in "
            f"{FRAME_TIMES} beside it, whose frames end at {length:.1f} s, so it is of another recording; put the "
            f"{path.name} of this one there"
        )
    gyro, accel = np.deg2rad(table[:, :3]) @ NEON_AXES.T, table[:, 3:] * GRAVITY @ NEON_AXES.T
    return Log(times, accel, gyro, [], "Neon")


def frame_stamps(path: str | os.PathLike) -> np.ndarray:
    """Return the times of the frames in a Neon recording's world_timestamps.csv, int64 [frames], UTC in ns.

    Raise CameraError that names the file.

    Args:
        path: The file world_timestamps.csv.

    >>> from pathlib import Path
    >>> from egodistill import cameras
    >>> size = Path("times.csv").write_text("recording id,timestamp [ns]\\na,1728546108000000000\\n")
    >>> cameras.frame_stamps("times.csv").tolist()
    [1728546108000000000]
    """
    lines = _lines(path)
    names = _names(lines[0] if lines else "")
    if NEON_TIME not in names:
        raise CameraError(f"{path}: line 1 has no column {NEON_TIME}, as {FRAME_TIMES} of a Neon recording has")
    return _stamps(path, lines, names)


def _stamps(path: str | os.PathLike, lines: list[str], names: list[str]) -> np.ndarray:
    """Return the column of times as int64: as float64 they would be a quarter of a microsecond off."""
    return _samples(path, lines, 1, [names.index(NEON_TIME)], np.int64)[:, 0]


# --- Tables ----------------------------------------------------------------------------------------------------------


def _names(header: str) -> list[str]:
    """Return the names of the columns in lower case; older recordings write [G] for [g]."""
    return [name.strip().strip('"').lower() for name in header.lstrip("\ufeff").split(",")]


def _lines(path: str | os.PathLike) -> list[str]:
    if Path(path).exists() and not Path(path).is_file():
        raise CameraError(f"{path}: a {'folder' if Path(path).is_dir() else 'pipe or device'}, not a regular file")
    try:
        if (size := os.path.getsize(path)) > MAX_LOG:
            raise CameraError(f"{path}: {size / 1e6:,.0f} MB, more than the {MAX_LOG / 1e6:,.0f} MB of a log")
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise CameraError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CameraError(f"{path}: not a UTF-8 text file: {error}") from error


def _samples(
    path: str | os.PathLike, lines: list[str], start: int, columns: list[int], kind: type = np.float64
) -> np.ndarray:
    """Return these columns of the rows below line `start`. Raise CameraError that names a line without numbers."""
    rows = lines[start:]
    if not any(row.strip() for row in rows):
        raise CameraError(f"{path}: no samples below line {start}")
    try:
        table = np.loadtxt(rows, kind, delimiter=",", usecols=columns, ndmin=2, comments=None)
        if np.all(np.abs(table) < MAX_READING):  # NaN: False
            return table
    except ValueError:
        pass
    for number, row in enumerate(rows, start + 1):
        try:
            cells = row.split(",")
            complete = not row.strip() or all(abs(kind(cells[column])) < MAX_READING for column in columns)
        except (ValueError, IndexError):
            complete = False
        if not complete:
            raise CameraError(f"{path}: line {number} is not a row of numbers: {row[:80]!r}; correct it or delete it")
    raise CameraError(f"{path}: the rows below line {start} are not numbers")
