"""Decode clips of a recording in one pass.

    from egodistill.recordings import ClipSpec, decode_clips, open_recording

    walk, spec = open_recording("walk.mp4"), ClipSpec(frames=4, imu_samples=422)
    for row, found in decode_clips(walk, {0: 0.0, 1: 2.1}, spec.parts()):
        print(row, found)                                               # arrays by name, or the error

Pieces of clips, such as a frame, are merged in the order of time, so only overlapping clips are held in memory.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ..imu import MAX_GAP, CoverageError, IMUError
from ..support.errors import named
from ..support.names import name_files
from ..video import MAX_HOLD, FrameReader, FrameReaders, Scaler, VideoError, open_reader
from .recording import Recording
from .spec import ClipSpec, require_axes

__all__ = ["decode_clips", "read_clip"]


def read_clip(recording: Recording, start: float, spec: ClipSpec, **limits: Any) -> dict[str, np.ndarray]:
    """Return the arrays of one clip: "frames" with their times, "frames.times", and "imu", as in the spec.

    Args:
        recording: The recording.
        start: Start of the clip in seconds.
        spec: Its content.
        limits: Options of `decode_clips()`.

    Raises:
        VideoError: The video cannot be read, or has no frame at a time of the clip.
        IMUError: The IMU cannot be read, or does not cover the clip.
        DataError: The samples have other axes than the clip.

    >>> from egodistill import recordings
    >>> walk = recordings.open_recording("walk.mp4", "walk.csv")
    >>> found = recordings.read_clip(walk, 1.0, recordings.ClipSpec(frames=2, imu_samples=422))
    >>> {name: array.shape for name, array in found.items()}
    {'frames': (2, 3, 224, 224), 'frames.times': (2,), 'imu': (422, 6)}
    """
    ((_, found),) = decode_clips(recording, {0: start}, spec.parts(), **limits)
    if isinstance(found, Exception):
        raise found
    return found


def decode_clips(
    recording: Recording,
    starts: Mapping[int, float],
    specs: Mapping[str, ClipSpec],
    *,
    min_coverage: float = 0.95,
    max_gap: float = MAX_GAP,
    max_hold: float = MAX_HOLD,
    threads: int = 1,
    readers: FrameReaders | None = None,
) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
    """Decode clips of a recording in one pass: yield each row with its arrays by name, or with its error.

    Frames come with the times from which they are shown, as "NAME.times". Clips come in the order of their ends,
    errors as soon as they are known; only overlapping clips are held in memory. A clip that is longer than its video
    ends with the last frame.

    Args:
        recording: The video and its IMU.
        starts: {row: start of its clip in seconds}.
        specs: {array name: spec with one kind of array}, see `ClipSpec.parts()`.
        min_coverage: A clip fails if a sensor covers less than this share of it.
        max_gap: Parts where samples are more than this many seconds apart are not covered.
        max_hold: A clip fails if a frame of it would be on screen for more seconds: a hole in the recording, or an end.
        threads: Number of decoding threads; 0: FFmpeg's choice.
        readers: Readers of the video with this `max_hold`, which stay open for the next call; None: open the video.

    >>> from egodistill.recordings import ClipSpec, decode_clips, open_recording
    >>> walk = open_recording("walk.mp4", "walk.csv")
    >>> for row, found in decode_clips(walk, {0: 1.0, 1: 99.0}, {"imu": ClipSpec(imu_samples=422)}):
    ...     print(row, type(found).__name__ if isinstance(found, Exception) else found["imu"].shape)
    1 CoverageError
    0 (422, 6)
    """
    specs = {name: spec.complete() for name, spec in specs.items()}
    return iter(_Decoding(recording, starts, specs, min_coverage, max_gap, max_hold, threads, readers))


@dataclasses.dataclass
class _Decoding:
    """One pass over a recording that assembles clips from pieces: frames, windows of the IMU."""

    recording: Recording
    starts: Mapping[int, float]
    specs: Mapping[str, ClipSpec]
    min_coverage: float
    max_gap: float
    max_hold: float
    threads: int
    readers: FrameReaders | None

    def __iter__(self) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
        self.kinds = {name: spec.kind for name, spec in self.specs.items()}
        left = dict.fromkeys(self.starts)  # ordered, and quick to remove from
        try:
            for row, found in self._clips():
                del left[row]
                yield row, found
        except (VideoError, IMUError) as error:  # of the recording, not of one clip: it fails all that are left
            for row in left:
                yield row, error

    def _clips(self) -> Iterator[tuple[int, dict[str, np.ndarray] | Exception]]:
        info, kinds = self.recording.probe(), set(self.kinds.values())
        if "frames" in kinds and not self.recording.video:
            raise VideoError(f"{self.recording.path}: the recording has no video, and so no frames")
        for spec in self.specs.values():
            if spec.imu_samples:  # read now: an error is one of the recording, not of a clip
                require_axes(name_files(self.recording.imu_source), self.recording.motion().axes, spec)
        lacking: dict[int, int] = {}
        rows: dict[int, dict[str, np.ndarray]] = {}
        pieces = sum(spec.frames if self.kinds[name] == "frames" else 1 for name, spec in self.specs.items())
        windows = sum(kind == "imu" for kind in self.kinds.values())
        for row, start in self.starts.items():
            try:
                self._windows(start)
            except CoverageError as error:
                yield row, CoverageError(f"{name_files(self.recording.imu_source)}: {error}")
            else:
                lacking[row] = pieces - windows
        for row in [row for row, count in lacking.items() if not count]:  # IMU only
            del lacking[row]
            yield row, self._windows(self.starts[row])
        choices = dict.fromkeys((s.exact, s.tolerance) for n, s in self.specs.items() if self.kinds[n] == "frames")
        streams = [self._frames(list(lacking), info.duration, *choice) for choice in choices]
        # Each stream is ordered by time, so merging them keeps only overlapping clips in memory.
        for _, row, name, place, piece in heapq.merge(*streams, key=lambda piece: piece[0]):
            if row not in lacking:  # this clip has already failed
                continue
            if isinstance(found := piece(), Exception):
                del lacking[row]
                rows.pop(row, None)
                yield row, found
                continue
            if row not in rows:
                rows[row] = self._empty() | self._windows(self.starts[row])
            if place is None:
                rows[row][name] = found
            else:
                rows[row][name][place], rows[row][f"{name}.times"][place] = found
            lacking[row] -= 1
            if not lacking[row]:
                del lacking[row]
                yield row, rows.pop(row)

    def _empty(self) -> dict[str, np.ndarray]:
        return {
            array: np.empty(shape, dtype)
            for name, spec in self.specs.items()
            if self.kinds[name] == "frames"
            for array, (dtype, shape) in spec.arrays(name).items()
        }

    def _windows(self, start: float) -> dict[str, np.ndarray]:
        """Return the IMU windows of a clip. Raise CoverageError."""
        limits = {"min_coverage": self.min_coverage, "max_gap": self.max_gap}
        return {
            name: self.recording.motion().window(start, spec.imu_samples, spec.imu_rate, **limits)
            for name, spec in self.specs.items()
            if self.kinds[name] == "imu"
        }

    def _frames(
        self, rows: list[int], duration: float, exact: bool, tolerance: float
    ) -> Iterator[tuple[float, int, str, int, Callable[[], Any]]]:
        """Yield the frames of all specs with this choice of frames, as pieces ordered by time."""
        frames = {name: spec for name, spec in self.specs.items() if self.kinds[name] == "frames"}
        specs = {name: spec for name, spec in frames.items() if (spec.exact, spec.tolerance) == (exact, tolerance)}
        wanted = [
            (min(float(t), duration), row, name, place)
            for row in rows
            for name, spec in specs.items()
            for place, t in enumerate(spec.times(self.starts[row], row))
        ]
        if not wanted:
            return
        framers = {key: _Framer(Scaler(*key)) for key in {(spec.size, spec.crop) for spec in specs.values()}}
        fresh = open_reader(self.recording.video, self.max_hold)
        with self.readers.lend(self.threads) if self.readers else fresh as reader:
            options = {"exact": exact, "tolerance": tolerance, "threads": self.threads}
            for index, frame in reader.frames([t for t, *_ in wanted], **options):
                seconds, row, name, place = wanted[index]
                found = reader.lost(seconds) if frame is None else (frame, reader)
                if (end := self.starts[row] + specs[name].seconds) > duration + self.max_hold:
                    found = VideoError(
                        f"{self.recording.video}: the clip ends at {end:.3f} s, but the video at {duration:.3f} s, "
                        f"over {named('max_hold')}, {self.max_hold:g} s, before; a larger one holds its last picture"
                    )
                framer = framers[specs[name].size, specs[name].crop]
                yield seconds, row, name, place, _Piece(found, framer)


@dataclasses.dataclass
class _Piece:
    """A piece of a clip, computed when called: the frames of a clip that has already failed are not scaled."""

    source: Any
    make: Callable[[Any], Any]

    def __call__(self) -> Any:
        return self.source if isinstance(self.source, Exception) else self.make(self.source)


@dataclasses.dataclass
class _Framer:
    """Scale a decoded frame, and return it with the time from which it is shown."""

    scaler: Scaler

    def __call__(self, found: tuple[Any, FrameReader]) -> tuple[np.ndarray, float]:
        frame, reader = found
        return self.scaler(frame).transpose(2, 0, 1), float(frame.pts * reader.stream.time_base) - reader.zero
