"""Read a page as a person does: the text beside a word, a bar against its share, a curve in the units of its axis."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import av
import numpy as np


def sections(path) -> dict[str, ElementTree.Element]:
    """The sections of a page by their headings."""
    text = path.read_text(encoding="utf-8")
    body = text[text.index("<section>") : text.rindex("</section>")] + "</section>"
    body = re.sub(r"<((?:img|input|meta)\b[^>]*)>", r"<\1/>", body)
    body = re.sub(r" (controls|playsinline|hidden)(?=[ />])", r' \1=""', body)
    found = {}
    for one in ElementTree.fromstring(f"<page>{body}</page>"):
        heading = one.find("h2")
        found["" if heading is None else heading.text] = one
    return found


def text_of(element) -> str:
    return "".join(element.itertext())


def lines(section) -> dict[str, str]:
    """{what stands in bold: the text behind it} of the paragraphs of a section."""
    found = [(one.find("b"), text_of(one)) for one in section.iter("p")]
    return {bold.text.rstrip(": "): text.removeprefix(bold.text) for bold, text in found if bold is not None}


def rows(table) -> list[list[str]]:
    return [[text_of(cell) for cell in row] for row in table.iter("tr")]


def picture(section, about) -> ElementTree.Element:
    """The picture of a section with this description, for people who do not see it."""
    (found,) = [one for one in section.iter("svg") if (one.get("aria-label") or "").startswith(about)]
    return found


def texts(drawn) -> list[str]:
    return [one.text for one in drawn.iter("text")]


def bars(drawn) -> list[tuple[str, str, float]]:
    """(name, text, width in %) of each bar, whose colour can be seen."""
    words = texts(drawn)
    found = list(drawn.iter("rect"))
    assert all(one.get("fill").startswith("#") and float(one.get("height")) > 0 for one in found)
    names = [*drawn.iter("text")][::2]
    assert all(0 < float(bar.get("y")) - float(name.get("y")) < 20 for name, bar in zip(names, found, strict=True))
    return list(zip(words[::2], words[1::2], (float(one.get("width")[:-1]) for one in found), strict=True))


def points(path) -> list[np.ndarray]:
    """The closed or open lines of a path, float [n, 2] each."""
    return [np.array(re.findall(r"(-?[\d.e+-]+) (-?[\d.e+-]+)", part), float) for part in path.split("M")[1:]]


def stretch(drawn) -> list[tuple[ElementTree.Element, np.ndarray]]:
    """(path, size of its own coordinates) of what is stretched over the width of a picture."""
    inner = [one for one in drawn.iter("svg") if one.get("viewBox")]
    assert all(one.get("width") == "100%" and one.get("preserveAspectRatio") == "none" for one in inner)
    return [(one.find("path"), np.array(one.get("viewBox").split()[2:], float)) for one in inner]


def curves(drawn) -> dict[str, np.ndarray]:
    """{name: points (x, y) [n, 2]} of a picture of curves, in the units of its axes, dashes as in its legend."""
    high, low, across, *names = texts(drawn)
    left, right = map(float, re.search(r"([\d.]+) to ([\d.]+)$", across).groups())
    found, legend = {}, list(drawn.iter("line"))
    for name, line, (path, size) in zip(names, legend, stretch(drawn), strict=True):
        looks = [(one.get("stroke"), one.get("stroke-dasharray"), one.get("fill") or "none") for one in (line, path)]
        assert looks[0] == looks[1] and float(line.get("x2")) > 20
        (xy,) = points(path.get("d"))
        shown = xy / size * [right - left, float(low) - float(high)] + [left, float(high)]
        title, last = name.split(": at last ")
        np.testing.assert_allclose(shown[-1, 1], float(last), rtol=1e-3, atol=1e-3 * abs(float(high)))
        found[title] = shown
    return found


def envelope(drawn) -> tuple[str, str, float, list[np.ndarray]]:
    """(name, unit, largest value, lines of (share of the span, value)) of the picture of a signal."""
    name, largest = texts(drawn)
    value, unit = re.fullmatch(r"at most ([\d.e+-]+) (.+)", largest).groups()
    ((path, size),) = stretch(drawn)
    found = [(one / size * [1, -1] + [0, 1]) * [1, float(value)] for one in points(path.get("d"))]
    return name, unit, float(value), found


def image(address) -> np.ndarray:
    """The picture in an address of a JPEG, uint8 [3, H, W]."""
    with av.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/jpeg;base64,")))) as file:
        return next(file.decode(video=0)).to_ndarray(format="rgb24").transpose(2, 0, 1)


def lanes(drawn) -> dict[str, np.ndarray]:
    """{name: (start, stop, height from 0 to 1) of each bar, in shares of the width} of a picture of lanes."""
    found = {}
    for name, (path, size) in zip(texts(drawn), stretch(drawn), strict=True):
        boxes = re.findall(r"M([\d.e+-]+) 1v-([\d.e+-]+)h([\d.e+-]+)V1z", path.get("d"))
        left, height, width = np.array(boxes, float).reshape(-1, 3).T
        found[name] = np.stack([left / size[0], (left + width) / size[0], height / size[1]], 1)
    return found
