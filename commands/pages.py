"""What `predict` writes for people: a page for a browser (`--html`) and subtitles for a player (`--subtitles`).

pages.write_subtitles("walk.vtt", clips)                    # clips: what `predict()` yields
pages.write_prediction("walk.html", clips, recording, batches.clip_spec_of(student), rows, about)
"""

from __future__ import annotations

import contextlib
import html
import mimetypes
import os
import urllib.parse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.io import encode_jpeg

from ..datasets.segments import Segment
from ..drawing import svg
from ..inference import Prediction
from ..recordings.clips import decode_clips
from ..recordings.recording import Recording
from ..recordings.spec import ClipSpec
from ..support import files, tables
from ..support.defaults import NONE
from ..support.names import real_path
from ..support.pages import Markup, data_url, tag, write_page
from ..video import MAX_HOLD
from .given import single_input_text

__all__ = ["write_prediction", "write_subtitles"]

LISTED, PIXELS = 400, 160  # clips with a picture, at most, and its size
EMBEDDED = 5_000_000  # bytes of a video that goes into the page
LANES, LANE_NAME = 12, 28  # classes that have a lane of the time line; characters of their names


def write_subtitles(path: str | os.PathLike, clips: Sequence[Prediction]) -> None:
    """Write the best class of each clip as WebVTT (https://www.w3.org/TR/webvtt1); equal ones in a row are one."""
    cues: list[list] = []
    for clip, end in zip(clips, ends_of(clips), strict=True):
        name = clip.classes[0][0] if clip.classes and clip.classes[0][0] != NONE else None
        if cues and cues[-1][2] == name and clip.start - cues[-1][1] < 0.001:
            cues[-1][1] = end
        else:
            cues.append([clip.start, end, name])
    blocks = [f"{stamp(a)} --> {stamp(b)}\n{html.escape(tables.printable(c), quote=False)}" for a, b, c in cues if c]
    with files.atomic_write(path) as part:
        part.write_text("\n\n".join(["WEBVTT - egodistill predict", *blocks]) + "\n", encoding="utf-8")


def stamp(seconds: float) -> str:
    minutes, rest = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def write_prediction(
    path: str | os.PathLike,
    clips: Sequence[Prediction],
    recording: Recording,
    spec: ClipSpec,
    rows: str,
    about: Mapping[str, str],
    max_hold: float = MAX_HOLD,
    *,
    labels: Sequence[Segment] = (),
    lasting: Sequence[Prediction] = (),
    preview: Path | None = None,
) -> None:
    """Write the page of a prediction, .html, of clips in the order of time.

    `spec` is what `batches.clip_spec_of()` returns: the page shows frames that the student saw. `rows` are the
    predictions as CSV, to download; `about` is {name: text} for the foot; `preview` is a copy of the video that
    browsers play. With labelled segments of the recording, clips whose label is another class come first. `lasting` are
    the events of `predict --events`, each with its class.
    """
    truth, alone = labels_of(clips, labels), [single_input_text(clip.inputs, spec.parts()) for clip in clips]
    listed, video = chosen(clips, truth), Path(recording.path)
    pictures = read_pictures(recording, {row: clips[row].start for row in sorted(listed)}, spec, max_hold)
    shown = np.searchsorted(list(pictures), np.linspace(0, len(clips), 17)[1:-1:2]).clip(max=len(pictures) - 1)
    strip = [list(pictures.values())[k] for k in shown] if pictures else []
    names, lanes, shares = lanes_of(clips)
    starts, ends = np.asarray([clip.start for clip in clips]), ends_of(clips)
    span, seconds = (float(starts[0]), float(ends[-1])), np.bincount(lanes, ends - starts, len(names)).tolist()
    bars = [np.stack([starts, ends, shares], 1)[lanes == k].tolist() for k in range(len(names))]
    drawn = [svg.lanes([(name, bar) for name, bar in zip(names, bars, strict=True) if name != NONE], span)]
    if lasting:
        drawn.insert(0, svg.words([(one.start, one.stop, one.classes[0][0]) for one in lasting], span, "events"))
    if labels:
        told = [(one.start, one.stop, one.label or "") for one in labels if not one.is_background]
        drawn.insert(0, svg.words(told, span, "labelled"))
    with contextlib.suppress(ValueError, OSError):  # there is no IMU, and the student reads none
        motion = recording.motion()
        turns = np.degrees(np.linalg.norm(motion.gyro, axis=1))
        drawn.append(svg.envelope(motion.gyro_time, turns, span, "turns of the head", "°/s"))
    drawn += [svg.axis(span), tag("div", id="cursor")]
    slider = tag("input", type="range", step="any", min=span[0], max=span[1], id="time", aria_label="time")
    film = tag("div", *(tag("img", src=url, alt="") for _, url in strip), id="strip")
    table = {"download": f"{video.stem}.csv", "href": data_url(rows.encode(), "text/csv"), "class_": "button"}
    texts = [f"{one:.1f} s, {one / sum(seconds):.0%}" for one in seconds]
    parts = {
        "": moment(video_source(preview or video, Path(path).parent), tag("a", "Download CSV", **table)),
        "Time line": tag("div", film, tag("div", *drawn, id="lanes"), slider),
        f"Clips, {order_of(clips, truth)} ({len(listed)} of {len(clips)})": tag(
            "ol", *(entry(row, clips[row], pictures.get(row), truth[row], alone[row]) for row in listed), id="clips"
        ),
        "Time per class": svg.bars(list(zip(names, seconds, texts, strict=True)), "time per class"),
        "About": tag("dl", *(part for key, text in about.items() for part in (tag("dt", key), tag("dd", text)))),
    }
    printed = [[(tables.printable(name), score) for name, score in clip.classes] for clip in clips]
    said = [label and tables.printable(label) for label in truth]
    found = [
        (clip.start, clip.stop, names, clip.problem, label, text)
        for clip, names, label, text in zip(clips, printed, said, alone, strict=True)
    ]
    write_page(path, video.name, parts, "predict", found, SCRIPT, STYLE)


def ends_of(clips: Sequence[Prediction]) -> np.ndarray:
    """Return the ends of clips in seconds, float64 [n]; a clip ends where the next one begins."""
    return np.minimum([clip.stop for clip in clips], [*(clip.start for clip in clips[1:]), np.inf])


def lanes_of(clips: Sequence[Prediction]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the names of the lanes, the lane of each clip [n], and its probability [n].

    The most frequent classes have a lane, in the order in which they occur first; then come the others, and what could
    not be classified.
    """
    best = [clip.classes[0] if clip.classes else (None, 1.0) for clip in clips]
    counts = Counter(name for name, _ in best if name is not None)
    most = {name for name, _ in counts.most_common(LANES if len(counts) > LANES + 1 else LANES + 1)}
    kept = [name for name in dict.fromkeys(name for name, _ in best) if name in most]
    names = [name if len(name) <= LANE_NAME else f"{name[:14]}…{name[-13:]}" for name in map(tables.printable, kept)]
    names += [f"{len(counts) - len(kept)} other classes"] * (len(counts) > len(kept))
    names += ["skipped"] * any(name is None for name, _ in best)
    place = {name: number for number, name in enumerate(kept)} | {None: len(names) - 1}
    lanes = [place.get(name, len(kept)) for name, _ in best]
    return names, np.asarray(lanes), np.asarray([share for _, share in best])


def labels_of(clips: Sequence[Prediction], labels: Sequence[Segment]) -> list[str | None]:
    """Return the label of each clip: that of the segment that has its middle; None outside of all."""
    middles = [(clip.start + clip.stop) / 2 for clip in clips]
    return [next((one.label for one in labels if one.start <= middle < one.stop), None) for middle in middles]


def is_wrong(clip: Prediction, label: str | None) -> bool:
    return label is not None and bool(clip.classes) and clip.classes[0][0] != label


def order_of(clips: Sequence[Prediction], truth: Sequence[str | None]) -> str:
    """Return how the list is sorted, and how many answers are those of the labels."""
    known = [is_wrong(clip, label) for clip, label in zip(clips, truth, strict=True) if label and clip.classes]
    if not known:
        return "the least certain first"
    return f"the wrong ones first ({known.count(False)} of {len(known)} are as labelled), then the least certain"


def chosen(clips: Sequence[Prediction], truth: Sequence[str | None]) -> list[int]:
    """Return the rows of at most 400 clips, wrong ones first, then the least certain, skipped ones last.

    Of more, half are at even steps.
    """
    sure = [clip.classes[0][1] if clip.classes else 2.0 for clip in clips]
    wrong = [is_wrong(clip, label) for clip, label in zip(clips, truth, strict=True)]
    order = sorted(range(len(clips)), key=lambda row: (not wrong[row], -sure[row] if wrong[row] else sure[row]))
    if len(clips) <= LISTED:
        return order
    kept = {*order[: LISTED // 2], *np.linspace(0, len(clips) - 1, LISTED // 2).astype(int).tolist()}
    return [row for row in order if row in kept]


def read_pictures(
    recording: Recording, starts: Mapping[int, float], spec: ClipSpec, max_hold: float
) -> dict[int, tuple[float, str]]:
    """Return {row of a clip: (time, address of a JPEG) of its middle frame}, without frames that cannot be read."""
    found, middle = {}, spec.frames // 2
    if not spec.frames:
        return found
    seen = {"frames": replace(spec.parts()["frames"], size=PIXELS)}
    with files.Progress("pictures", len(starts), unit="frames") as bar:
        for row, arrays in decode_clips(recording, starts, seen, max_hold=max_hold, threads=0):
            bar.step()
            if not isinstance(arrays, Exception):
                content = np.asarray(encode_jpeg(torch.from_numpy(arrays["frames"][middle]), quality=70)).tobytes()
                found[row] = float(arrays["frames.times"][middle]), data_url(content, "image/jpeg")
    return dict(sorted(found.items()))


def moment(source: str | None, *more: Markup) -> Markup:
    """Return the part of the page that shows one time: the video, the classes, the frame, and buttons."""
    film = [tag("video", src=source, controls=True, playsinline=True, preload="metadata", id="video")] if source else []
    why = tag("p", "The video is not beside the page, or does not play here.", id="none", hidden=bool(source))
    frame = tag("figure", tag("img", id="seen", alt="frame that the student saw"), tag("figcaption", id="age"))
    text = tag("div", frame, tag("p", id="when", aria_live="polite"), tag("ol", id="best"))
    steps = {"back": "◀ Previous clip", "on": "Next clip ▶", "doubt": "Next doubtful ▶▶"}
    buttons = [tag("button", name, id=key, type="button") for key, name in steps.items()]
    return tag("div", tag("div", *film, why, text, id="shown"), tag("div", *buttons, *more, id="buttons"), id="moment")


def video_source(video: Path, folder: Path) -> str | None:
    """Return the address of a video for a page in a folder: all of it if it is small, else a link; None: no video."""
    kind, video, folder = mimetypes.guess_type(video.name)[0] or "", Path(real_path(video)), Path(real_path(folder))
    if not kind.startswith("video/") or not video.exists():
        return None
    if video.stat().st_size < EMBEDDED:
        return data_url(video.read_bytes(), kind)
    if video.anchor != folder.anchor:  # drives of Windows
        return video.as_uri()
    return urllib.parse.quote(os.fsencode(Path(os.path.relpath(video, folder)).as_posix()))


def entry(row: int, clip: Prediction, picture: tuple[float, str] | None, label: str | None, alone: str) -> Markup:
    """Return a clip of the list: a button that leads to its time."""
    scores = tables.scores_text([score for _, score in clip.classes])
    first, *others = [f"{clip.classes[k][0]} {scores[k]}" for k in range(len(scores))] or ["skipped"]
    more = [f"labelled {label}"] if is_wrong(clip, label) else others[:1]
    more += [f"from {alone}"] if alone else []
    image = [tag("img", src=picture[1], alt="", data_time=picture[0])] if picture else []
    minutes, tenths = divmod(round(10 * clip.start), 600)
    words = tag(
        "span", f"{minutes}:{tenths / 10:04.1f} ", tag("b", first), " ", tag("small", clip.problem or ", ".join(more))
    )
    return tag("li", tag("button", *image, words, type="button", data_row=row))


STYLE = """
#shown { display: grid; gap: 14px } video { width: 100%; max-height: 56vh; background: #000 }
figure { float: right; margin: 0 0 0 14px } #best { list-style: none; margin: 0; padding: 0 }
#best :first-child { font-weight: 600 }
#best li { margin-top: 6px; padding-bottom: 6px; background: linear-gradient(#0072B2, #0072B2) 0 100% no-repeat }
#buttons { display: flex; gap: 8px; margin: 10px 0; flex-wrap: wrap } #strip { display: flex; gap: 2px }
#strip img { width: 12.5%; min-width: 0 } #lanes { position: relative; cursor: pointer }
#time { width: 100%; height: 40px; margin: 0 } #clips img { width: 64px; flex: none }
#cursor { position: absolute; top: 0; bottom: 20px; width: 2px; background: #000 }
#clips { list-style: none; padding: 4px; margin: 0 -4px; max-height: 440px; overflow-y: auto; display: grid; gap: 6px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)) } #clips small { display: block }
#clips button { width: 100%; height: 100%; display: flex; gap: 10px; text-align: left; align-items: center }
@media (min-width: 760px) { #shown:has(video) { grid-template-columns: 3fr 2fr } }
"""

SCRIPT = """
const $ = id => document.getElementById(id), clips = JSON.parse($('data').textContent), time = $('time');
const first = +time.min, last = +time.max, listed = [...document.querySelectorAll('[data-row]')];
const order = listed.map(button => +button.dataset.row);
const clock = seconds => new Date(1000 * seconds + 50).toISOString().slice(11, 21).replace(/^00:0?/, '');
let row = -1, place = -1, asked = first, video = $('video');

function show(seconds) {
  time.value = seconds;
  time.setAttribute('aria-valuetext', clock(seconds));
  $('cursor').style.left = `calc(${(seconds - first) / (last - first)} * (100% - 2px))`;
  const found = clips.reduce((best, clip, k) => clip[0] <= seconds + 0.0005 ? k : best, 0);
  if (found === row) return;
  const [start, stop, classes, problem, label, alone] = clips[row = found];
  const frame = listed[order.indexOf(row)]?.querySelector('img');
  $('when').textContent = `Clip ${row + 1} of ${clips.length}: ${clock(start)} to ${clock(stop)}` +
    (label ? `, labelled ${label}` : '') + (alone ? `, from ${alone}` : '');
  $('best').replaceChildren(...(problem ? [['skipped: ' + problem, 0]] : classes).map(([name, score]) => {
    const item = document.createElement('li');
    item.textContent = problem ? name : `${name} ${score.toPrecision(2)}`;
    item.style.backgroundSize = `${100 * score}% 4px`;
    return item;
  }));
  $('seen').hidden = !frame;
  if (frame) $('seen').src = frame.src;
  $('age').textContent = frame ? clock(frame.dataset.time) : '';
}
function go(seconds) {
  show(asked = Math.min(Math.max(seconds, first), last));
  if (video) video.currentTime = asked;
  history.replaceState(null, '', '#t=' + +asked.toFixed(3));
}
function goToAddress() {
  const seconds = parseFloat(location.hash.replace('#t=', ''));
  if (seconds >= 0) go(seconds);
}
function jump(to) { go(clips[Math.min(Math.max(to, 0), clips.length - 1)][0]); }
function checkVideo() {
  if (!video || !video.error && (!video.readyState || video.videoWidth)) return;
  video.remove();
  video = null;
  $('none').hidden = false;
}
$('back').onclick = () => jump(row - 1);
$('on').onclick = () => jump(row + 1);
$('doubt').onclick = () => jump(order[place = (place + 1) % order.length]);
for (const [k, button] of listed.entries()) button.onclick = () => {
  jump(order[place = k]);
  $('moment').scrollIntoView();
};
$('lanes').onclick = event => {
  const box = $('lanes').getBoundingClientRect();
  go(first + (event.clientX - box.left) / box.width * (last - first));
};
time.oninput = () => go(+time.value);
if (video) {
  video.onerror = video.onloadedmetadata = checkVideo;
  video.ontimeupdate = () => {
    if (video && (!video.paused || Math.abs(video.currentTime - asked) > 0.01)) show(asked = video.currentTime);
  };
}
checkVideo();
show(first);
goToAddress();
addEventListener('hashchange', goToAddress);
"""
