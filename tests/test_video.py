"""Frames and sound: of files made here, whose frames show their numbers, and of real ones."""

import math
import os
import re
import shutil
import socketserver
import struct
import wave
from fractions import Fraction
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
from fuzz import peak
from painted import (
    HEIGHT,
    STEADY,
    TICKS,
    WIDTH,
    X264,
    break_packets,
    chirp,
    expected_numbers,
    number_of,
    with_latin1,
    with_zeros,
    write_sound,
    write_video,
)

from egodistill import gpmf
from egodistill.recordings import checks, copies
from egodistill.recordings.recording import open_recording
from egodistill.video import (
    FrameReader,
    Scaler,
    VideoError,
    clip_times,
    demux,
    frames_at,
    open_video,
    probe,
    read_frames,
)


def ask(starts, seed=0):
    """Times that catch a reader out: on the boundaries, beside them, in between, unsorted."""
    rng = np.random.default_rng(seed)
    end = starts[-1] + 0.02
    picked = rng.choice(starts, 12)
    times = np.concatenate(
        [
            picked,
            picked - 1e-4,
            picked + 1e-4,
            (starts[3:5] + starts[4:6]) / 2,
            rng.uniform(0, end, 12),
            [0, -1, starts[-1], end, starts[7], starts[7]],
        ]
    )
    return rng.permutation(times)


H265 = {"preset": "ultrafast", "x265_params": "keyint=20:crf=8:log-level=0"}


UNEVEN = np.cumsum(np.resize([0.0334, 0.0667, 0.0167, 0.5, 0.1001], 150)) - 0.0334


OPEN_GOP = X264 | {"x264_params": "open-gop=1:keyint=15:min-keyint=15:scenecut=0:bframes=3"}


@pytest.mark.parametrize(
    ("name", "starts", "codec", "options"),
    [
        ("bframes.mp4", STEADY, "libx264", X264),
        ("one_key.mp4", STEADY, "libx264", X264 | {"g": 1000}),
        ("open_gop.mp4", STEADY, "libx264", OPEN_GOP),
        ("uneven.mp4", np.round(UNEVEN * TICKS) / TICKS, "libx264", X264),
        ("late.mp4", STEADY + 0.7, "libx264", X264),
        ("h265.mp4", STEADY, "libx265", H265),
        ("vp9.webm", STEADY, "libvpx-vp9", {"g": 30, "deadline": "realtime", "crf": 5, "b": 0}),
        ("bframes.mkv", STEADY, "libx264", X264),
        ("mpeg4.avi", STEADY, "mpeg4", {"g": 12, "qscale": 1}),
        ("transport.ts", STEADY, "libx264", X264),
    ],
)
def test_frames_are_exact(tmp_path, name, starts, codec, options):
    video = write_video(tmp_path / name, starts, codec, **options)
    if name in ("late.mp4", "transport.ts"):  # a player's clock starts with the first frame
        starts = starts - starts[0]
    starts = np.round(starts, 3) if name.endswith(("webm", "mkv")) else starts
    for seed in range(4):
        times = ask(starts, seed)
        found = read_frames(video, times, threads=seed % 2)
        assert found.shape == (len(times), 3, HEIGHT, WIDTH) and found.dtype == np.uint8
        assert [number_of(p) for p in found] == expected_numbers(starts, times)
        few = np.sort(times)[[3, -8]]
        found = read_frames(video, few, 40)
        assert [number_of(p) for p in found] == expected_numbers(starts, few)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_metadata_that_are_not_utf8_do_not_hide_a_video(suffix, tmp_path):
    """Old PyAV raises for them unless told not to, and PyAV 19 has no way to tell it so."""
    titles = {"title": "A TITLE ..", "handler_name": "HANDLER.."}
    video = write_video(tmp_path / f"latin.{suffix}", STEADY[:30], codec="mpeg4", metadata=titles)
    with_latin1(video, "A TITLE ..", "Caf\xe9 na\xefve")
    if suffix == "mp4":
        with_latin1(video, "HANDLER..", "Cam\xe9ra \xb51")
    assert probe(video).duration == pytest.approx(1.2, abs=0.05)
    assert [number_of(p) for p in read_frames(video, STEADY[:30:7])] == list(range(0, 30, 7))
    copy = tmp_path / "copy.mp4"
    copies.transcode(video, copy)
    assert [number_of(p) for p in read_frames(copy, STEADY[:30:7])] == list(range(0, 30, 7))


@pytest.fixture
def decoded(monkeypatch):
    """The times of all frames that come out of the decoder, wanted or not."""
    seen = []
    decode = FrameReader.decode

    def counted(self, packet):
        before = set(self.decoded)
        decode(self, packet)
        seen.extend(set(self.decoded) - before)

    monkeypatch.setattr(FrameReader, "decode", counted)
    return seen


def test_reader_skips_ahead_but_decodes_nothing_twice(steady, decoded):
    read_frames(steady, [5.7], threads=1)  # frame 142; the key frame before it is 112
    assert len(decoded) < 20  # nothing refers to some twelve of the 31
    decoded.clear()
    read_frames(steady, [0.1, 5.0], threads=1)  # frames 2 and 125
    assert len(decoded) < 14
    decoded.clear()
    read_frames(steady, STEADY, threads=1)
    assert len(decoded) == len(set(decoded)) == 150


def test_first_key_frame_after_the_wanted_time_is_not_taken(tmp_path):
    """With B-frames a key frame is decoded before frames that are shown before it."""
    video = write_video(tmp_path / "a.mp4", STEADY, **OPEN_GOP)
    for i in range(1, 150):
        assert number_of(read_frames(video, [STEADY[i]])[0]) == i


def test_size_crop_and_colour(tmp_path):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, :16], picture[:, 16:64], picture[:, 64:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    video = write_video(tmp_path / "a.mp4", [0, 0.04], pictures=[picture] * 2, crf=1)
    whole = read_frames(video, [0])[0]
    assert whole[0, 24, 4] > 200 and whole[2, 24, 4] < 60  # red is the first channel, on the left
    assert whole[2, 24, 76] > 200 and whole[0, 24, 76] < 60
    squeezed = read_frames(video, [0], 40)[0]
    assert squeezed.shape == (3, 40, 40)
    assert squeezed[0, 20, 2] > 200 and squeezed[2, 20, 37] > 200
    cropped = read_frames(video, [0], 24, crop=True)[0]  # exactly the green middle
    assert cropped.shape == (3, 24, 24) and cropped[1, :, 1:-1].min() > 200
    assert read_frames(video, [0], 96)[0].shape == (3, 96, 96)


def test_last_frame_stands_a_moment_longer(steady):
    assert number_of(read_frames(steady, [5.96 + 0.04 + 0.09])[0]) == 149
    with pytest.raises(VideoError, match=r"steady.mp4: no frame at 6.200 s"):
        read_frames(steady, [0, 6.2])
    with pytest.raises(ValueError, match=r"steady.mp4: the times contain"):
        read_frames(steady, [0, np.nan])
    found = list(frames_at(steady, [6.2, 1.0, 0.0]))
    assert [index for index, _ in found] == [2, 1, 0] and found[-1][1] is None


# Frames from 0 to 3 s, none for twenty seconds, and frames again from 23 s.
HOLE = np.concatenate([STEADY[:75], STEADY[75:] + 20])


KEY_EVERY_10 = {"bf": 2, "crf": 10, "x264_params": "keyint=10:min-keyint=10:scenecut=0"}


@pytest.mark.parametrize("name", ["hole.mp4", "hole.mkv", "hole.ts"])
def test_a_frame_does_not_fill_a_hole_in_the_recording(tmp_path, name):
    video = write_video(tmp_path / name, HOLE, **KEY_EVERY_10)
    last = HOLE[74]
    assert number_of(read_frames(video, [last + 0.999])[0]) == 74
    for lost in (last + 1.01, 12.0, 22.99):
        message = rf"{name}: no frame at {lost:.3f} s: none begins between 2.960 and 23.000 s.* max_hold .*, 1 s"
        for exact in (True, False):
            with pytest.raises(VideoError, match=message):
                read_frames(video, [0.5, lost, 23.5], exact=exact)
    times = [1.0, last, last + 0.5, 10.0, 15.0, 23.0, 24.1]
    for exact, wanted in ((True, [25, 74, 74, None, None, 75, 102]), (False, [20, 70, 70, None, None, 80, 100])):
        found = dict(frames_at(video, times, exact=exact))
        assert [found[i] is None for i in range(7)] == [number is None for number in wanted]
        patient = read_frames(video, times, exact=exact, max_hold=25)
        numbers = [number_of(picture) for picture in patient]
        assert all(n == w for n, w in zip(numbers, wanted, strict=True) if w is not None), numbers
        assert numbers[3] == (74 if exact else 70) and numbers[4] == (74 if exact else 80)


@pytest.mark.parametrize("exact", [True, False])
def test_a_video_that_starts_long_after_its_sound_has_no_first_frame_for_that_time(tmp_path, exact):
    video = write_video(tmp_path / "late.mp4", STEADY + 3.0, **X264)
    with open_video(video) as container:
        assert container.start_time == 3_000_000
    assert number_of(read_frames(video, [0.0], exact=exact)[0]) == 0  # the clock starts with the first stream
    late = tmp_path / "sound.mp4"
    with av.open(video) as source, av.open(str(late), "w") as target:
        picture = target.add_stream_from_template(source.streams.video[0])
        sound = target.add_stream("aac", rate=16000, layout="mono")
        for at in range(0, 16000 * 9, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, at
            target.mux(sound.encode(frame))
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = picture
                target.mux(packet)
    assert number_of(read_frames(late, [2.1], exact=exact)[0]) == 0
    with pytest.raises(VideoError, match=r"no frame at 1.000 s: none begins between 0.000 and 3.000 s"):
        read_frames(late, [1.0], exact=exact)
    with pytest.raises(VideoError, match=r"no frame at 0.000 s"):
        read_frames(late, [0.0, 2.1, 5.0], exact=exact)


@pytest.mark.parametrize("name", ["hole.mp4", "hole.mkv", "hole.ts", "fragments.mp4"])
def test_holes_are_found_without_decoding(tmp_path, name, decoded):
    options = dict(KEY_EVERY_10)
    if name == "fragments.mp4":
        options["container"] = {"movflags": "frag_keyframe+empty_moov"}
    video = write_video(tmp_path / name, HOLE, **options)
    with open_video(video) as container:
        reader = FrameReader(container, video)
        assert reader.holes() == [pytest.approx((2.96, 23.0), abs=1e-3)]
    with open_video(video) as container:
        assert FrameReader(container, video, max_hold=30).holes() == []
    whole = write_video(tmp_path / f"whole_{name}", np.linspace(0, 9, 10), **options)  # one frame a second
    with open_video(whole) as container:
        assert FrameReader(container, whole).holes() == []
    assert not decoded


def test_an_address_is_the_path_of_a_file(tmp_path, steady, monkeypatch):
    """FFmpeg would ask a server, or join files."""
    requests = []
    with socketserver.TCPServer(("127.0.0.1", 0), lambda request, *rest: requests.append(request)) as server:
        server.timeout = 0.2
        monkeypatch.chdir(tmp_path)
        address = f"http:/127.0.0.1:{server.server_address[1]}/x.mp4"
        Path(address).parent.mkdir(parents=True)
        Path(address).write_bytes(Path(steady).read_bytes())
        assert number_of(read_frames(address, [1.0])[0]) == 25
        for name in ("a.m3u8", "a.mp4"):  # a playlist refers to the address
            Path(name).write_text(
                f"#EXTM3U\n#EXTINF:5,\nhttp://127.0.0.1:{server.server_address[1]}/x.ts\n#EXT-X-ENDLIST\n"
            )
            for read in (lambda path: read_frames(path, [1.0]), probe, gpmf.read_video):
                with pytest.raises((VideoError, gpmf.GPMFError)):
                    read(name)
        server.handle_request()
    assert not requests


def test_of_several_video_streams_the_one_that_players_show_is_read(tmp_path, sample):
    video = sample("decoder-clips/nasa_13013_bframes_multistream.mp4")
    found = probe(video)
    assert (found.width, found.height) == (480, 270)
    with av.open(video) as container:
        container.streams.video[1].codec_context.thread_count = 1
        wanted = [frame for frame in container.decode(video=1) if frame.time <= 2.0][-1].to_ndarray(format="rgb24")
    np.testing.assert_array_equal(read_frames(video, [2.0], threads=1)[0].transpose(1, 2, 0), wanted)


def test_videos_that_cannot_be_read(steady, tmp_path):
    content = Path(steady).read_bytes()
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noindex.mp4").write_bytes(content[: content.rindex(b"moov") - 4])
    (tmp_path / "text.mp4").write_text("hello")
    with wave.open(str(tmp_path / "audio.wav"), "wb") as audio:
        audio.setparams((1, 2, 8000, 0, "NONE", ""))
        audio.writeframes(b"\0\0" * 8000)
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    cases = {
        "gone.mp4": "no such file",
        "loop.mp4": "a link that leads to no file",
        "pipe.mp4": "not a regular file",
        ".": "a folder",
        "empty.mp4": "0 bytes",
        "noindex.mp4": "cannot be opened.*index",
        "text.mp4": "cannot be opened",
        "audio.wav": "no video stream",
    }
    for name, words in cases.items():
        for call in (lambda path: read_frames(path, [0]), probe):
            with pytest.raises(VideoError, match=words) as caught:
                call(tmp_path / name)
            assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("video", "times", "size", "words"),
    [
        ("steady.mp4", 1.0, None, r"steady\.mp4: times must be a list of seconds, such as \[5\.0\]; got 1\.0"),
        ("steady.mp4", "1", None, "times must be a list"),
        ("steady.mp4", ["a"], None, "times must be a list"),
        ("steady.mp4", [[1.0]], None, "times must be a list"),
        ("steady.mp4", [], None, "no times given"),
        ("steady.mp4", [1.0], (64, 64), r"size must be one whole number, for height and width; got \(64, 64\)"),
        (["steady.mp4"], [1.0], None, "the path of one file, such as .*; got list"),
    ],
)
def test_what_is_no_list_of_times_no_size_or_no_path(video, times, size, words):
    with pytest.raises((ValueError, VideoError), match=words):
        read_frames(video, times, size)


def test_a_missing_right_is_no_broken_video(tmp_path, monkeypatch):
    def refuse(name, **options):
        raise av.error.PermissionError(13, "Permission denied", name)

    (tmp_path / "a.mp4").write_bytes(b"\0")
    monkeypatch.setattr(av, "open", refuse)
    with pytest.raises(VideoError, match=r"a\.mp4: cannot be read: Permission denied; give yourself the right.*chmod"):
        probe(tmp_path / "a.mp4")


def test_broken_packets_cost_no_other_frames_and_hide_none(tmp_path):
    video = write_video(tmp_path / "a.mp4", STEADY, bf=0, g=1, crf=10)  # every frame a key frame
    one = break_packets(video, tmp_path / "one.mp4", {50})
    found = [number_of(p) for p in read_frames(one, STEADY[[0, 49, 51, 149]])]
    assert found == [0, 49, 51, 149]
    many = break_packets(video, tmp_path / "many.mp4", set(range(50, 80)))
    assert number_of(read_frames(many, [STEADY[80]])[0]) == 80
    times = [0.0, STEADY[65], STEADY[100]]
    lost = [frame is None for _, frame in frames_at(many, times)]
    assert lost == [False, True, False]
    with pytest.raises(VideoError, match=r"many.mp4: no frame at 2.600 s"):
        read_frames(many, times)
    tail = break_packets(video, tmp_path / "tail.mp4", set(range(140, 150)))
    with pytest.raises(VideoError, match=r"tail.mp4: no frame at 5.960 s"):
        read_frames(tail, [STEADY[149]])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("number", "until"), [(32, 50), (50, 75), (149, 150)])
def test_what_refers_to_damaged_data_is_lost_up_to_the_next_key_frame(tmp_path, number, until, threads):
    noise = np.random.default_rng(0).integers(0, 255, (150, 64, 96, 3), dtype=np.uint8)
    video = write_video(tmp_path / "a.mp4", STEADY, pictures=noise, **keys_every(25, 0))
    sound = read_frames(video, STEADY)
    with_zeros(video, tmp_path / "zeros.mp4", number, 500, 800)
    for exact in (True, False):
        found = [frame is None for _, frame in frames_at(tmp_path / "zeros.mp4", STEADY, exact=exact, threads=threads)]
        nearest = [number == 50 and 37 < k < 63 for k in range(150)]  # of the key frames 25, 50 and 75
        assert found == ([number <= k < until for k in range(150)] if exact else nearest)
    good = [k for k in range(150) if not number <= k < until]
    assert np.array_equal(read_frames(tmp_path / "zeros.mp4", STEADY[good]), sound[good])
    times = f"no frame at {STEADY[until - 1]:.3f} s: its data are damaged from {STEADY[number]:.3f} s to the next key"
    with pytest.raises(VideoError, match=f"zeros.mp4: {times}"):
        read_frames(tmp_path / "zeros.mp4", STEADY[until - 1 : until])


def test_what_refers_to_a_frame_that_the_decoder_marks_is_lost(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (150, 64, 96, 3), dtype=np.uint8)
    video = write_video(tmp_path / "a.mp4", STEADY, pictures=noise, **keys_every(25, 0))
    with_zeros(video, tmp_path / "ones.mp4", 32, 500, 800, b"\xff")
    found = [frame is None for _, frame in frames_at(tmp_path / "ones.mp4", STEADY, threads=1)]
    assert found == [32 <= k < 50 for k in range(150)]


def test_a_damaged_frame_to_which_no_other_refers_is_lost_alone(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (150, 64, 96, 3), dtype=np.uint8)
    video = write_video(tmp_path / "a.mp4", STEADY, pictures=noise, **keys_every(25, 1))
    with av.open(video) as container:
        order = sorted((packet.pts, k) for k, packet in enumerate(container.demux(video=0)) if packet.size)
    shown = next(n for n in range(60, 64) if order[n][1] > order[n + 1][1])  # a B-frame
    with_zeros(video, tmp_path / "zeros.mp4", order[shown][1], 500, 300)
    found = [frame is None for _, frame in frames_at(tmp_path / "zeros.mp4", STEADY)]
    assert [k for k in range(150) if found[k]] == [shown]


def test_pictures_of_eight_and_of_ten_bits_are_alike():
    planes = np.random.default_rng(0).integers(16, 235, (96, 48), dtype=np.uint8)
    eight = av.VideoFrame.from_ndarray(planes, "yuv420p")
    ten = eight.reformat(format="yuv420p10le")
    for size in (None, 24):
        pictures = [Scaler(size)(frame).astype(int) for frame in (eight, ten)]
        assert np.abs(pictures[0] - pictures[1]).mean() < 1.5


def packets_of(video):
    """Time, tick and key-frame mark of each packet, in decoding order."""
    with av.open(video) as container:
        stream = container.streams.video[0]
        zero = max(0.0, (container.start_time or 0) / 1e6)
        found = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.size]
        return [(float(pts * stream.time_base) - zero, key) for pts, key in found], float(stream.time_base)


def cheapest(packets, t, tolerance, tick):
    """Return which packets are decoded for the cheapest frame near t, by trying all; the last is the frame."""
    runs = []
    for i, (shown, _) in enumerate(packets):
        start = max(k for k, (begin, is_key) in enumerate(packets) if is_key and begin <= shown)
        runs.append(range(start, i + 1))
    near = [run for run in runs if abs(packets[run[-1]][0] - t) <= tolerance + 1e-6]
    fewest = min(map(len, near), default=0)
    best = [run for run in near if len(run) == fewest]
    if best:  # several: key frames
        assert len(best) == 1 or fewest == 1
        on_tick = math.floor((t + 1e-6) / tick) * tick
        return min(best, key=lambda run: (round(abs(packets[run[-1]][0] - on_tick), 7), packets[run[-1]][0]))
    before = [run for run in runs if packets[run[-1]][0] <= t + 1e-6] or [runs[0]]
    return max(before, key=lambda run: packets[run[-1]][0])


@pytest.fixture
def fed(monkeypatch):
    """The times of all packets that are given to a decoder."""
    seen, decode = [], FrameReader.decode

    def counted(self, packet):
        if packet is not None:
            seen.append(packet.pts)
        decode(self, packet)

    monkeypatch.setattr(FrameReader, "decode", counted)
    return seen


def keys_every(g, b):
    return {"crf": 10, "preset": "veryfast", "x264_params": f"keyint={g}:min-keyint={g}:scenecut=0:bframes={b}"}


# Name, times, codec, options, and how many packets more than necessary may be decoded for many times. A decoder gives
# a frame back after as many more packets as it reorders; where that is None, it is cheaper not to seek.
CHEAP = [
    ("g1.mp4", STEADY, "libx264", keys_every(1, 0), None),
    ("g5.mp4", STEADY, "libx264", keys_every(5, 3), 4),
    ("g15.mkv", STEADY, "libx264", keys_every(15, 0), 0),
    ("g30.mp4", STEADY, "libx264", keys_every(30, 0), 0),
    ("g30_b.mkv", STEADY, "libx264", keys_every(30, 3), 4),
    ("g250_b.mp4", STEADY, "libx264", keys_every(250, 3), 4),
    ("open_gop.mp4", STEADY, "libx264", OPEN_GOP, 4),
    ("late.mp4", STEADY + 0.7, "libx264", keys_every(15, 2), 4),
    ("uneven.mp4", np.round(UNEVEN * TICKS) / TICKS, "libx264", keys_every(15, 2), None),
    ("uneven.mkv", np.round(UNEVEN * TICKS) / TICKS, "libx264", keys_every(40, 2), None),
    ("h265.mp4", STEADY, "libx265", H265, 4),
    ("vp9.webm", STEADY, "libvpx-vp9", {"g": 30, "deadline": "realtime", "crf": 5, "b": 0}, 0),
    ("mpeg4.avi", STEADY, "mpeg4", {"g": 12, "qscale": 1}, 0),
    ("fragments.mp4", STEADY, "libx264", X264 | {"container": {"movflags": "frag_keyframe+empty_moov"}}, 4),
    ("transport.ts", STEADY, "libx264", X264, None),  # has no index of key frames
]


@pytest.mark.parametrize(("name", "starts", "codec", "options", "more"), CHEAP)
def test_the_frame_within_a_tolerance_is_the_one_that_needs_the_fewest_packets(
    tmp_path, fed, name, starts, codec, options, more
):
    video = write_video(tmp_path / name, starts, codec, **options)
    packets, tick = packets_of(video)
    order = np.argsort([shown for shown, _ in packets], kind="stable")
    number = {int(place): k for k, place in enumerate(order)}
    rng = np.random.default_rng(0)
    end = packets[int(order[-1])][0]
    spread = np.arange(0.1, end, 0.533)
    for tolerance in (0.03, 0.25, 0.6):
        for times in (rng.permutation(spread), rng.uniform(0, end, 10), np.arange(2, 3, 0.04), STEADY[::9]):
            runs = [cheapest(packets, t, tolerance, tick) for t in times]
            for threads in (1, 2):
                found = read_frames(video, times, tolerance=tolerance, threads=threads)
                assert [number_of(p) for p in found] == [number[run[-1]] for run in runs]
        for t in spread[::3]:  # alone, in the same way, and at the least cost
            fed.clear()
            run = cheapest(packets, t, tolerance, tick)
            assert number_of(read_frames(video, [t], tolerance=tolerance, threads=1)[0]) == number[run[-1]]
            assert len(fed) == len(run) or name == "transport.ts"
    if more is not None:  # at several times, what they need together
        runs = [cheapest(packets, t, 0.25, tick) for t in spread]
        fed.clear()
        read_frames(video, spread, tolerance=0.25, threads=1)
        least, spent = len({place for run in runs for place in run}), len(fed)
        assert least <= spent <= least + more
        fed.clear()
        read_frames(video, spread, threads=1)
        assert spent < len(fed)


def test_cheap_frames_close_together_are_decoded_once_and_those_far_apart_are_sought(tmp_path, fed, monkeypatch):
    options = keys_every(100, 8)
    options["x264_params"] += ":b-pyramid=none:b-adapt=0"
    video = write_video(tmp_path / "a.mp4", np.arange(500) / 25, **options)
    # At 0.5 and 0.54 s, frames 12 and 13 are on screen, and 10 and 11 are chosen, which no frame refers to.
    several = [(0.11, [0.5, 0.54]), *((tolerance, np.arange(0.5, 3.5, 0.08)) for tolerance in (0.03, 0.07, 0.25))]
    for tolerance, times in several:
        fed.clear()
        read_frames(video, times, tolerance=tolerance, threads=3)  # threads give frames back later
        assert len(fed) == len(set(fed))  # no skipped frame is wanted later
    read, demuxed = [], demux

    def counted(*arguments):
        for packet in demuxed(*arguments):
            read.append(packet.pts)
            yield packet

    monkeypatch.setattr("egodistill.video.demux", counted)
    read_frames(video, [0.5, 17.0], tolerance=0.25, threads=1)
    assert len(read) < 80


def test_without_a_frame_within_the_tolerance_the_rule_of_exact_frames_holds(tmp_path):
    slow = write_video(tmp_path / "slow.mp4", np.arange(0, 12, 2.0), **X264)
    times = [0.3, 1.9, 2.2, 3.9, 5.0, 6.0]
    found = read_frames(slow, times, tolerance=0.25, max_hold=2)
    assert [number_of(p) for p in found] == [0, 1, 1, 2, 2, 3]
    with pytest.raises(VideoError, match=r"slow.mp4: no frame at 5.000 s: none begins .* max_hold .*, 0.5 s"):
        read_frames(slow, times, tolerance=0.25, max_hold=0.5)
    assert [frame is None for _, frame in frames_at(slow, times, tolerance=0.25, max_hold=0.5)] == [
        *[False] * 4,
        True,
        False,
    ]
    assert [frame is None for _, frame in frames_at(slow, [2.9, 3.1], tolerance=0.25)] == [False, True]
    assert number_of(read_frames(slow, [10.24], tolerance=0.25)[0]) == 5  # before the end of the last frame or after it


def test_a_cheap_frame_that_is_broken_has_its_substitute_and_hides_none(tmp_path):
    video = write_video(tmp_path / "a.mp4", STEADY, **keys_every(25, 0))
    broken = break_packets(video, tmp_path / "broken.mp4", {50})
    assert number_of(read_frames(broken, [1.1], tolerance=0.25)[0]) == 25
    found = [frame is None for _, frame in frames_at(broken, [1.1, 2.1, 4.1], tolerance=0.25)]
    assert found[0] is found[2] is False


@pytest.mark.parametrize(
    "options", [{"tolerance": -0.1}, {"tolerance": 11}, {"tolerance": math.nan}, {"tolerance": 0.2, "exact": False}]
)
def test_a_tolerance_out_of_range_or_with_key_frames_is_refused(steady, options):
    with pytest.raises(ValueError, match=r"steady.mp4: tolerance .* must be from 0 to 10 s, and 0 for key frames"):
        read_frames(steady, [1.0], **options)
    with pytest.raises(ValueError, match=r"tolerance .* must be"):
        list(frames_at(steady, [1.0], **options))


def test_frames_before_the_window_are_not_kept(tmp_path, monkeypatch):
    """One key frame for 40 s: packets and frames before the window are decoded and dropped, not held."""
    starts = np.arange(1000) / 25
    video = write_video(tmp_path / "long.mp4", starts, **keys_every(5000, 2))
    most = {"ahead": 0, "decoded": 0}
    decode = FrameReader.decode

    def watched(self, packet):
        decode(self, packet)
        for name in most:
            most[name] = max(most[name], len(getattr(self, name)))

    monkeypatch.setattr(FrameReader, "decode", watched)
    found = read_frames(video, [39.0, 1.0, 38.9], tolerance=0.5, threads=1)
    packets, tick = packets_of(video)
    order = np.argsort([shown for shown, _ in packets])
    number = {int(place): k for k, place in enumerate(order)}
    wanted = [number[cheapest(packets, t, 0.5, tick)[-1]] for t in (39.0, 1.0, 38.9)]
    assert [number_of(p) for p in found] == wanted
    assert most["ahead"] <= 545 and most["decoded"] < 10


TEMPORAL_LAYERS = {"preset": "ultrafast", "x265_params": "keyint=40:bframes=3:temporal-layers=3:log-level=0"}


@pytest.mark.parametrize(
    ("name", "codec", "options", "skips"),
    [
        ("a.mp4", "libx264", X264, True),
        ("a.mkv", "libx264", X264, True),
        ("a.mp4", "libx265", H265, True),
        ("a.mp4", "libx265", TEMPORAL_LAYERS, False),
        ("a.mp4", "mpeg4", {"bf": 2, "g": 20}, False),
    ],
)
def test_frames_left_out_change_no_pixel(tmp_path, decoded, name, codec, options, skips):
    """In H.265 a frame of a lower temporal layer that its own layer does without may serve a higher one."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (HEIGHT + 64, WIDTH + 64, 3), np.uint8)
    pictures = [ground[i % 64 :, i // 2 % 64 :][:HEIGHT, :WIDTH] for i in range(100)]
    video = write_video(tmp_path / name, STEADY[:100], codec, pictures=pictures, **options)
    with av.open(video) as container:
        everything = sorted(container.decode(video=0), key=lambda frame: frame.pts)
        everything = [frame.to_ndarray(format="rgb24").transpose(2, 0, 1) for frame in everything]
    for k in range(0, 100, 7):
        found = read_frames(video, [STEADY[k] + 0.02], threads=1)[0]
        np.testing.assert_array_equal(found, everything[k])
    single = len(decoded)
    decoded.clear()
    found = read_frames(video, STEADY[:100:7] + 0.02, threads=1)
    np.testing.assert_array_equal(found, everything[::7])
    assert (len(decoded) < 85) == skips and single >= len(decoded)


def test_the_clock_of_a_video_starts_with_its_first_frame(tmp_path):
    early, late = (write_video(tmp_path / f"{t}.mkv", STEADY[:90] + t, **X264) for t in (0, 3))
    assert probe(late).duration == pytest.approx(probe(early).duration, abs=0.01) == pytest.approx(3.6, abs=0.05)
    assert [number_of(p) for p in read_frames(late, [0.0, 3.5])] == [0, 87]
    assert not any("truncated" in note for note in checks.check(late).notes)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_video_with_one_key_frame_is_decoded_once(tmp_path, decoded, name):
    video = write_video(tmp_path / name, np.arange(120) / 4, bf=0, x264_params="keyint=1000:scenecut=0")
    found = read_frames(video, [0, 11, 22, 29], threads=1)
    assert [number_of(p) for p in found] == [0, 44, 88, 116]
    assert len(decoded) < 125  # 117 and one start over, after which the reader knows
    with av.open(video) as container:
        packets = list(container.demux(video=0))
    assert sum(packet.is_keyframe for packet in packets) == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "fragments.mp4"])
@pytest.mark.parametrize("bframes", [0, 3])
def test_nearest_key_frame(tmp_path, decoded, name, bframes):
    options = X264 | {"bf": bframes, "x264_params": "keyint=20:min-keyint=20:scenecut=0"}
    options |= {"container": {"movflags": "frag_keyframe+empty_moov"}} if name == "fragments.mp4" else {}
    video = write_video(tmp_path / name, STEADY, **options)
    keys = np.arange(0, 150, 20)
    times = np.random.default_rng(0).permutation([*np.arange(0.003, 6, 0.07), 0.4, -1, 6.9])  # 0.4: a tie
    nearest = [int(keys[np.abs(STEADY[keys] - max(t, 0)).argmin()]) for t in times]
    for threads in (1, 4):
        decoded.clear()
        found = read_frames(video, times, exact=False, threads=threads)
        assert [number_of(p) for p in found] == nearest
        assert len(keys) == len(set(decoded)) <= len(decoded) <= len(keys) + threads - 1
    decoded.clear()
    assert number_of(read_frames(video, [3.7], exact=False, threads=1)[0]) == 100 and len(decoded) == 1
    with pytest.raises(VideoError, match=r"no frame at 9.000 s: the video ends earlier"):
        read_frames(video, [3.7, 9], exact=False)


def test_threads_share_the_recording_out_and_change_nothing(steady, decoded):
    times = np.random.default_rng(0).permutation(np.repeat(STEADY[::2], 2))
    expected = read_frames(steady, times, threads=1)
    alone = len(decoded)
    with open_video(steady) as container:
        parts = FrameReader(container, steady).parts(times, 3)
    assert len(parts) == 3 and sorted(np.concatenate(parts)) == list(range(len(times)))
    assert min(map(len, parts)) > len(times) / 5
    for threads in (0, 2, 3, 64):
        decoded.clear()
        np.testing.assert_array_equal(read_frames(steady, times, threads=threads), expected)
        assert len(decoded) < alone + 32  # no part decodes what belongs to another one
    with pytest.raises(VideoError, match=r"steady.mp4: no frame at 9.000 s"):
        read_frames(steady, [0, 2, 4, 9], threads=3)


def test_memory_stays_flat(steady):
    """A frame of this video is 6 kB, its decoder some hundred: ten kept of a hundred calls would show."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("reads the memory in use from /proc")
    if int(av.__version__.split(".")[0]) < 18:
        pytest.skip("PyAV 17 keeps some memory of each decoder, in a bare loop too")

    def in_use(calls):
        for i in range(calls):
            read_frames(steady, [i % 60 / 10, 5.5], 32, threads=1 + i % 2)
            read_frames(steady, [i % 60 / 10], exact=False, threads=1)
            next(frames_at(steady, [0, 5], threads=1))
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = in_use(60)
    assert in_use(200) - before < 4e6


def test_containers_are_closed(steady):
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20):
        read_frames(steady, [0])
        probe(steady)
        with pytest.raises(VideoError):
            read_frames(steady, [99])
        next(frames_at(steady, [0, 1])), next(frames_at(steady, [0, 1]))
    after = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    assert after <= before + 1


CLIPS = {  # frames, width, height as shown, seconds
    "decoder-clips/nasa_13013_bframes_multistream.mp4": (390, 480, 270, 13.013),
    "decoder-clips/h264_bt709_full_range.mp4": (30, 1280, 720, 1.0),
    "decoder-clips/h265_128x128.mp4": (10, 128, 128, 1.0),
    "decoder-clips/h265_10bit.mp4": (30, 200, 200, 1.0),
    "decoder-clips/av1_640x360.mkv": (125, 640, 360, 5.0),
    "decoder-clips/rotate_90.mov": (3, 320, 568, 0.1),
    "decoder-clips/rotate_180.mov": (3, 568, 320, 0.1),
    "decoder-clips/unordered_4frames.mov": (4, 50, 50, 0.125),
    "decoder-clips/vfr_h265_nonmonotonic.mp4": (146, 1376, 1840, 5.005),
    "decoder-clips/corrupted.mp4": (49, 1280, 720, 5.0),
    "gopro/max-heromode.mp4": (315, 848, 480, 10.5105),
    "gopro-derived/walk_vp9_30fps.mp4": (315, 424, 240, 10.5),
    "aria-everyday/rgb.mp4": (8, 704, 704, 0.399),
}


@pytest.mark.parametrize("name", CLIPS)
def test_real_clips_give_the_frames_of_a_full_decode(sample, name):
    count, width, height, seconds = CLIPS[name]
    video, everything = sample(name), []
    with av.open(video) as container:  # the simple, slow way
        stream = container.streams.best("video")
        stream.codec_context.thread_count = 0
        for packet in container.demux(stream):
            try:
                everything += [(f.time, f) for f in packet.decode()]
            except av.error.InvalidDataError:
                assert "corrupted" in name
        everything.sort(key=lambda item: item[0])
        assert len(everything) == count
        starts = np.array([start for start, _ in everything])
        times = np.array([seconds, starts[-1], *starts[:8], *np.linspace(0, seconds, 5)])
        times = times[times < 2.99] if "corrupted" in name else times  # damaged from 3 s on, without another key frame
        numbers = expected_numbers(starts, times)
        wanted = {}
        for n in set(numbers):
            picture = everything[n][1].to_ndarray(format="rgb24", interpolation="POINT")
            wanted[n] = np.rot90(picture, everything[n][1].rotation // 90)
    assert probe(video).duration == pytest.approx(seconds, abs=1e-6)
    found = read_frames(video, times)
    assert found.shape == (len(times), 3, height, width)
    for picture, n in zip(found, numbers, strict=True):
        np.testing.assert_array_equal(picture.transpose(1, 2, 0), wanted[n])


def test_clip_times_are_centres_of_equal_parts():
    assert clip_times(3, 1, 2).tolist() == [4]
    np.testing.assert_allclose(clip_times(3, 4, 2), [3.25, 3.75, 4.25, 4.75])


def test_clip_times_of_the_other_rules():
    step = 2.0 / 60
    first = clip_times(3, 4, 2, sampling="first")
    np.testing.assert_allclose(first, 3 + (np.arange(4) + 0.5) * step)
    np.testing.assert_allclose(clip_times(3, 4, 2, sampling="last"), 5 - (np.arange(4)[::-1] + 0.5) * step)
    centre = clip_times(3, 4, 2, sampling="centre")
    assert centre.mean() == pytest.approx(4) and np.diff(centre) == pytest.approx([step] * 3)
    drawn = [clip_times(3, 4, 2, sampling="random", rng=np.random.default_rng(k)) for k in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    for times in drawn:
        assert (np.diff(times) > step / 2).all() and 3 < times[0] and times[-1] < 5
        np.testing.assert_allclose(times % step, (3 + step / 2) % step, atol=1e-9)
    for count in (1, 4):  # one in each equal part of the 4 s before the end at 12
        drawn = [clip_times(10, count, 2, sampling="ages", rng=np.random.default_rng(k)) for k in range(200)]
        ages, edges = 12 - np.array(drawn)[:, ::-1], np.arange(count + 1) * 4 / count
        assert (ages >= edges[:-1]).all() and (ages < edges[1:]).all() and (np.diff(ages, axis=1) > 0).all()
        assert np.abs(ages.mean(0) - (edges[:-1] + edges[1:]) / 2).max() < 0.3
        if count > 1:  # each part is drawn for itself
            assert np.abs(np.corrcoef(ages.T) - np.eye(count)).max() < 0.3
    assert clip_times(0.5, 4, 2, sampling="ages", rng=np.random.default_rng(0)).min() == 0.0  # the first frame
    with pytest.raises(ValueError, match="'middle'"):
        clip_times(3, 4, sampling="middle")
    with pytest.raises(ValueError, match="65 of 64 frames by the rule 'first'"):
        clip_times(3, 65, sampling="first")


# --- Numbers by an independent computation


@pytest.mark.parametrize(("size", "how"), [(64, "AREA"), (32, "AREA"), (96, "BILINEAR")])
def test_a_frame_is_averaged_if_one_of_its_sides_shrinks(tmp_path, size, how):
    picture = np.random.default_rng(0).integers(0, 255, (48, 80, 3), dtype=np.uint8)
    video = write_video(tmp_path / "a.mp4", [0.0], pictures=[picture], crf=1)
    ((_, frame),) = frames_at(video, [0.0])
    expected = frame.reformat(size, size, "rgb24", interpolation=how).to_ndarray().transpose(2, 0, 1)
    np.testing.assert_array_equal(read_frames(video, [0.0], size)[0], expected)


def test_a_picture_that_begins_after_the_sound_lasts_until_its_own_end(tmp_path):
    plain = write_sound(tmp_path / "plain.mp4", chirp(np.arange(4 * 48000) / 48000), 48000, pictures=60)
    with av.open(plain) as before, av.open(str(tmp_path / "late.mp4"), "w") as after:
        streams = [after.add_stream_from_template(stream) for stream in before.streams]
        for packet in before.demux():
            if packet.dts is not None:
                later = round(1.5 / packet.time_base) if packet.stream.type == "video" else 0
                packet.pts, packet.dts = packet.pts + later, packet.dts + later
                packet.stream = streams[packet.stream.index]
                after.mux(packet)
    assert probe(tmp_path / "late.mp4").duration == pytest.approx(1.5 + 60 / 30, abs=0.05)
    assert probe(plain).duration == pytest.approx(60 / 30, abs=0.05)


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:6\n#EXTINF:6,\na.ts\n#EXTINF:6,\nb.ts\n#EXT-X-ENDLIST\n"
SESSION = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)


@pytest.fixture(scope="module")
def two_videos(steady, tmp_path_factory):
    """A folder with two videos that other files name, and two pictures of a sequence."""
    folder = tmp_path_factory.mktemp("two")
    for name in "ab":
        shutil.copy(steady, folder / f"{name}.mp4")
        with av.open(steady) as before, av.open(str(folder / f"{name}.ts"), "w") as after:
            source = before.streams.video[0]
            target = after.add_stream_from_template(source)
            for packet in before.demux(source):
                if packet.dts is not None:
                    packet.stream = target
                    after.mux(packet)
    for number in (0, 1):
        for codec, suffix in (("png", "png"), ("mjpeg", "jpg")):
            with av.open(str(folder / f"p{number:03d}.{suffix}"), "w", format="image2pipe") as container:
                stream = container.add_stream(codec, rate=1)
                stream.width = stream.height = 32
                stream.pix_fmt = "rgb24" if codec == "png" else "yuvj420p"
                frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8), "rgb24")
                for packet in [*stream.encode(frame), *stream.encode()]:
                    container.mux(packet)
    return folder


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("list.m3u8", PLAYLIST, "an HLS playlist"),
        ("list.ffconcat", "ffconcat version 1.0\nfile a.mp4\nfile b.mp4\n", "a list of files for FFmpeg"),
        ("list.mp4", "ffconcat version 1.0\nfile a.mp4\nfile b.mp4\n", "a list of files for FFmpeg"),
        ("camera.sdp", SESSION, "the description of a stream"),
        ("p%03d.png", None, "a sequence of pictures"),
        ("p%03d.jpg", None, "a sequence of pictures"),
    ],
)
def test_what_only_names_other_files_is_refused(two_videos, tmp_path, name, text, kind):
    """Whoever gives one file does not expect that others are read."""
    folder = shutil.copytree(two_videos, tmp_path / "two")
    file = folder / name
    if text is None:
        shutil.copy(folder / name.replace("%03d", "000"), file)
    else:
        file.write_text(text)
    words = (
        rf"{re.escape(str(file))}: {kind}, not a video in one file; .* `ffmpeg -i {re.escape(str(file))} joined\.mp4`"
    )
    for read in (probe, lambda video: read_frames(video, [0.5])):
        with pytest.raises(VideoError, match=words):
            read(file)


def test_the_name_of_a_protocol_is_that_of_a_missing_file(two_videos):
    with pytest.raises(VideoError, match="no such file"):
        probe(f"concat:{two_videos / 'a.ts'}|{two_videos / 'b.ts'}")


@pytest.mark.parametrize("name", ["a.m3u8", "a.ffconcat", "a.jpg", "a%03d.mp4", "a", "a.sdp"])
def test_a_video_is_known_by_its_content_not_by_its_name(steady, tmp_path, name):
    shutil.copy(steady, tmp_path / name)
    assert probe(tmp_path / name) == probe(steady)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [
        pair.split()
        for pair in (
            ".mkv libx264, .avi mpeg4, .ts libx264, .mpg mpeg2video, .flv libx264, .mov libx264, .webm libvpx, "
            ".h264 libx264, .ogv libtheora, .wmv wmv2, .mxf mpeg2video, .nut mpeg4, .gif gif, .ivf libvpx, "
            ".mjpeg mjpeg, .hevc libx265, .3gp mpeg4, .m2ts libx264, .vob mpeg2video, .y4m rawvideo"
        ).split(", ")
    ],
)
def test_formats_of_one_file_are_read(tmp_path, suffix, codec):
    if codec not in av.codecs_available:
        pytest.skip(f"this FFmpeg has no {codec}")
    path = tmp_path / f"a{suffix}"
    options = {"format": "yuv4mpegpipe"} if suffix == ".y4m" else {}
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream("wrapped_avframe" if suffix == ".y4m" else codec, rate=25)
        stream.width, stream.height = (176, 144)
        stream.pix_fmt = {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((144, 176, 3), 20 * number, np.uint8), "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with open_video(path) as container:
        assert next(container.decode(video=0)).width == 176


@pytest.mark.parametrize("count", [1, 2, 3, 7, 60])
def test_frames_at_the_centre_are_around_the_middle(count):
    times = clip_times(3, count, 2, sampling="centre")
    assert times.mean() == pytest.approx(4) and np.diff(times) == pytest.approx(np.full(count - 1, 1 / 30))


@pytest.mark.parametrize("after", [-0.001, 0.0, 0.09, 0.11, 0.3])
def test_the_last_frame_is_valid_for_a_tenth_of_a_second_after_its_end(steady, after):
    end = 150 / 25  # the last frame is shown from 5.96 s on, for 0.04 s
    if after < 0.1:
        assert number_of(read_frames(steady, [end + after])[0]) == 149
    else:
        with pytest.raises(VideoError, match="no frame at"):
            read_frames(steady, [end + after])


def test_a_clip_has_the_nearest_number_of_frames_at_30_hz():
    for seconds, frames in ((1.99, 60), (2.01, 60), (64 / 30, 64), (0.5, 15)):
        times = clip_times(1.0, frames, seconds, sampling="last")
        np.testing.assert_allclose(times, 1.0 + (np.arange(frames) + 0.5) / frames * seconds)
        with pytest.raises(ValueError, match=f"{frames + 1} of {frames} frames"):
            clip_times(1.0, frames + 1, seconds, sampling="last")


@pytest.mark.parametrize(("width", "height"), [(80, 48), (48, 80)])
def test_the_centre_square_is_cut_out_without_distortion(tmp_path, width, height):
    """Pixels of the frame, scaled by the same factor in both directions; by numpy."""
    greys = np.random.default_rng(0).integers(0, 255, (height // 8, width // 8, 1), dtype=np.uint8)
    picture = greys.repeat(8, 0).repeat(8, 1).repeat(3, 2)
    video = write_video(tmp_path / "a.mp4", [0.0], pictures=[picture], crf=1)
    whole = read_frames(video, [0.0])[0].astype(float)
    top, left = (height - 48) // 2, (width - 48) // 2
    square = whole[:, top : top + 48, left : left + 48]
    expected = square.reshape(3, 24, 2, 24, 2).mean((2, 4))  # area averaging by half
    found = read_frames(video, [0.0], 24, crop=True)[0]
    np.testing.assert_allclose(found, expected, atol=3)


def remuxed(video, out, change):
    """Copy the packets of a video, each after ``change(packet)``."""
    with av.open(str(video)) as before, av.open(str(out), "w") as after:
        streams = [after.add_stream_from_template(stream) for stream in before.streams]
        packets = [packet for packet in before.demux() if packet.dts is not None]
        for packet in packets:
            change(packet, packets)
            packet.stream = streams[packet.stream.index]
            after.mux(packet)
    return out


@pytest.mark.parametrize("exact", [True, False])
def test_a_time_before_the_beginning_shows_the_first_frame(steady, exact):
    assert [number_of(picture) for picture in read_frames(steady, [-3.0, -0.5, 0.0], exact=exact)] == [0, 0, 0]


def test_the_time_before_a_late_first_frame_is_a_hole(tmp_path):
    plain = write_sound(tmp_path / "plain.mp4", chirp(np.arange(4 * 48000) / 48000), 48000, pictures=60)

    def delay(packet, packets):
        if packet.stream.type == "video":
            later = round(1.5 / packet.time_base)
            packet.pts, packet.dts = packet.pts + later, packet.dts + later

    late = remuxed(plain, tmp_path / "late.mp4", delay)
    for video, longest, holes in ((plain, 1.0, []), (late, 1.0, [(0.0, 1.5)]), (late, 1.6, [])):
        with open_video(video) as container:
            found = FrameReader(container, video, max_hold=longest).holes()
        assert found == [pytest.approx(hole, abs=0.05) for hole in holes]


def test_a_last_frame_of_long_duration_is_valid_as_long_as_any_other(tmp_path):
    plain = write_video(tmp_path / "plain.mp4", STEADY, **X264 | {"bf": 0})

    def lengthen(packet, packets):
        if packet is packets[-1]:
            packet.duration = round(5 / packet.time_base)

    video, last = remuxed(plain, tmp_path / "long.mp4", lengthen), STEADY[-1]
    assert number_of(read_frames(video, [last + 1.05])[0]) == 149  # a second, and a tenth
    with pytest.raises(VideoError, match="no frame at"):
        read_frames(video, [last + 1.15])
    assert number_of(read_frames(video, [last + 4.9], max_hold=5)[0]) == 149


@pytest.mark.parametrize("exact", [True, False])
def test_max_hold_reaches_every_decoder(tmp_path, exact):
    video = write_video(tmp_path / "hole.mp4", HOLE, **KEY_EVERY_10)
    ((index, frame),) = frames_at(video, [10.0], exact=exact, max_hold=25)
    assert index == 0 and frame is not None
    times = np.concatenate([np.linspace(0, 2.9, 10), [10.0], np.linspace(23, 25.9, 9)])
    with open_video(video) as container:
        second = FrameReader(container, video, max_hold=25).parts(times, 2)[1]
    assert 10 in second  # read by a decoder beside that of the call
    found = read_frames(video, times, exact=exact, max_hold=25, threads=2)
    np.testing.assert_array_equal(found, read_frames(video, times, exact=exact, max_hold=25, threads=1))
    assert number_of(found[10]) == (74 if exact else 70)
    with pytest.raises(VideoError, match=r"no frame at 10\.000 s"):
        read_frames(video, times, exact=exact, threads=2)


def test_a_stream_that_begins_later_costs_its_own_packets_only():
    """PyAV knows the streams of the header only."""

    class Container:
        left: ClassVar = ["a", IndexError, "b", IndexError, IndexError, "c"]

        def demux(self, *streams):
            assert streams == ("first", "second")
            while self.left:
                packet = self.left.pop(0)
                if packet is IndexError:
                    raise IndexError("list index out of range")
                yield packet

    assert list(demux(Container(), "first", "second")) == ["a", "b", "c"]


def with_duration(video, out, seconds):
    """Write a video into a Matroska file whose header gives another length."""
    with av.open(str(video)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    content = bytearray(out.read_bytes())
    at = content.index(b"\x44\x89\x88") + 3
    content[at : at + 8] = struct.pack(">d", 1000 * seconds)
    out.write_bytes(content)
    return out


@pytest.mark.parametrize("seconds", [10**10, 10**6 + 10, 90_000])
def test_a_length_that_the_file_cannot_have_is_damage(steady, tmp_path, seconds):
    video = with_duration(steady, tmp_path / "long.mkv", seconds)
    before = peak()
    for read in (probe, lambda path: open_recording(path).probe()):
        with pytest.raises(VideoError, match=r"long.mkv: is damaged: its header says that it has [\d,]+ s"):
            read(video)
    assert peak() - before < 100
    assert probe(with_duration(steady, tmp_path / "right.mkv", 100)).duration == pytest.approx(100, abs=0.1)


def test_pictures_have_a_largest_size(steady, tmp_path, monkeypatch):
    monkeypatch.setattr("egodistill.video.MAX_PICTURE", 128 * 64)
    small = write_video(tmp_path / "small.mp4", STEADY[:5], pictures=[np.zeros((64, 128, 3), np.uint8)] * 5)
    assert len(read_frames(small, [0.0])) == 1
    monkeypatch.setattr("egodistill.video.MAX_PICTURE", 128 * 64 - 1)
    with pytest.raises(VideoError, match=r"small.mp4: has pictures of 128 x 64, more than 8,191 pixels; make"):
        read_frames(small, [0.0])
    with open_video(small) as container:
        stream = container.streams.video[0]
        stream.codec_context.options["max_pixels"] = str(128 * 64 - 1)  # as for a header that says too little
        with pytest.raises(av.error.FFmpegError):
            list(container.decode(stream))


def test_a_picture_is_not_a_video(tmp_path):
    codec = av.CodecContext.create("png", "w")
    codec.width, codec.height, codec.pix_fmt, codec.time_base = 8, 8, "rgb24", Fraction(1)
    photo = tmp_path / "photo.mp4"
    photo.write_bytes(b"".join(map(bytes, codec.encode(av.VideoFrame(8, 8, "rgb24")) + codec.encode(None))))
    with pytest.raises(
        VideoError, match=r"photo\.mp4: the header gives no duration, as in a picture .*; give a whole video"
    ):
        probe(photo)
