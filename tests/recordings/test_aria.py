"""Project Aria recordings: VRS files written here, and two real ones."""

import importlib.util
import json
import struct

import av
import numpy as np
import pytest
from fuzz import peak
from painted import number_of, paint
from vrs import (
    IMU_LAYOUT,
    LEFT,
    RGB,
    RIGHT,
    ZERO,
    calibration,
    pictures,
    quaternion,
    samples,
    write_vrs,
)

from egodistill import DataError, data, imu
from egodistill.commands import cli
from egodistill.recordings import aria
from egodistill.recordings.aria import AriaError, AriaRecording
from egodistill.recordings.clips import read_clip
from egodistill.recordings.copies import convert
from egodistill.recordings.recording import Recording, open_recording
from egodistill.recordings.spec import ClipSpec
from egodistill.video import probe, read_frames

TIMES = [0, 0.05, 0.1, 0.16, 0.2, 0.3, 0.35, 1.0]  # as cameras have them: uneven
ACCEL, GYRO = (2.5, 5.0, 7.5), (0.1, 0.2, 0.3)


@pytest.fixture
def gen1(tmp_path):
    streams = {RIGHT: samples((9, 9, 9), (9, 9, 9)), LEFT: samples(ACCEL, GYRO), RGB: pictures(TIMES, turns=1)}
    return lambda name="walk.vrs", without=(), **options: write_vrs(
        tmp_path / name, {key: rows for key, rows in streams.items() if key not in without}, **options
    )


def test_conversion_has_every_picture_upright_at_its_time(gen1, tmp_path):
    made = convert(gen1(), tmp_path / "films", progress=False)
    assert made.frames == len(TIMES) and made.samples == 1608 and made.notes == ()
    with av.open(made.video) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and (stream.width, stream.height) == (80, 48)
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(stream)]
    np.testing.assert_allclose(shown, TIMES, atol=1 / 90000)
    assert probe(made.video).duration == pytest.approx(made.seconds, abs=1e-3) == 1.65  # the last as long as before
    frames = read_frames(made.video, np.array(TIMES) + 0.001)
    assert [number_of(picture) for picture in frames] == list(range(len(TIMES)))
    assert abs(frames[1].astype(int) - paint(1).transpose(2, 0, 1)).mean() < 12  # bright and dark are as before
    motion = data.read_imu(made.imu)
    assert motion.notes == () and len(motion.accel) == 1608
    np.testing.assert_allclose(motion.accel_time[[0, 800]], [-0.01, 0.99], atol=1e-6)
    spec = ClipSpec(frames=1, size=16, imu_samples=99, seconds=0.5)
    clip = read_clip(open_recording(made.video, made.imu), 0.2, spec)
    np.testing.assert_allclose(clip["imu"][0], [5, -7.5, -2.5, 0.2, -0.3, -0.1], atol=1e-6)  # Gen 1: (y, -z, -x)


def test_imu_by_label_where_the_instances_are_swapped(tmp_path):
    """The left IMU is instance 2 in Gen 1, and 1 in Gen 2; each generation's camera has axes of its own."""
    one, two = samples(ACCEL, GYRO), samples((9, 9, 9), (9, 9, 9))
    h265 = pictures([0, 0.1, 0.2], "libx265", variable=True, **{"x265-params": "log-level=none:bframes=0:keyint=10"})
    gen2 = {(1202, 1): one, (1202, 2): two, RGB: h265}
    path = write_vrs(
        tmp_path / "b.vrs", gen2, "Oatmeal", image="image/video/codec=H.265", variable=("metadata", "description")
    )
    motion = AriaRecording(path).imu()
    np.testing.assert_allclose(motion.accel[0], [-2.5, -7.5, -5])  # Gen 2: (-x, -z, -y)
    made = convert(path, tmp_path / "films", progress=False)
    assert [number_of(p) for p in read_frames(made.video, [0.01, 0.11, 0.21])] == [0, 1, 2]  # also without a key frame


def test_the_right_imu_if_the_left_one_is_missing(gen1):
    motion = AriaRecording(gen1(without=[LEFT])).imu()
    np.testing.assert_allclose(motion.gyro[0], [9, -9, -9])
    assert motion.notes == ("no left IMU: the samples are of the right one",)


def test_calibration_moves_times_and_turns_values(gen1):
    turned = quaternion((0, 0, 1), 90)  # x of the sensor is y of the device
    motion = AriaRecording(gen1(calib=calibration(0.002, (0.5, 0, 0), 2.0, sensor=turned))).imu()
    device = np.array([-5.0, 2.0, 7.5]) / 2
    np.testing.assert_allclose(motion.accel[0], device[[1, 2, 0]] * [1, -1, -1], atol=1e-6)
    assert motion.accel_time[0] == pytest.approx(-0.012) and motion.gyro_time[0] == pytest.approx(-0.012)
    both = AriaRecording(gen1(calib=calibration(camera=turned, sensor=turned))).imu()  # they turn together
    np.testing.assert_allclose(both.accel[0], [5, -7.5, -2.5], atol=1e-6)


def test_samples_that_are_not_valid_are_left_out(tmp_path):
    rows = samples(ACCEL, GYRO, 0.1) + samples((9, 9, 9), GYRO, 0.2, valid=(0, 1))[81:]
    motion = AriaRecording(write_vrs(tmp_path / "a.vrs", {LEFT: rows, RGB: pictures([0], turns=1)})).imu()
    assert len(motion.accel) == 88 and len(motion.gyro) > 150 and np.abs(motion.accel).max() < 8


def test_readings_that_are_no_numbers_are_not_valid(tmp_path):
    """They reached the windows of a store, because the sensor says that they are valid."""
    rows = samples(ACCEL, GYRO, 0.5)
    for place, value in ((90, np.nan), (200, np.inf), (300, 1e35)):
        rows[place] = samples(ACCEL, (0.1, value, 0.3), 0.5)[place]
    motion = AriaRecording(write_vrs(tmp_path / "a.vrs", {LEFT: rows, RGB: pictures([0], turns=1)})).imu()
    assert len(motion.gyro) == len(motion.accel) - 3 == len(rows) - 3 and np.abs(motion.gyro).max() < 1


def test_sensors_that_never_read_at_the_same_time_give_no_table(tmp_path):
    rows = samples(ACCEL, GYRO, 0.1, valid=(1, 0)) + samples(ACCEL, GYRO, 0.3, valid=(0, 1))[100:]
    path = write_vrs(tmp_path / "a.vrs", {LEFT: rows, RGB: pictures([0], turns=1)})
    with pytest.raises(AriaError, match=rf"^{path}: its accelerometer \(.* s\) and gyroscope \(.* s\) never read at"):
        convert(path, tmp_path / "films", progress=False)
    assert not any((tmp_path / "films").iterdir())


@pytest.mark.parametrize("at", [24, 32, 40])  # of the index, the description, the first record
@pytest.mark.parametrize("place", [-1, -(2**62), 2**62, 2**63 - 1])
@pytest.mark.parametrize("index", ["end", "front", None])
def test_places_outside_of_the_file_are_damage(gen1, at, place, index):
    """They were an OSError, "Invalid argument", which named no file and ended `prepare`."""
    path = gen1(index=index)
    content = path.read_bytes()
    path.write_bytes(content[:at] + struct.pack("<q", place) + content[at + 8 :])
    with pytest.raises(AriaError, match=rf"^{path}: "):
        AriaRecording(path).imu()


def test_a_layout_with_other_shapes_is_named(gen1):
    path = gen1()
    path.write_bytes(path.read_bytes().replace(b'"size": 3', b'"size": 1'))
    with pytest.raises(AriaError, match=rf"^{path}: its IMU records have no usable accelerometer, gyroscope, so"):
        AriaRecording(path).imu()


@pytest.mark.parametrize("index", ["end", "front", None])
def test_where_the_index_is_does_not_matter(gen1, index):
    recording = AriaRecording(gen1(index=index))
    assert [recording.count(stream) for stream in (RGB, LEFT, RIGHT)] == [8, 1608, 1608]
    assert recording.notes == (
        [] if index else ["it has no index, as after an interrupted recording; its complete records are used"]
    )


@pytest.mark.parametrize("part", [0.0, 0.001, 0.003, 0.3, 0.97, 0.999])
@pytest.mark.parametrize("index", ["end", "front"])
def test_a_file_that_was_cut_off_is_one_sentence(gen1, part, index):
    path = gen1(index=index)
    content = path.read_bytes()
    path.write_bytes(content[: round(part * len(content))])
    where = r"in the middle of its description|before its index|in the middle of its index"
    words = rf"(not a VRS file|ends ({where})|has [\d,]+ of 3,227 records)"
    with pytest.raises(AriaError, match=rf"^{path}: {words}"):
        AriaRecording(path)


def split(path, sizes):
    """Replace a VRS file by the parts that its maker's library writes: NAME.vrs, NAME.vrs_1, NAME.vrs_2 ..."""
    content = path.read_bytes()
    for number, start in enumerate(sizes):
        stop = (*sizes, len(content))[number + 1]
        path.with_name(path.name + (f"_{number}" if number else "")).write_bytes(content[start:stop])


@pytest.mark.parametrize("index", ["end", "front", None])
def test_a_recording_in_several_files_is_called_split(gen1, tmp_path, index, capsys):
    """It was "cut off: copy the recording again", "not a VRS file", or shorter in silence."""
    path = gen1(index=index)
    split(path, [0, 90_000, 150_000])
    words = r"part of a recording that is split into several files, walk\.vrs, walk\.vrs_1 and so on; .*`vrs copy walk"
    for part in ("walk.vrs", "walk.vrs_1", "walk.vrs_2"):
        with pytest.raises(AriaError, match=rf"^{tmp_path / part}: {words}"):
            AriaRecording(tmp_path / part)
    assert cli.main(["convert", str(path), "--out", str(tmp_path / "films")]) == 1
    assert "split into several files" in capsys.readouterr().err
    with pytest.raises(imu.IMUError, match=words):
        data.read_imu(path)


def test_the_head_of_a_split_recording_is_called_split_without_the_rest(gen1):
    """Such a head has the descriptions and an index of version 3, and no records."""
    path = gen1(index="front")
    content = bytearray(path.read_bytes())
    front, first = struct.unpack_from("<q", content, 24)[0], struct.unpack_from("<q", content, 40)[0]
    struct.pack_into("<i", content, front + 12, 3)
    path.write_bytes(content)
    assert AriaRecording(path).count(RGB) == 8  # with the rest behind it, all is there
    path.write_bytes(content[:first])
    with pytest.raises(AriaError, match=r"walk\.vrs: part of a recording that is split into several files"):
        AriaRecording(path)


def test_an_interrupted_recording_keeps_what_is_complete(gen1, tmp_path):
    path = gen1(index=None)
    content = path.read_bytes()
    path.write_bytes(content[:-2000])  # in the last picture, or the one before
    recording = AriaRecording(path)
    assert 0 < recording.count(RGB) < 8 and recording.count(LEFT) == 1608
    made = convert(path, tmp_path / "films", progress=False)
    assert made.frames == recording.count(RGB) and "it has no index" in made.notes[0]


def test_what_lacks_is_named(gen1, tmp_path, monkeypatch):
    with pytest.raises(AriaError, match=r"walk\.vrs: has no pictures \(camera-rgb\)"):
        AriaRecording(gen1(without=[RGB]))
    with pytest.raises(AriaError, match=r"walk\.vrs: has no IMU samples \(imu-left or imu-right\)"):
        AriaRecording(gen1(without=[LEFT, RIGHT])).imu()
    with pytest.raises(AriaError, match=r"recorded by Quest; Aria \(Gen 1\) and Oatmeal"):
        AriaRecording(gen1(device="Quest"))
    strange = [calibration(late=float("nan")), calibration(sensor=(0.5, [0, 0, 0])), calibration(scale=0)]
    for calib in (
        *map(json.dumps, strange),
        "{",
        "{}",
        json.dumps({"ImuCalibrations": [], "CameraCalibrations": []}),
        '{"ImuCalibrations": 3}',
    ):
        with pytest.raises(AriaError, match="tag calib_json has no usable calibration of imu-left and camera-rgb"):
            AriaRecording(gen1(calib=calib)).imu()
    with pytest.raises(AriaError, match=r"compressed with lz4, not with zstd .* `vrs copy`"):
        AriaRecording(gen1(compression=1))
    monkeypatch.setattr(aria, "_zstd", lambda: None)
    with pytest.raises(AriaError, match=r'compressed with zstd; to read it, pip install "egodistill\[cameras\]"'):
        AriaRecording(gen1(compression=2))
    with pytest.raises(AriaError, match=r"its pictures are data_layout\+image/raw, not JPEG or H\.265"):
        convert(gen1(image="image/raw"), tmp_path / "films", progress=False)
    assert not any((tmp_path / "films").iterdir())  # neither of the two files, nor a part of one
    with pytest.raises(DataError, match="No such file"):
        AriaRecording(tmp_path / "nothing.vrs")


def test_pictures_that_are_broken_are_left_out(tmp_path):
    rows = pictures(TIMES, turns=1)
    rows[0] = (3, rows[0][1][:16] + b"nothing")
    rows[3] = (3, rows[3][1][:16])
    path = write_vrs(tmp_path / "a.vrs", {LEFT: samples(ACCEL, GYRO), RGB: rows})
    made = convert(path, tmp_path / "films", progress=False)
    assert made.frames == 6 and made.notes == ("2 of 8 pictures are broken or repeat a time, and are left out",)
    assert [number_of(p) for p in read_frames(made.video, [0.0, 0.11, 0.21, 0.31])] == [1, 2, 4, 5]


@pytest.mark.parametrize("quality", [-1, 52])
def test_a_quality_that_x264_does_not_have_is_refused(gen1, tmp_path, quality):
    with pytest.raises(DataError, match=rf"walk\.vrs: quality must be 0 to 51 .*, not {quality} and"):
        convert(gen1(), tmp_path / "films", quality=quality)


def test_a_small_copy_has_the_same_times_and_imu(gen1, tmp_path):
    whole, small = (convert(gen1(), tmp_path / str(size), size=size, progress=False) for size in (None, 24))
    assert (small.frames, small.samples, small.seconds) == (whole.frames, whole.samples, whole.seconds)
    shown = []
    for made, sides in ((whole, (80, 48)), (small, (40, 24))):
        with av.open(made.video) as container:
            stream = container.streams.video[0]
            assert (stream.width, stream.height) == sides
            shown.append([(frame.pts, frame.time_base) for frame in container.decode(stream)])
    assert shown[0] == shown[1]
    assert (tmp_path / "None" / "walk.csv").read_bytes() == (tmp_path / "24" / "walk.csv").read_bytes()
    pair = [read_frames(made.video, np.array(TIMES) + 0.001, 16).astype(int) for made in (whole, small)]
    assert abs(pair[0] - pair[1]).mean() < 6  # as if the reader had scaled the whole pictures
    large = convert(gen1(), tmp_path / "large", size=500, progress=False)
    assert probe(large.video).height == 48  # never larger


def test_pictures_are_scaled_by_areas(gen1):
    """As `video.Scaler` does: a pixel of half the size is the mean of four."""
    noise = np.repeat(np.random.default_rng(0).integers(0, 256, (80, 48, 1), np.uint8), 3, axis=2)
    small = AriaRecording(gen1()).upright(av.VideoFrame.from_ndarray(noise, format="rgb24"), 24)
    expected = np.rot90(noise[..., 0].reshape(40, 2, 24, 2).mean((1, 3)), -1)
    np.testing.assert_allclose(small.to_ndarray(format="gray"), expected, atol=3)


@pytest.mark.parametrize("size", [0, 15])
def test_a_size_below_16_is_refused(gen1, tmp_path, size):
    with pytest.raises(DataError, match=rf"walk\.vrs: quality must .* size .* at least 16, not 20 and {size}$"):
        convert(gen1(), tmp_path / "films", size=size)


def test_nothing_is_replaced_unless_asked(gen1, tmp_path, capsys):
    films, path = tmp_path / "films", gen1()
    films.mkdir()
    (films / "walk.csv").write_text("mine")
    with pytest.raises(DataError, match=r"walk\.csv: already exists"):
        convert(path, films, progress=False)
    assert cli.main(["convert", str(path), "--out", str(films)]) == 1
    assert (films / "walk.csv").read_text() == "mine" and not (films / "walk.mp4").exists()
    assert "already exists" in capsys.readouterr().err
    assert cli.main(["convert", str(path), "--out", str(films), "--overwrite"]) == 0
    assert "walk.mp4" in capsys.readouterr().out and data.read_imu(films / "walk.csv").notes == ()
    before = (films / "walk.mp4").stat().st_mtime_ns
    assert cli.main(["convert", str(path), "--out", str(films)]) == 0  # an interrupted command goes on
    assert "walk.mp4 and walk.csv already exist; --overwrite" in capsys.readouterr().out
    assert (films / "walk.mp4").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"a Project Aria recording; convert it first with `egodistill convert"):
        open_recording(path)
    with pytest.raises(imu.IMUError, match=r"walk\.vrs: .*glasses' own clock, and nothing says.*`egodistill convert`"):
        Recording(films / "walk.mp4", path).motion()


def test_imu_of_a_recording_on_the_glasses_own_clock(gen1, tmp_path):
    """As the data sets have it: the pictures are in an MP4, and a table says what their times are on that clock."""
    both, alone = (AriaRecording(gen1()).imu(), data.read_imu(gen1("a.VRS", without=[RGB])))
    np.testing.assert_allclose(alone.accel_time, both.accel_time + ZERO * 1e-9, atol=1e-9, rtol=0)
    assert (alone.accel == both.accel).all() and (alone.gyro == both.gyro).all() and alone.notes == ()
    (moved, offset) = (Recording("a.mp4", gen1(), imu_offset=-ZERO * 1e-9).motion(), ZERO * 1e-9)
    np.testing.assert_allclose(moved.gyro_time, both.gyro_time, atol=1e-9)
    np.testing.assert_allclose(alone.on_clock(-offset).window(0.5, 100), both.window(0.5, 100), atol=1e-4)
    (tmp_path / "b.vrs").write_bytes(b"VisionRe")
    with pytest.raises(imu.IMUError, match=r"b\.vrs: not a VRS file"):
        data.read_imu(tmp_path / "b.vrs")
    gaps = [row for k, row in enumerate(samples(ACCEL, GYRO)) if not 400 < k < 600]
    noted = data.read_imu(write_vrs(tmp_path / "c.vrs", {LEFT: gaps})).notes
    assert [note.split(" has ")[0] for note in noted] == ["the accelerometer", "the gyroscope"]


# --- Real recordings

REAL = {
    "recording.vrs": {
        "counts": (8, 319, 400),
        "rates": (798.2, 1001.1),
        "norms": (9.843, 9.804),
        "accel": ((2.02, 2.64, 9.12), (2.15, 2.59, 9.07)),
        "gyro": ((-0.134, -0.307, -0.825), (-0.139, -0.301, -0.825)),
        "times": np.arange(8) * 0.05,
    },
    "aria_gen2_unit_test_sequence_with_bluetooth.vrs": {
        "counts": (3, 239, 238),
        "rates": (798.9, 792.7),
        "norms": (9.960, 10.197),
        "accel": ((0.13, 3.56, 9.28), (0.85, 4.22, 9.24)),
        "gyro": ((0.407, 0.416, 2.104), (0.413, 0.413, 2.103)),
        "times": [0, 0.1008, 0.1992],
    },
}


@pytest.mark.parametrize("name", REAL)
def test_a_real_recording_has_the_reference_values(sample_data, tmp_path, name, monkeypatch):
    if name == "recording.vrs" and aria._zstd() is None:
        pytest.skip("its pictures need zstd: the extra cameras, or Python 3.14")
    expected = REAL[name]
    recording = AriaRecording(sample_data / "aria-vrs" / name)
    labels = ("camera-rgb", "imu-left", "imu-right")
    assert tuple(recording.count(recording.streams[label]) for label in labels) == expected["counts"]
    count, left = recording.count, recording.streams["imu-left"]
    for i, hidden in enumerate((None, left)):
        monkeypatch.setattr(recording, "count", lambda stream, hidden=hidden: 0 if stream == hidden else count(stream))
        motion = recording.imu()
        assert 1 / motion.median_steps[0] == pytest.approx(expected["rates"][i], rel=0.002)
        assert np.linalg.norm(motion.accel, axis=1).mean() == pytest.approx(expected["norms"][i], abs=0.001)
        np.testing.assert_allclose(motion.accel.mean(0), expected["accel"][i], atol=0.0051)
        np.testing.assert_allclose(motion.gyro.mean(0), expected["gyro"][i], atol=0.00051)
    made = convert(recording.path, tmp_path, progress=False)
    with av.open(made.video) as container:
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
    np.testing.assert_allclose(shown, expected["times"], atol=1e-4)
    if name == "recording.vrs":  # the maker's converter made this one upright
        reference = sample_data / "aria-vrs" / "recording_rgb_by_vrs_to_mp4.mp4"
        ours, theirs = (read_frames(video, [0.0], 64).astype(int) for video in (made.video, reference))
        assert abs(ours - theirs).mean() < 8 < abs(np.rot90(ours, 1, (2, 3)) - theirs).mean()


def test_the_real_first_generation_needs_zstd(sample_data, monkeypatch):
    """Without it, records are found from header to header, and the error names the extra."""
    monkeypatch.setattr(aria, "_zstd", lambda: None)
    path = sample_data / "aria-vrs" / "recording.vrs"
    assert len(aria.VRS(path).records) == 785
    with pytest.raises(AriaError, match=r"egodistill\[cameras\]"):
        AriaRecording(path)


@pytest.mark.skipif(importlib.util.find_spec("zstandard") is None, reason="needs the extra cameras")
def test_compressed_records_are_read(tmp_path):
    import zstandard

    content = b"motion" * 100
    expand = aria._zstd()
    assert expand(zstandard.ZstdCompressor().compress(content) + b"left over", len(content)) == content


def test_a_real_recording_that_was_cut_off(sample_data, tmp_path):
    path = tmp_path / "cut.vrs"
    path.write_bytes((sample_data / "aria-vrs" / "recording.vrs").read_bytes()[:1_000_000])
    with pytest.raises(AriaError, match=r"cut\.vrs: has [\d,]+ of 785 records \(1,000,000 bytes\), so it was cut off"):
        aria.VRS(path)


def forge(path, content, name, size, changes=()):
    """Let the first data record of a stream be compressed, and name a size."""
    data = bytearray(path.read_bytes())
    start = data.index(content)
    head = aria.RECORD_HEADER.size
    fields = list(aria.RECORD_HEADER.unpack(data[start - head : start]))
    fields[7:] = aria.ZSTD, size
    data[start - head : start] = aria.RECORD_HEADER.pack(*fields)
    path.write_bytes(data)
    return path


class Zeros:
    """A bomb for any reader: as many zeros as it asks for."""

    def __call__(self, content, most):
        assert most <= aria.MAX_RECORD + 1
        return bytes(most)


def test_a_record_unpacks_to_the_size_that_it_names_and_no_more(gen1, monkeypatch):
    monkeypatch.setattr(aria, "_zstd", Zeros)
    first = samples(ACCEL, GYRO)[0][1]
    for size, words in ((2**32 - 1, "a record would have 4,295 MB"), (42, "unpacks to more than the 42 bytes")):
        path, before = forge(gen1(), first, LEFT, size), peak()
        with pytest.raises(AriaError, match=rf"walk.vrs: is damaged: .*{words}"):
            AriaRecording(path).imu()
        assert peak() - before < 200


@pytest.mark.skipif(importlib.util.find_spec("zstandard") is None, reason="needs the extra cameras")
def test_a_bomb_of_zstd_is_not_unpacked():
    import zstandard

    bomb, before = zstandard.ZstdCompressor().compress(bytes(1 << 28)), peak()
    assert len(bomb) < 10_000 and len(aria._zstd()(bomb, 101)) == 101
    assert peak() - before < 100


def test_an_index_has_no_more_records_than_the_file(gen1, monkeypatch):
    path = gen1()
    monkeypatch.setattr(aria, "_zstd", Zeros)
    data = bytearray(path.read_bytes())
    at = aria.FILE_HEADER.unpack(data[: aria.FILE_HEADER.size])[4] + aria.RECORD_HEADER.size + 4 + 6
    data[at : at + 4] = struct.pack("<I", 2**32 - 1)
    data[at - 15 : at - 10] = struct.pack("<BI", aria.ZSTD, 100)
    path.write_bytes(data)
    with pytest.raises(AriaError, match=r"walk.vrs: ends long before the records that its index counts"):
        aria.VRS(path)


def test_numbers_of_a_record_are_at_its_start(gen1, monkeypatch):
    path = gen1()
    monkeypatch.setattr("vrs.IMU_LAYOUT", [*IMU_LAYOUT, ("far", "Value<double>", 10**9, {})])
    with pytest.raises(AriaError, match=r"far.vrs: does not say how the data of stream 1202-2 are laid out"):
        AriaRecording(gen1("far.vrs")).imu()
    assert AriaRecording(path).imu()
