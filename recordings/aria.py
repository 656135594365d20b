"""Read Project Aria recordings (VRS files, Gen 1 and Gen 2); `copies.convert()` writes them as video and table.

    from egodistill.recordings import aria

    recording = aria.AriaRecording("recording.vrs")
    motion = recording.imu()                                    # an imu.Imu: GoPro axes, zero is the first picture

A VRS file (https://github.com/facebookresearch/vrs) is a header, a description with the tags of the file and of its
streams, an index, and records. The stream tags describe the fields of a record as JSON; the file tag `calib_json` is
the factory calibration. Records are read one by one: recordings of an hour have tens of gigabytes. Pictures of Gen 1,
and most indices, are compressed with zstd: Python 3.14 reads it, older ones need the extra `cameras`.
"""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import av.error
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.lib.recfunctions import repack_fields

from ..imu import MAX_READING, Imu
from ..support import files
from ..support.errors import DataError

__all__ = ["VRS", "AriaError", "AriaRecording"]


class AriaError(DataError):
    """A VRS file cannot be used. The message names the file."""


# By the file tag device_type. The instances of the two IMUs are swapped between the generations.
STREAMS = {
    "Aria": {"camera-rgb": (214, 1), "imu-right": (1202, 1), "imu-left": (1202, 2)},
    "Oatmeal": {"camera-rgb": (214, 1), "imu-left": (1202, 1), "imu-right": (1202, 2)},
}
# Rows: X (left), Y (to the user), Z (up) of a GoPro from the axes of the RGB camera as its pictures are stored: those
# of Gen 1 are on their side.
GOPRO_AXES = {
    "Aria": np.array([[0, 1, 0], [0, 0, -1], [-1, 0, 0]]),
    "Oatmeal": np.array([[-1, 0, 0], [0, 0, -1], [0, -1, 0]]),
}
QUARTER_TURNS = {"Aria": -1, "Oatmeal": 0}  # of a stored picture, counter-clockwise, until it is upright

FILE_HEADER = struct.Struct("<8sQIIqqq24s4sI")
RECORD_HEADER = struct.Struct("<IIiIdHBBI")
INDEX_ENTRY = np.dtype([("time", "<f8"), ("size", "<u4"), ("kind", "u1"), ("type", "<i4"), ("instance", "<u2")])
DATA = 3  # kind of a record: state, configuration, data
CLASSIC_INDEX, SPLIT_INDEX = 2, 3
ZSTD = 2
COMPRESSIONS = {0: "none", 1: "lz4", ZSTD: "zstd"}
NUMBERS = {"Bool": "u1", "char": "u1", "float": "<f4", "double": "<f8"}
NUMBERS |= {f"{sign}int{bits}_t": f"<{sign or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
SENSORS = ("accelerometer", "gyroscope")
# The shapes of a sample's fields.
SAMPLE = {"capture_timestamp_ns": (), "accelerometer_valid": (), "gyroscope_valid": (), **dict.fromkeys(SENSORS, (3,))}
CHUNK = 10_000  # records of an IMU in memory
# Bytes of the header of a record, of the numbers at the start of its content, and of its unpacked content: a picture of
# 8 megapixels has 25 MB if it is not compressed.
MAX_HEADER, MAX_LAYOUT, MAX_RECORD = 1 << 16, 1 << 16, 1 << 26


# ---------------------------------------------------------------------------------------------------------------
# The container


class VRS:
    """A VRS file: `tags` of the file, `stream_tags` as {(type, instance): tags}, and where its records are.

    `notes` lists what is unusual. Raise AriaError if the file is not VRS, was cut off, or is a part of a recording in
    several files, and DataError if there is none.

    >>> from egodistill.recordings import aria
    >>> aria.VRS("walk.mp4")
    Traceback (most recent call last):
    ...
    egodistill.recordings.aria.AriaError: walk.mp4: not a VRS file, which begins with 'VisionRe'; give a ...
    """

    def __init__(self, path: str | os.PathLike) -> None:
        files.require_file(path)
        self.path = Path(path)
        if (part := re.fullmatch(r"(?i)(.+\.vrs)_\d+", self.path.name)) or Path(f"{path}_1").is_file():
            raise _split(path, Path(path).with_name(part[1]) if part else path)
        self.notes: list[str] = []
        self.stream_tags: dict[tuple[int, int], dict[str, str]] = {}
        self._layouts: dict[tuple[tuple[int, int], int], tuple[np.dtype, int]] = {}
        with open(path, "rb") as file:
            self.size = file.seek(0, os.SEEK_END)
            file.seek(0)
            start = file.read(FILE_HEADER.size)
            if len(start) < FILE_HEADER.size or start[:8] != b"VisionRe":
                raise AriaError(f"{path}: not a VRS file, which begins with 'VisionRe'; give a Project Aria recording")
            _, _, _, self.header_size, index, description, first, *_ = FILE_HEADER.unpack(start)
            if not RECORD_HEADER.size <= self.header_size <= MAX_HEADER:
                raise AriaError(f"{path}: is damaged: its record headers have {self.header_size} bytes")
            try:
                header, content = self._record(file, description)
                stream = io.BytesIO(content)
                for _ in range(_number(stream)):
                    name = struct.unpack("<iH", stream.read(6))
                    self.stream_tags[name] = _tags(stream) | _tags(stream)
                self.tags = _tags(stream)
            except AriaError:
                raise
            except (struct.error, ValueError) as error:
                raise self._cut_off("in the middle of its description") from error
            self.offsets, self.records = self._find_records(file, index, first or description + header[0])

    def count(self, stream: tuple[int, int]) -> int:
        """Return the number of data records of a stream, (type, instance)."""
        return len(self._places(stream))

    def data(self, stream: tuple[int, int]) -> Iterator[tuple[int, bytes]]:
        """Yield (version of the format, content) of each data record of a stream. Raise AriaError for lz4."""
        with open(self.path, "rb") as file:
            for offset in self._places(stream):
                try:
                    header, content = self._record(file, offset)
                except struct.error as error:
                    raise self._cut_off("in the middle of a record") from error
                yield header[3], content

    def layout(self, stream: tuple[int, int], version: int) -> tuple[np.dtype, int]:
        """Return the numbers at the start of a data record, by name, and how many fields of variable length follow.

        Raise AriaError if the stream's tags do not describe them for this version of the format.
        """
        if (stream, version) in self._layouts:
            return self._layouts[stream, version]
        fields = {}
        try:
            pieces = json.loads(self.stream_tags[stream][f"DL:Data:{version}:0"])["data_layout"]
            for piece in pieces:
                kind = re.fullmatch(r"DataPiece(?:Value|Array)<(\w+)>", piece["type"])
                if "offset" in piece and kind and kind[1] in NUMBERS:
                    shape = (piece["size"],) if "size" in piece else ()
                    fields[piece["name"]] = (np.dtype((NUMBERS[kind[1]], shape)), piece["offset"])
            found = np.dtype(fields), sum("index" in piece for piece in pieces)
            if found[0].itemsize > MAX_LAYOUT:
                raise ValueError(f"{found[0].itemsize} bytes")
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            name = "-".join(map(str, stream))
            raise AriaError(f"{self.path}: does not say how the data of stream {name} are laid out") from error
        return self._layouts.setdefault((stream, version), found)

    def _places(self, stream: tuple[int, int]) -> np.ndarray:
        records = self.records
        chosen = (records["kind"] == DATA) & (records["type"] == stream[0]) & (records["instance"] == stream[1])
        return self.offsets[chosen]

    def _record(self, file: IO[bytes], offset: int) -> tuple[tuple, bytes]:
        """Return header and content of the record at an offset. Raise struct.error where the file ends before."""
        header, content = self._stored(file, offset)
        if len(content) < header[0] - self.header_size:
            raise struct.error("the file ends in the middle of a record")
        compression = header[7] if header[8] else 0
        if compression and header[8] > MAX_RECORD:
            raise AriaError(
                f"{self.path}: is damaged: a record would have {header[8] / 1e6:,.0f} MB, more than the "
                f"{MAX_RECORD / 1e6:.0f} MB that a picture may have; copy the recording again"
            )
        return header, self._decompressed(content, compression, header[8])

    def _stored(self, file: IO[bytes], offset: int) -> tuple[tuple, bytes]:
        """Return header and content as it is stored, which may be cut off. Raise what `_record()` raises."""
        if not 0 <= offset <= self.size:
            raise struct.error("the offset is outside the file")
        file.seek(offset)
        header = RECORD_HEADER.unpack(file.read(self.header_size)[: RECORD_HEADER.size])
        return header, file.read(max(0, min(header[0] - self.header_size, self.size)))

    def _decompressed(self, content: bytes, compression: int, size: int) -> bytes:
        if compression not in (0, ZSTD):
            kind = COMPRESSIONS.get(compression, f"kind {compression}")
            raise AriaError(
                f"{self.path}: its records are compressed with {kind}, not with zstd or not at all; copy the recording "
                f"with zstd, by the command `vrs copy` of github.com/facebookresearch/vrs"
            )
        if not compression:
            return content
        expand = _zstd()
        if expand is None:
            raise AriaError(
                f'{self.path}: compressed with zstd; to read it, pip install "egodistill[cameras]" (or use Python 3.14)'
            )
        try:
            found = expand(content, size + 1)
        except Exception as error:  # the two libraries have errors of their own
            raise AriaError(f"{self.path}: is damaged: a record cannot be decompressed: {error}") from error
        if len(found) > size:
            raise AriaError(f"{self.path}: is damaged: a record unpacks to more than the {size:,} bytes that it names")
        return found

    def _find_records(self, file: IO[bytes], index: int, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Return offset [n] and index entry [n] of each record.

        Without an index (the recording was interrupted), or if it is compressed and zstd is missing, go from header to
        header.
        """
        if not index:
            self.notes.append("it has no index, as after an interrupted recording; its complete records are used")
            return self._walk(file, first, self.size)
        try:
            header, content = self._stored(file, index)
            stream = io.BytesIO(content)
            stream.seek(6 * _number(stream), os.SEEK_CUR)
            count = _number(stream)
        except (struct.error, ValueError) as error:
            raise self._cut_off("before its index") from error
        entries = stream.read()
        if header[3] != CLASSIC_INDEX or (header[8] and _zstd() is None):
            count = count if header[3] == CLASSIC_INDEX else None
            # Records come after the index, or end where it begins.
            offsets, records = self._walk(file, first, self.size if first > index else index)
        else:
            if header[8] and count > self.size // self.header_size:
                raise self._cut_off("long before the records that its index counts")
            entries = self._decompressed(entries, header[7] if header[8] else 0, INDEX_ENTRY.itemsize * count)
            if len(entries) < INDEX_ENTRY.itemsize * count:
                raise self._cut_off("in the middle of its index")
            records = np.frombuffer(entries, INDEX_ENTRY, count)
            ends = first + np.cumsum(records["size"], dtype=np.int64)
            complete = ends <= self.size
            offsets, records = (ends - records["size"])[complete], records[complete]
        if header[3] == SPLIT_INDEX and not len(records):  # the other parts have the records
            raise _split(self.path, self.path)
        if count is not None and len(records) < count:
            raise AriaError(
                f"{self.path}: has {len(records):,} of {count:,} records ({self.size:,} bytes), so it was cut off; "
                f"copy the recording again"
            )
        return offsets, records

    def _walk(self, file: IO[bytes], start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Return offset and index entry of each complete record, by the headers of the records."""
        offsets, entries = [], []
        while 0 <= start and start + self.header_size <= end:
            file.seek(start)
            size, _, kind, _, seconds, instance, record_kind, *_ = RECORD_HEADER.unpack(file.read(RECORD_HEADER.size))
            if size < self.header_size or start + size > end:
                break
            offsets.append(start)
            entries.append((seconds, size, record_kind, kind, instance))
            start += size
        return np.array(offsets, np.int64), np.array(entries, INDEX_ENTRY)

    def _cut_off(self, where: str) -> AriaError:
        return AriaError(f"{self.path}: ends {where} ({self.size:,} bytes), or is damaged; copy the recording again")


def _split(path: str | os.PathLike, head: str | os.PathLike) -> AriaError:
    """Return the error about a recording in several files: NAME.vrs, its head, NAME.vrs_1, NAME.vrs_2 ..."""
    name = Path(head).name
    return AriaError(
        f"{path}: part of a recording that is split into several files, {name}, {name}_1 and so on; with all of them "
        f"in one folder, join them by the command `vrs copy {name} --to whole.vrs` of github.com/facebookresearch/vrs"
    )


def _number(stream: IO[bytes]) -> int:
    return struct.unpack("<I", stream.read(4))[0]


def _tags(stream: IO[bytes]) -> dict[str, str]:
    """Read a map of texts. Raise struct.error where the bytes end before."""
    texts = []
    for _ in range(2 * _number(stream)):
        length = _number(stream)
        text = stream.read(length)
        if len(text) < length:
            raise struct.error("a text is cut off")
        texts.append(text.decode())
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _zstd() -> Callable[[bytes, int], bytes] | None:
    """Return a function that expands zstd's bytes to at most so many, of the standard library or the extra; or None."""
    for name in ("compression.zstd", "zstandard"):
        try:
            zstd = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        if name == "zstandard":
            return lambda content, most: zstd.ZstdDecompressor().stream_reader(content).read(most)
        return lambda content, most: zstd.ZstdDecompressor().decompress(content, max_length=most)
    return None


# ---------------------------------------------------------------------------------------------------------------
# What Aria records


class AriaRecording(VRS):
    """A Project Aria recording: head motion in the axes of the RGB camera, and the pictures, upright.

    Zero of its clock is the capture time of the first picture. Errors are AriaErrors that name the file. With
    `device_clock`, zero is that of the glasses' own clock, because the pictures are in another file; the recording need
    not have any.
    """

    def __init__(self, path: str | os.PathLike, *, device_clock: bool = False) -> None:
        super().__init__(path)
        self.device = self.tags.get("device_type", "")
        if self.device not in STREAMS:
            raise AriaError(
                f"{path}: recorded by {self.device or 'an unnamed device'}; Aria (Gen 1) and Oatmeal (Gen 2) are known"
            )
        self.streams, self.reformatter = STREAMS[self.device], VideoReformatter()
        if not device_clock and not self.count(self.streams["camera-rgb"]):
            raise AriaError(
                f"{path}: has no pictures (camera-rgb), so its video clock is unknown; record with pictures"
            )
        self.zero = 0 if device_clock else next(self._packets())[0]

    def imu(self) -> Imu:
        """Return the samples of the left IMU, which is nearer to the camera, or of the right one if it is missing.

        Values are rectified and times corrected by the factory calibration. Axes are those of a GoPro: X to the left, Y
        to the user, Z up. Raise AriaError if samples or calibration are missing.
        """
        found = [label for label in ("imu-left", "imu-right") if self.count(self.streams[label]) > 1]
        if not found:
            raise AriaError(
                f"{self.path}: has no IMU samples (imu-left or imu-right); record with a profile that has them"
            )
        notes = self.notes if found[0] == "imu-left" else [*self.notes, "no left IMU: the samples are of the right one"]
        stamps, valid, values = self._samples(self.streams[found[0]])
        seconds = (stamps - self.zero) * 1e-9
        sensors = []
        for i, sensor in enumerate(SENSORS):
            late, bias, matrix = self._calibration(found[0], sensor)
            times, chosen = np.unique(seconds[valid[:, i]] - late, return_index=True)
            if len(times) < 2:
                raise AriaError(f"{self.path}: has {len(times)} valid samples of the {sensor} ({found[0]})")
            sensors += [times, (values[i][valid[:, i]][chosen] - bias) @ matrix.T]
        return Imu(*sensors, tuple(notes), device=self.device)

    def pictures(self) -> Iterator[tuple[float, av.VideoFrame]]:
        """Yield (seconds since the first picture, picture as it is stored), in order. Broken pictures are left out."""
        decoder = av.CodecContext.create(self._codec(), "r")
        for stamp, content in self._packets():
            if not content:  # to a decoder, an empty packet is the end
                continue
            packet = av.Packet(content)
            packet.pts, packet.time_base = stamp - self.zero, Fraction(1, 10**9)
            yield from _decoded(decoder, packet)
        yield from _decoded(decoder, None)

    def upright(self, picture: av.VideoFrame, size: int | None = None) -> av.VideoFrame:
        """Return a picture upright, with even sides, as H.264 needs them (yuv420p).

        With `size`, scale it down to this many pixels on its shorter side, by averaging areas.
        """
        turns = QUARTER_TURNS[self.device]
        scale = min(1.0, size / min(picture.width, picture.height)) if size else 1.0
        sides = [round(side * scale) for side in (picture.width, picture.height)]
        small = self.reformatter.reformat(picture, *sides, "rgb24", interpolation="AREA", threads=1)
        pixels = np.rot90(small.to_ndarray(), turns)
        height, width = (side - side % 2 for side in pixels.shape[:2])
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels[:height, :width]), format="rgb24")
        colours = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
        return frame.reformat(format="yuv420p", **colours)

    def _packets(self) -> Iterator[tuple[int, bytes]]:
        """Yield (capture time in ns of the device's clock, compressed picture) of each record with a picture."""
        stream = self.streams["camera-rgb"]
        for version, content in self.data(stream):
            layout, variable = self.layout(stream, version)
            fields = self._fields(content, layout)
            if "capture_timestamp_ns" not in layout.names:
                raise AriaError(f"{self.path}: its pictures have no capture_timestamp_ns")
            start = layout.itemsize
            if variable:  # offset and length of each field; the last one ends where the picture begins
                start += 8 * variable
                start += sum(struct.unpack_from("<II", content, start - 8)) if len(content) >= start else 0
            yield int(fields["capture_timestamp_ns"][0]), content[start:]

    def _codec(self) -> str:
        """Return FFmpeg's name of the decoder. Raise AriaError for pictures in another format."""
        formats = [
            text for key, text in self.stream_tags[self.streams["camera-rgb"]].items() if key.startswith("RF:Data")
        ]
        for words, codec in (("image/jpg", "mjpeg"), ("codec=H.265", "hevc"), ("codec=H.264", "h264")):
            if any(words in text for text in formats):
                return codec
        raise AriaError(
            f"{self.path}: its pictures are {' or '.join(formats) or 'of unknown format'}, not JPEG or H.265"
        )

    def _samples(self, stream: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray]]:
        """Return times in ns [n], which samples are valid [n, 2], and raw accelerometer and gyroscope [n, 3]."""
        parts: list[np.ndarray] = []
        for version, contents in itertools.groupby(self.data(stream), key=lambda record: record[0]):
            layout, _ = self.layout(stream, version)
            if missing := [
                name for name, shape in SAMPLE.items() if name not in layout.names or layout[name].shape != shape
            ]:
                raise AriaError(
                    f"{self.path}: its IMU records have no usable {', '.join(missing)}, so it is damaged or of other "
                    f"glasses; copy it from the glasses again"
                )
            while chunk := [content[: layout.itemsize] for _, content in itertools.islice(contents, CHUNK)]:
                samples = np.concatenate([self._fields(content, layout) for content in chunk])
                parts.append(repack_fields(samples[list(SAMPLE)]))
        found = np.concatenate(parts)
        valid = [(found[f"{name}_valid"] != 0) & (np.abs(found[name]) < MAX_READING).all(1) for name in SENSORS]
        return found["capture_timestamp_ns"], np.stack(valid, axis=1), (found["accelerometer"], found["gyroscope"])

    def _fields(self, content: bytes, layout: np.dtype) -> np.ndarray:
        """Return the numbers of a record, [1] with named fields."""
        if len(content) < layout.itemsize:
            raise AriaError(f"{self.path}: is damaged: a record has {len(content)} of {layout.itemsize} bytes")
        return np.frombuffer(content, layout, 1)

    def _calibration(self, label: str, sensor: str) -> tuple[float, np.ndarray, np.ndarray]:
        """Return by how many seconds a sensor's stamps are late, its bias [3], and the matrix to GoPro axes [3, 3]."""
        short = {"accelerometer": "Accel", "gyroscope": "Gyro"}[sensor]
        try:
            calibration = json.loads(self.tags["calib_json"])
            imu = next(one for one in calibration["ImuCalibrations"] if one["Label"] == label)
            camera = next(one for one in calibration["CameraCalibrations"] if one["Label"] == "camera-rgb")
            to_device, from_device = _rotation(imu["T_Device_Imu"]), _rotation(camera["T_Device_Camera"]).T
            model = imu[sensor.capitalize()]
            rectify = np.linalg.inv(np.array(model["Model"]["RectificationMatrix"], float).reshape(3, 3))
            bias = np.array(model["Bias"]["Offset"], float).reshape(3)
            late = float(model[f"TimeOffsetSec_Device_{short}"])
            if not np.isfinite([*bias, *rectify.ravel(), late]).all():
                raise ValueError("a value is not finite")
        except (KeyError, TypeError, ValueError, StopIteration, np.linalg.LinAlgError) as error:
            raise AriaError(
                f"{self.path}: its tag calib_json has no usable calibration of {label} and camera-rgb, so the axes are "
                f"unknown ({type(error).__name__}: {error})"
            ) from error
        return late, bias, GOPRO_AXES[self.device] @ from_device @ to_device @ rectify


def _decoded(decoder: av.VideoCodecContext, packet: av.Packet | None) -> list[tuple[float, av.VideoFrame]]:
    try:
        return [(frame.pts * 1e-9, frame) for frame in decoder.decode(packet)]
    except av.error.InvalidDataError:
        return []


def _rotation(transform: dict) -> np.ndarray:
    """Return the rotation [3, 3] of a transform in the calibration, whose quaternion is [w, [x, y, z]]."""
    real, imaginary = transform["UnitQuaternion"]
    w, (x, y, z) = float(real), map(float, imaginary)
    if not abs(w**2 + x**2 + y**2 + z**2 - 1) < 1e-3:  # NaN: False
        raise ValueError("a quaternion is not of length 1")
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross
