"""The page and the subtitles that `predict` writes."""

import base64
import csv
import json
import os
import re
import shutil
from argparse import Namespace

import av
import numpy as np
import pytest
import reading
import torch
from painted import STEADY, X264, expected_numbers, number_of, write_video

from egodistill import EgoDistill, Prediction, data
from egodistill.commands import cli, models, pages
from egodistill.datasets.segments import Segment
from egodistill.recordings.spec import ClipSpec

NAMES = ["<img src=x onerror=alert(1)>", "cut & peel", "two\nlines", "a --> b"]
ABOUT = {"student": "student.safetensors"}


@pytest.fixture(scope="module")
def predicted(kitchen, tmp_path_factory):
    """A folder with a recording of an odd name, its predictions, and their page."""
    folder = tmp_path_factory.mktemp("page")
    video = folder / "<img onerror=alert(1)> 100%.MP4"
    shutil.copy(kitchen[0].video, video)
    encoder = {"image_encoder": "resnet10x4", "image_weights": None, "hidden": 8, "frame_size": 32, "feature_dim": 8}
    torch.manual_seed(0)
    EgoDistill(4, class_names=NAMES, **encoder).save(folder / "student.safetensors")
    words = [
        "predict",
        video,
        "--imu",
        *kitchen[0].imu,
        "--student",
        folder / "student.safetensors",
        "--stride",
        0.5,
        "--top",
        2,
    ]
    words += ["--imu-offset", 0.1, "--precision", "fp32", "--out", folder / "walk.json"]
    words += ["--html", folder / "walk.html", "--subtitles", folder / "walk.vtt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "EMBEDDED", 0)
        assert cli.main([str(word) for word in words]) == 0
    return folder


def rows_of(folder):
    return json.loads((folder / "walk.json").read_text())


def test_a_page_shows_the_predictions(predicted, browser):
    """The times are those of the prediction, names are text, and nothing is asked for but the video."""
    rows = rows_of(predicted)
    browser.open(predicted / "walk.html")
    shown = browser.run("clips")
    assert [clip[:2] for clip in shown] == [[row["start"], row["stop"]] for row in rows] and len(rows) > 7
    assert [[score for _, score in clip[2]] for clip in shown] == [
        [score for _, score in row["classes"]] for row in rows
    ]
    assert shown[0][2][0][0] == rows[0]["classes"][0][0].replace("\n", "\\n")
    browser.until("video.readyState > 0")
    assert browser.run("[video.controls, video.playsInline]") == [
        True,
        True,
    ]  # it is played on the page, on phones, too
    assert browser.errors == [] and browser.run("document.querySelectorAll('[onerror]').length") == 0
    assert browser.run("document.title") == "<img onerror=alert(1)> 100%.MP4"
    page, video = browser.requests
    assert page.endswith("walk.html") and video.endswith("/%3Cimg%20onerror%3Dalert%281%29%3E%20100%25.MP4")
    text = browser.run("document.body.innerText")
    assert "offset and stretch 0.1 s, 1" in text and "egodistill 0" in text and "student.safetensors" in text


def test_the_address_has_the_time(predicted, browser):
    browser.open(predicted / "walk.html", "#t=2.5")
    assert browser.run("$('when').textContent") == f"Clip 6 of {len(rows_of(predicted))}: 0:02.5 to 0:04.6"
    browser.until("Math.abs(video.currentTime - 2.5) < 0.01 && !video.seeking")
    browser.run("$('on').click()")
    assert browser.run("location.hash") == "#t=3" and browser.run("time.value") == "3"
    browser.run("location.hash = '#t=0.2'")
    browser.until("row === 0")
    browser.run("$('back').click()")
    assert browser.run("location.hash") == "#t=0" and browser.run("row") == 0
    order = browser.run("order")
    best = [row["classes"][0][1] for row in rows_of(predicted)]
    assert [best[row] for row in order] == sorted(best)
    browser.run("$('doubt').click()")
    assert browser.run("row") == order[0]
    browser.run("listed[2].click()")
    browser.run("$('doubt').click()")
    assert browser.run("row") == order[3]
    for address in ("#t=", "#t=-1", "#t=x", "#x", "#t=1e999", "#t=99"):
        browser.open(predicted / "walk.html", address)
        assert 0 <= browser.run("+time.value") <= browser.run("last") and browser.errors == []


@pytest.mark.parametrize("width", [390, 1280])
def test_each_control_is_reached_by_tab_and_nothing_is_wider_than_the_screen(width, predicted, browser):
    browser.open(predicted / "walk.html", width=width)
    assert not browser.is_wider_than_the_screen()
    browser.run("globalThis.seen = new Set()")
    for _ in range(100):
        browser.press("Tab")
        if browser.run("seen.add(document.activeElement), document.activeElement === document.body && seen.size > 2"):
            break
    controls = "document.querySelectorAll('button, a, input, video')"
    assert browser.run(f"{controls}.length") > 12
    assert browser.run(f"[...{controls}].filter(one => !seen.has(one)).map(one => one.outerHTML)") == []
    browser.run("$('on').focus()")
    browser.press("Enter")
    assert browser.run("row") == 1


def picture_of(address, folder):
    """The picture in an address, uint8 [3, H, W]."""
    (folder / "one.jpg").write_bytes(base64.b64decode(address.removeprefix("data:image/jpeg;base64,")))
    with av.open(os.fspath(folder / "one.jpg")) as image:
        return next(image.decode(video=0)).to_ndarray(format="rgb24").transpose(2, 0, 1)


@pytest.mark.parametrize("exact", [True, False])
def test_of_several_frames_the_middle_one_is_shown(tmp_path, exact):
    """... as it was decoded: the exact one, or the nearest key frame; what lies in a hole is left out."""
    times = np.where(STEADY < 5, STEADY, STEADY + 20)
    video = write_video(tmp_path / "hole.mp4", times, **X264)
    spec = ClipSpec(frames=4, exact=exact)
    found = pages.read_pictures(data.Recording(video), {0: 1.0, 3: 2.5, 7: 12.0}, spec, 1.0)
    assert list(found) == [0, 3]
    for (time, address), start in zip(found.values(), (1.0, 2.5), strict=True):
        number = number_of(*data.read_frames(video, [spec.times(start)[2]], exact=exact))
        assert number_of(picture_of(address, tmp_path)) == number and abs(time - STEADY[number]) < 0.001


def test_frames_are_those_that_the_student_saw(predicted, browser):
    """The picture beside each clip shows the number of the frame in the clip's middle, and its time."""
    starts = [row["start"] for row in rows_of(predicted)]
    browser.open(predicted / "walk.html")
    found = browser.run("listed.map(b => [+b.dataset.row, +b.firstChild.dataset.time, b.firstChild.src])")
    assert sorted(row for row, _, _ in found) == list(range(len(starts)))
    for row, time, address in found:
        wanted = min(starts[row] + 32 / 30, STEADY[-1])
        picture = picture_of(address, predicted)
        (number,) = expected_numbers(STEADY, [wanted])
        assert number_of(picture) == number
        assert picture.shape == (3, 160, 160) and abs(time - STEADY[number]) < 0.001


def test_the_table_is_that_of_out(predicted, browser, kitchen, tmp_path):
    """... and a download."""
    browser.open(predicted / "walk.html")
    link = browser.run("(({href, download}) => [href, download])(document.querySelector('a'))")
    rows = list(csv.DictReader(base64.b64decode(link[0].split(",")[1]).decode().splitlines()))
    assert link[1] == "<img onerror=alert(1)> 100%.csv"
    assert [float(row["score_2"]) for row in rows] == [row["classes"][1][1] for row in rows_of(predicted)]
    assert [row["start"] for row in rows] == [f"{row['start']:.3f}" for row in rows_of(predicted)]


def test_the_foot_of_a_page_says_what_was_read():
    student = Namespace(inputs=("frames", "imu"), trained_with={"history": [{}, {}]}, trained_by="distill")
    given = Namespace(student="s.safetensors", without=None, words=["egodistill", "predict", "a.mp4"])
    walk = data.Recording("a.mp4", ("a.csv", "g.csv"), imu_offset=0.5, imu_stretch=1.01, imu_axes="glasses")
    about = models.about_prediction(given, student, walk)
    assert (
        about["student"] == "s.safetensors, distill, 2 epochs"
        and "egodistill predict a.mp4; egodistill" in about["made by"]
    )
    assert about["head motion"] == "a.csv and g.csv; offset and stretch 0.5 s, 1.01; axes glasses"
    given.without = "imu"
    about = models.about_prediction(given, Namespace(inputs=("frames",)), walk)
    assert about["student"] == "s.safetensors without imu" and "not read" in about["head motion"]


def clips_of(count, stride=64 / 30, classes=8):
    """Predictions of a recording, every seventeenth skipped."""
    rng = np.random.default_rng(0)
    for k in range(count):
        scores = np.sort(rng.dirichlet(np.ones(classes)))[::-1]
        best = [(f"class {rng.integers(classes)}", float(score)) for score in scores[:3]]
        yield Prediction(k * stride, k * stride + 64 / 30, best if k % 17 else [], None if k % 17 else "no IMU")


def noise(recording, starts, spec, max_hold):
    """Pictures as large as those of real films, some 5 kB."""
    content = base64.b64encode(np.random.default_rng(0).bytes(4000)).decode()
    return {row: (start, f"data:image/jpeg;base64,{content}") for row, start in starts.items()}


def test_a_page_of_50_minutes_is_small_and_fast(tmp_path, browser, monkeypatch, steady):
    clips = list(clips_of(1406))
    times = np.arange(0, 3000, 1 / 200)
    turns = np.abs(np.sin(times[:, None] + np.arange(3)))
    monkeypatch.setattr(data.Recording, "motion", lambda self: data.Imu(times, turns, times, turns))
    monkeypatch.setattr(pages, "read_pictures", noise)
    pages.write_prediction(tmp_path / "long.html", clips, data.Recording(steady), ClipSpec(frames=1), "", ABOUT)
    assert os.path.getsize(tmp_path / "long.html") < 8e6
    before = browser.processor_seconds()
    browser.open(tmp_path / "long.html")
    assert browser.run("$('when').textContent.startsWith('Clip 1 of 1406')")
    assert browser.processor_seconds() - before < 2
    assert browser.errors == [] and 300 < browser.run("document.querySelectorAll('#clips img').length") <= 400
    order = browser.run("order")
    best = [clips[row].classes[0][1] if clips[row].classes else 2 for row in order]
    assert best == sorted(best) and set(np.argsort([c.classes[0][1] if c.classes else 2 for c in clips])[:200]) <= set(
        order
    )
    assert np.diff(sorted(order)).max() <= 8


def test_a_page_without_film_frames_or_sensors(tmp_path, browser):
    """A .txt is no video for a browser; the student reads no frames, and there is no IMU."""
    lost = data.Recording(str(tmp_path / "gone.mp4"))
    pages.write_prediction(tmp_path / "p.html", list(clips_of(18)), lost, ClipSpec(imu_samples=422), "", ABOUT)
    browser.open(tmp_path / "p.html", "#t=36")
    assert browser.errors == [] and len(browser.requests) == 1
    assert browser.run("$('none').hidden") is False and browser.run("document.images.length") == 1
    assert browser.run("$('best').innerText").startswith("class") and "turns" not in browser.run(
        "document.body.innerText"
    )
    browser.run("jump(17)")
    assert browser.run("$('best').innerText") == "skipped: no IMU"


def test_one_class_of_each_clip(tmp_path, browser):
    """--top 1, and a recording of one clip that is skipped nowhere."""
    clips = [Prediction(0.0, 2.1, [("wash", 1.0)])]
    pages.write_prediction(tmp_path / "p.html", clips, data.Recording("gone.mp4"), ClipSpec(), "", ABOUT)
    browser.open(tmp_path / "p.html", width=390)
    assert browser.run("document.querySelector('#clips').innerText").split() == ["0:00.0", "wash", "1.00"]
    for name in ("doubt", "on", "back"):
        browser.run(f"$('{name}').click()")
        assert browser.run("row") == 0 and browser.errors == []


def test_an_answer_from_one_input_alone_says_so(tmp_path, browser):
    """In the list and at its time, of a student that reads both: not if both were there, or if it reads no other."""
    mixes = [("frames", "imu"), ("frames",), ("imu",)]
    clips = [Prediction(2.0 * k, 2.0 * k + 2, [("wash", 0.5 + k / 10)], None, mix) for k, mix in enumerate(mixes)]
    for spec, words in ((ClipSpec(frames=1, imu_samples=422), ["", "frames", "imu"]), (ClipSpec(frames=1), [""] * 3)):
        pages.write_prediction(tmp_path / "p.html", clips, data.Recording("gone.mp4"), spec, "", ABOUT)
        browser.open(tmp_path / "p.html")
        entries = browser.run("listed.map(one => one.innerText)")  # the least certain first, so in order of time
        for k, (entry, word) in enumerate(zip(entries, words, strict=True)):
            browser.run(f"jump({k})")
            told = f"from {word} alone" if word else ""
            assert ("alone" in entry, entry.strip().endswith(told)) == (bool(told), True)
            assert browser.run("$('when').textContent").split("to ")[1].split(", ")[1:] == ([told] if told else [])
        assert browser.errors == []


def test_a_video_that_cannot_be_played_is_left_out(tmp_path, browser):
    """One that is no video, and one that is not beside the page any more."""
    (tmp_path / "walk.mp4").write_bytes(b"not a video" * 1000)
    pages.write_prediction(
        tmp_path / "p.html", list(clips_of(2)), data.Recording(str(tmp_path / "walk.mp4")), ClipSpec(), "", ABOUT
    )
    browser.open(tmp_path / "p.html")
    assert browser.until("!video && !$('none').hidden")
    browser.run("$('on').click()")
    assert browser.run("row") == 1 and browser.errors == []


def test_labels_are_shown_and_what_differs_from_them_comes_first(kitchen, predicted, tmp_path, browser, capsys):
    """The surest wrong answer is the first of the list; labels of other videos are not shown."""
    rows = rows_of(predicted)
    sure = np.array([row["classes"][0][1] for row in rows])
    said = np.array([row["classes"][0][0].replace("\n", " ") for row in rows])  # no cell of a table has two lines
    student = EgoDistill.load(predicted / "student.safetensors")
    student.class_names = [name.replace("\n", " ") for name in NAMES]
    student.save(tmp_path / "student.safetensors")
    video = predicted / "<img onerror=alert(1)> 100%.MP4"
    edge, end = rows[3]["start"] + 0.75, rows[-1]["stop"]
    with open(tmp_path / "labels.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["video", "start", "stop", "label", "split"],
                [video, 0, edge, said[0], "train"],
                [video, edge, end - 1.3, "<b>never</b>", "train"],
                [shutil.copy(video, tmp_path / "other.MP4"), 0, 2, "other", "test"],
            ]
        )
    words = ["predict", video, "--imu", *kitchen[0].imu, "--student", tmp_path / "student.safetensors", "--stride", 0.5]
    words += ["--imu-offset", 0.1, "--precision", "fp32", "--html", tmp_path / "p.html"]
    words += ["--labels", tmp_path / "labels.csv", "--preview", tmp_path / "p.mp4"]
    assert cli.main([str(word) for word in words]) == 0
    assert "labels.csv: the student has no class <b>never</b>; its answers" in capsys.readouterr().err
    middles = np.array([(row["start"] + row["stop"]) / 2 for row in rows])
    truth = np.where(middles < edge, said[0], np.where(middles < end - 1.3, "<b>never</b>", ""))
    wrong = (truth != "") & (truth != said)
    assert wrong.any() and (truth == "").any()
    browser.open(tmp_path / "p.html")
    order = browser.run("order")
    assert order[: wrong.sum()] == sorted(np.flatnonzero(wrong).tolist(), key=lambda row: -sure[row])
    rest = order[wrong.sum() :]
    assert sorted(rest) == np.flatnonzero(~wrong).tolist() and sure[rest].tolist() == sorted(sure[rest])
    text = browser.run("document.body.innerText")
    assert f"({((truth == said) & (truth != '')).sum()} of {(truth != '').sum()} are as labelled)" in text
    assert "labelled <b>never</b>" in text and "other" not in text.split("About")[0]
    browser.run("$('doubt').click()")
    assert browser.run("$('when').textContent").endswith("labelled <b>never</b>")
    assert browser.until("video.readyState > 0") and browser.errors == []
    with av.open(str(tmp_path / "p.mp4")) as copy:
        assert copy.streams.video[0].codec.name == "h264"


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--labels", "labels.csv"], "--labels is for the page; give --html"),
        (["--html", "p.html", "--tier", "act"], "--tier: only with --labels"),
        (
            ["--html", "p.html", "--labels", "in/elan.txt", "--tier", "act"],
            "no video of .*elan.txt.* in in; .*--root",
        ),
        (
            ["--html", "p.html", "--labels", "in/elan.txt", "--root", "in/films"],
            "'cut' of 'place' overlaps 'wash' of 'a",
        ),
        (["--html", "p.html", "--labels", "in/elan.txt", "--root", "in/films", "--tier", "act"], "has no labels of"),
        (["--html", "p.html", "--labels", "labels.csv"], "labels.csv: has no labels of .*but those of other.mp4"),
        (["--html", "p.html", "--labels", "in/labels.csv"], "has no labels of .*but those of in/P01_101.MP4; give"),
        (["--html", "p.html", "--labels", "list.csv"], "list.csv: line 1 has no column label; give a table with"),
        (["--html", "p.html", "--labels", "late.csv"], "late.csv, row 2: stops at 1000.0 s.*milliseconds"),
        (["--html", "p.html", "--preview", "p.avi"], "must end in .mp4"),
        (["--html", "p.html", "--preview", "old.mp4"], "old.mp4: already exists"),
    ],
)
def test_labels_and_previews_that_cannot_be(words, what, predicted, kitchen, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "labels.csv").write_text(
        "video,start,stop,label,split\nother.mp4,0,1,wash,train\nother.mp4,1,2,cut,test\n"
    )
    (tmp_path / "list.csv").write_text("video,start,stop\nother.mp4,0,1\nother.mp4,1,2\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "labels.csv").write_text("video,start,stop,label\nP01_101.MP4,0,1,wash\n")
    (tmp_path / "in" / "films").mkdir()
    (tmp_path / "in" / "elan.txt").write_text("act\t\t0.0\t1.0\twash\nplace\t\t0.5\t1.5\tcut\n")
    for name in ("other.mp4", "old.mp4", "in/P01_101.MP4", "in/films/elan.mp4"):
        shutil.copy(kitchen[0].video, tmp_path / name)
    video = str(kitchen[0].video)
    rows = "".join(f"{video},{1000 * k},{1000 * k + 1000},wash\n" for k in (0, 1, 2, 3))
    (tmp_path / "late.csv").write_text(f"video,start,stop,label\n{rows}")
    given = ["predict", video, "--imu", *kitchen[0].imu, "--student", str(predicted / "student.safetensors"), *words]
    assert cli.main([str(word) for word in given]) == 1
    assert re.search(what, capsys.readouterr().err) and not (tmp_path / "p.html").exists()


def test_a_small_video_is_in_the_page_and_shows_the_frame_of_the_time(tmp_path, browser):
    video = write_video(tmp_path / "steady.mp4", STEADY, **X264)
    pages.write_prediction(tmp_path / "p.html", list(clips_of(3, 1.5)), data.Recording(video), ClipSpec(), "", ABOUT)
    os.unlink(video)
    browser.open(tmp_path / "p.html")
    browser.until("video.readyState > 1")
    canvas = "Object.assign(document.createElement('canvas'), {width: 80, height: 48}).getContext('2d')"
    browser.run(f"globalThis.canvas = {canvas}")

    def shown():
        data = browser.run("canvas.drawImage(video, 0, 0), [...canvas.getImageData(0, 24, 80, 1).data]")
        return number_of(np.array(data).reshape(1, 80, 4).transpose(2, 0, 1)[:3])

    for time in (0.5, 1.93, 4.21):
        browser.run(f"go({time})")
        browser.until("!video.seeking && video.readyState > 1")
        numbers = [shown()]
        while numbers[-1] != expected_numbers(STEADY, [time])[0] and len(numbers) < 200:  # until it is painted
            numbers.append(shown())
        assert numbers[-1] == expected_numbers(STEADY, [time])[0], numbers


@pytest.mark.parametrize(
    ("video", "page", "link"),
    [
        ("films/a b.mp4", "out/p.html", "../films/a%20b.mp4"),
        ("walk#1?.webm", "p.html", "walk%231%3F.webm"),
        ("walk.insv", "p.html", None),
        ("walk.csv", "p.html", None),
    ],
)
def test_links_are_relative(video, page, link, tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "EMBEDDED", 0)
    (tmp_path / video).parent.mkdir(exist_ok=True)
    (tmp_path / video).touch()
    assert pages.video_source(tmp_path / video, (tmp_path / page).parent) == link


def test_a_small_video_lies_in_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "EMBEDDED", 10)
    for size, start in ((9, "data:video/mp4;base64,"), (10, "a.mp4")):
        (tmp_path / "a.mp4").write_bytes(bytes(size))
        assert pages.video_source(tmp_path / "a.mp4", tmp_path).startswith(start)


def test_subtitles_are_joined_and_escaped(tmp_path):
    best = ["a", "a", "b", None, "b", "a --> <b> & c", "two\nlines"]
    clips = [Prediction(1.5 * k, 1.5 * k + 2, [(name, 0.5)] if name else []) for k, name in enumerate(best)]
    pages.write_subtitles(tmp_path / "w.vtt", clips)
    assert (tmp_path / "w.vtt").read_text(encoding="utf-8").split("\n\n") == [
        "WEBVTT - egodistill predict",
        "00:00:00.000 --> 00:00:03.000\na",
        "00:00:03.000 --> 00:00:04.500\nb",
        "00:00:06.000 --> 00:00:07.500\nb",
        "00:00:07.500 --> 00:00:09.000\na --&gt; &lt;b&gt; &amp; c",
        "00:00:09.000 --> 00:00:11.000\ntwo\\nlines\n",
    ]
    clips = [Prediction(start, start + 2, [("a", 0.5)]) for start in (3599.9996, 3700.0)]
    pages.write_subtitles(tmp_path / "w.vtt", clips)
    assert re.findall(r"(.*) --> (.*)", (tmp_path / "w.vtt").read_text()) == [
        ("01:00:00.000", "01:00:02.000"),
        ("01:01:40.000", "01:01:42.000"),
    ]


def test_a_browser_reads_the_subtitles(predicted, tmp_path, browser):
    """As many as there are changes of the label, with names as text."""
    rows = rows_of(predicted)
    names = [row["classes"][0][0] for row in rows]
    changes = [name for k, name in enumerate(names) if not k or name != names[k - 1]]
    text = json.dumps((predicted / "walk.vtt").read_text(encoding="utf-8"))
    browser.open(predicted / "walk.html")
    (tmp_path / "v.html").write_text(
        "<video><track default src=x></video><script>const track = document.querySelector('track');"
        f"track.src = URL.createObjectURL(new Blob([{text.replace('<', chr(92) + 'u003c')}]));"
        "track.track.mode = 'showing'</script>"
    )
    browser.open(tmp_path / "v.html")
    browser.until("track.readyState === 2")
    cues = browser.run("[...track.track.cues].map(cue => [cue.startTime, cue.endTime, cue.getCueAsHTML().textContent])")
    assert [text for _, _, text in cues] == [name.replace("\n", "\\n") for name in changes]
    assert cues[0][0] == rows[0]["start"] and abs(cues[-1][1] - rows[-1]["stop"]) < 0.001


def test_the_page_read_as_a_person_reads_it(tmp_path, monkeypatch):
    """601 clips: lanes, labels, turns of the head and times against the clips, the labels and the samples."""
    rng, names = np.random.default_rng(1), ["wash", "cut", "peel"]
    step, best = 2.0, rng.choice(3, 601, p=[0.5, 0.3, 0.2])
    sure = np.round(rng.uniform(0.4, 0.9, 601), 2)
    clips = [
        Prediction(10 + step * k, 12.1 + step * k, [(names[c], s), (names[c - 1], 1 - s)])
        for k, (c, s) in enumerate(zip(best, sure.tolist(), strict=True))
    ]
    span = (10.0, 10 + 600 * step + 2.1)
    labels = [Segment("a", "v", 0.0, 400.0, "wash"), Segment("b", "v", 400.0, 700.0, "cut")]
    times = np.arange(0, span[1] + 5, 0.05)
    turns = np.stack([0.5 + 0.4 * np.sin(times / 50), 0.2 * np.cos(times / 90), 0 * times], 1)  # rad/s
    gravity = np.full((len(times), 3), 9.8)
    monkeypatch.setattr(data.Recording, "motion", lambda self: data.Imu(times, gravity, times, turns))
    monkeypatch.setattr(
        pages, "read_pictures", lambda r, starts, *_: {row: (at, f"data:,{row}") for row, at in starts.items()}
    )
    spec, about = ClipSpec(frames=1), {"student": "s.safetensors"}
    pages.write_prediction(tmp_path / "p.html", clips, data.Recording("v.mp4"), spec, "", about, labels=labels)
    page = reading.sections(tmp_path / "p.html")

    said, truth = [names[c] for c in best], []
    for one in clips:
        middle = (one.start + one.stop) / 2
        truth.append("wash" if middle < 400 else "cut" if middle < 700 else None)
    known = [(a, b) for a, b in zip(said, truth, strict=True) if b]
    heading = (
        f"Clips, the wrong ones first ({sum(a == b for a, b in known)} of {len(known)} are as labelled), then the "
        f"least certain "
    )
    (heading,) = (name for name in page if name.startswith(heading))
    entries = [reading.text_of(one) for one in page[heading].iter("li")]
    rows = [int(one.get("data-row")) for one in page[heading].iter("button")]
    wrong = [row for row in rows if truth[row] and said[row] != truth[row]]
    assert heading.endswith(f"({len(entries)} of 601)") and np.diff(sorted(rows)).max() <= 4
    every = sorted((k for k in range(601) if truth[k] and said[k] != truth[k]), key=lambda row: -sure[row])
    assert set(every[:200]) <= set(rows) and 300 < len(rows) <= 400
    assert rows[: len(wrong)] == [row for row in every if row in wrong]
    assert sure[rows[len(wrong) :]].tolist() == sorted(sure[rows[len(wrong) :]])
    for row, text in zip(rows, entries, strict=True):
        minutes, seconds = divmod(clips[row].start, 60)
        more = f"labelled {truth[row]}" if row in wrong else f"{clips[row].classes[1][0]} {1 - sure[row]:.2f}"
        assert text == f"{minutes:.0f}:{seconds:04.1f} {said[row]} {sure[row]:.2f} {more}"
    strip = next(one for one in page["Time line"].iter("div") if one.get("id") == "strip")
    shown = [int(one.get("src")[6:]) for one in strip]
    assert shown == [min(row for row in rows if row >= (k + 0.5) / 8 * 601) for k in range(8)]

    lanes = reading.lanes(reading.picture(page["Time line"], "time line of"))
    assert list(lanes) == list(dict.fromkeys(said))
    for name, found in lanes.items():
        mine = [k for k, one in enumerate(said) if one == name]
        ends = list(_ends(clips, said, name))
        np.testing.assert_allclose(found[:, :2] * (span[1] - span[0]) + span[0], ends, atol=0.01)
        np.testing.assert_allclose(found[:, 2], sure[mine], atol=0.006)
    words = reading.picture(page["Time line"], "labelled")
    boxes = [one for one in words.iter("svg") if one.get("x")]
    ends = [[float(one.get(name)[:-1]) / 100 * (span[1] - span[0]) for name in ("x", "width")] for one in boxes]
    np.testing.assert_allclose(ends, [[0, 390], [390, 300]], atol=0.02)
    assert reading.texts(words) == ["labelled", "wash", "cut"]
    name, unit, most, (line,) = reading.envelope(reading.picture(page["Time line"], "turns of the head"))
    turned = np.degrees(np.linalg.norm(turns, axis=1))
    inside = (times >= span[0]) & (times < span[1])
    assert (name, unit) == ("turns of the head", "°/s") and most == pytest.approx(turned[inside].max(), rel=0.005)
    near = np.interp(line[:, 0] * (span[1] - span[0]) + span[0], times, turned)
    assert np.abs(line[:, 1] - near).max() < 0.3 and len(line) == 4000
    for tick in reading.picture(page["Time line"], "time in the recording").iter("text"):
        minutes, seconds = map(int, tick.text.split(":"))
        at = float(tick.get("x")[:-1]) / 100 * (span[1] - span[0]) + span[0]
        assert at == pytest.approx(60 * minutes + seconds, abs=0.2)
    spent = {name: sum(end - start for start, end in _ends(clips, said, name)) for name in lanes}
    for name, text, width in reading.bars(reading.picture(page["Time per class"], "time per class")):
        assert text == f"{spent[name]:.1f} s, {spent[name] / sum(spent.values()):.0%}"
        assert width == pytest.approx(100 * spent[name] / max(spent.values()), abs=0.06)


def _ends(clips, said, name):
    """Yield start and end of the clips of a class; a clip ends where the next one begins."""
    for k, clip in enumerate(clips):
        if said[k] == name:
            yield clip.start, clips[k + 1].start if k + 1 < len(clips) else clip.stop


def test_background_leaves_the_time_line_and_the_subtitles_empty(tmp_path, monkeypatch):
    best = ["(none)", "cut", "cut", "(none)", "wash", "(none)"]
    clips = [Prediction(2.0 * k, 2.0 * k + 2, [(name, 0.9)]) for k, name in enumerate(best)]
    lasting = [Prediction(1.5, 6.0, [("cut", 0.9)]), Prediction(8.0, 10.0, [("wash", 0.9)])]
    labels = [Segment("a", "v", 2.0, 6.0, "cut"), Segment("b", "v", 6.0, 8.0, "(none)")]
    monkeypatch.setattr(pages, "read_pictures", lambda *_: {})
    for name, some in (("p.html", clips), ("n.html", clips[:1])):
        page, more = tmp_path / name, {"labels": labels, "lasting": lasting}
        pages.write_prediction(page, some, data.Recording("v.mp4"), ClipSpec(frames=1), "", ABOUT, **more)
    line = reading.sections(tmp_path / "p.html")["Time line"]
    lanes = reading.lanes(reading.picture(line, "time line of"))
    assert list(lanes) == ["cut", "wash"] and lanes["cut"][:, :2].tolist() == [[1 / 6, 1 / 3], [1 / 3, 1 / 2]]
    assert reading.texts(reading.picture(line, "labelled")) == ["labelled", "cut"]
    events = reading.picture(line, "events")
    assert reading.texts(events) == ["events", "cut", "wash"]
    places = [(one.get("x"), one.get("width")) for one in events.iter("svg") if one.get("x")]
    assert places == [("12.500%", "37.500%"), ("66.667%", "16.667%")]
    pages.write_subtitles(tmp_path / "p.vtt", clips)
    assert re.findall(r"--> .*\n(.*)", (tmp_path / "p.vtt").read_text()) == ["cut", "wash"]


def test_rare_classes_share_a_lane_and_long_names_lose_their_middle():
    long = "put the very very very large pan away"
    named = [f"class {k}" for k in range(20) for _ in range(20 - k)]
    clips = [Prediction(2.0 * k, 2.0 * k + 3, [(name, 0.5)]) for k, name in enumerate([long] * 30 + named)]
    names, lanes, shares = pages.lanes_of([*clips, Prediction(600.0, 602.0, [], "no IMU")])
    assert names == [names[0], *(f"class {k}" for k in range(11)), "9 other classes", "skipped"]
    assert len(names[0]) == 28 and names[0] == f"{long[:14]}…{long[-13:]}"
    assert np.bincount(lanes).tolist() == [30, *range(20, 9, -1), 45, 1] and set(shares) == {0.5, 1.0}
    assert pages.ends_of(clips).tolist()[:2] == [2.0, 4.0] and pages.ends_of(clips)[-1] == clips[-1].stop
    few = [Prediction(0.0, 2.0, [(f"class {k}", 0.5)]) for k in range(13)]
    assert pages.lanes_of(few)[0] == [f"class {k}" for k in range(13)]  # no lane for a single other one
