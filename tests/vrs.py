"""VRS files of Project Aria glasses, written here."""

import json
import struct
from fractions import Fraction

import av
import numpy as np
from painted import paint

ZERO = 86_385_246_037_000  # ns of the device's clock: the first picture
IMU_LAYOUT = [
    ("accelerometer_valid", "Value<Bool>", 0, {}),
    ("gyroscope_valid", "Value<Bool>", 1, {}),
    ("temperature_deg_c", "Value<double>", 2, {}),
    ("capture_timestamp_ns", "Value<int64_t>", 10, {}),
    ("gyroscope", "Array<float>", 18, {"size": 3}),  # in another order than real files have
    ("accelerometer", "Array<float>", 30, {"size": 3}),
]
PICTURE_LAYOUT = [("frame_number", "Value<uint64_t>", 0, {}), ("capture_timestamp_ns", "Value<int64_t>", 8, {})]
LEFT, RIGHT, RGB = (1202, 2), (1202, 1), (214, 1)  # of Gen 1


def text(value):
    return struct.pack("<I", len(value.encode())) + value.encode()


def tags(values):
    return struct.pack("<I", len(values)) + b"".join(text(key) + text(value) for key, value in values.items())


def layout(pieces, variable=()):
    fixed = [{"name": n, "type": f"DataPiece{kind}", "offset": at, **more} for n, kind, at, more in pieces]
    fixed += [{"name": name, "type": "DataPieceString", "index": i} for i, name in enumerate(variable)]
    return json.dumps({"data_layout": fixed})


def quaternion(axis, degrees):
    half = np.deg2rad(degrees) / 2
    return [float(np.cos(half)), (np.sin(half) * np.array(axis)).tolist()]


def calibration(late=0.0, bias=(0, 0, 0), scale=1.0, camera=(1, [0, 0, 0]), sensor=(1, [0, 0, 0])):
    def model(short):
        matrix = (np.eye(3) * scale).tolist()
        return {
            "Bias": {"Offset": list(bias)},
            "Model": {"RectificationMatrix": matrix},
            f"TimeOffsetSec_Device_{short}": late,
        }

    units = [
        {
            "Label": label,
            "Accelerometer": model("Accel"),
            "Gyroscope": model("Gyro"),
            "T_Device_Imu": {"UnitQuaternion": sensor},
        }
        for label in ("imu-right", "imu-left")
    ]
    cameras = [{"Label": "camera-rgb", "T_Device_Camera": {"UnitQuaternion": camera}}]
    return {"ImuCalibrations": units, "CameraCalibrations": cameras}


def samples(accel, gyro, seconds=2.0, rate=800, valid=(1, 1)):
    """Records of an IMU with constant readings, from 10 ms before the first picture on."""
    stamps = (ZERO + (np.arange(-0.01, seconds, 1 / rate)) * 1e9).astype(np.int64)
    return [(3, struct.pack("<2Bdq6f", *valid, 30.0, stamp, *gyro, *accel)) for stamp in stamps]


def pictures(times, codec="mjpeg", turns=0, variable=False, **options):
    """Records of painted pictures, coded one by one."""
    encoder = av.CodecContext.create(codec, "w")
    stored = [np.ascontiguousarray(np.rot90(paint(i), turns)) for i in range(len(times))]
    encoder.height, encoder.width = stored[0].shape[:2]
    encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    encoder.time_base, encoder.options = Fraction(1, 30), options
    packets = []
    for i, pixels in enumerate(stored):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=encoder.pix_fmt)
        frame.pts = i
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    more = struct.pack("<4I", 0, 3, 3, 2) + b"abcde" if variable else b""  # offset, length of each field, then both
    heads = [struct.pack("<Qq", i, ZERO + round(t * 1e9)) + more for i, t in enumerate(times)]
    return [(3, head + bytes(packet)) for head, packet in zip(heads, packets, strict=True)]


def write_vrs(path, streams, device="Aria", calib=None, index="end", compression=0, image="image/jpg", variable=()):
    """Write a VRS file of {(type, instance): [(kind, content)]}; index: "end", "front", None (interrupted)."""
    described = struct.pack("<I", len(streams))
    for (kind, instance), _ in streams.items():
        form = layout(IMU_LAYOUT) if kind == 1202 else layout(PICTURE_LAYOUT, variable)
        form = {"DL:Data:2:0": form, "RF:Data:2": "data_layout" + ("" if kind == 1202 else f"+{image}")}
        described += struct.pack("<iH", kind, instance) + tags({"device_serial": "1"}) + tags(form)
    calib = calibration() if calib is None else calib
    described += tags({"device_type": device, "calib_json": calib if isinstance(calib, str) else json.dumps(calib)})

    def record(content, kind=0, instance=0, what=3, version=2):
        head = (32 + len(content), 0, kind, version, 1.0, instance, what, compression if kind else 0)
        return struct.pack("<IIiIdHBBI", *head, len(content) if compression and kind else 0) + content

    rows = [(*stream, *row) for stream, found in streams.items() for row in [(2, b"configuration"), *found]]
    records = [record(content, kind, instance, what) for kind, instance, what, content in rows]
    entries = [
        struct.pack("<dIBiH", 1.0, len(made), what, kind, instance)
        for made, (kind, instance, what, _) in zip(records, rows, strict=True)
    ]
    listed = record(struct.pack("<IiHI", 1, 214, 1, len(entries)) + b"".join(entries))
    parts = {"described": record(described), "front": listed, "records": b"".join(records), "end": listed}
    parts = {name: part for name, part in parts.items() if name not in {"front", "end"} - {index}}
    starts = dict(zip(parts, np.cumsum([80, *map(len, parts.values())]).tolist(), strict=False))
    places = (starts.get(index, 0), starts["described"], starts["records"] if index == "front" else 0)
    header = struct.pack("<8sQIIqqq24s4sI", b"VisionRe", 1, 80, 32, *places, b"", b"cord", 1)
    path.write_bytes(header + b"".join(parts.values()))
    return path
