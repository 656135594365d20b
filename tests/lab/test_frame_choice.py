"""lab/frame_choice.py: students on exact and cheap frames of a rendered world, and the table from lines."""

import pytest

from egodistill import EgoDistill
from egodistill.support import files
from lab import contrasts


@pytest.fixture
def script(fresh, monkeypatch, tmp_path):
    found = fresh("frame_choice")
    monkeypatch.setattr(found, "LINES", tmp_path / "frame_choice.jsonl")
    origin = {"commit": "c", "protocol": "p", "processor": "AMD EPYC"}
    monkeypatch.setattr(found.evidence, "origin_of_lines", lambda: origin)
    return found


def test_each_student_reads_each_choice_of_frames_once(script, wearer, tmp_path, monkeypatch):
    student = EgoDistill(20, image_encoder="resnet10x4", image_weights=None, frame_size=64, hidden=8).eval()
    monkeypatch.setattr(script.evidence, "render", lambda world, out: wearer)
    monkeypatch.setattr(script.evidence, "trained", lambda world, out, run: student)
    script.measure(tmp_path, "A", [0])
    script.measure(tmp_path, "A", [0, 1])
    lines = list(files.read_lines(script.LINES, "frames"))
    assert [(line["frames"], line["seed"]) for line in lines[:5]] == [(name, 0) for name in script.CHOICES]
    assert [line["seed"] for line in lines] == [0] * 5 + [1] * 5
    errors = {line["frames"]: line["largest_error"] for line in lines}
    assert errors["exact"] <= 0.05 < 0.5 < errors["key frames"]  # a key frame every 2 s, and a frame lasts 0.05 s
    assert errors["cheapest within 0.25 s"] <= 0.25 + 1e-6
    assert {sum(one["segments"] for one in line["correct"].values()) for line in lines} == {3}


def test_table_pairs_seeds_and_wearers(script):
    def line(frames, seed, right):
        correct = contrasts.pack({"P30": [True] * right + [False] * (10 - right), "P35": [True] * 10})
        about = {"world": "A", "frames": frames, "seed": seed, "mean_error": 0.1, "largest_error": 0.2}
        return about | {"test": "t", "correct": correct, "processor": "AMD EPYC"}

    for seed, right in enumerate((8, 6)):
        files.append_line(script.LINES, line("exact", seed, right))
        files.append_line(script.LINES, line("key frames", seed, right - 4))
    files.append_line(script.LINES, line("exact", 2, 7))  # the next seed was interrupted after exact frames
    rows = script.table("A").rows
    assert [row[0] for row in rows] == ["exact", "key frames"] and rows[0][2] == ""
    assert rows[0][1].startswith("85.0") and rows[0][-1] == "3" and rows[1][1].startswith("65.0")
    assert rows[1][2].startswith("-20.0") and rows[1][3:] == ["0.100", "0.200", "2"]
