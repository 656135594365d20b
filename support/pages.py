"""A page of results: one HTML file that works offline and from a disk, on a phone, and without colour.

    part = pages.tag("p", "what a <user> wrote")                            # text is escaped here, and nowhere else
    pages.write_page("report.html", "walk.mp4", {"Summary": part}, kind="predict")

Its Content-Security-Policy forbids every request but a video beside it, and every script but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from collections.abc import Mapping
from typing import Any

from . import files, tables

__all__ = ["Markup", "data_url", "tag", "write_page"]

VOID = ("img", "input", "meta")  # elements without an end
STYLE = """
* { box-sizing: border-box } [hidden] { display: none !important } small, dt { color: #595959 } img { background: #eee }
body { margin: 0 auto; padding: 12px 16px 40px; max-width: 1120px; color: #1a1a1a; background: #fff;
  font: 15px/1.45 system-ui, sans-serif; overflow-wrap: anywhere } svg { display: block } svg text { font-size: 13px }
h1 { font-size: 22px; margin: 4px 0 } h2 { font-size: 17px; margin: 26px 0 8px } p, dd { margin: 4px 0 }
button, .button { font: inherit; color: inherit; background: #fff; border: 1px solid #767676; border-radius: 6px;
  padding: 7px 12px; text-decoration: none } :focus-visible { outline: 3px solid #0072B2; outline-offset: 2px }
"""


class Markup(str):
    """HTML or SVG, which `tag()` does not escape again."""


def tag(name: str, /, *content: str, **attributes: Any) -> Markup:
    """Return an element of HTML or SVG. Its content and attributes are text, and are escaped, unless they are `Markup`.

    In names of attributes an underscore is a hyphen; one at the end is dropped. None and False: no attribute.

    >>> from egodistill.support import pages
    >>> pages.tag("p", "a < b ", pages.tag("b", "bold"), class_="x", aria_label='"', hidden=True)
    '<p class="x" aria-label="&quot;" hidden>a &lt; b <b>bold</b></p>'
    """
    words = [name]
    for key, value in attributes.items():
        if value is not None and value is not False:
            key = key.rstrip("_").replace("_", "-")
            words.append(key if value is True else f'{key}="{escaped(str(value))}"')
    inner = "".join(part if isinstance(part, Markup) else escaped(part) for part in content)
    return Markup(f"<{' '.join(words)}>{inner}" + ("" if name in VOID else f"</{name}>"))


def escaped(text: str) -> str:
    return html.escape(tables.printable(text))


def data_url(content: bytes, kind: str) -> str:
    """Return the bytes of a file of a MIME type, such as "image/jpeg", as an address for `src`."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def write_page(
    path: str | os.PathLike, title: str, parts: Mapping[str, Markup], kind: str, data: Any, script: str, style: str = ""
) -> None:
    """Write a page, an .html with this title and heading, atomically.

    `parts` is {heading, or "": content}. `kind` is the command that writes it, by which `commands.paths` recognises the
    page later. The script, a classic one, runs at the end and must write text by `textContent`; `data` is JSON for it,
    the text of the element with the id "data".
    """
    style = STYLE + style
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style)]
    policy = (
        f"default-src 'none'; img-src data:; media-src 'self' file: data:; base-uri 'none'; form-action 'none'; "
        f"script-src 'sha256-{hashes[0]}'; style-src 'sha256-{hashes[1]}'"
    )
    content = [
        f'<!DOCTYPE html>\n<!-- egodistill {kind} -->\n<html lang="en"><meta charset="utf-8">',
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title) + tag("style", Markup(style)) + tag("h1", title),
        *(tag("section", *([tag("h2", name)] if name else []), part) for name, part in parts.items()),
        tag("script", Markup(json.dumps(data).replace("<", "\\u003c")), type="application/json", id="data"),
        tag("script", Markup(script)) + "</html>\n",
    ]
    with files.atomic_write(path) as part:
        part.write_text("\n".join(content), encoding="utf-8")
