"""A recording: a video with its IMU on the video's clock, and the readers that find both.

    from egodistill.recordings import ClipSpec, open_recording, read_clip

    walk = open_recording("walk.mp4", imu_offset=0.2)                   # IMU telemetry inside the GoPro file
    clip = read_clip(walk, 12.5, ClipSpec(frames=4, size=224, imu_samples=422))
    print(clip["frames"].shape, clip["frames.times"], clip["imu"].shape)

Nothing else in this package joins a video and its IMU. `open_recording()` shows how to add a reader for recordings of
your own.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from .. import cameras
from ..imu import IMU_READERS, MAX_HEADER, Imu, IMUError, failure, table_columns
from ..support import custom
from ..support.errors import DataError, named
from ..support.files import PREDICTED
from ..support.names import name_files
from ..video import VideoError, VideoInfo, clock_zero, demux, open_video, probe, video_stream
from .sensors import read_imu
from .spec import ANY_AXES, read_axes

__all__ = [
    "IMU_READERS",
    "READERS",
    "SINCE_BOOT",
    "VIDEO_SUFFIXES",
    "Recording",
    "find_videos",
    "is_neon",
    "make_plain",
    "neon_video",
    "open_recording",
    "parts_in_use",
    "path_of",
    "probe_videos",
    "unused_tables",
    "use_parts",
]

SINCE_BOOT = "as on a clock that runs since boot"
VIDEO_SUFFIXES = (".avi", ".insv", ".m4v", ".mkv", ".mov", ".mp4", ".webm")


@dataclasses.dataclass(frozen=True)
class Recording:
    """A video, its IMU, the clock between them, and the wearer of the camera; or head motion without a video.

    An IMU sample stamped t was taken at `imu_offset + imu_stretch * t` seconds of the video: clocks of public
    recordings differ by up to a second (`egodistill check` measures it). Without a video, times are those of the IMU.
    Students read recordings whose axes have the same name as those of their training.

    A camera of your own is a function in `READERS` that returns a `Recording`, a format of samples one in
    `imu.IMU_READERS`. Classes that inherit from `Recording` are refused.

    Attributes:
        video: The video file; "" or None: there is none, and `imu` must be given.
        imu: One CSV, a pair of CSVs (accelerometer, gyroscope), or None for telemetry inside the video.
        imu_offset: Seconds of the video at which the IMU's clock is zero.
        imu_stretch: Seconds of the video per second of the IMU's clock.
        wearer: Name of the person who wore the camera, if known.
        zero_accel: Take zeros if there is no accelerometer, as in `read_imu()`.
        imu_axes: The axes of the samples: "gopro" (X to the left, Y to the user, Z up), which all readers of cameras
            return; a turn that makes them so, such as "XZy" (`egodistill check` finds it), applied when they are
            read; or a name of your own, with which they stay as they are.

    >>> from egodistill import data
    >>> walk = data.Recording("walk.mp4", "walk.csv", imu_offset=0.2)
    >>> walk.motion().window(1.0).shape
    (422, 6)
    """

    video: str
    imu: str | tuple[str, str] | None = None
    imu_offset: float = 0.0
    imu_stretch: float = 1.0
    wearer: str | None = None
    zero_accel: bool = False
    imu_axes: str = "gopro"

    def __post_init__(self) -> None:
        make_plain(self)

    def __getstate__(self) -> dict[str, Any]:  # without the samples
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @property
    def custom_reader(self) -> Callable | None:
        """Return the user's own function that reads the samples; None if the library does."""
        return IMU_READERS.get(Path(self.imu_source).suffix.lower()) if isinstance(self.imu_source, str) else None

    def __init_subclass__(cls, **options: Any) -> None:  # a store can name functions, not what a class overrides
        raise DataError(
            f"{cls.__qualname__}: a class that inherits from Recording; make it a function in READERS that returns a "
            f"Recording, and one in IMU_READERS that reads its samples"
        )

    def record(self) -> dict[str, Any]:
        """Return the fields by name, as a `Segment` has them.

        `camera` is the name of `custom_reader`, the same if its file is imported under another one, or "" without a
        reader. Raise DataError for a reader that is not a function.
        """
        reader = self.custom_reader
        if reader is not None and not hasattr(reader, "__qualname__"):
            raise DataError(f"{reader!r}: give a function; a store can only name one")
        name = "" if reader is None else f"{reader.__module__.removeprefix('own_')}.{reader.__qualname__}"
        return self.__getstate__() | {"camera": name}

    @property
    def path(self) -> str:
        """Return the video, or without one the first file of the IMU: the key and the name of the recording."""
        return path_of(self.video, self.imu)

    @property
    def begin(self) -> float:
        """Return the time of the first picture, 0, or without a video of the first sample from 0 on, in seconds."""
        return 0.0 if self.video else max(0.0, float(max(self.motion().accel_time[0], self.motion().gyro_time[0])))

    @property
    def duration(self) -> float:
        """Return the time of the end in seconds, of the video or without one of the samples. Raise as `probe()`."""
        return self.probe().duration

    @property
    def imu_source(self) -> str | tuple[str, str]:
        """Return the file, or pair of files, with the IMU samples."""
        return self.video if self.imu is None else self.imu

    @property
    def files(self) -> tuple[str, ...]:
        """Return the files of the recording: the video, the IMU samples if there are any, a Neon's times of frames."""
        imu = (self.imu,) if isinstance(self.imu, str) else self.imu or ()
        times = [str(Path(one).with_name(cameras.FRAME_TIMES)) for one in imu if _has_neon_tables(Path(one).parent)]
        return tuple(dict.fromkeys((self.video, *imu, *times) if self.video else imu))

    def probe(self) -> VideoInfo:
        """Return duration, frame rate and size; the header is read once. Raise VideoError if it cannot be read.

        Without a video, the duration is the time of the last sample, and the others are 0. IMUError if it has none.
        """
        if not self.video:  # whose clock may be changed
            return self._extent()
        if "info" not in self.__dict__:
            self.__dict__["info"] = probe(self.video)
        return self.__dict__["info"]

    def _extent(self) -> VideoInfo:
        motion = self.motion()
        if not min(len(motion.accel), len(motion.gyro)):
            raise IMUError(f"{name_files(self.imu_source)}: has no samples; give a file with some, or a video")
        return VideoInfo(float(min(motion.accel_time[-1], motion.gyro_time[-1])), 0.0, 0, 0)

    def motion(self) -> Imu:
        """Return the IMU samples on the video's clock; the file is read once. Raise IMUError that names the file.

        VideoError if they are telemetry of a video that cannot be read; a note names tables beside it that are unused.
        Times that all lie behind the video are those of a clock that runs since boot: they are taken to begin at zero,
        before `imu_offset` is added, if they then overlap the video. A note says so. Without `imu_offset`, IMUError for
        a log of more than twice the video and a minute: the video may begin anywhere in it.
        """
        if "samples" not in self.__dict__:
            if (
                self.video
                and str(self.imu).lower().endswith(".vrs")
                and self.imu_offset == 0
                and self.custom_reader is None
            ):
                raise IMUError(
                    f"{self.imu}: its times are those of the glasses' own clock, and nothing says when the video "
                    f"begins on it; `egodistill convert` writes both on one clock, or give {named('imu_offset')}"
                )
            unused = ()
            if self.imu is None:
                self.probe()  # a broken video is told before telemetry is missed
                unused = unused_tables(Path(self.video))
            try:
                found = read_imu(self.imu_source, zero_accel=self.zero_accel)
            except IMUError as error:
                if unused:
                    raise IMUError("; ".join([str(error), *unused])) from error
                raise
            found = dataclasses.replace(found, notes=(*found.notes, *unused, *self._frames_of_another()))
            turned = found if self.imu_axes == "gopro" else found.in_axes(*read_axes(self.imu_axes))
            self.__dict__["samples"] = self._since_boot(turned).on_clock(self.imu_offset, self.imu_stretch)
        return self.__dict__["samples"]

    def _frames_of_another(self) -> Iterator[str]:
        """Yield a note if a Neon's table of frames, from which the given IMU has its clock, is of another video."""
        if not (self.video and isinstance(self.imu, str)) or (self.imu_offset, self.imu_stretch) != (0.0, 1.0):
            return
        times = Path(self.imu).with_name(cameras.FRAME_TIMES)
        if times.is_file() and _header_has(Path(self.imu), cameras.NEON_TIME):
            rows = len(cameras.frame_stamps(times))
            try:
                count = _first_and_last_frame(Path(self.video))[0]
            except VideoError:  # whoever decodes the video reports it
                return
            if count and count != rows:
                yield (
                    f"{times} has {rows} rows, but {self.video} has {count} frames, so these samples have the clock of "
                    f"another video; give this video's IMU, or the offset that `egodistill check` finds"
                )

    def is_since_boot(self) -> bool:
        """Return whether the times of the IMU lie behind the video, as far as it can be read; see `motion()`."""
        with contextlib.suppress(ValueError, OSError):
            self.motion()
        return "boot" in self.__dict__

    def _since_boot(self, motion: Imu) -> Imu:
        """Return samples behind the end of the video from zero on, with a note, if they then overlap it.

        Without a video they stay, and a note says what lies before zero.
        """
        if not self.video:
            lost = -float(self.imu_offset + self.imu_stretch * max(motion.accel_time[0], motion.gyro_time[0]))
            note = f"{lost:.1f} s lie before zero and are not used; add them to {named('imu_offset')}"
            return motion if lost <= 0 else dataclasses.replace(motion, notes=(*motion.notes, note))
        first = float(min(motion.accel_time[0], motion.gyro_time[0]))
        if (start := self.imu_offset + self.imu_stretch * first) <= 0:
            return motion
        try:
            duration = self.probe().duration
        except VideoError:  # nothing to compare with; whoever decodes the video reports it
            return motion
        length = float(max(motion.accel_time[-1], motion.gyro_time[-1])) - first
        if start < duration or not -self.imu_stretch * length < self.imu_offset < duration:
            return motion
        self.__dict__["boot"] = True
        lengths = f"{length:.1f} s of samples, {duration:.1f} s of video"
        if self.imu_offset == 0 and self.imu_stretch * length > 2 * duration + 60:
            raise IMUError(
                f"{name_files(self.imu_source)}: its times begin at {first:.1f} s, {SINCE_BOOT}, and nothing says "
                f"where the video begins in it ({lengths}); give {named('imu_offset')}"
            )
        note = (
            f"its times begin at {first:.1f} s, {SINCE_BOOT}, and are taken to begin with the video ({lengths}); "
            f"if not, give {named('imu_offset')}"
        )
        return dataclasses.replace(motion.on_clock(-first), notes=(*motion.notes, note))


def make_plain(one: Any) -> None:
    """Convert paths and numpy numbers among the fields of a `Recording`, or of what has the same. Raise DataError."""
    if read_axes(one.imu_axes)[0] == ANY_AXES:
        raise DataError('imu_axes: samples have axes, and "any" is what a student reads; give their name or a turn')
    imu, video = one.imu, "" if one.video is None else one.video
    if not isinstance(video, (str, os.PathLike)):
        raise DataError(f"video must be the path of one file, such as 'walk.mp4'; got {type(one.video).__name__}")
    if isinstance(imu, (tuple, list)):
        imu = tuple(os.fspath(path) for path in imu)
    elif not isinstance(imu, (str, type(None), os.PathLike)):
        raise DataError(
            f"imu must be a file, or a pair of files; got {type(imu).__name__}: give the file with the samples"
        )
    elif imu is not None:
        imu = os.fspath(imu)
    if not os.fspath(video) and not imu:
        raise DataError(
            f"video must be the path of one file, such as 'walk.mp4'; got {type(one.video).__name__}: give it, or "
            f"the file of an IMU without a video as {named('imu')}"
        )
    plain = {"video": os.fspath(video), "imu": imu, "zero_accel": bool(one.zero_accel)}
    plain |= {"imu_offset": float(one.imu_offset), "imu_stretch": float(one.imu_stretch)}
    for name, value in plain.items():
        if value is not getattr(one, name):
            object.__setattr__(one, name, value)


def path_of(video: str, imu: str | tuple[str, str] | None) -> str:
    """Return `Recording.path` of a video and an IMU, one of which there is."""
    return video or (imu if isinstance(imu, str) else cast(tuple[str, str], imu)[0])


def tables_beside(path: Path) -> Recording | None:
    """Return the recording of a video with its IMU beside it; None if there is no IMU.

    The IMU is the first of these: NAME-accl.csv and NAME-gyro.csv; NAME with a suffix in `IMU_READERS`; NAME.csv or
    NAME.CSV if its header is that of an IMU table; NAME.gcsv or NAME.GCSV. Raise DataError if the table cannot be read.
    """
    if path.is_dir():  # "." has no name
        return None
    pair = _pair_beside(path)
    if all(table.is_file() for table in pair):
        return Recording(str(path), pair)
    for table, problem in _tables_of_its_name(path):
        if problem is None:
            return Recording(str(path), table)
    return None


def unused_tables(path: Path) -> tuple[str, ...]:
    """Return a sentence about each table beside a video that `tables_beside()` and `neon_recording()` pass over."""
    problems = [f"the table beside it is not used: {text}" for _, text in _tables_of_its_name(path) if text is not None]
    pair = sorted(_pair_beside(path), key=Path.is_file)  # the missing one first
    if pair[1].is_file() and not pair[0].is_file():
        problems.append(f"{pair[1]} is not used: {pair[0].name} is missing beside it")
    neon = _incomplete_neon(path.parent)
    return (*problems, neon) if neon else tuple(problems)


def _pair_beside(path: Path) -> tuple[Path, ...]:
    return tuple(path.with_name(f"{path.stem}-{sensor}.csv") for sensor in ("accl", "gyro"))


def _tables_of_its_name(path: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield (table, why its header is not that of an IMU table) beside a video. DataError if one cannot be read."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        formats = dict.fromkeys([*(suffix for suffix in IMU_READERS if suffix not in VIDEO_SUFFIXES), ".csv", ".gcsv"])
        for table in (path.with_suffix(written) for suffix in formats for written in (suffix, suffix.upper())):
            if table.is_file():
                is_table = table.suffix.lower() == ".csv" and ".csv" not in IMU_READERS
                yield table, _header_problem(table) if is_table else None


def _header_problem(table: Path) -> str | None:
    try:
        with open(table, encoding="utf-8-sig", errors="replace") as file:
            header = file.readline(MAX_HEADER)
        if header.startswith(PREDICTED):
            return f"{table}: a result of `egodistill predict`"
        table_columns(table, header, may_lack_accel=True)
    except IMUError as error:
        return str(error)
    except OSError as error:
        raise DataError(f"{table}: cannot be read: {error.strerror}") from error
    return None


def is_neon(folder: Path) -> bool:
    """Return whether a folder is a recording of a Pupil Labs Neon: in the Cloud format, or as the glasses write it."""
    return _has_neon_tables(folder) or (folder / "extimu ps1.raw").is_file()


def _has_neon_tables(folder: Path) -> bool:
    return (folder / "imu.csv").is_file() and (folder / cameras.FRAME_TIMES).is_file()


def _incomplete_neon(folder: Path) -> str | None:
    """Return which file the folder of a Neon lacks; None for a complete one and for other folders."""
    imu, times = folder / "imu.csv", folder / cameras.FRAME_TIMES
    if imu.is_file() == times.is_file() or not (times.is_file() or _header_has(imu, cameras.NEON_TIME)):
        return None
    found, missing = (imu, times.name) if imu.is_file() else (times, imu.name)
    return (
        f"{found}: of a Pupil Labs Neon, but {missing} is missing beside it; copy it from the folder that Pupil Cloud "
        f"exports ('Timeseries Data + Scene Video')"
    )


def _header_has(table: Path, name: str) -> bool:
    with open(table, encoding="utf-8-sig", errors="replace") as file:
        return name in file.readline(MAX_HEADER)


def neon_recording(path: Path) -> Recording | None:
    """Return the recording of a Pupil Labs Neon: its folder in the Cloud format, or its scene video. None for others.

    The clock maps the times of the frames in world_timestamps.csv to those in the video, by the first and the last
    frame. Raise DataError unless the folder has exactly one video and the video has as many frames as the table, and
    for a folder that lacks a table or is as the glasses write it.
    """
    folder = path if path.is_dir() else path.parent
    if not (is_neon(folder) if path.is_dir() else _has_neon_tables(folder)):
        if path.is_dir() and (problem := _incomplete_neon(folder)):
            raise DataError(problem)
        return None
    path = neon_video(path) if path.is_dir() else path
    imu, times = folder / "imu.csv", folder / cameras.FRAME_TIMES
    try:
        stamps = cameras.frame_stamps(times)
    except cameras.CameraError as error:
        raise DataError(str(error)) from error
    count, first, last = _first_and_last_frame(path)
    if count and count != len(stamps):
        raise DataError(
            f"{path}: has {count} frames, but {times.name} beside it has {len(stamps)} rows, so its clock is unknown; "
            f"give the original scene video, or the IMU and its clock, {named('imu')} and {named('imu_offset')}"
        )
    length = float(stamps[-1] - stamps[0]) * 1e-9
    stretch = (last - first) / length if length > 0 < last - first else 1.0
    return Recording(path, imu, imu_offset=first, imu_stretch=stretch)


def neon_video(folder: Path) -> Path:
    """Return the scene video in the folder of a Pupil Labs Neon.

    Raise DataError unless the folder has exactly one video, for a folder as the glasses write it, and for any other.
    """
    if not is_neon(folder):
        raise DataError(f"{folder}: a folder, but not of a Pupil Labs Neon; name a video in it")
    if not _has_neon_tables(folder):
        raise DataError(
            f"{folder}: a Neon recording as the glasses write it; give the folder that Pupil Cloud exports "
            f"('Timeseries Data + Scene Video'), or write its IMU as a table with pupil-labs-neon-recording"
        )
    videos = [file for file in sorted(folder.iterdir()) if file.suffix.lower() in VIDEO_SUFFIXES]
    if len(videos) != 1:
        found = ", ".join(video.name for video in videos) or "none"
        raise DataError(
            f"{folder}: a Neon recording has one scene video in its folder, here: {found}; give the video, or "
            f"download 'Timeseries Data + Scene Video' again"
        )
    return videos[0]


def refuse_aria(path: Path) -> None:
    """Raise DataError for a recording of Project Aria glasses (.vrs), which must be converted; None for others."""
    if path.suffix.lower() == ".vrs":
        raise DataError(
            f"{path}: a Project Aria recording; convert it first with `egodistill convert {path.name} --out FOLDER`, "
            f"which writes a video and an IMU table"
        )


def _first_and_last_frame(video: Path) -> tuple[int, float, float]:
    """Return the number of frames by the header, 0 if it has none, and the times of the first and the last frame."""
    with open_video(video) as container:
        stream, zero = video_stream(container, video), clock_zero(container)
        first = min((p.pts for p in itertools.islice(demux(container, stream), 32) if p.pts is not None), default=0)
        end = (stream.start_time or 0) + (stream.duration or 0)
        container.seek(max(end - 1, 0), stream=stream)  # to the last key frame
        last = max((p.pts for p in demux(container, stream) if p.pts is not None), default=first)
        return stream.frames, float(first * stream.time_base) - zero, float(last * stream.time_base) - zero


# Readers of recordings: path of a file -> Recording, or None if the file is not of this kind. `open_recording()` takes
# the first that is not None; its docstring shows how to add one.
READERS: list[Callable[[Path], Recording | None]] = [tables_beside, neon_recording, refuse_aria]


def _ask_readers(path: Path) -> Recording | None:
    """Return the recording of the first reader that knows a path. Raise what a reader raises; DataError if it fails."""
    for reader in READERS:
        try:
            found = reader(path)
            if not isinstance(found, Recording | None):
                raise TypeError(f"it returns {type(found).__name__}, not a Recording or None")
        except Exception as error:  # code of one's own can raise any error
            if isinstance(error, (DataError, IMUError, VideoError)) or reader.__module__ == __name__:
                raise
            raise DataError(f"{path}: {failure(reader, error)}") from error
        if found is not None:
            return found
    return None


def parts_in_use(recordings: Iterable[Recording]) -> dict[str, Any]:
    """Return the names of one's own functions that other processes need to read recordings; {} if none.

    `use_parts()` takes them. Raise EgoDistillError for one in a notebook or script, where they cannot find it.
    """
    recordings = list(recordings)
    unopened = any(one.imu is None for one in recordings)  # the readers are asked again there
    used = {Path(one.imu_source).suffix.lower() for one in recordings if isinstance(one.imu_source, str)}
    formats = {suffix: function for suffix, function in IMU_READERS.items() if unopened or suffix in used}
    parts: dict[str, Any] = {
        "readers": [custom.name_of(reader) for reader in READERS if unopened and reader.__module__ != __name__],
        "imu_readers": {suffix: custom.name_of(function) for suffix, function in formats.items()},
    }
    names = [*parts["readers"], *parts["imu_readers"].values()]
    homes = {name.partition(":")[0] for name in names}
    files = {module: file for module, file in custom.imported().items() if module in homes}
    return parts | {"files": files, "path": sys.path} if names else {}


def use_parts(parts: Mapping[str, Any]) -> None:
    """Import functions of one's own, and use them from now on; readers come before the others.

    `parts` are "readers" and "imu_readers" of what `parts_in_use()` returns, or all; names are as for
    `custom.resolve()`. Raise EgoDistillError for a name that stands for nothing, or for what cannot be called.
    """
    sys.path[:] = dict.fromkeys([*parts.get("path", ()), *sys.path])  # in the order of the process that sent them
    custom.import_again(parts.get("files", {}))
    readers, formats = parts["readers"], parts["imu_readers"]
    found = {name: custom.resolve(name) for name in (*readers, *formats.values())}
    for name, part in found.items():
        if not callable(part):
            raise DataError(f"{name}: is {type(part).__name__}, not a function")
    READERS[:0] = [found[name] for name in readers if found[name] not in READERS]
    IMU_READERS.update({suffix: found[name] for suffix, name in formats.items()})


def open_recording(
    path: str | os.PathLike | Recording | None,
    imu: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
    *,
    imu_offset: float = 0.0,
    imu_stretch: float = 1.0,
    wearer: str | None = None,
    zero_accel: bool = False,
    imu_axes: str = "gopro",
) -> Recording:
    """Return the recording of a video file, or of a folder that a Pupil Labs Neon recorded.

    Without `imu`, the functions in `READERS` are called in turn, and the first recording that one returns is used; if
    none does, the IMU is telemetry inside the video. Raise DataError if other arguments come with a `Recording`, and
    what a reader raises.

    A camera of your own is one more reader, which `prepare()`, `check()` and `predict()` then use for videos without
    IMU files. If only the format of the samples is your own, a function in `IMU_READERS` is enough: NAME.log is then
    found beside NAME.mp4. Commands take both as --reader and --imu-reader. The example adds a reader that finds
    NAME.txt beside NAME.mp4.

    Args:
        path: The video or folder; None or "": there is none. A `Recording` is returned unchanged.
        imu: As in `Recording`.
        imu_offset: As in `Recording`, on top of a reader's own.
        imu_stretch: As in `Recording`, on top of a reader's own.
        wearer: As in `Recording`, instead of a reader's own.
        zero_accel: As in `Recording`.
        imu_axes: As in `Recording`; other than "gopro" they replace a reader's own.

    >>> import shutil
    >>> from egodistill.recordings import READERS, Recording, open_recording
    >>> open_recording("walk.mp4").imu
    'walk.csv'
    >>> _ = shutil.move("walk.csv", "walk.txt")
    >>> def text_beside(path):
    ...     table = path.with_suffix(".txt")
    ...     return Recording(path, table) if table.is_file() else None
    >>> READERS.insert(0, text_beside)
    >>> open_recording("walk.mp4").imu
    'walk.txt'
    >>> READERS.remove(text_beside)
    """
    given = {"imu_offset": imu_offset, "imu_stretch": imu_stretch, "wearer": wearer, "zero_accel": zero_accel}
    given["imu_axes"] = imu_axes
    if isinstance(path, Recording):
        if (imu, *given.values()) != (None, 0.0, 1.0, None, False, "gopro"):
            raise DataError(f"{path.path}: a Recording has its own IMU and clock; give a path, or no other arguments")
        return path
    plain = Recording(path, imu, **given)
    if imu is not None or (found := _ask_readers(Path(path))) is None:
        return plain
    return dataclasses.replace(
        found,
        imu=found.imu or found.video,  # named: or its segments would be opened again, and its clock applied twice
        imu_offset=imu_offset + imu_stretch * found.imu_offset,
        imu_stretch=imu_stretch * found.imu_stretch,
        wearer=wearer or found.wearer,
        zero_accel=zero_accel or found.zero_accel,
        imu_axes=found.imu_axes if imu_axes == "gopro" else imu_axes,
    )


def find_videos(folder: str | os.PathLike) -> list[str]:
    """Return the paths of the videos in a folder and its subfolders, sorted. Raise DataError if there is none.

    Hidden files and folders do not count.

    >>> from egodistill.recordings.recording import find_videos
    >>> find_videos("world")[:2]
    ['world/P01/videos/P01_101.MP4', 'world/P02/videos/P02_101.MP4']
    """
    folder = Path(folder)
    if not folder.exists():
        raise DataError(f"{folder}: no such folder")
    found = [
        path for path in folder.rglob("*") if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]
    videos = sorted(str(path) for path in found if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not videos:
        aria = any(path.suffix.lower() == ".vrs" for path in found)
        raise DataError(
            f"{folder}: no recordings: no video ({', '.join(VIDEO_SUFFIXES)}) in this folder or below it"
            + ("; `egodistill convert` makes videos of its .vrs files" if aria else "; give another folder")
        )
    return videos


def probe_videos(recordings: Iterable[Any], workers: int) -> dict[str, VideoInfo]:
    """Return {path: what `Recording.probe()` says} of recordings or segments, without those that cannot be read.

    Each path is read once, by one of `workers` threads.
    """
    by_path = {one.path: one for one in recordings}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        found = pool.map(_info_of, by_path.values())
        return {path: info for path, info in zip(by_path, found, strict=True) if info is not None}


def _info_of(one: Any) -> VideoInfo | None:
    with contextlib.suppress(VideoError, IMUError, DataError):
        return (Recording(one.video) if one.video else getattr(one, "recording", one)).probe()
