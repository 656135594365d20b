"""Read the sound of a video at given times, and its log-mel spectrogram for ListenToLook.

    from lab import audio

    audio.add_sound(data.ClipStore("store"))                # the array "audio", float32 [n, 201, 40]

Times are seconds on the video's own clock, as in `video`.
"""

from __future__ import annotations

import argparse
import collections
import functools
import math
import os
from collections.abc import Iterator, Sequence

import av
import av.audio.stream
import av.container
import av.error
import numpy as np

from egodistill import DataError, data
from egodistill.support import files
from egodistill.video import VideoError, clock_zero, demux, discard_others, open_video

__all__ = [
    "AUDIO_BANDS",
    "AUDIO_RATE",
    "AUDIO_SECONDS",
    "AUDIO_STEPS",
    "add_sound",
    "audio_at",
    "log_mel",
    "read_audio",
]

AUDIO_RATE = 16000  # Hz, mono
AUDIO_SECONDS = 2.0
AUDIO_BANDS = 40
WINDOW, HOP = 400, 160  # samples: 25 and 10 ms
AUDIO_STEPS = round(AUDIO_SECONDS * AUDIO_RATE) // HOP + 1  # 201
SKIP = 5.0  # seconds ahead from which seeking is worth it
JUMP = 0.02  # seconds by which a frame's time may be wrong before it counts as a gap


def read_audio(video: str | os.PathLike, starts: Sequence[float], seconds: float = AUDIO_SECONDS) -> np.ndarray:
    """Return sound from each of these times on, mono float32 [n, seconds * 16000] between -1 and 1.

    All channels are mixed and resampled to 16 kHz. Up to 5 % of an excerpt may be missing and is filled with zeros.

    Args:
        video: The video file.
        starts: Times at which excerpts start, in seconds, n of them.
        seconds: Length of each excerpt.

    Raises:
        VideoError: More than 5 % of an excerpt is missing, or the video has no sound; with file and time.
        ValueError: No times are given, or they are not finite.

    >>> from lab import audio
    >>> audio.read_audio("walk.mp4", [1.0, 5.0]).shape
    (2, 32000)
    """
    result: list[np.ndarray | None] = [None] * len(starts)
    for index, sound in audio_at(video, starts, seconds):
        if sound is None:
            raise VideoError(f"{video}: no sound near {starts[index]:.3f} s")
        result[index] = sound
    if not result:
        raise ValueError(f"{video}: no times given")
    return np.stack(result)


def audio_at(
    video: str | os.PathLike, starts: Sequence[float], seconds: float = AUDIO_SECONDS
) -> Iterator[tuple[int, np.ndarray | None]]:
    """Decode a video's sound in one pass: yield (index into `starts`, mono float32 samples at 16 kHz).

    Excerpts come in the order of their starts; one of which more than 5 % is missing is None. Starts and lengths are
    seconds, starts in any order. Raise VideoError if the video cannot be read or has no sound, and ValueError if times
    are not finite.
    """
    if not np.isfinite(starts).all():
        raise ValueError(f"{video}: the times contain NaN or infinity")
    count = round(seconds * AUDIO_RATE)
    with open_video(video) as container:
        if not container.streams.audio:
            raise VideoError(f"{video}: no audio stream")
        stream = container.streams.best("audio") or container.streams.audio[0]
        discard_others(container, [stream])
        decoder = Decoder(container, stream)
        pieces = decoder.pieces()
        held: collections.deque[tuple[int, np.ndarray]] = collections.deque()
        heard = 0  # the sound is decoded up to this sample
        for index in np.argsort(starts, kind="stable"):
            first = round(float(starts[index]) * AUDIO_RATE)
            if first - heard > SKIP * AUDIO_RATE:
                ahead = max(0.0, starts[index] - 1.0)  # a decoder needs a moment to settle
                if decoder.seek(ahead):
                    pieces = decoder.pieces()
                    held.clear()
            while held and held[0][0] + len(held[0][1]) <= first:
                held.popleft()
            while heard < first + count and (piece := next(pieces, None)) is not None:
                heard = piece[0] + len(piece[1])
                if heard > first:
                    held.append(piece)
            sound, missing = np.zeros(count, np.float32), np.ones(count, bool)
            for begin, samples in held:
                low, high = max(begin, first), min(begin + len(samples), first + count)
                if low < high:
                    sound[low - first : high - first] = samples[low - begin : high - begin]
                    missing[low - first : high - first] = False
            yield int(index), None if missing.mean() > 0.05 else sound


class Decoder:
    """A decoder of sound, mono at AUDIO_RATE. Sample numbers are counted anew from the first frame after each gap."""

    def __init__(self, container: av.container.InputContainer, stream: av.audio.stream.AudioStream) -> None:
        self.container, self.stream, self.zero = container, stream, clock_zero(container)
        self.resampler: av.AudioResampler | None = None
        self.anchor = self.taken = 0.0  # seconds: where counting began, and how much the resampler has taken since
        self.given = 0  # samples that it has returned since

    def seek(self, seconds: float) -> bool:
        """Seek to a time in seconds; return False if the container cannot seek."""
        try:
            self.container.seek(math.floor((seconds + self.zero) / self.stream.time_base), stream=self.stream)
        except av.error.FFmpegError:
            return False
        return True

    def pieces(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the sound from here on in pieces: (number of the first sample, from the video's zero; samples [n])."""
        self.resampler = None
        for packet in demux(self.container, self.stream):
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                continue  # the times of the next frames show the gap
            for frame in frames:
                if frame.pts is not None:
                    yield from self._resampled(frame)
        yield from self._drained()

    def _resampled(self, frame: av.AudioFrame) -> Iterator[tuple[int, np.ndarray]]:
        seconds = float(frame.pts * frame.time_base) - self.zero
        if self.resampler is None or abs(seconds - self.anchor - self.taken) > JUMP:
            yield from self._drained()
            self.resampler = av.AudioResampler(format="flt", layout="mono", rate=AUDIO_RATE)
            self.anchor, self.taken, self.given = seconds, 0.0, 0
        self.taken += frame.samples / frame.sample_rate
        yield from self._numbered(self.resampler.resample(frame))

    def _drained(self) -> Iterator[tuple[int, np.ndarray]]:
        if self.resampler is not None:
            yield from self._numbered(self.resampler.resample(None))

    def _numbered(self, frames: Sequence[av.AudioFrame]) -> Iterator[tuple[int, np.ndarray]]:
        for frame in frames:
            samples = frame.to_ndarray()[0]
            yield round(self.anchor * AUDIO_RATE) + self.given, samples
            self.given += len(samples)


def log_mel(sound: np.ndarray) -> np.ndarray:
    """Return the log-mel spectrogram of sound for ListenToLook, float32 [..., n // 160 + 1, 40].

    40 triangular mel bands from 0 to 8 kHz; power of centred Hann windows of 400 samples every 160, with reflected
    ends; log(x + 1e-6). The sources do not fix the mel scale (here 2595 log10(1 + f / 700)), the reflection and the
    1e-6.

    Args:
        sound: Samples at 16 kHz [..., n].

    >>> from lab import audio
    >>> audio.log_mel(audio.read_audio("walk.mp4", [1.0])).shape
    (1, 201, 40)
    """
    edge = WINDOW // 2
    padded = np.pad(sound, [(0, 0)] * (sound.ndim - 1) + [(edge, edge)], mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=-1)
    windows = windows[..., ::HOP, :] * np.hanning(WINDOW + 1)[:-1]
    power = np.abs(np.fft.rfft(windows)) ** 2
    return np.log(power @ mel_bands().T + 1e-6).astype(np.float32)


@functools.cache
def mel_bands() -> np.ndarray:
    """Return the weights of the bands over the frequencies of a spectrum, [40, 201]."""
    highest = 2595 * np.log10(1 + AUDIO_RATE / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, highest, AUDIO_BANDS + 2) / 2595) - 1)
    low, middle, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    frequencies = np.fft.rfftfreq(WINDOW, 1 / AUDIO_RATE)
    rising, falling = (frequencies - low) / (middle - low), (high - frequencies) / (high - middle)
    return np.maximum(0, np.minimum(rising, falling))


def add_sound(store: data.ClipStore, progress: bool = True) -> None:
    """Add the array "audio" to a store: log-mel bands of each clip's middle two seconds, float32 [n, 201, 40].

    The same call continues one that was killed. Raise VideoError for a video without sound, and DataError for a clip
    of which more than 5 % is missing.
    """
    store.add("audio", (AUDIO_STEPS, AUDIO_BANDS), np.float32)
    clips, left = store.clips, ~np.asarray(store.done("audio"))
    videos: dict[str, list[int]] = {}
    for row in np.flatnonzero(left).tolist():
        videos.setdefault(clips[row]["video"], []).append(row)
    with files.Progress("sound", int(left.sum()), show=progress) as bar:
        for video, rows in videos.items():
            begins = [(clips[row]["start"] + clips[row]["stop"] - AUDIO_SECONDS) / 2 for row in rows]
            for index, sound in audio_at(video, begins):
                if sound is None:
                    raise DataError(
                        f"{video}: no sound near {begins[index]:.3f} s; leave out {clips[rows[index]]['id']}"
                    )
                store.write("audio", [rows[index]], log_mel(sound)[None])
                bar.step()


def run_sound(a: argparse.Namespace) -> None:
    add_sound(data.ClipStore(a.store))
    print(f"{a.store}: all clips have their sound, the array 'audio'")
