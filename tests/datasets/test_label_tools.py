"""Labels of ELAN, BORIS and Label Studio: what is read of their exports, what is left out, and what errors say.

The files follow ELAN's Transcription2TabDelimitedText.java, BORIS's tests/files/test_export_aggregated_events_*.tsv
(version 4) and export_observation.py (version 9), and Label Studio's guide/task_format and tags/timelinelabels.
"""

import json

import pytest
from painted import write_video

from egodistill import DataError, data
from egodistill.datasets import annotations, label_tools, table_checks


def write(path, *rows, sign="\t"):
    path.write_text("".join(sign.join(map(str, row)) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path, *arguments, **options):
    """Labels with their times, by way of the door."""
    found = annotations.read_annotations(path, *arguments, **options)
    return [(one.label, round(one.start, 3), round(one.stop, 3)) for one in found]


@pytest.fixture
def walk(tmp_path):
    (tmp_path / "walk.mp4").touch()
    return tmp_path / "walk.mp4"


# --- ELAN

TWO = [("open", 1.5, 4.0), ("close", 4.0, 3725.25)]


def rows_of(tiers, *forms, duration=True):
    """Rows of an export with times in some forms: c(locks), s(econds), m(illiseconds), f(rames)."""
    for (value, start, stop), tier in zip(TWO, tiers, strict=True):
        times = []
        for seconds in (start, stop, stop - start)[: 3 if duration else 2]:
            clock = f"{int(seconds) // 3600:02d}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}"
            cells = {"c": f"{clock}.{round(seconds % 1 * 1000):03d}", "s": seconds, "m": round(seconds * 1000)}
            cells["f"] = f"{clock}:12"
            times += [cells[form] for form in forms]
        yield [*tier, *times, value]


@pytest.mark.parametrize("duration", [True, False])
@pytest.mark.parametrize("forms", ["c", "s", "m", "cs", "csm", "csmf", "sm", "mf"])
@pytest.mark.parametrize("tier", [("hands", ""), ("hands", "Anna"), ("hands", "1"), ("7", "0"), ("hands",), ()])
def test_elan_in_every_choice_of_columns(tmp_path, walk, tier, forms, duration):
    table = write(tmp_path / "walk.txt", *rows_of([tier, tier], *forms, duration=duration))
    if tier in (("hands", "1"), ("7", "0")) and forms == "m" and not duration:  # nothing tells which numbers are times
        with pytest.raises(DataError, match="line 1: are begin and end"):
            read(table)
        return
    assert read(table) == TWO
    with_path = [[*row, "walk.eaf", "/home/anna/walk.eaf"] for row in rows_of([tier, tier], *forms, duration=duration)]
    assert read(write(tmp_path / "all.txt", *with_path)) == TWO  # the .eaf names the video


@pytest.mark.parametrize("label", ["open", "3"])
@pytest.mark.parametrize("participant", ["0", "1", "2", "3", "500", "1000"])
def test_elan_in_milliseconds_with_a_number_for_a_participant(tmp_path, walk, participant, label):
    """The run of numbers of which the third is the difference of the two before is begin, end and duration."""
    rows = [["hands", participant, 500, 1500, 1000, label], ["hands", participant, 2000, 5000, 3000, label]]
    assert read(write(tmp_path / "walk.txt", *rows)) == [(label, 0.5, 1.5), (label, 2.0, 5.0)]
    assert read(write(tmp_path / "walk.txt", *([*row, "walk.eaf"] for row in rows))) == [
        (label, 0.5, 1.5),
        (label, 2.0, 5.0),
    ]


@pytest.mark.parametrize(
    "row",
    [
        ("hands", 1, 500, 1500, "open"),  # no duration
        ("hands", 0, 1500, 1500, 0, "open"),  # two that fit
        ("hands", "", 500, 1600, 1000, "open"),  # none that fits
    ],
)
def test_elan_with_numbers_that_can_be_read_in_two_ways_is_refused(tmp_path, walk, row):
    begin = ("Begin Time - msec", "End Time - msec")
    with pytest.raises(DataError, match=r"walk.txt, line 2: are begin and end \d+ and \d+ or \d+ and \d+\? .* header"):
        read(write(tmp_path / "walk.txt", ['"#file:///walk.mp4 -- offset: 0"'], row))
    header = ("Tier", "Participant", *begin, *["Duration"] * (len(row) == 6), "Value")
    after = ("hands", row[1], 2000, 5000, *[3000] * (len(row) == 6), "close")
    found = read(write(tmp_path / "walk.txt", header, row, after))
    assert found[-1] == ("close", 2.0, 5.0) and len(found) == 1 + (row[2] < row[3])
    rows = [(*row[:2], "00:00:02.000", 2000, "00:00:05.000", 5000, "open")]
    assert read(write(tmp_path / "walk.txt", *rows)) == [("open", 2.0, 5.0)]


def test_elan_gives_ids_places_and_what_is_left_out(tmp_path, walk):
    rows = [*rows_of([("hands", ""), ("steps", "")], "c", "s")]
    rows += [["steps", "", *("01:10:00.000", 4200.0) * 2, "00:00:00.000", 0.0, "clap"]]
    rows += [["steps", "", "01:10:00.000", 4200.0, "01:10:02.000", 4202.0, "00:00:02.000", 2.0, ""]]
    found = data.read_labels(write(tmp_path / "walk.txt", *rows))
    assert [(one.id, one.video, one.split) for one in found] == [(f"walk_{k}", str(walk), "train") for k in (0, 1)]
    assert found.dropped == {"a point event": 1, "an empty value": 1}
    assert found.origin.rows == {"walk_0": "line 1", "walk_1": "line 2"}
    assert [one.label for one in data.read_labels(tmp_path / "walk.txt", tier="steps")] == ["close"]


@pytest.mark.parametrize("begin", ["Begin Time", "Temps de départ", "開始時間"])
def test_elan_with_a_column_for_each_tier(tmp_path, walk, begin):
    """Headers begin in the language of ELAN's menus."""
    header = [f"{begin} - hh:mm:ss.ms", f"{begin} - msec", "End - hh:mm:ss.ms", "End - msec", "hands", "place"]
    rows = [
        ["00:00:01.500", 1500, "00:00:04.000", 4000, "open", ""],
        ["00:00:04.000", 4000, "00:00:05.000", 5000, "", "hall"],
    ]
    assert read(write(tmp_path / "walk.txt", header, *rows)) == [("open", 1.5, 4.0), ("hall", 4.0, 5.0)]
    files = [[*header, "File Name"], *([*row, "walk.eaf"] for row in rows)]
    assert read(write(tmp_path / "all.txt", *files)) == [("open", 1.5, 4.0), ("hall", 4.0, 5.0)]
    write(tmp_path / "walk.txt", header, [*rows[0][:5], "hall"])
    with pytest.raises(
        DataError, match=r"walk.txt, line 2: 'hall' of 'place' overlaps 'open' of 'hands' \(line 2\); .*--tier"
    ):
        read(tmp_path / "walk.txt")
    assert read(tmp_path / "walk.txt", tier="place") == [("hall", 1.5, 4.0)]


BEGIN_END = ("Begin Time - ss.msec", "End Time - ss.msec")


@pytest.mark.parametrize(
    "header",
    [
        ("Tier", "Participant", *BEGIN_END, "Duration", "Value"),
        ("Tier", *BEGIN_END, "Notes", "value"),
        ("Tier", "Value", *BEGIN_END, "Duration"),
        ("Value", "Tier", *BEGIN_END, "Duration"),
        ("Tier", *BEGIN_END, "Value", "Rater"),
    ],
)
def test_elan_with_a_header_of_ones_own_has_its_value_where_the_header_says(tmp_path, walk, header):
    rows = []
    for value, start, stop in TWO:
        cells = {"Tier": "hands", BEGIN_END[0]: start, BEGIN_END[1]: stop, "Duration": stop - start}
        rows.append([cells.get(name, value if name in ("Value", "value") else "?") for name in header])
    found = data.read_labels(write(tmp_path / "walk.txt", header, *rows), tier="hands")
    assert [(one.label, one.start, one.stop) for one in found] == TWO


@pytest.mark.parametrize("columns", [("Wert",), ("Duration (s)", "Wert"), ("Value", "Label")])
def test_elan_with_a_header_that_names_no_value_is_refused(tmp_path, walk, columns):
    rows = [[*("hands", 0.0, 1.0), *["x"] * len(columns)]]
    with pytest.raises(DataError, match=rf"line 1: which of 'Tier', .* '{columns[-1]}' is the class\?.* Value$"):
        read(write(tmp_path / "walk.txt", ("Tier", *BEGIN_END, *columns), *rows))


def test_elan_names_its_media_before_the_rows(tmp_path, walk):
    (tmp_path / "cook.MP4").touch()
    medium = '"#file:///C:/Films/{} -- offset: {}"'
    first, second = rows_of([("hands", ""), ("hands", "")], "c", "s")
    rows = [[medium.format("mic.wav", 0)], [medium.format("walk%2Emp4", 0)], [], first, [], ['"#cook.eaf"'], second]
    found = data.read_labels(write(tmp_path / "all.txt", *rows))
    assert [one.video for one in found] == [str(walk), str(tmp_path / "cook.MP4")]
    assert sorted(one.split for one in found) == ["test", "train"]
    assert found.origin.rows == {"walk_0": "line 4", "cook_1": "line 7"}
    (tmp_path / "table").mkdir()
    write(tmp_path / "table/all.txt", [f'"#file://{walk} -- offset: 0"'], first)  # exported elsewhere
    assert data.read_labels(tmp_path / "table/all.txt")[0].video == str(walk)
    write(tmp_path / "all.txt", [medium.format("walk.mp4", 1200)], [], first)
    with pytest.raises(DataError, match=r"all.txt, line 3: the video has an offset, .* 'Add master media .* write 0"):
        data.read_labels(tmp_path / "all.txt")


def test_elan_tiers_that_overlap_must_be_chosen(tmp_path, walk):
    rows = [["left", "", "0.0", "9.0", "hold"], ["right", "", "9.0", "12.0", "cut"], ["left", "", "8.0", "8.5", "put"]]
    assert (
        len(read(write(tmp_path / "walk.txt", *rows))) == 3
    )  # of one tier, and at the same time: as in your own table
    write(tmp_path / "walk.txt", *rows, ["right", "", "8.9", "9.0", "cut"])
    with pytest.raises(
        DataError, match=r"line 4: 'cut' of 'right' overlaps 'hold' of 'left' \(line 1\).*'left' \(2\), 'right' \(2\)"
    ):
        read(tmp_path / "walk.txt")
    assert [label for label, *_ in read(tmp_path / "walk.txt", tier="left")] == ["hold", "put"]
    with pytest.raises(
        DataError, match=r"walk.txt: no labelled segment of tier='legs' .* its tiers: 'left' \(2\), 'right' \(2\)"
    ):
        read(tmp_path / "walk.txt", tier="legs")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([["a", "", "00:00:01:12", "00:00:02:12", "x"]], "no column video"),  # not taken for an export
        (
            [["Begin Time - PAL", "End Time - PAL", "Begin - msec", "a"], ["00:00:01:12"] * 4],
            "line 1: no begin and end",
        ),
        ([["Begin Time - msec,End Time - msec,a"], ["0,1,x"]], "line 1: no begin and end .* tab-delimited"),
        ([["a", "", "0.0", "1.0", "x"], ["a", "", "1.0"]], "line 2: no begin and end"),
        ([["a", "", "0.0", "1.0", "x"], ["a", "", "2.0", "1.0", "x"]], "line 2: stop 1.0 is not after start 2.0"),
        ([["a", "", "0", "1000", "x"], ["a", "", "1", "-", "x"]], "line 2: '-' is not a time"),
        (
            [["a", "", "0.0", "1.0", ""], ["a", "", "2.0", "2.0", "x"]],
            "no labelled segment; .* left out: an empty value: 1, a point event: 1",
        ),
    ],
)
def test_elan_errors_name_file_and_line(tmp_path, walk, rows, words):
    with pytest.raises(DataError, match=f"walk.txt(: |, ){words}"):
        read(write(tmp_path / "walk.txt", *rows))


def test_an_export_of_elan_without_a_video_has_its_name(tmp_path, walk):
    (tmp_path / "walk.mp4").touch()
    with pytest.raises(DataError, match=r"labels.txt, line 1: no video of .* or name this export, which"):
        read(write(tmp_path / "labels.txt", ["a", "", "0.0", "1.0", "x"]))
    with pytest.raises(DataError, match=r"no video of .*other.mp4', 'labels.txt'\] in .* as root \(--root\)$"):
        read(write(tmp_path / "labels.txt", ['"#file:///C:/other.mp4 -- offset: 0"'], ["a", "", "0.0", "1.0", "x"]))


# --- BORIS

BORIS_4 = (
    "Observation id,Observation date,Description,Media file,Total length,FPS,Subject,Behavior,Behavioral category,"
    "Modifiers,Behavior type,Start (s),Stop (s),Duration (s),Comment start,Comment stop"
).split(",")
BORIS_9 = (
    "Observation id,Observation date,Description,Observation type,Source,Time offset (s),Coding duration,"
    "Media duration (s),FPS (frame/s),Subject,Observation duration by subject by observation,Behavior,"
    "Behavioral category,Modifier #1,Behavior type,Start (s),Stop (s),Duration (s),Media file name,Image index start,"
    "Image index stop,Image file path start,Image file path stop,Comment start,Comment stop"
).split(",")


def event_4(behavior, start, stop, kind="STATE", video="walk.mp4", subject="No focal subject", observation="one"):
    about = [observation, "2016-12-01 23:01:31", "Walk, and look", video, "539.920", "25.0", subject, behavior, "", ""]
    return [*about, kind, f"{start:.3f}", f"{stop:.3f}", "NA" if kind == "POINT" else f"{stop - start:.3f}", "", ""]


def event_9(behavior, start, stop, kind="STATE", source="player #1:C:/films/walk.mp4", offset=0, subject="Anna"):
    about = ["one", "2024-05-02 10:00:00", "", "Media file", source, offset, "180.000", "180.000", "25.000", subject]
    times = [kind, f"{start:.3f}", "NA" if stop is None else f"{stop:.3f}", "NA", source.partition(":")[2]]
    return [*about, 12.5, behavior, "Not defined", "None", *times, 45, 203, "", "", "", ""]


@pytest.mark.parametrize("sign", ["\t", ","])
@pytest.mark.parametrize(("header", "event"), [(BORIS_4, event_4), (BORIS_9, event_9)])
def test_boris_of_old_and_new_versions(tmp_path, walk, sign, header, event):
    rows = [event("look", 1.8, 8.125), event("clap", 32.825, 32.825, "POINT"), event("go", 10.25, 23.35)]
    if event is event_9:
        rows.append(event("go", 24, None))  # a state that was not ended
    rows = [[f'"{cell}"' if "," in str(cell) else cell for cell in row] for row in rows]
    found = annotations.read_annotations(write(tmp_path / "events.csv", header, *rows, sign=sign))
    assert [(one.label, one.start, one.stop) for one in found] == [("look", 1.8, 8.125), ("go", 10.25, 23.35)]
    assert found.dropped == {"a point event": len(rows) - 2}
    assert found.origin.rows == {"walk_0": "row 2", "walk_1": "row 4"} and found[0].video == str(walk)


def test_boris_times_include_the_offset_of_the_observation(tmp_path, walk):
    table = write(tmp_path / "e.tsv", BORIS_9, event_9("look", 60, 61.5, offset="60.000"))
    assert read(table) == [("look", 0.0, 1.5)]
    assert read(write(table, BORIS_9, event_9("look", 60, 61.5, offset="60.0004"))) == [("look", 0.0, 1.5)]
    with pytest.raises(DataError, match=r"e.tsv, row 2: '-1.0' is not a time"):
        read(write(table, BORIS_9, event_9("look", 59, 61.5, offset="60.000")))


def test_boris_with_several_videos_or_subjects(tmp_path, walk):
    (tmp_path / "cook.mp4").touch()
    advice = "row 2: its observation has several videos; make an observation of each"
    with pytest.raises(DataError, match=f"e.tsv, {advice}"):
        read(write(tmp_path / "e.tsv", BORIS_9, event_9("look", 1, 2, source="player #1:walk.mp4;cook.mp4")))
    assert read(
        write(tmp_path / "e.tsv", BORIS_9, event_9("look", 1, 2, source="player #1:walk.mp4|player #2:cook.mp4"))
    )
    two = [event_4("look", 1, 2), event_4("go", 200, 201, video="cook.mp4")]
    with pytest.raises(DataError, match=f"e.tsv, {advice}".replace("row 2", "row 3")):
        read(write(tmp_path / "e.tsv", BORIS_4, *two))
    two[1][0] = "two"
    assert len(read(write(tmp_path / "e.tsv", BORIS_4, *two))) == 2
    both = [event_4("look", 1, 3, subject="Anna"), event_4("go", 2, 4, subject="Ben")]
    with pytest.raises(DataError, match=r"e.tsv, row 3: 'go' of 'Ben' overlaps 'look' of 'Anna' \(row 2\)"):
        read(write(tmp_path / "e.tsv", BORIS_4, *both))
    assert read(tmp_path / "e.tsv", tier="Ben") == [("go", 2.0, 4.0)]


def test_other_exports_of_boris_name_the_right_one(tmp_path, walk):
    table = write(tmp_path / "e.tsv", ["Observation id", "Subject", "Behavior", "Behavior type", "Time"])
    with pytest.raises(DataError, match=r"e.tsv: no column Start \(s\); use Observations > Export aggregated events"):
        read(table)
    with pytest.raises(
        DataError, match=r"e.tsv, row 2: no video of .'LIVE'. in .*; put it there, or give its folder as root \(--root"
    ):
        read(write(table, BORIS_4, event_4("look", 1, 2, video="LIVE")))


# --- Label Studio


def frames(label, start, stop):
    value = {"ranges": [{"start": start, "end": stop}], "timelinelabels": [label]}
    return {"value": value, "id": "x", "from_name": "timeline", "to_name": "video", "type": "timelinelabels"}


def seconds(label, start, stop, key="timeserieslabels"):
    value = {"start": start, "end": stop, "instant": start == stop, key: [label]}
    return {"value": value, "id": "x", "from_name": "label", "to_name": "ts", "type": key}


def annotation(*results, by=7, **more):
    return {
        "id": 1001,
        "completed_by": by,
        "result": list(results),
        "was_cancelled": False,
        "ground_truth": False,
    } | more


def task(*given, number=12, **about):
    about = about or {"video": "/data/upload/3/0a1b2c3d-walk.mp4"}
    return {"id": number, "data": about, "annotations": list(given), "predictions": [{"result": [frames("no", 1, 9)]}]}


def export(path, *tasks, **options):
    path.write_text(json.dumps(tasks, **options), encoding="utf-8")
    return path


def test_label_studio_frames_at_the_rate_of_the_video(tmp_path):
    write_video(tmp_path / "walk.mp4", [k / 20 for k in range(60)])  # 20 frames a second
    results = [frames("look", 1, 20), frames("go", 21, 30), frames("clap", 40, 40), seconds("", 1.0, 2.0, "labels")]
    results.append({"value": frames("a", 1, 9)["value"] | {"timelinelabels": ["a", "b"]}, "type": "timelinelabels"})
    results.append({"value": {"choices": ["good"]}, "type": "choices"})
    results.append(
        {"value": {"framesCount": 9, "sequence": [{"frame": 1}], "labels": ["hand"]}, "type": "videorectangle"}
    )
    table = export(tmp_path / "project.json", task(annotation(*results)), task(number=13), indent=1)
    found = annotations.read_annotations(table)
    assert [one.label for one in found] == ["look", "go"]
    times = [time for one in found for time in (one.start, one.stop)]
    assert times == pytest.approx([0, 1, 1, 1.5], abs=0.02)
    left_out = {"a point event": 1, "an empty value": 1, "a result without one label and its times": 3}
    assert found.dropped == left_out and found.origin.rows["walk_1"] == "task 12, result 2"
    assert ["fps" in one.text for one in table_checks.find(found)] == [True]
    given = task(annotation(frames("go", 25, 48)), fps=24, video="walk.mp4")
    found = data.read_labels(export(table, given))
    assert [(one.start, one.stop) for one in found] == [(1.0, 2.0)] and table_checks.find(found) == []


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/3/0a1b2c3d-walk.mp4",
        "/data/local-files/?d=films/2024/walk.mp4",
        "s3://bucket/films/walk.mp4",
        "https://host/walk.mp4?X-Amz-Signature=a/b&name=cook.mp4",
        "C:\\films\\walk.mp4",
        "films/walk.csv",  # a time series beside the video
    ],
)
def test_label_studio_names_videos_by_addresses(tmp_path, address):
    (tmp_path / "films").mkdir()
    for name in ("walk.mp4", "x.mp4"):
        (tmp_path / "films" / name).touch()
    about = {"more": "x.csv"} if address.endswith("mp4") else {}  # a video is preferred
    table = export(tmp_path / "p.json", task(annotation(seconds("go", 0.5, "00:00:02")), **about, file=address))
    found = annotations.read_annotations(table, tmp_path / "films")
    assert [(one.label, one.start, one.stop) for one in found] == [("go", 0.5, 2.0)]
    assert found[0].video == str(tmp_path / "films/walk.mp4")
    for name in ("walk.mp4", "x.mp4"):
        (tmp_path / "films" / name).unlink()
    with pytest.raises(DataError, match=r"p.json, task 12, result 1: no video .* in .*films; .*--root"):
        annotations.read_annotations(table, tmp_path / "films")


def test_label_studio_with_several_annotators(tmp_path, walk):
    first, second = (
        annotation(seconds("go", 0, 2)),
        annotation(seconds("stop", 1, 3), by={"id": 8, "email": "b@lab.org"}),
    )
    table = export(tmp_path / "p.json", task(first, second, annotation(seconds("run", 0, 9), was_cancelled=True)))
    words = (
        r"p.json, task 12, result 1: 'stop' of 'b@lab.org' overlaps 'go' of '7' .* choose one .* of '7' \(1\), 'b@lab"
    )
    with pytest.raises(DataError, match=words):
        read(table)
    assert read(table, tier="7") == [("go", 0.0, 2.0)] and read(table, tier="b@lab.org") == [("stop", 1.0, 3.0)]
    assert data.read_labels(table, tier="7").dropped == {"a cancelled annotation": 1}
    second["ground_truth"] = True
    assert read(export(table, task(first, second))) == [("stop", 1.0, 3.0)]


@pytest.mark.parametrize(
    ("tasks", "words"),
    [
        ([{"id": 3, "video": "walk.mp4", "timeline": []}], "task 3: not Label Studio's JSON .*JSON-MIN"),
        ([task(), 5], r"\[1\]: not a JSON object"),
        (
            [task(annotation(frames("go", None, 4)), fps=24, video="walk.mp4")],
            "task 12, result 1: not Label Studio's JSON",
        ),
        ([task(annotation(seconds("go", 3, 2)))], "task 12, result 1: stop 2 is not after start 3"),
        ([task(annotation(seconds("go", 1592250751951.8, 1592251071946.6)))], "task 12, result 1: .* is not a time"),
        ([task(annotation(seconds("go", 0, 1), {"value": 3}))], "task 12, result 2: not Label Studio's JSON"),
        (
            [task(), task(annotation(was_cancelled=True))],
            "no labelled segment; its tiers: none; left out: a cancelled annotation: 1",
        ),
        ([], "no labelled segment; its tiers: none; left out: nothing"),
    ],
)
def test_label_studio_errors_name_task_and_result(tmp_path, walk, tasks, words):
    with pytest.raises(DataError, match=f"p.json(, |: ){words}"):
        read(export(tmp_path / "p.json", *tasks))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("walk.eaf", '<?xml version="1.0" encoding="UTF-8"?>\n<ANNOTATION_DOCUMENT AUTHOR="">', "Tab-delimited Text"),
        ("walk.boris", '{"time_format": "hh:mm:ss", "observations": {}}', "Export aggregated events"),
        ("p.csv", "annotation_id,annotator,created_at,id,lead_time,tricks,updated_at,video\n1,1,x,1,2,x,y,z", "JSON"),
        ("p.tsv", "video\tid\ttimelinelabels\tannotator\tannotation_id\tlead_time\n", "JSON"),
    ],
)
def test_a_file_that_cannot_be_read_names_what_to_export(tmp_path, name, content, words):
    (tmp_path / name).write_text(content, encoding="utf-8")
    for reader in (annotations.read_annotations, data.read_labels):
        with pytest.raises(DataError, match=f"{name}: is .*{words}"):
            reader(tmp_path / name)


# --- The door


def test_whole_videos_are_drawn_for_testing(tmp_path):
    names = [f"v{k}" for k in range(10)]
    for name in names:
        (tmp_path / f"{name}.mp4").touch()
    rows = [["a", "", f"{k}.0", f"{k + 1}.0", "go", f"{name}.eaf"] for name in names for k in range(3)]
    table = write(tmp_path / "all.txt", *rows)
    found = annotations.read_annotations(table)
    splits = {name: {one.split for one in found if one.video.endswith(f"{name}.mp4")} for name in names}
    assert all(len(own) == 1 for own in splits.values()) and [one.split for one in found].count("test") == 9
    moved = (tmp_path / "films").resolve()
    moved.mkdir()
    for name in names:
        (tmp_path / f"{name}.mp4").rename(moved / f"{name}.mp4")
    again = annotations.read_annotations(table, moved)
    assert [one.split for one in again] == [one.split for one in found]


def test_what_is_for_others_is_refused(tmp_path, walk):
    table = write(tmp_path / "walk.txt", *rows_of([("a", "")] * 2, "s"))
    with pytest.raises(DataError, match=r"walk.txt: has labels, .* stride"):
        annotations.read_annotations(table, windows=annotations.Windows(stride=1.0))
    with pytest.raises(DataError, match=r"walk.txt: min_instances .* is for public data sets"):
        annotations.read_annotations(table, min_instances=2)
    own = write(tmp_path / "own.csv", ("video", "start", "stop", "label"), ("walk.mp4", 0, 1, "go"), sign=",")
    with pytest.raises(DataError, match=r"own.csv: tier \(--tier\) is for exports of ELAN, BORIS and Label Studio"):
        annotations.read_annotations(own, tier="a")
    with pytest.raises(
        DataError, match=r"own.csv: not tab-delimited text of ELAN, aggregated events of BORIS or JSON of"
    ):
        data.read_labels(own)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "video,start,stop,label\n",
        "a\tb\n",
        "x\t1\t2\n",
        "narration_id,video_id\n",
        '{"videos": []}',
        "#\t1.0\n",
    ],
)
def test_other_files_are_not_exports(tmp_path, text):
    (tmp_path / "t.txt").write_text(text)
    assert label_tools.label_reader(tmp_path / "t.txt") is None
