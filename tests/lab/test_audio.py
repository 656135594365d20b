"""Sound of files made here, and its spectrogram."""

import math
import shutil

import numpy as np
import pytest
from painted import OPTIONS, chirp, move, write_epic_imu, write_sound

from egodistill import DataError, data
from egodistill.video import VideoError
from lab import audio
from lab.__main__ import main
from lab.audio import add_sound, log_mel, read_audio


@pytest.mark.parametrize(("rate", "channels", "delay"), [(48000, 2, 0.0), (44100, 1, 0.5), (16000, 1, 0.0)])
def test_sound_is_where_the_player_has_it(tmp_path, rate, channels, delay):
    times = np.arange(12 * rate) / rate
    video = write_sound(tmp_path / "a.mp4", chirp(times), rate, channels=channels, delay=delay)
    starts = [8.2, 1.0, 1.3]  # not in order, one after a long way
    heard = read_audio(video, starts)
    assert heard.shape == (3, 32000) and heard.dtype == np.float32
    for start, sound in zip(starts, heard, strict=True):
        expected = chirp(start - delay + np.arange(32000) / 16000)
        lags = range(-40, 41)
        fit = [np.corrcoef(sound[500:-500], expected[500 + k : 31500 + k])[0, 1] for k in lags]
        # An MP4 tells the start of a late track in milliseconds: 16 samples.
        assert max(fit) > 0.98 and abs(lags[int(np.argmax(fit))]) <= (16 if delay else 1)


def test_missing_sound_is_said(tmp_path, steady):
    rate = 16000
    video = write_sound(tmp_path / "a.mkv", chirp(np.arange(9 * rate) / rate), rate, codec="flac", drop=[(3, 4)])
    np.testing.assert_allclose(read_audio(video, [6.0])[0], chirp(6 + np.arange(32000) / rate), atol=1e-3)
    for start in (2.0, 8.0):
        with pytest.raises(VideoError, match=f"a.mkv: no sound near {start:.3f} s"):
            read_audio(video, [start])
    with pytest.raises(VideoError, match=r"steady.mp4: no audio stream"):
        read_audio(steady, [0])


def test_log_mel_hears_a_tone_in_its_band():
    assert log_mel(np.zeros(32000, np.float32)).shape == (201, 40)
    assert log_mel(np.zeros((2, 3, 32000))).max() == pytest.approx(math.log(1e-6))
    times = np.arange(32000) / 16000
    centres = 700 * (10 ** (np.arange(1, 41) * 2595 * np.log10(1 + 8000 / 700) / 41 / 2595) - 1)
    for band in (5, 20, 38):
        bands = log_mel(np.sin(2 * np.pi * centres[band] * times))
        assert bands[3:-3].mean(0).argmax() == band and bands.dtype == np.float32
    # Power: twice the sound is four times the energy, and a Hann window of 400 has the gain 200.
    loud, soft = (log_mel(a * np.sin(2 * np.pi * 1000 * times))[100].max() for a in (2, 1))
    assert loud - soft == pytest.approx(math.log(4), abs=1e-3)
    assert 0.5 * 1e4 < np.exp(soft) < 1e4


def test_log_mel_equals_its_formula():
    """The discrete Fourier transform of each window, and triangles, written out."""
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.2, 8000) + np.sin(2 * np.pi * 440 * np.arange(8000) / 16000)
    n, k = np.arange(400), np.arange(201)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)
    transform = np.exp(-2j * np.pi * np.outer(k, n) / 400)
    mirrored = np.concatenate([sound[200:0:-1], sound, sound[-2:-202:-1]])
    power = [np.abs(transform @ (hann * mirrored[160 * s : 160 * s + 400])) ** 2 for s in range(51)]
    mel = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), 42)
    hertz = 700 * (10 ** (mel / 2595) - 1)
    bands = np.zeros((40, 201))
    for band, (low, middle, high) in enumerate(zip(hertz, hertz[1:], hertz[2:], strict=False)):
        for bin_, frequency in enumerate(40 * k):
            if low < frequency <= middle:
                bands[band, bin_] = (frequency - low) / (middle - low)
            elif middle < frequency < high:
                bands[band, bin_] = (high - frequency) / (high - middle)
    expected = np.log(np.array(power) @ bands.T + 1e-6)
    found = log_mel(sound)
    assert found.shape == (51, 40) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(log_mel(np.stack([0 * sound, sound]))[1], found)


@pytest.mark.parametrize(("gap", "lost"), [(0.064, False), (0.192, True), (0.64, True)])
def test_a_twentieth_of_the_sound_may_be_missing(tmp_path, gap, lost):
    video = write_sound(
        tmp_path / "a.mkv", chirp(np.arange(9 * 16000) / 16000), 16000, codec="flac", drop=[(3, 3 + gap)]
    )
    if lost:
        with pytest.raises(VideoError, match=r"no sound near 2\.500 s"):
            read_audio(video, [2.5])
    else:
        missing = np.abs(read_audio(video, [2.5])[0] - chirp(2.5 + np.arange(32000) / 16000)) > 0.01
        assert 0.01 < missing.mean() <= 0.05


# --- In a store


@pytest.fixture(scope="module")
def late(tmp_path_factory):
    """A transport stream, whose clock starts at 1.4 s, with pictures and a chirp, and its IMU."""
    folder = tmp_path_factory.mktemp("late")
    plain = write_sound(folder / "plain.mp4", chirp(np.arange(8 * 48000) / 48000), 48000, pictures=240)
    return move(plain, str(folder / "late.ts"), 1.4), write_epic_imu(folder, "late", 9)


def test_the_middle_two_seconds_of_each_clip_are_on_the_players_clock(late, tmp_path):
    """Of clips that are longer, and whichever splits they are in."""
    video, imu = late
    segments = [data.Segment("a", video, 0.5, 3.7, "x", imu), data.Segment("b", video, 4.4, 7.7, "x", imu, "test")]
    store = data.prepare(segments, tmp_path / "s", **OPTIONS | {"clip_seconds": 3.0})
    add_sound(store, progress=False)
    assert store.specs["imu"].seconds == 3.0
    sound = data.ClipStore(store.path).read("audio", slice(None))
    assert sound.shape == (len(store), 201, 40) and sound.dtype == np.float32
    starts = [clip["start"] + (3.0 - 2.0) / 2 for clip in store.clips]
    np.testing.assert_allclose(sound, log_mel(read_audio(video, starts)), atol=1e-4)
    for found, start in zip(sound, starts, strict=True):
        wanted = log_mel(chirp(start + np.arange(32000) / 16000))
        assert np.median(np.abs(found - wanted)[3:-3][wanted[3:-3] > 0]) < 0.1
    view = store.split("test")
    np.testing.assert_array_equal(view.read("audio", slice(None)), sound[[c["split"] == "test" for c in store.clips]])


def test_sound_that_was_interrupted_goes_on(kitchen, tmp_path, monkeypatch, capsys):
    video = write_sound(tmp_path / "a.mp4", chirp(np.arange(6 * 16000) / 16000), 16000, pictures=180)
    segments = [data.Segment(f"{k}", video, k / 2, k / 2 + 2.2, "x") for k in range(5)]
    store = data.prepare(segments, tmp_path / "s", **OPTIONS | {"imu": False})
    heard = []

    def listen(sound):
        heard.append(sound)
        if len(heard) == 3:
            raise KeyboardInterrupt
        return log_mel(sound)

    monkeypatch.setattr(audio, "log_mel", listen)
    with pytest.raises(KeyboardInterrupt):
        add_sound(store, progress=False)
    assert store.done("audio").sum() == 2
    assert main(["sound", str(store.path)]) == 0 and len(heard) == len(store) + 1  # once more for the third alone
    assert "all clips have their sound" in capsys.readouterr().out and store.done("audio").all()
    assert main(["sound", str(store.path)]) == 0 and len(heard) == len(store) + 1
    for row, clip in enumerate(store.clips):
        middle = (clip["start"] + clip["stop"]) / 2 - 1
        np.testing.assert_array_equal(store.read("audio", row), log_mel(read_audio(video, [middle])[0]))


def test_a_clip_without_sound_is_named(store, tmp_path, capsys):
    """Of a video without sound, and of one that lacks it for a while."""
    shutil.copytree(store.path, tmp_path / "silent")
    assert main(["sound", str(tmp_path / "silent")]) == 1
    assert "P01_101.MP4: no audio stream" in capsys.readouterr().err
    sound = chirp(np.arange(9 * 16000) / 16000)
    video = write_sound(tmp_path / "a.mkv", sound, 16000, codec="flac", drop=[(3, 4)], pictures=240)
    segments = [data.Segment("early", video, 0.3, 2.5, "x"), data.Segment("gap", video, 2.5, 4.7, "x")]
    holed = data.prepare(segments, tmp_path / "s", **OPTIONS | {"imu": False})
    with pytest.raises(DataError, match=r"a\.mkv: no sound near 2\.\d+ s; leave out gap"):
        add_sound(holed, progress=False)
    assert holed.done("audio").tolist() == [clip["id"] == "early" for clip in holed.clips]
