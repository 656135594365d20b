"""The Python of the guide, block after block, in a folder with the files that it names."""

import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import egodistill
from egodistill import data
from egodistill.imu import IMU_READERS
from egodistill.recordings.recording import READERS

PAGE = Path(egodistill.__file__).parent / "docs" / "guide.md"
TEXT = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""


class VideoMAE(nn.Module):
    """In place of the model of `transformers`: frames first, and scores in an object."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(id2label={0: "walk", 1: "wash"}, num_labels=2)
        self.classifier = nn.Linear(3, 2)

    @classmethod
    def from_pretrained(cls, name):
        return cls()

    def forward(self, pixel_values):
        assert pixel_values.shape[1:] == (16, 3, 224, 224)
        return SimpleNamespace(logits=self.classifier(pixel_values.mean((1, 3, 4))))


def run_python(made: Path, folder: Path, monkeypatch, with_lab: bool = False) -> dict:
    """Run the blocks in a copy of the files, those that import the lab if asked to, and return their names.

    Cameras in it write other units, and turn out to have other axes. Raise AssertionError for what comes out wrong.
    """
    fake = SimpleNamespace(VideoMAEForVideoClassification=VideoMAE)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    monkeypatch.chdir(shutil.copytree(made, folder / "here"))
    walk, readers, names = data.read_imu("walk.csv"), [*READERS], {"__name__": "guide"}
    log = np.column_stack([walk.gyro_time * 1e6, np.rad2deg(walk.gyro), walk.accel / 9.80665])
    np.savetxt("walk.log", log, delimiter=",")
    rows = [
        {"timestamp_ms": 1e3 * t, "gyro": tuple(np.rad2deg(g)[[2, 0, 1]]), "accl": tuple(a[[2, 0, 1]])}
        for t, g, a in zip(walk.gyro_time, walk.gyro, walk.accel, strict=True)
    ]
    empty = [row | {"accl": None} for row in rows]
    parsers = {"walk.insv": rows[:50] + empty[50:51] + rows[51:], "half.insv": empty[:2000] + rows[2000:]}
    package = SimpleNamespace(Parser=lambda path: SimpleNamespace(normalized_imu=lambda: parsers[path]))
    monkeypatch.setitem(sys.modules, "telemetry_parser", package)
    try:
        with torch.random.fork_rng(devices=[]):
            for code in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
                if with_lab or "from lab" not in code:
                    exec(compile(code, "guide.md", "exec"), names)
        motion = data.open_recording("walk.mp4").motion()
        parsed = data.read_imu("walk.insv")
        with pytest.raises(data.IMUError, match=r"half\.insv: telemetry\(\) fails.* many rows lack a sensor"):
            data.read_imu("half.insv")
    finally:
        READERS[:] = readers
        IMU_READERS.clear()
    assert data.ClipStore("store").done("own.feature").all()
    np.testing.assert_allclose(motion.accel, walk.accel[:, [0, 2, 1]] * [1, 1, -1], atol=1e-9)  # XZy
    np.testing.assert_allclose(motion.gyro, walk.gyro[:, [0, 2, 1]] * [1, 1, -1], atol=1e-9)
    np.testing.assert_allclose(motion.gyro_time, walk.gyro_time + 0.05, atol=1e-9)
    for name in ("accel", "gyro", "accel_time", "gyro_time"):  # without the row that lacks a sensor
        np.testing.assert_allclose(getattr(parsed, name), np.delete(getattr(walk, name), 50, axis=0), atol=1e-9)
    names["student"].load_state_dict(torch.load("own-student.pth"))
    names["net"].load_state_dict(torch.load("own-teacher.pth"))
    trained = [*names["teacher"].net.state_dict().values()]
    assert all(map(torch.equal, trained, torch.load("own-teacher.pth").values()))
    grey = torch.full((1, 16, 3, 224, 224), 128, dtype=torch.uint8)
    feature, logits = names["videomae"](grey)
    torch.testing.assert_close(logits, names["model"].classifier(feature))
    torch.testing.assert_close(
        feature[0], (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )
    assert names["videomae"].class_names == ["walk", "wash"]
    return names
