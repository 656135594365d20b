"""Small videos that show their frame numbers, IMU files that are ramps, and stores of them."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from egodistill.datasets import index
from egodistill.datasets.annotations import Segment
from egodistill.datasets.store import ClipStore
from egodistill.datasets.store_files import StoreFiles
from egodistill.video import clock_zero

BITS, WIDTH, HEIGHT, TICKS = 10, 80, 48, 30000


def paint(number):
    """A picture that shows its number as ten vertical bars, black or white."""
    bars = [255 * (number >> bit & 1) for bit in range(BITS)]
    row = np.repeat(np.array(bars, np.uint8), WIDTH // BITS)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3))


def number_of(picture):
    """The number painted in a [3, H, W] picture of any size."""
    row = picture.mean((0, 1))
    bars = [part[len(part) // 3 : -(len(part) // 3) or None] for part in np.array_split(row, BITS)]
    return sum((bar.mean() > 128) << bit for bit, bar in enumerate(bars))


def write_video(path, times, codec="libx264", pictures=None, **options):
    """A video whose i-th frame is on screen from times[i] on and shows the number i."""
    titles = options.pop("metadata", {})
    with av.open(str(path), "w", options=options.pop("container", None)) as container:
        container.metadata.update(titles)
        stream = container.add_stream(codec, rate=30)
        stream.metadata.update(titles)
        height, width = (HEIGHT, WIDTH) if pictures is None else pictures[0].shape[:2]
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
        stream.options = {key.replace("_", "-"): str(value) for key, value in options.items()}
        for i, seconds in enumerate(times):
            frame = av.VideoFrame.from_ndarray(
                np.ascontiguousarray(paint(i) if pictures is None else pictures[i]), "rgb24"
            )
            frame.pts, frame.time_base = round(seconds * TICKS), Fraction(1, TICKS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


STEADY = np.arange(150) / 25


X264 = {"bf": 3, "g": 24, "crf": 10, "preset": "veryfast"}


def with_latin1(path, text, replacement):
    """Replace a text in a file by one of the same length that is not UTF-8."""
    content, replacement = Path(path).read_bytes(), replacement.encode("latin-1")
    assert len(text) == len(replacement) and text.encode() in content
    Path(path).write_bytes(content.replace(text.encode(), replacement))


def move(source, path, seconds):
    """Copy all packets to another file, with later times."""
    with av.open(source) as before, av.open(path, "w") as after:
        streams = [after.add_stream_from_template(stream) for stream in before.streams]
        for packet in before.demux():
            if packet.dts is not None:
                packet.pts += round(seconds / packet.time_base)
                packet.dts += round(seconds / packet.time_base)
                packet.stream = streams[packet.stream.index]
                after.mux(packet)
    return path


def break_packets(video, path, numbers):
    """A copy of a video with the bytes of some packets overwritten."""
    content = bytearray(Path(video).read_bytes())
    with av.open(str(video)) as container:
        for i, packet in enumerate(container.demux(video=0)):
            if i in numbers:
                content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    Path(path).write_bytes(content)
    return str(path)


def with_zeros(video, path, number, first, count, value=b"\0"):
    """A copy of a video with zeros, or another byte, from a byte of a packet on, perhaps also in what is behind it."""
    content = bytearray(Path(video).read_bytes())
    with av.open(str(video)) as container:
        packets = [packet for packet in container.demux(container.streams.best("video")) if packet.size]
        place = packets[number].pos + first
    content[place : place + count] = value * count
    Path(path).write_bytes(content)
    return str(path)


def expected_numbers(starts, times):
    """The rule itself: the last frame with time <= t, the first before the first frame."""
    return [max(np.searchsorted(starts, t + 1e-6, side="right") - 1, 0) for t in times]


def write_sound(path, samples, rate, *, codec="aac", delay=0.0, channels=1, drop=(), pictures=5):
    """A short video with these samples as its sound, which begins at ``delay`` seconds."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=30)
        picture.width = picture.height = 32
        picture.pix_fmt = "yuv420p"
        stream = container.add_stream(codec, rate=rate, layout="mono" if channels == 1 else "stereo")
        for i in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 30)
            container.mux(picture.encode(frame))
        container.mux(picture.encode())
        for at in range(0, len(samples) - 1023, 1024):
            if any(start <= at / rate < stop for start, stop in drop):
                continue
            block = np.repeat(samples[None, at : at + 1024], channels, 0).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(block, "fltp", "mono" if channels == 1 else "stereo")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), at + round(delay * rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return str(path)


def chirp(times):
    return 0.5 * np.sin(2 * np.pi * (200 * times + 30 * times**2))


def write_table(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_sound(path):
    """All sound of a file, mono at 16 kHz, and the time of its first sample on the player's clock."""
    with av.open(str(path)) as container:
        frames, resampler = list(container.decode(audio=0)), av.AudioResampler("flt", "mono", 16000)
        first = float(frames[0].pts * frames[0].time_base) - clock_zero(container)
        return np.concatenate([out.to_ndarray()[0] for x in (*frames, None) for out in resampler.resample(x)]), first


def heard_at(path, starts, seconds=2.0):
    """The sound of a file from each of these times on, [n, 16000 * seconds]."""
    sound, first = read_sound(path)
    begins = [round((start - first) * 16000) for start in starts]
    return np.stack([sound[begin : begin + round(16000 * seconds)] for begin in begins])


def ramp(stamps, slope, offset=0.0):
    """Three channels that grow linearly with time, each with a slope of its own."""
    return np.outer(stamps, np.array([1.0, -2.0, 0.5]) * slope) + offset


def write_epic_imu(folder, name, seconds, slope=1.0):
    """An EPIC-KITCHENS pair of IMU files with ramps; both sensors have stamps of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    accel, gyro = np.arange(-1, seconds, 1 / 200), np.arange(-0.998, seconds, 1 / 190)
    sensors = (("Accl", accel, ramp(accel, slope, 9.8)), ("Gyro", gyro, ramp(gyro, -slope)))
    for word, stamps, values in sensors:
        rows = np.column_stack([stamps * 1000, values])
        header = f"Milliseconds,{word}X,{word}Y,{word}Z"
        path = folder / f"{name}-{word.lower()}.csv"
        np.savetxt(path, rows, "%.6f", delimiter=",", header=header, comments="")
    return tuple(str(folder / f"{name}-{kind}.csv") for kind in ("accl", "gyro"))


CLIP = 64 / 30
OPTIONS = {"num_frames": (1, 4), "frame_size": 40, "clip_frames": 3, "clip_size": 24, "progress": False, "workers": 1}


def kitchen_segments(folder):
    """Three recordings of 6 s with IMU, painted frame numbers, and nine segments in them."""
    segments = []
    for v, name in enumerate(("P01_101", "P02_102", "P30_103")):
        video = write_video(folder / f"{name}.MP4", STEADY, metadata={"title": name}, **X264)  # no copies
        imu = write_epic_imu(folder, name, 7, slope=v + 1)
        split = "test" if v == 2 else "train"
        for k, (start, stop) in enumerate([(0.5, 1.0), (1.0, 4.0), (4.5, 6.0)]):
            label = ("wash", "cut", None if v == 0 else "take")[k]
            segments.append(Segment(f"{name}_{k}", video, start, stop, label, imu, split, wearer=name[:3]))
    return segments


def held(path):
    """What a store holds, wherever its rows are: all arrays of its clips in their order, and what is said of them."""
    store = ClipStore(path, unfinished=True)
    about = ("clips", "counts", "failures", "class_names", "notes", "fingerprint")
    found = {name: getattr(store, name) for name in about}
    for name in StoreFiles(path).arrays:
        rows = np.flatnonzero(store.done(name))
        found[name] = rows.tolist(), store.read(name, rows).tobytes()
    return found


def files_of(path):
    """All files of a folder: {relative path: content}."""
    found = sorted(file for file in Path(path).rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in found}


def status_of(path):
    """The status of all clips of a store as it is now: 0 missing, 1 ok, 2 failed."""
    return StoreFiles(path).current()[0]


def row_file(path, name, clip):
    """The file that has a clip's row of an array, or of a shard's table "rows", and the number of the row there."""
    shard, row = (found := StoreFiles(path)).key(clip)
    return found.folder(shard) / f"{name}.npy", row


def row_of(path, name, clip):
    """A clip's row on the disk, [1, ...], which can be changed."""
    file, row = row_file(path, name, clip)
    return np.load(file, mmap_mode="r+")[row : row + 1]


def reindex(path, **changes):
    """Change columns of the index, or its texts, {name: function of the old value}, and their checksums."""
    found, header = StoreFiles(path), json.loads((path / "store.json").read_text())
    old = {name: json.loads(found.index.content(name)) if name == "texts" else found.index[name] for name in changes}
    header["index"] = index.write(path, {name: do(old[name]) for name, do in changes.items()}, header["index"])
    (path / "store.json").write_text(json.dumps(header))


def relabel(path, rename, class_names=None):
    """Give the segments of a store other labels, `rename(segment)`, as if it had been prepared so."""
    labels = [rename(segment.record()) for segment in StoreFiles(path).segments]
    names = list(dict.fromkeys(label for label in labels if label is not None))
    numbers = [-1 if label is None else names.index(label) for label in labels]
    reindex(path, label=lambda _: np.array(numbers), texts=lambda texts: texts | {"labels": names})
    header = json.loads((path / "store.json").read_text())
    header["class_names"] = class_names or header["class_names"]
    (path / "store.json").write_text(json.dumps(header))


KILLED = """
import pickle, sys
sys.path.insert(0, sys.argv[1])
from egodistill import data
fields, options = pickle.load(open(sys.argv[2], "rb"))
data.prepare([data.Segment(*f) for f in fields], sys.argv[3], **options)
"""
