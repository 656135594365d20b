"""The page of examples/web as a phone has it: served, with an imitated camera and imitated motion sensors in Chromium.

Used by tests/test_web.py and benchmarks/web.py.
"""

import importlib.util
import json
import math
import shutil
import subprocess
import sys
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from streams import samples
from waiting import LIMIT

from egodistill.imu import Imu
from egodistill.recordings.spec import spec_of
from egodistill.video import Scaler

WEB = Path(__file__).resolve().parents[1] / "examples" / "web"
RUNTIME = WEB / "node_modules" / "onnxruntime-web"
SENSORS = ("accelerometer", "linear-acceleration", "gyroscope")
GRAVITY = 9.80665


def copy_page(folder):
    """Copy the example into a folder, with the packages that `npm ci` has installed, if any; return the folder."""
    for file in WEB.iterdir():
        if file.suffix in (".html", ".mjs", ".py"):
            shutil.copy(file, folder)
    (folder / "blank.html").write_text("<!doctype html><title>blank</title>")
    if RUNTIME.is_dir():
        (folder / "node_modules").symlink_to(RUNTIME.parent, target_is_directory=True)
    return folder


def painted(seed, size):
    """A picture that differs from others in brightness and colour, [H, W, 3]."""
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 256, (size, size, 3)) * rng.uniform(0.1, 1, 3)).astype(np.uint8)


def lively(model, clips=64):
    """A student whose labels change with the picture and with head motion; with weights just drawn, they hardly do."""
    rng, (times, readings), count = np.random.default_rng(0), samples(0, 60), model.num_frames
    motion = Imu(times, readings[:, :3], times, readings[:, 3:])
    windows = np.stack([motion.window(start) for start in rng.uniform(0, 55, clips)])
    windows[:, :, 3:] *= rng.uniform(0.2, 3, (clips, 1, 1))
    size = spec_of(model).size
    pixels = [[painted(count * k + i, size).transpose(2, 0, 1) for i in range(count)] for k in range(clips)]
    with torch.no_grad():
        model.imu_encoder.cnn[-1].weight.mul_(4)
        features = model(torch.from_numpy(np.array(pixels)), torch.from_numpy(windows)).feature
        layer = model.classifier
        weight = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(0)) / features.std(0)
        layer.weight.copy_(weight * (16 / features.shape[1]) ** 0.5)
        layer.bias.copy_(-layer.weight @ features.mean(0))
    return model


class Served:
    """serve.py in a folder, while the block runs; its address."""

    def __init__(self, folder, *options, errors=subprocess.DEVNULL):
        self.errors = errors
        self.words = [sys.executable, str(folder / "serve.py"), "--port", "0", *options]

    def __enter__(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(self.words, stdout=pipe, stderr=self.errors, text=True)
        lines = iter(self.process.stdout.readline, "")
        return next(line.strip() for line in lines if "://" in line)

    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


class Node:
    """Node.js in a folder of the page, as a browser for what needs no document; addresses must be whole."""

    def __init__(self, folder):
        if (program := shutil.which("node")) is None:
            pytest.skip("needs Node.js")
        self.folder, self.words = folder, [program, "--input-type=module"]

    def open(self, address):
        """Nothing is shown."""

    def run(self, code):
        options = {"cwd": self.folder, "check": True, "stdout": subprocess.PIPE, "text": True}
        return json.loads(
            subprocess.run(self.words, input=f"console.log(JSON.stringify(await {code}))", **options).stdout
        )


def film_pictures(film, size, crop=False):
    """The pictures of a film in the size of a model, [K, 3, size, size]."""
    with av.open(str(film)) as container:
        return np.stack([Scaler(size, crop)(frame).transpose(2, 0, 1) for frame in container.decode(video=0)])


def camera_switches(film):
    """The switches of Chromium for a camera that shows a film, and is allowed."""
    words = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    return [*words, f"--use-file-for-fake-video-capture={film}"]


def write_camera(path):
    """A film for the imitated camera, 320 x 240 at 10 fps: a stripe and a colour that change in a frame."""
    with open(path, "wb") as file:
        file.write(b"YUV4MPEG2 W320 H240 F10:1 Ip A1:1 C420\n")
        for k in range(60):
            brightness = np.full((240, 320), 20 + 37 * k % 200, np.uint8)
            brightness[:, 5 * k % 320 :][:, :60] = 235
            brightness[:60] //= 3
            brightness[:, :40], brightness[:, 280:] = 235, 16
            file.write(b"FRAME\n" + brightness.tobytes())
            file.write(bytes([11 * k % 256]) * (160 * 120) + bytes([29 * k % 256]) * (160 * 120))
    return path


class Head:
    """Imitated sensors of a phone worn upright, while `move()` runs; `turned`: to the left, its screen too."""

    def __init__(self, browser, turned=False):
        self.browser, self.turned, self.found = browser, turned, None
        browser.ask("Emulation.setFocusEmulationEnabled", enabled=True)
        for sensor in SENSORS:
            metadata = {"available": True, "maximumFrequency": 200}
            browser.ask("Emulation.setSensorOverrideEnabled", enabled=False, type=sensor)  # that of an earlier test
            browser.ask("Emulation.setSensorOverrideEnabled", enabled=True, type=sensor, metadata=metadata)

    def move(self, seconds, done="false"):
        """Turn for so long, or until an expression is true; the seconds it took."""
        began = time.monotonic()
        while (moment := time.monotonic() - began) < seconds:
            linear = [math.sin(4 * moment), math.sin(2 * moment), math.sin(3 * moment)]
            whole = [linear[0], linear[1] + GRAVITY, linear[2]]
            turns = [math.sin(2 * moment), 2 * math.sin(3 * moment + 1), 0.7 * math.sin(5 * moment)]
            for sensor, values in zip(SENSORS, (whole, linear, turns), strict=True):
                if self.turned:  # its X points up, its Y to the left
                    values = [values[1], -values[0], values[2]]
                reading = {"xyz": dict(zip("xyz", values, strict=True))}
                self.browser.ask("Emulation.setSensorOverrideReadings", type=sensor, reading=reading)
            if found := self.browser.run(done):
                self.found = found
                break
        return time.monotonic() - began

    def move_until(self, done):
        """Turn until an expression is true; return its value."""
        assert self.move(LIMIT, done) < LIMIT, done
        return self.found


def start(browser):
    """Tap Start, once the student is loaded."""
    browser.until("!document.getElementById('start').disabled")
    browser.ask("Runtime.evaluate", expression="document.getElementById('start').click()", userGesture=True)


def choose(browser, *files):
    """Open files in the page, once the student is loaded."""
    browser.until("!document.getElementById('files').disabled")
    root = browser.ask("DOM.getDocument")["root"]["nodeId"]
    node = browser.ask("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    browser.ask("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in files])


def comparison():
    """examples/web/compare.py as a module."""
    spec = importlib.util.spec_from_file_location("compare", WEB / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compare(pair, lines):
    """What the function of examples/web/compare.py returns."""
    return comparison().compare(pair, lines)
