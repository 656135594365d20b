"""Working copies: the same pictures at the same times, telemetry and sound; nothing is lost when one fails."""

import shutil
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from painted import chirp, heard_at, move, write_sound, write_video
from panned import RATE

from egodistill import DataError, EgoDistillOSError, gpmf
from egodistill.data import read_imu
from egodistill.recordings import copies
from egodistill.recordings.offset import Faults
from egodistill.video import VideoError, probe, read_frames


def frame_times(video: Path) -> list[tuple[float, bool]]:
    with av.open(str(video), **gpmf.OPEN_OPTIONS) as container:
        stream = container.streams.best("video")
        zero = max(0.0, container.start_time / 1e6)
        return sorted((float(f.pts * stream.time_base) - zero, f.key_frame) for f in container.decode(stream))


@pytest.mark.parametrize(
    "name",
    [
        "nasa_13013_bframes_multistream.mp4",
        "vfr_h265_nonmonotonic.mp4",
        "rotate_90.mov",
        "rotate_180.mov",
        "h264_bt709_full_range.mp4",
        "h265_10bit.mp4",
        "av1_640x360.mkv",
        "unordered_4frames.mov",
    ],
)
def test_copy_shows_the_same_picture_at_the_same_time(sample_data, tmp_path, name):
    video, out = sample_data / "decoder-clips" / name, tmp_path / "copy.mp4"
    result = copies.transcode(video, out, quality=18)
    before, after = frame_times(video), frame_times(out)
    assert len(after) == result.frames and result.broken_packets == 0
    assert [t for t, _ in before] == [t for t, _ in after]  # to the last bit
    assert probe(out).duration == pytest.approx(probe(video).duration, abs=1e-4)
    keys = [i for i, (_, key) in enumerate(after) if key]
    assert keys == list(range(0, len(after), 12))
    times = np.random.default_rng(0).uniform(0, before[-1][0], 6)
    wanted, got = (read_frames(file, times, 64).astype(float) for file in (video, out))
    difference = np.abs(wanted - got).mean((1, 2, 3))
    assert difference.max() < 3
    assert result.copy_bytes == out.stat().st_size and result.source_bytes == video.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == ["copy.mp4"]


@pytest.mark.parametrize("uneven", [False, True])
def test_painted_frame_numbers_survive(tmp_path, uneven):
    """Every frame tells its own number, in eight black and white bars, at the middle of its own time."""
    video, out, count, tick = tmp_path / "numbers.mp4", tmp_path / "copy.mp4", 100, Fraction(1, 90_000)
    steps = np.random.default_rng(1).integers(900, 9000, count) if uneven else np.full(count, 3600)
    stamps = np.cumsum(steps) - steps[0]
    with av.open(str(video), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"bf": "3", "g": "250", "crf": "15"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        stream.time_base = stream.codec_context.time_base = tick
        for number, stamp in enumerate(stamps):
            bits = [255 * (number >> k & 1) for k in range(8)]
            picture = np.repeat(np.array(bits, np.uint8), 80)[None].repeat(360, 0)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="gray").reformat(format="yuv420p")
            frame.pts, frame.time_base = int(stamp), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    copies.transcode(video, out, short_side=90)
    assert (probe(out).width, probe(out).height) == (160, 90)
    times = (stamps[:-1] + np.diff(stamps) / 2) * float(tick)
    pictures = read_frames(out, times)[:, 1].mean(1)  # [n, width]
    bits = pictures[:, 10::20] > 127
    assert (bits @ (1 << np.arange(8)) == np.arange(count - 1)).all()


def test_telemetry_and_audio_are_kept(sample_data, tmp_path):
    video, out = sample_data / "gopro" / "max-heromode.mp4", tmp_path / "copy.mp4"
    result = copies.transcode(video, out)
    assert result.left_out == () and result.copy_bytes < result.source_bytes
    for field in ("accel_time", "accel", "gyro_time", "gyro"):
        before, after = (getattr(read_imu(file), field) for file in (video, out))
        assert before.dtype == after.dtype and np.array_equal(before, after)

    def audio(file: Path) -> list[tuple[int, bytes]]:
        with av.open(str(file), **gpmf.OPEN_OPTIONS) as container:
            return [(p.pts, bytes(p)) for p in container.demux(container.streams.audio[0]) if p.size]

    assert len(audio(video)) > 400 and audio(video) == audio(out)


def test_clock_of_a_file_that_starts_late(tmp_path, panned):
    """A transport stream starts at 1.4 s; what its player calls zero is zero in the copy."""
    video, out = tmp_path / "late.ts", tmp_path / "copy.mp4"
    with av.open(str(panned)) as source, av.open(str(video), "w") as target:
        stream = target.add_stream("libx264", rate=RATE, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for frame in source.decode(source.streams.video[0]):
            frame.pts, frame.pict_type = frame.pts + round(1.4 / frame.time_base), av.video.frame.PictureType.NONE
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    with av.open(str(video)) as container:
        assert container.start_time > 1_000_000
    copies.transcode(video, out)
    np.testing.assert_allclose([t for t, _ in frame_times(out)], [t for t, _ in frame_times(video)], atol=2e-6)


def test_broken_packets_are_counted(sample_data, tmp_path):
    result = copies.transcode(sample_data / "decoder-clips" / "corrupted.mp4", tmp_path / "copy.mp4")
    assert (result.frames, result.broken_packets) == (49, 1)


def test_what_is_refused(panned, tmp_path):
    original = panned.read_bytes()
    for out, words in (
        (panned, "this is the video itself"),
        (tmp_path / "copy.mkv", "end in .mp4"),
        (tmp_path / "none" / "copy.mp4", "does not exist"),
    ):
        for overwrite in (False, True):
            with pytest.raises(DataError, match=words):
                copies.transcode(panned, out, overwrite=overwrite)
    (tmp_path / "neon").mkdir()
    with pytest.raises(DataError, match=r"neon: a folder, not a file; give a video in it$"):
        copies.transcode(tmp_path / "neon", tmp_path / "copy.mp4")
    for name in ("imu.csv", "world_timestamps.csv", "scene.mp4"):
        (tmp_path / "neon" / name).touch()
    with pytest.raises(DataError, match=r"give a video in it, .*neon/scene\.mp4$"):
        copies.transcode(tmp_path / "neon", tmp_path / "copy.mp4")
    shutil.rmtree(tmp_path / "neon")
    link = tmp_path / "link.mp4"
    link.symlink_to(panned)
    with pytest.raises(DataError, match="this is the video itself"):
        copies.transcode(panned, link, overwrite=True)
    assert panned.read_bytes() == original

    out = tmp_path / "copy.mp4"
    out.write_text("something of value")
    with pytest.raises(DataError, match="overwrite=True"):
        copies.transcode(panned, out)
    assert out.read_text() == "something of value"
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(VideoError, match="cannot be opened"):
        copies.transcode(tmp_path / "text.mp4", out, overwrite=True)
    assert out.read_text() == "something of value"  # a failure costs nothing
    assert not list(tmp_path.glob(".*.part"))
    copies.transcode(panned, out, overwrite=True)
    assert probe(out).duration == pytest.approx(12)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["copy.mp4", "link.mp4", "text.mp4"]
    for setting in ({"short_side": 8}, {"keyframe_every": 0}, {"quality": 60}):
        with pytest.raises(DataError, match=str(next(iter(setting.values())))):
            copies.transcode(panned, tmp_path / "new.mp4", **setting)


def test_a_full_disk_is_the_copys_fault_and_not_the_originals(panned, tmp_path, full_disk):
    out = tmp_path / "copy.mp4"
    out.write_text("something of value")
    with full_disk(20_000), pytest.raises(EgoDistillOSError, match=r"copy\.mp4: cannot be written: File too large"):
        copies.transcode(panned, out, overwrite=True)
    assert out.read_text() == "something of value" and list(tmp_path.iterdir()) == [out]


def test_speedup_is_measured_on_request(panned, tmp_path):
    assert copies.transcode(panned, tmp_path / "a.mp4").speedup is None
    made = (copies.transcode(panned, tmp_path / f"{k}.mp4", measure=True) for k in range(5))
    assert any(copy.speedup > 1 for copy in made)  # 12 frames to decode, not 250; another program may disturb one


@pytest.mark.parametrize("suffix", ["ts", "mp4"])  # in an MP4 the two streams count in different ticks
def test_pictures_and_sound_of_a_late_file_stay_together_in_its_copy(tmp_path, suffix):
    plain = write_sound(tmp_path / "plain.mp4", chirp(np.arange(6 * 48000) / 48000), 48000, pictures=180)
    video, out = move(plain, str(tmp_path / f"late.{suffix}"), 1.4), tmp_path / "copy.mp4"
    copies.transcode(video, out)
    times = [0.5, 2.2, 3.4]
    for start, one, other in zip(times, heard_at(video, times), heard_at(out, times), strict=True):
        np.testing.assert_allclose(one, other, atol=0.02, err_msg=str(start))
    before, after = (read_frames(file, times, 32).mean((1, 2, 3)) for file in (video, out))
    np.testing.assert_allclose(before, after, atol=1.5)


def test_a_lower_quality_makes_a_smaller_copy(panned, tmp_path):
    sizes = [copies.transcode(panned, tmp_path / f"{crf}.mp4", quality=crf).copy_bytes for crf in (18, 23, 35)]
    assert sizes[0] > 1.3 * sizes[1] > 2 * sizes[2]


@pytest.mark.parametrize(("size", "short"), [((160, 120), 64), ((160, 120), 50), ((120, 160), 31), ((130, 98), 500)])
def test_copies_have_the_nearest_even_size(tmp_path, size, short):
    picture = np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    video = write_video(tmp_path / "a.mp4", np.arange(3) / RATE, pictures=[picture] * 3, crf=10, preset="veryfast")
    copies.transcode(video, tmp_path / "b.mp4", short_side=short)
    scale = min(1.0, short / min(size))
    info = probe(tmp_path / "b.mp4")
    for found, side in zip((info.width, info.height), size, strict=True):
        assert found % 2 == 0 and abs(found - side * scale) <= 1


def test_of_several_frames_with_one_time_the_last_is_copied():
    frames = [SimpleNamespace(pts=pts, name=name) for pts, name in zip((0, 1, 1, 3, 2, 4, 4), "abcdefg", strict=True)]
    faults = Faults()
    assert [frame.name for frame in copies._in_order(iter(frames), faults)] == ["a", "c", "d", "g"]
    assert faults.repeated == 3
