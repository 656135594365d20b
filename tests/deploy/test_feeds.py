"""Frames and samples as they arrive: real speed, pipes, addresses, growing tables, JSON lines, and their faults."""

import contextlib
import functools
import http.server
import json
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from foreign import linux_only
from painted import STEADY, X264, number_of, write_table, write_video
from waiting import LIMIT

from egodistill import data
from egodistill.deploy import feeds
from egodistill.imu import IMUError
from egodistill.video import VideoError

posix_only = pytest.mark.skipif(os.name == "nt", reason="needs named pipes")


class FakeClock(feeds.HostClock):
    """A clock that only sleeping moves."""

    def __init__(self):
        super().__init__()
        self.time, self.slept = 100.0, []

    def now(self):
        return self.time

    def unix(self):
        return 1e9 + self.time

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds
        return not self.stopped


@pytest.fixture(scope="module")
def transport(tmp_path_factory):
    """Two seconds at 25 fps as an MPEG transport stream, whose clock does not start at 0."""
    return write_video(tmp_path_factory.mktemp("ts") / "a.ts", STEADY[:50], **X264)


def read(feed):
    return [(moment, number_of(picture.transpose(2, 0, 1))) for moment, picture in feed]


def serve(*contents, close=True):
    """The address of a TCP server that sends bytes to the first that connects, others to the second, and so on."""
    server = socket.create_server(("127.0.0.1", 0))

    def send():
        with server:
            for content in contents:
                with server.accept()[0] as connection:
                    connection.sendall(content)
                    if not close:
                        time.sleep(60)

    threading.Thread(target=send, daemon=True).start()
    return f"tcp://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def web_server(folder):
    """Yield the address of a web server for a folder."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *words):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# --- Frames ------------------------------------------------------------------------------------------------


def test_a_file_gives_all_frames_with_the_times_of_a_player(steady, transport):
    for path, times in ((steady, STEADY), (transport, STEADY[:50])):
        found = read(feed := feeds.VideoFeed(path, realtime=False))
        assert [number for _, number in found] == list(range(len(times)))
        assert np.allclose([moment for moment, _ in found], times, atol=2e-5)
        assert feed.end == pytest.approx(times[-1] + 0.04, abs=1e-3) and (feed.dropped, feed.broken) == (0, 0)


def test_pictures_are_upright_rgb_in_their_own_size(steady):
    _, picture = next(iter(feeds.VideoFeed(steady, realtime=False)))
    wanted = data.read_frames(steady, [0.0])[0]
    assert picture.shape == (48, 80, 3) and np.array_equal(picture.transpose(2, 0, 1), wanted)


def test_a_file_at_real_speed_waits_until_each_frame_is_due(steady):
    clock = FakeClock()
    pace = feeds.Pace(clock)
    pace.start(0.0)
    feed = feeds.VideoFeed(steady, clock=clock, pace=pace)
    found = read(feed)
    assert clock.time == pytest.approx(100 + STEADY[-1]) and np.allclose(clock.slept, 0.04, atol=1e-4)
    assert len(found) + feed.dropped == 150 and found[-1][1] == 149
    assert found == sorted(found)


class SlowDecoder(feeds.Pace):
    """Each decoded frame costs 0.3 s of a fake clock."""

    def lateness(self, moment):
        self.clock.time += 0.15
        return super().lateness(moment)


def test_a_decoder_that_is_too_slow_skips_to_key_frames(steady):
    clock = FakeClock()
    pace = SlowDecoder(clock)
    pace.start(0.0)
    feed = feeds.VideoFeed(steady, clock=clock, pace=pace)
    found = read(feed)
    assert feed.dropped > 80 and len(found) + feed.dropped >= 140
    assert clock.time - 100 < STEADY[-1] + 4  # all 150 frames would take 45 s
    for moment, number in found:  # no frame is decoded without those that it needs
        assert STEADY[number] == pytest.approx(moment, abs=1e-4)


def test_a_feed_drops_the_frames_that_its_reader_misses(steady):
    """And keeps the newest, which may be the first that a slow reader gets."""
    clock = FakeClock()
    feed = iter(feed_ := feeds.VideoFeed(steady, clock=clock))
    pictures = [next(feed)[1]]
    feed_._thread.join(LIMIT)
    pictures += [picture for _, picture in feed]
    assert number_of(pictures[-1].transpose(2, 0, 1)) == 149
    assert len(pictures) <= 2 and len(pictures) + feed_.dropped == 150


@posix_only
def test_a_named_pipe_is_live(transport, tmp_path):
    """Its frames count from the arrival of the first one, on this host's clock."""
    pipe = tmp_path / "camera"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(Path(transport).read_bytes()), daemon=True).start()
    clock = FakeClock()
    found = read(feed := feeds.VideoFeed(pipe, clock=clock))
    assert feed.kind == "pipe" and len(found) + feed.dropped == 50
    for moment, number in found:
        assert moment == pytest.approx(1e9 + 100 + STEADY[number], abs=1e-4)
    # It came at once, and may be one second ahead of real speed.
    assert sum(clock.slept) == pytest.approx(STEADY[49] - feeds.AHEAD)


def test_an_address_is_read_from_the_network(transport):
    clock = FakeClock()
    feed = feeds.VideoFeed(serve(Path(transport).read_bytes()), clock=clock)
    found = read(feed)
    assert feed.kind == "address" and len(found) + feed.dropped == 50 and found[-1][1] == 49


def test_a_source_that_ends_in_its_middle_gives_what_there_was(transport):
    content = Path(transport).read_bytes()
    found = read(feeds.VideoFeed(serve(content[: len(content) // 2]), clock=FakeClock()))
    assert 10 < found[-1][1] < 40
    feed = feeds.VideoFeed(serve(content[:400]), clock=FakeClock())
    with pytest.raises(VideoError, match="tcp://127"):
        read(feed)


def test_stopping_the_clock_ends_a_feed_that_waits(transport):
    """For the network: the server neither sends more nor closes the connection."""
    clock = feeds.HostClock()
    feed = feeds.VideoFeed(serve(Path(transport).read_bytes(), close=False), clock=clock)
    for moment, _ in feed:
        threading.Timer(0.1, clock.stop).start()
        first = moment
    assert first > 1e9 and clock.stopped


def test_an_address_that_falls_silent_ends(transport, monkeypatch):
    monkeypatch.setattr(feeds, "TIMEOUT", 0.5)
    feed = feeds.VideoFeed(serve(Path(transport).read_bytes(), close=False), clock=FakeClock())
    assert read(feed)[-1][1] > 30 and feed.problem.endswith(": nothing came for 0.5 s")
    with pytest.raises(VideoError, match=r"cannot be opened: nothing came for 0\.5 s"):
        read(feeds.VideoFeed(serve(b"", close=False), clock=FakeClock()))


def test_the_end_of_a_live_source_is_early_unless_it_has_announced_it(transport, steady, tmp_path):
    feed = feeds.VideoFeed(serve(Path(transport).read_bytes()), clock=FakeClock())
    assert read(feed)[-1][1] == 49 and feed.problem == f"{feed.source}: the sender closed the connection"
    with web_server(tmp_path) as address:
        (tmp_path / "a.mp4").write_bytes(Path(steady).read_bytes())
        feed = feeds.VideoFeed(f"{address}/a.mp4", clock=FakeClock())
        assert read(feed)[-1][1] == 149 and feed.problem is None
    feed = feeds.VideoFeed(steady, realtime=False)
    assert feed.length == pytest.approx(6.0, abs=0.01) and len(list(feed)) == 150 and feed.problem is None


@posix_only
@pytest.mark.parametrize("closed", [True, False])
def test_a_pipe_that_is_closed_or_falls_silent_has_a_problem(transport, tmp_path, closed):
    pipe, ended = tmp_path / "camera", threading.Event()
    os.mkfifo(pipe)

    def write():
        with open(pipe, "wb") as file:
            file.write(Path(transport).read_bytes())
            file.flush()
            ended.wait(0 if closed else LIMIT)

    threading.Thread(target=write, daemon=True).start()
    feed = feeds.VideoFeed(pipe, timeout=LIMIT if closed else 0.5)
    assert read(feed)[-1][1] > 25
    ended.set()
    told = "the program that writes into the pipe closed it" if closed else "nothing came for 0.5 s"
    assert feed.problem == f"{pipe}: {told}"


def test_an_address_is_opened_again_after_it_is_lost(transport):
    """Times go on from the arrival of the first new frame; what was lost is told twice."""
    content, said, clock = Path(transport).read_bytes(), [], FakeClock()
    address = serve(content, b"", content[: len(content) // 2], content)
    feed = feeds.VideoFeed(address, clock=clock, reconnect=9.0, report=said.append)
    moments = [moment for moment, _ in feed]
    assert feed.reconnections == 2 and (np.diff(moments) > 0).all() and 2 < moments[-1] - moments[0] < 9
    lost, back, again, there, finally_ = said
    assert lost == f"{address}: the sender closed the connection; trying to open it again for 9 s"
    assert again == finally_ == lost and back == f"{address}: back after 1.0 s" and there.endswith("back after 0.5 s")
    assert feed.problem.endswith("and it did not come back in 9 s") and "Connection refused" in feed.problem


def test_an_address_that_never_came_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    clock = FakeClock()
    with pytest.raises(VideoError, match="cannot be opened: Connection refused"):
        list(feeds.VideoFeed(address, clock=clock, reconnect=60.0))
    assert not clock.slept


def test_stopping_the_clock_ends_the_attempts_to_open_an_address_again(transport):
    clock = feeds.HostClock()
    feed = feeds.VideoFeed(
        serve(Path(transport).read_bytes()), clock=clock, reconnect=60.0, report=lambda _: clock.stop()
    )
    assert len(list(feed)) > 0 and feed.problem is None and not feed.reconnections


@pytest.mark.parametrize(
    "kind", ["file", pytest.param("pipe", marks=posix_only), pytest.param("device", marks=linux_only)]
)
def test_only_an_address_is_opened_again(kind, steady, tmp_path):
    source = {"file": steady, "device": "/dev/null"}.get(kind, tmp_path / "camera")
    if kind == "pipe":
        os.mkfifo(source)
    with pytest.raises(VideoError, match=f"a {kind}; only an address can be opened again by reconnect"):
        feeds.VideoFeed(source, reconnect=5.0)


def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(VideoError, match=f"{address}: cannot be opened"):
        list(feeds.VideoFeed(address))


def test_a_playlist_from_the_network_reads_no_file_of_this_machine(transport, tmp_path):
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile://{transport}\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "a.ts").write_bytes(Path(transport).read_bytes())
    (tmp_path / "own.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\na.ts\n#EXT-X-ENDLIST\n")

    with web_server(tmp_path) as address:
        assert read(feeds.VideoFeed(f"{address}/own.m3u8", clock=FakeClock()))[-1][1] == 49
        with pytest.raises(VideoError):
            list(feeds.VideoFeed(f"{address}/list.m3u8", clock=FakeClock()))
        # A file never reaches the network, nor other files.
        (tmp_path / "trap.mp4").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{address}/a.ts\n")
        with pytest.raises(VideoError):
            list(feeds.VideoFeed(tmp_path / "trap.mp4", realtime=False))


def test_what_only_names_videos_is_refused_as_a_file_and_in_a_pipe(steady, tmp_path):
    text = f"ffconcat version 1.0\nfile {steady}\n"
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(VideoError, match=r"list\.mp4: a list of files for FFmpeg, not a video in one file"):
        feeds.VideoFeed(tmp_path / "list.mp4")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    threading.Thread(target=pipe.write_text, args=[text], daemon=True).start()
    with pytest.raises(VideoError, match="pipe: cannot be opened"):
        list(feeds.VideoFeed(pipe))


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("file:///etc/hostname", "not an address that can be read"),
        ("concat://a", "not an address that can be read"),
        ("none.mp4", "none.mp4: no such file"),
        (".", "a folder, not a file"),
    ],
)
def test_what_is_no_source_says_so(source, told):
    with pytest.raises(VideoError, match=told):
        list(feeds.VideoFeed(source))


def test_only_a_file_is_faster_than_real_time():
    with pytest.raises(VideoError, match="only a file"):
        feeds.VideoFeed("udp://127.0.0.1:9", realtime=False)


@linux_only
def test_a_device_is_opened_as_a_camera():
    """There is no camera here; what is no camera is an error that names it."""
    assert feeds.source_kind("/dev/null") == "device"
    with pytest.raises(VideoError, match="/dev/null: cannot be opened"):
        list(feeds.VideoFeed("/dev/null"))


# --- Time --------------------------------------------------------------------------------------------------


def test_the_delay_of_arrivals_is_the_smallest_one():
    clock = FakeClock()
    delay = feeds.ArrivalDelay(clock)
    for arrived, stamp in ((105.0, 1.0), (105.0, 4.8), (105.1, 5.0), (107.0, 6.0)):  # a backlog comes first
        clock.time = arrived
        delay.add(stamp)
    assert (delay.first, delay.began, delay.delay) == (1.0, 105.0, pytest.approx(100.1))


def test_a_pace_that_is_stopped_ends_at_once():
    clock = feeds.HostClock()
    pace = feeds.Pace(clock)
    pace.start(0.0)
    threading.Timer(0.05, clock.stop).start()
    assert pace.wait(3600.0) is False and pace.wait(-1.0) is False


# --- Samples -----------------------------------------------------------------------------------------------


def test_a_recording_gives_each_sample_once_and_in_order(kitchen):
    motion = kitchen[0].recording.motion()
    pieces = list(feeds.recorded_samples(motion))
    times, readings = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    assert (np.diff(times) >= 0).all() and max(np.ptp(part) for part, _ in pieces) < feeds.CHUNK
    for stamps, values, columns in (
        (motion.accel_time, motion.accel, slice(0, 3)),
        (motion.gyro_time, motion.gyro, slice(3, 6)),
    ):
        own = ~np.isnan(readings[:, columns.start])
        assert np.array_equal(times[own], stamps) and np.array_equal(readings[own, columns], values)
    assert len(times) == len(motion.accel) + len(motion.gyro)


def line(moment, **sensors):
    return json.dumps({"time": moment, **sensors}).encode() + b"\n"


def piped(content, said):
    reader, writer = os.pipe()

    def write():
        with open(writer, "wb", buffering=0) as file:
            for part in content:
                file.write(part)

    threading.Thread(target=write, daemon=True).start()
    return feeds.piped_samples(reader, clock=feeds.HostClock(), report=said.append)


def collected(feed):
    pieces = list(feed)
    times, readings = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return times, readings


def test_json_lines_are_samples_of_one_sensor_or_both():
    said = []
    content = [
        line(0.5, accel=[0, 0, 9.8], gyro=[1, 2, 3])[:20],  # a line in two pieces
        line(0.5, accel=[0, 0, 9.8], gyro=[1, 2, 3])[20:] + b"\r\n\n",
        line(1, gyro=[0.5, 0, 0]),  # programs write 1.0 as 1
        line(1.5, accel=[1, 2, 3], gyro=None, more="ignored").strip(),  # no newline at the end
    ]
    times, readings = collected(piped(content, said))
    assert times.tolist() == [0.5, 1.0, 1.5] and times.dtype == np.float64
    assert said == []
    expected = [[0, 0, 9.8, 1, 2, 3], [np.nan] * 3 + [0.5, 0, 0], [1, 2, 3] + [np.nan] * 3]
    assert np.array_equal(readings, expected, equal_nan=True)


def test_integers_are_exact_nanoseconds():
    start = 1_700_000_000_123_456_789
    times, _ = collected(piped([line(start + k, accel=[0, 0, 1]) for k in range(3)], []))
    assert times.tolist() == [start, start + 1, start + 2] and times.dtype == np.int64


BAD = (
    b"nonsense\n",
    b"[1, 2]\n",
    b'{"time": true, "accel": [0, 0, 1]}\n',
    b'{"time": NaN, "accel": [0, 0, 1]}\n',
    b'{"time": 1.0, "accel": [0, 0]}\n',
    b'{"time": 1.0, "accel": [0, 0, "1"]}\n',
    b'{"time": 1.0, "accel": [0, 0, Infinity]}\n',
    b'{"time": 1.0}\n',
    b'{"accel": [0, 0, 1]}\n',
    b"\xff\xfe\n",
    b"[" * 90_000 + b"\n",
)


@pytest.mark.parametrize("bad", BAD)
def test_a_line_that_is_no_sample_is_counted_and_told_once(bad):
    said = []
    feed = piped([line(0.5, accel=[0, 0, 1]), bad, bad, line(1.5, accel=[0, 0, 1])], said)
    times, _ = collected(feed)
    assert times.tolist() == [0.5, 1.5] and feed.bad == 2
    (told,) = said
    assert told.startswith("standard input: line 2: ") and told.endswith("Such lines are skipped and counted")
    assert len(told) < 400


def test_seconds_among_nanoseconds_are_no_samples():
    said = []
    feed = piped([line(5, accel=[0, 0, 1]), line(5.5, accel=[0, 0, 1]), line(2**63, accel=[0, 0, 1])], said)
    times, _ = collected(feed)
    assert times.tolist() == [5] and feed.bad == 2 and "write all seconds with a decimal point" in said[0]


def test_a_hundred_bad_lines_in_a_row_are_an_error():
    good = line(1.0, accel=[0, 0, 1])
    feed = piped([b"x\n" * 99, good, b"x\n" * 99, good], [])
    assert len(collected(feed)[0]) == 2 and feed.bad == 198
    with pytest.raises(IMUError, match=r"standard input: line 100: not JSON; expected .*got x\. 100 lines in a row"):
        list(piped([b"x\n" * 100], []))


def test_a_line_without_an_end_needs_no_memory():
    feed = piped([b"x" * 65536] * 40 + [b"\n", line(1.0, accel=[0, 0, 1])], [])
    assert len(collected(feed)[0]) == 1 and feed.bad >= 10


HEADER = "time,ax,ay,az,gx,gy,gz\n"


def test_a_table_gives_each_line_when_it_is_complete():
    said = []
    parts = ["ti", HEADER[2:] + "0.01,0,0,9.8,1,2,3\n0.0", "2,0,0,9.8,1,2,2", ".5\n", "\n0.03,,,,1,2,3\n", "bad\n"]
    feed = piped([part.encode() for part in (*parts, "0.04,0,0,9.8,1,2,3")], said)
    times, readings = collected(feed)
    assert times.tolist() == [0.01, 0.02, 0.03, 0.04] and feed.bad == 1
    assert readings[1].tolist() == [0, 0, 9.8, 1, 2, 2.5] and np.isnan(readings[2][:3]).all()
    assert said == ["standard input: line 6: 1 cells; the header has at least 7. Such lines are skipped and counted"]


def test_a_table_has_the_units_of_read_imu(tmp_path):
    rows = [[1000 * k / 200, 0, 0, 9.8, 0.1, 0.2, 0.3] for k in range(50)]
    header = ["Milliseconds", "GyroX", "GyroY", "GyroZ", "AcclX", "AcclY", "AcclZ"]
    path = write_table(tmp_path / "epic.csv", header, [[r[0], *r[4:], *r[1:4]] for r in rows])
    times, readings = collected(piped([b"my program\n", path.read_bytes()], []))
    motion = data.read_imu(path)
    assert np.array_equal(times, motion.accel_time)
    assert np.array_equal(readings, np.hstack([motion.accel, motion.gyro]))


@pytest.mark.parametrize(
    "header",
    [
        "time,gx,gy,gz,ax,ay,az",
        "Milliseconds,AcclX,AcclY,AcclZ,GyroX,GyroY,GyroZ",
        "time,note,ax,ay,az,gx,gy,gz",
    ],
)
def test_a_second_header_with_other_columns_is_an_error(header):
    row = "0,0,9.8,1,2,3\n"
    with pytest.raises(IMUError, match="line 4: a second header, with other columns"):
        collected(piped([f"{HEADER}0.01,{row}0.02,{row}{header}\n0.03,{row}".encode()], []))


def test_a_program_that_is_started_again_may_repeat_its_header():
    row, said = "0,0,9.8,1,2,3\n", []
    times, _ = collected(piped([f"{HEADER}0.01,{row}{HEADER}0.02,{row}".encode()], said))
    assert times.tolist() == [0.01, 0.02] and not said


@pytest.mark.parametrize("first", ["time,ax,ay,az\n", '{"time": 0.5, "accel": [0, 0, 1]}\n' + HEADER])
def test_lines_are_of_one_kind(first):
    said = []
    feed = piped([f"{first}0.01,0,0,9.8,1,2,3\n".encode()], said)
    assert len(list(feed)) == first.count("{") and feed.bad == 2
    assert "not JSON; expected" in said[0] and "or the header of a table; got time,ax" in said[0]


def test_samples_that_stop_end_a_feed():
    """Not before the first one, since a sensor may need a while to start."""
    reader, writer = os.pipe()
    os.write(writer, HEADER.encode())
    timer = threading.Timer(0.3, os.write, (writer, b"0.5,0,0,1,0,0,0\n"))
    timer.start()
    pieces = iter(feeds.piped_samples(reader, clock=feeds.HostClock(), report=[].append, timeout=0.1))
    assert next(pieces)[0] == [0.5]
    with pytest.raises(IMUError, match=r"standard input: nothing came for 0\.1 s"):
        next(pieces)
    os.close(writer)


def test_an_interruption_ends_feeds_without_a_lock():
    clock = feeds.HostClock()
    assert clock.sleep(0.0) and not clock.stopped
    with clock._stop._cond:  # as in a thread that was interrupted while it held it
        clock.interrupt()
        assert clock.stopped
    assert not clock.sleep(0.0)
