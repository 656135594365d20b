"""Telemetry of GoPro cameras, made here: elements and payloads, some of them odd."""

import struct


def klv(key, kind, size, *rows):
    content = b"".join(rows)
    repeat = len(content) // size if size else 0
    head = key.encode() + struct.pack(">cBH", kind.encode(), size, repeat)
    return head + content + b"\xee" * (-len(content) % 4)  # Padding may hold anything.


def nest(key, *elements):
    content = b"".join(elements)
    return key.encode() + struct.pack(">cBH", b"\0", 1, len(content)) + content


def shorts(*values):
    return struct.pack(f">{len(values)}h", *values)


def orin(axes):
    return [klv("ORIN", "c", 1, axes)]


def matrix(axes, *rows):
    return [klv("MTRX", "f", 36, struct.pack(">9f", *rows)), klv("ORIO", "c", 1, axes)]


def device(accel, gyro, name=b"Test", axes=orin(b"YxZ"), scale=10):  # noqa: B008
    """A payload with gyroscope before accelerometer, odd elements between, sizes not of 4."""
    return nest(
        "DEVC",
        klv("DVNM", "c", 1, name),
        nest("STRM", klv("STNM", "c", 1, b"empty")),
        nest(
            "STRM",
            klv("abcd", "l", 4, bytes(4)),
            klv("SCAL", "s", 2, shorts(100, 10, 1)),
            *axes,
            klv("GYRO", "s", 6, *[shorts(*row) for row in gyro]),
        ),
        nest("STRM", klv("SCAL", "s", 2, shorts(scale)), *axes, klv("ACCL", "s", 6, *[shorts(*row) for row in accel])),
    )
