"""What is wrong with a sensor: one judge for files, streams and their health."""

import re

import numpy as np
import pytest
from heads import head
from painted import write_table
from streams import student

from egodistill.commands import cli
from egodistill.data import read_imu
from egodistill.deploy.stream import Stream
from egodistill.imu import Imu, IMUError
from egodistill.recordings import checks, sensors

PLAIN = ("time", "ax", "ay", "az", "gx", "gy", "gz")


def test_of_a_pair_the_table_at_fault_is_named(tmp_path):
    times, accel, gyro = head()
    for units, words in (
        ((1 / 9.81, 1.0), "a.csv: the acceleration is in g"),
        ((1.0, 229.0), "g.csv: half of the turn"),
    ):
        for name, values in (("a", accel * units[0]), ("g", gyro * units[1])):
            header = ["time", *(name + axis for axis in "xyz")]
            write_table(tmp_path / f"{name}.csv", header, np.column_stack([times, values]).tolist())
        with pytest.raises(IMUError, match=words):
            read_imu((tmp_path / "a.csv", tmp_path / "g.csv"))


def head_motion(seconds=20, rate=198):
    """Rows in seconds, m/s2 and rad/s of a head that nods."""
    rng, stamps = np.random.default_rng(0), np.arange(0, seconds, 1 / rate)
    accel, gyro = rng.normal((0, 1, 9.7), 0.5, (len(stamps), 3)), rng.normal(0, 0.5, (len(stamps), 3))
    return np.column_stack([stamps, accel, gyro])


def test_values_in_another_unit_are_an_error_or_a_note(tmp_path):
    def read(accel=1.0, gyro=1.0, frozen=()):
        rows = head_motion() * [1, accel, accel, accel, gyro, gyro, gyro]
        for columns in frozen:
            rows[600:1800, columns] = rows[600, columns]
        return read_imu(write_table(tmp_path / "u.csv", PLAIN, rows.tolist())).notes

    assert read() == ()
    with pytest.raises(IMUError, match=r"u.csv: the acceleration is in g \(median 1.00\); multiply it by 9.80665"):
        read(accel=1 / 9.80665)
    assert "mean acceleration 1.3" in read(accel=1 / 7.4)[0]
    words = r"u.csv: the acceleration is in mg or cm/s2 \(median \d{3}\); multiply it by 0.00980665 \(mg\) or 0.01 \(cm"
    for factor in (95.0, 100.0, 1000 / 9.80665):  # sensors have larger errors than the 2 % between mg and cm/s2
        with pytest.raises(IMUError, match=words):
            read(accel=factor)
    for factor, mean in ((9.80665, "9[56]"), (2**14 / 9.80665, r"1\.6\d\de\+04"), (3.5, "34")):
        (note,) = read(accel=factor)
        assert re.match(rf"mean acceleration {mean}.* m/s2, but gravity alone is 9.81: is it in mg or in counts", note)
    assert re.match(r"mean acceleration 28.\d\d m/s2; gravity alone is 9.81$", read(accel=2.9)[0])
    assert read(accel=0.95) == read(accel=1.1) == ()
    with pytest.raises(IMUError, match=r"u.csv: half of the turn rates .* degrees .*; multiply them by 0.01745"):
        read(gyro=100.0)
    assert "the turn rates are 65 times those of the gravity" in read(gyro=40.0)[0]
    with pytest.raises(IMUError, match=r"u.csv: the turn rates are 2. times those .* degrees .* by 0.01745"):
        times, accel, gyro = head()  # slow: no turn rate is too high for rad/s
        write_table(tmp_path / "u.csv", PLAIN, np.column_stack([times, accel, 0.4 * 57.3 * gyro]).tolist())
        read_imu(tmp_path / "u.csv")
    frozen = read(frozen=[slice(1, 4), slice(4, 7)])
    assert frozen == tuple(f"the {s} does not change from 3.0 to 9.1 s" for s in ("accelerometer", "gyroscope"))
    assert read(gyro=0.0) == ("the gyroscope is zero from 0.0 to 20.0 s",)


def judged(accel):
    times = np.arange(len(accel)) / 100
    return sensors.judge(Imu(times, accel, times, np.zeros((len(accel), 3))), "u").notes


def test_a_log_of_two_seconds_from_slow_glasses_is_judged_too(tmp_path):
    """It is long enough for a clip, so that its unit must not pass in silence."""
    table = tmp_path / "log.csv"
    write_table(table, PLAIN, (head_motion(2, 30) * [1, *[1 / 9.80665] * 3, 1, 1, 1]).tolist())
    with pytest.raises(IMUError, match=r"log.csv: the acceleration is in g \(median 1.01"):
        read_imu(table)
    write_table(table, PLAIN, (head_motion(0.3, 198) * [1, *[1000 / 9.80665] * 3, 1, 1, 1]).tolist())
    with pytest.raises(IMUError, match=r"log.csv: the acceleration is in mg"):  # however short it is
        read_imu(table)
    write_table(table, PLAIN, head_motion(2, 30).tolist())
    assert read_imu(table).noted == ("accelerometer rate", "gyroscope rate")


@pytest.mark.parametrize(("factor", "told"), [(0.75, True), (1.0, False), (1.3, True)])
def test_a_moving_head_on_a_wrong_scale_is_noted(factor, told, tmp_path):
    """No norm is near gravity, but the mean of half a second is."""
    rows = head_motion()
    rows[:, 1:4] += np.random.default_rng(1).normal(0, 4, (len(rows), 3))
    motion = Imu(rows[:, 0], factor * rows[:, 1:4], rows[:, 0], rows[:, 4:])
    found = [one.text for one in sensors.motion_states(motion)]
    assert (found != []) is told and all("gravity alone is 9.81" in text for text in found)
    log = tmp_path / "log.csv"  # `check` shows the number that is judged, and not the mean norm, which is larger
    write_table(log, PLAIN, np.column_stack([motion.accel_time, motion.accel, motion.gyro]).tolist())
    cells = rows[:, 1:4].reshape(-1, 99, 3).mean(1)  # of half a second each, at 198 Hz
    wanted = factor * np.median(np.linalg.norm(cells, axis=1))
    assert checks.check(None, log).gravity == pytest.approx(wanted, abs=0.02)
    assert factor * np.linalg.norm(rows[:, 1:4], axis=1).mean() > wanted + 1


def test_shaken_readings_of_a_thousand_are_noted_and_not_refused():
    values = np.full((200, 3), [0, 0, 1000.0])
    values[::10] = 400  # 700 in all
    with pytest.raises(IMUError, match="in mg or cm/s2"):
        judged(values)
    values[::10] = 200
    assert "mean acceleration 934.6 m/s2" in judged(values)[0]


def at(values, places, reading):
    """Readings of which some are another one."""
    values = values.copy()
    values[places] = reading
    return values


def states(times, accel, gyro, **options):
    return {one.name: one.text for one in sensors.motion_states(Imu(times, accel, times, gyro), **options)}


def test_a_head_that_moves_has_no_states():
    times, accel, gyro = head()
    for turn in (np.eye(3), np.eye(3)[[2, 0, 1]]):  # also in axes that are not a GoPro's
        for scale in (0.0, 0.1, 1.0, 4.0):  # scale 0: a tripod, of which noise is left
            noise = np.random.default_rng(1).normal(0, 0.004, gyro.shape)
            still = np.random.default_rng(2).normal([0, 0, 9.81], 0.04, accel.shape)
            a, g = (still, noise) if scale == 0 else (accel @ turn.T, scale * gyro)
            assert states(times, a, g) == {}, scale
    assert states(times[:50], 0 * accel[:50], gyro[:50]) == {}  # too few to judge
    for rate in (100.0, 1000.0, 4000.0):
        assert states(*head(rate=rate)) == {}


FAULTS = [
    (lambda a, g: (a / 9.81, g), "accelerometer units", "the acceleration is in g"),
    (lambda a, g: (a * 100, g), "accelerometer units", "in mg or cm/s2"),
    (lambda a, g: (a * 2048 / 9.81 + 9000, g), "accelerometer units", "in counts of the sensor"),
    (lambda a, g: (a - [0, 0, 9.7], g), "accelerometer units", "without gravity"),
    (lambda a, g: (a / 2, g), "accelerometer units", r"mean acceleration 4.9\d m/s2; gravity alone is 9.81"),
    (lambda a, g: (a, 57.3 * 4 * g), "gyroscope units", "in degrees per second"),
    (lambda a, g: (a, 57.3 * 0.4 * g), "gyroscope units", r"\d+ times those of the gravity .* in degrees"),
    (lambda a, g: (g, a), "sensors exchanged", "the gyroscope measures gravity, .*: are the sensors exchanged"),
    (lambda a, g: (0 * a, g), "accelerometer dead", r"is zero from 0.0 to 10.0 s"),
    (lambda a, g: (a, 0 * g), "gyroscope dead", r"is zero from 0.0 to 10.0 s"),
    (lambda a, g: (0 * a + a[0], g), "accelerometer frozen", "does not change from 0.0 to 10.0 s"),
    (lambda a, g: (a, 0 * g + g[0]), "gyroscope frozen", "does not change from 0.0 to 10.0 s"),
    (lambda a, g: (at(a[:1] + 0 * a, slice(None, None, 200), 9), g), "accelerometer frozen", "in 100% of 10 s"),
    (lambda a, g: (at(a, slice(0, 2000, 200), -32768), g), "accelerometer units", "0.5% of the accelerations are"),
    (lambda a, g: (a[:, [0, 2, 2]] / 2**0.5, g), "accelerometer axes", "the accelerometer's Y and Z are equal"),
    (lambda a, g: (a, g * [1, 0, 1]), "gyroscope axes", "the gyroscope's Y is always zero"),
]


@pytest.mark.parametrize(("change", "name", "words"), FAULTS)
def test_readings_that_no_head_can_have_are_a_state(change, name, words):
    times, accel, gyro = head()
    ((found, sentence),) = states(times, *change(accel, gyro)).items()
    assert found == name and re.search(words, sentence)


@pytest.mark.parametrize("change", [lambda a, g: (a, g), *(change for change, _, _ in FAULTS)])
def test_one_recording_has_the_same_findings_through_every_door(tmp_path, capsys, change):
    """Files and streams, Python and commands; what is certain, a file of it is refused for."""
    times, accel, gyro = head()
    readings, log = np.concatenate(change(accel, gyro), axis=1), tmp_path / "log.csv"
    write_table(log, PLAIN, np.column_stack([times, readings]).tolist())
    network = student(image_encoder=None)
    network.save(tmp_path / "s.safetensors")
    with Stream(network, report=print) as stream:
        stream.accept_imu(times, readings)
        found = stream.health()
    texts = [one.text for one in found]
    assert found == sensors.motion_states(Imu(times, readings[:, :3], times, readings[:, 3:]))
    checked = checks.check(None, log)
    capsys.readouterr()
    codes = [
        cli.main(["check", "--imu", str(log)]),
        *(
            cli.main([*command, "--imu", str(log), "--student", str(tmp_path / "s.safetensors")])
            for command in (["predict"], ["live", "--fast"])
        ),
    ]
    shown = capsys.readouterr()
    if refused := [f"{log}: {one.text}" for one in found if one.certain]:
        assert [checked.problem] == refused and all(codes) and shown.err.count(refused[0]) == 2
        with pytest.raises(IMUError, match=re.escape(refused[0])):
            read_imu(log)
        return
    assert list(read_imu(log).notes) == list(checked.imu_notes) == texts and codes == [0, 0, 0]
    assert shown.out.count("\n  - ") == len(texts)
    assert all(text in " ".join(shown.out.split()) for text in texts)
    assert shown.err.count(f"note: {log}: {'; '.join(texts)}\n") == 2 * bool(texts)
    assert shown.err.count("warning: ") == len(texts)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (1e3, "5 s apart; are the times in milliseconds"),
        (1e6, r"5e\+03 s apart; are the times in microseconds"),
        (1e9, r"5e\+06 s apart; are the times in nanoseconds"),
        (1e-6, r"5e-09 s apart; are the times in milliseconds"),  # integers, taken for nanoseconds
        (1e-3, r"5e-06 s apart; are the times in microseconds"),
    ],
)
def test_times_in_another_unit_are_a_state(factor, words):
    times, accel, gyro = head(2.0)
    found = states(times * factor, accel, gyro)
    assert list(found) == ["accelerometer times", "gyroscope times"]
    assert all(re.search(words, sentence) for sentence in found.values())


def test_a_slow_sensor_is_a_state_for_a_student_that_reads_more():
    times, accel, gyro = head(rate=60.0)
    found = states(times, accel, gyro)
    assert list(found) == ["accelerometer rate", "gyroscope rate"]
    assert "the gyroscope has 60 samples per second; clips of 198 Hz are" in found["gyroscope rate"]
    assert states(times, accel, gyro, rate=100.0) == {}


def test_the_rate_of_uneven_steps_is_their_mean_without_gaps():
    times, accel, gyro = head(20.0, rate=100.0)
    steps = np.where(np.arange(len(times)) % 5 < 2, 0.0075, 0.0105)  # 107.5 per second, by the median 95
    steps[1000] = 3.0
    assert states(np.cumsum(steps), accel, gyro) == {}
    found = states(np.cumsum(steps), accel, gyro, rate=240.0)
    assert "the gyroscope has 108 samples per second; clips of 240 Hz" in found["gyroscope rate"]


def test_states_do_not_depend_on_the_order_of_samples_and_on_doubles():
    times, accel, gyro = head()
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(times)), 2))
    assert states(times[order], accel[order], gyro[order]) == {}
    assert list(states(times[order], 0 * accel[order], gyro[order])) == ["accelerometer dead"]


def test_times_from_the_future_and_gaps_are_no_states():
    times, accel, gyro = head(20.0)
    wild = times.copy()
    wild[[700, 1500]] = 1e9, 1e300
    assert states(wild, accel, gyro) == {}
    gap = (times < 5) | (times > 12)
    accel[np.flatnonzero(times > 12)[0]] = accel[np.flatnonzero(times < 5)[-1]]
    assert states(times[gap], accel[gap], gyro[gap]) == {}


def test_exchanged_sensors_are_noted(tmp_path):
    times, accel, gyro = head()
    path = write_table(tmp_path / "x.csv", PLAIN, np.column_stack([times, gyro, accel]).tolist())
    assert "are the sensors exchanged?" in " ".join(read_imu(path).notes)
