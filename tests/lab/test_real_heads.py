"""real_heads: windows, folds of wearers, and the table of its lines."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

SAMPLES = Path(os.environ.get("EGODISTILL_SAMPLE_DATA", ""), "classyglass")
needs_samples = pytest.mark.skipif(
    not (SAMPLES / "imu_packed.npz").exists(), reason="EGODISTILL_SAMPLE_DATA names no folder with classyglass/"
)


@pytest.fixture
def real_heads(fresh):
    return fresh("real_heads")


@needs_samples
@pytest.mark.parametrize(("study", "wearers", "activities"), [(1, 27, 11), (2, 20, 6)])
def test_windows_are_of_the_recordings(real_heads, study, wearers, activities):
    found = real_heads.cut(study, 10.0)
    assert len(np.unique(found.wearers)) == wearers and len(np.unique(found.labels)) == activities
    assert found.samples.shape[1:] == (1000, 6) and found.samples.dtype == np.float32
    first = found.recordings == 0
    _, _, samples = next(real_heads.recordings(study))
    assert_allclose(found.samples[first][1], samples[300 + 250 : 300 + 1250])  # 3 s are cut, and 2.5 s between two
    assert found.tested[first].tolist() == [k % 4 == 0 for k in range(first.sum())]
    gravity = np.linalg.norm(found.samples[:, :, :3].mean(1), axis=1)
    assert 9.5 < np.median(gravity) < 10.3 and np.abs(found.samples[:, :, 3:]).max() < 35


def test_folds_hold_out_whole_wearers(real_heads):
    wearers = np.repeat(np.arange(27), 5)
    found = real_heads.folds(wearers, 0)
    assert np.sum(found, axis=0).tolist() == [1] * len(wearers)
    for test in found:
        assert not set(wearers[test]) & set(wearers[~test]) and 5 <= len(set(wearers[test])) <= 6
    assert any((one != other).any() for one, other in zip(found, real_heads.folds(wearers, 1), strict=True))


def test_upright_windows_keep_what_a_rotation_keeps(real_heads):
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(32, 50, 6, generator=generator) + 3 * torch.randn(32, 1, 6, generator=generator)
    turned = real_heads.upright(samples)
    means = turned[:, :, :3].mean(1)
    assert_allclose(means[:, :2], 0, atol=1e-5)
    assert (means[:, 2] > 0).all()
    parts = [both.unflatten(2, (2, 3)) for both in (samples, turned)]
    before, after = [part @ part.transpose(2, 3) for part in parts]
    assert_allclose(before, after, rtol=1e-3, atol=1e-3)  # sizes, and the angle between both sensors
    before, after = [torch.linalg.det(torch.stack([part[:, 0, 0], part[:, 1, 0], part[:, 2, 1]], 1)) for part in parts]
    assert_allclose(before, after, rtol=1e-2, atol=1e-2)  # no mirror image


def line(model, seed, *confusions):
    about = {"study": 2, "seconds": 2.13, "model": model, "seed": seed, "numbers": 9, "recordings": [3, 4]}
    about["processor"] = "AMD EPYC 7B13"
    return about | {"wearers": {str(k): one for k, one in enumerate(confusions)}}


def test_the_table_is_that_of_its_lines(real_heads, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(real_heads, "LINES", tmp_path / "lines.jsonl")
    lines = [
        line("spectrum", 0, [[6, 4], [4, 6]], [[8, 2], [2, 8]]),
        line("spectrum", 1, [[5, 5], [5, 5]], [[8, 2], [4, 6]]),
        line("filterbank", 0, [[9, 1], [1, 9]], [[9, 1], [1, 9]]),
        line("filterbank", 1, [[8, 2], [2, 8]], [[10, 0], [0, 10]]),
    ]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
    monkeypatch.setattr("sys.argv", ["real_heads.py", "report", "--markdown", str(tmp_path / "table.md")])
    real_heads.main()
    rows = [row.strip("| ").split(" | ") for row in (tmp_path / "table.md").read_text().splitlines() if "|" in row]
    assert rows[2] == ["2", "2.13", "spectrum", "9", "2", "65.0", "64.9", "75.0", "55.0"]
    assert rows[3][:9] == ["2", "2.13", "filterbank", "9", "2", "90.0", "90.0", "75.0", "85.0"]
    assert rows[3][9].startswith("+25.0 (")
    assert "+25.0" in capsys.readouterr().out


def test_study_2_is_not_read_before_the_protocol_is_committed(real_heads, tmp_path, monkeypatch):
    monkeypatch.setattr(real_heads, "PROTOCOL", tmp_path / "protocol.json")
    monkeypatch.setattr(real_heads, "evaluate", None)
    for state, said in (("", False), (" M protocol.json", True)):
        if said:
            (tmp_path / "protocol.json").write_text(json.dumps(real_heads.PROTOCOL_TEXT))
        monkeypatch.setattr(real_heads.evidence, "git", lambda *words, state=state: state)
        with pytest.raises(SystemExit, match="commit it first" if said else "there is none"):
            real_heads.run(2, [0], ["filterbank"])


def test_the_protocol_is_what_is_frozen(real_heads):
    """Its text is not changed after the fact."""
    assert json.loads(real_heads.PROTOCOL.read_text()) == json.loads(json.dumps(real_heads.PROTOCOL_TEXT))


@needs_samples
def test_a_line_counts_each_tested_window_once(real_heads, tmp_path, monkeypatch):
    """With windows of some wearers, and one epoch."""
    whole = real_heads.cut(2, 10.0)
    few = np.isin(whole.wearers, np.unique(whole.wearers)[:5])
    monkeypatch.setattr(real_heads, "cut", lambda study, seconds: real_heads.Windows(*(one[few] for one in whole)))
    monkeypatch.setitem(real_heads.TRAINING, "epochs", 1)
    monkeypatch.setattr(real_heads, "LINES", tmp_path / "lines.jsonl")
    monkeypatch.setattr(real_heads, "STRIDES", {10.0: 2.5})
    monkeypatch.setattr(real_heads.evidence, "git", lambda *words: "")
    with pytest.raises(SystemExit, match=r"differs from the settings of this script \(training\.epochs\)"):
        real_heads.run(2, [0], ["filterbank"])
    monkeypatch.setattr(real_heads, "PROTOCOL", tmp_path / "protocol.json")
    real_heads.evidence.write_protocol(real_heads.PROTOCOL, real_heads.PROTOCOL_TEXT)
    with pytest.raises(SystemExit, match="is written already"):
        real_heads.evidence.write_protocol(real_heads.PROTOCOL, real_heads.PROTOCOL_TEXT)
    for _ in range(2):  # the second time, nothing is left to do
        real_heads.run(2, [0], ["filterbank"])
    (found,) = (json.loads(text) for text in (tmp_path / "lines.jsonl").read_text().splitlines())
    for wearer, counts in found["wearers"].items():
        own = few & whole.tested & (whole.wearers == int(wearer))
        assert np.sum(counts, axis=1).tolist() == np.bincount(whole.labels[own], minlength=6).tolist()
    assert found["numbers"] == 288 and found["recordings"][1] == len(np.unique(whole.recordings[few & whole.tested]))
