"""Ten thousand damaged inputs: each is read, or refused by the library's own error, quickly and in little memory.

EGODISTILL_FUZZ=100000 pytest tests/test_fuzz.py     # more of them, of other seeds
"""

import json
import os
import random
import resource
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from test_gpmf import device

from egodistill import DataError, annotations, gpmf
from egodistill.imu import IMUError, read_imu

CASES = int(os.environ.get("EGODISTILL_FUZZ", 10_000))
NASTY = (
    "",
    " ",
    "nan",
    "NULL",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e309",
    "9" * 400,
    "0x10",
    "1_0",
    "null",
    "true",
    "[]",
    "{}",
    '"',
    ",",
    "\n",
    "\r\n",
    "\x00",
    "\ufeff",
    "\u0664",
    "../../P01",
    "..",
    "/etc/passwd",
    "P01/../..",
    "\\",
    "00:00:-1",
    "1:2:3:4",
    "[" * 2000,
    "é",
)


def damage(content: bytes, rng: random.Random) -> bytes:
    """One to four things that happen to files: bits, bytes, cells, lines, a missing end."""
    content = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        if not content:
            break
        at = rng.randrange(len(content))
        end = min(len(content), at + rng.choice((1, 2, 4, 8, 64, 500)))
        kind = rng.randrange(8)
        if kind == 0:
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            content[at:end] = rng.randbytes(end - at)
        elif kind == 2:
            del content[at:end]
        elif kind == 3:
            del content[at:]
        elif kind == 4:
            content[at:at] = content[at:end] * rng.choice((1, 2, 50))
        elif kind == 5:  # a whole cell, or number, or word becomes something else
            signs = b",\n:[]{} "
            low = max((content.rfind(sign, 0, at) for sign in signs), default=-1) + 1
            high = min((place for sign in signs if (place := content.find(sign, at)) >= 0), default=len(content))
            content[low:high] = rng.choice(NASTY).encode()
        elif kind == 6:
            lines = content.split(b"\n")
            rng.shuffle(lines)
            content = bytearray(b"\n".join(lines))
        else:
            content[at:at] = rng.choice(NASTY).encode()
    return bytes(content)


# --- What is read: each makes a sound input once, and reads a damaged one


class Gpmf:
    def __init__(self, root: Path) -> None:
        self.sound = device([(1, 2, 3)], [(4, 5, 6), (7, 8, 9)])

    def read(self, content: bytes) -> None:
        payload = gpmf.parse(content)
        if payload is not None:
            assert payload.accel.shape[1:] == payload.gyro.shape[1:] == (3,)


class File:
    """A reader of a file; what it says of a damaged one must name the file."""

    name = "table.csv"

    def __init__(self, root: Path) -> None:
        self.path = root / self.name

    def read(self, content: bytes) -> None:
        self.path.write_bytes(content)
        try:
            self.look()
        except ValueError as error:
            assert str(self.path) in str(error), error
            raise


class ImuTable(File):
    @property
    def sound(self) -> bytes:
        rows = [f"{10 * k},{k},NULL,{-k},0.1,0.2,{k % 3}" for k in range(30)]
        return "\n".join(["Milliseconds,AcclX,AcclY,AcclZ,GyroX,GyroY,GyroZ", *rows]).replace("NULL", "1").encode()

    def look(self) -> None:
        found = read_imu(self.path)
        for stamps, values in ((found.accel_time, found.accel), (found.gyro_time, found.gyro)):
            assert np.isfinite(values).all() and (np.diff(stamps) > 0).all() and values.shape == (len(stamps), 3)


class OwnTable(File):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        (root / "walk.mp4").touch()
        (root / "imu.csv").touch()
        rows = [f"walk.mp4,{k},00:00:{k + 1}.5,{'cut' if k % 2 else 'wash'},imu.csv,train" for k in range(12)]
        self.sound = "\n".join(["video,start,stop,label,imu,split", *rows]).encode()

    def look(self) -> None:
        check(annotations.read_csv(self.path))


class Epic(File):
    name = "EPIC_100_train.csv"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        for sensor in ("accl", "gyro"):
            file = root / "P01" / "meta_data" / f"P01_101-{sensor}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        header = "narration_id,participant_id,video_id,start_timestamp,stop_timestamp,verb,verb_class"
        rows = [f"P01_101_{k},P01,P01_101,00:00:{k:02d}.5,00:00:{k + 2:02d}.25,cut,{k % 3}" for k in range(12)]
        self.sound = "\n".join([header, *rows]).encode()

    def look(self) -> None:
        check(found := annotations.read_epic_kitchens(self.path, self.root))
        for segment in found:
            for file in (segment.video, *segment.imu):
                assert Path(file).resolve().is_relative_to(self.root.resolve()), file


class Ego4d(File):
    name = "fho_main.json"

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.root = root
        for file in ("v2/full_scale/walk.mp4", "v2/imu/walk.csv"):
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).touch()
        actions = [
            {
                "structured_verb": "cut" if k % 2 else "wash",
                "narration_annotation_uid": f"n{k}",
                "start_sec": k,
                "critical_frames": {"pre_frame": 30 * k, "post_frame": 30 * k + 60},
                "is_rejected": False,
            }
            for k in range(8)
        ]
        video = {"video_uid": "walk", "annotated_intervals": [{"clip_uid": None, "narrated_actions": actions}]}
        self.sound = json.dumps({"version": "v2", "videos": [video]}).encode()

    def look(self) -> None:
        check(found := annotations.read_ego4d(self.path, self.root))
        for segment in found:
            assert Path(segment.video).resolve().is_relative_to(self.root.resolve())


def check(segments: annotations.SegmentList) -> None:
    for segment in segments:
        assert 0 <= segment.start < segment.stop < float("inf"), segment


@pytest.mark.parametrize("reader", [Gpmf, ImuTable, OwnTable, Epic, Ego4d], ids=lambda reader: reader.__name__.lower())
def test_damaged_inputs_end_in_clean_errors(reader, tmp_path):
    reader = reader(tmp_path)
    reader.read(reader.sound)
    memory, refused, slowest = peak(), 0, 0.0
    for case in range(CASES // 5):
        content = damage(reader.sound, random.Random(f"{type(reader).__name__} {case}"))
        began = time.process_time()
        try:
            reader.read(content)
        except (DataError, IMUError, gpmf.GPMFError):
            refused += 1
        except Exception as error:
            pytest.fail(f"case {case}: {type(error).__name__}: {error}; the input: {content!r:.2000}")
        slowest = max(slowest, time.process_time() - began)
    assert 0.1 < refused / (CASES // 5) < 0.99  # Damage is real, and not all of it is deadly.
    assert slowest < 5 and peak() - memory < 200, (slowest, peak() - memory)


def test_sizes_that_lie_take_no_memory():
    """An element may announce 16 million bytes: they are looked for, not allocated."""
    memory = peak()
    for key in (b"DEVC", b"ACCL", b"SCAL"):
        lie = struct.pack(">4scBH", key, b"s", 255, 65535)
        whole = device([(1, 2, 3)], [(4, 5, 6)])
        with pytest.raises(gpmf.GPMFError, match="truncated"):
            gpmf.parse(lie + whole)
    assert peak() - memory < 50


def peak() -> float:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
