"""Pages of results."""

import json
import re

import pytest

from egodistill.support import pages

ODD = "<img src=x onerror=alert(1)> & \"'</script>\u202e\ud800\n"


def test_what_is_not_markup_is_text():
    inner = pages.tag("b", ODD)
    made = pages.tag("p", ODD, inner, title=ODD, data_row=3, for_="x", hidden=False, lang=None)
    text = "&lt;img src=x onerror=alert(1)&gt; &amp; &quot;&#x27;&lt;/script&gt;\\u202e\\ud800\\n"
    assert made == f'<p title="{text}" data-row="3" for="x">{text}<b>{text}</b></p>'
    assert pages.tag("img", alt="") == '<img alt="">' and isinstance(made, pages.Markup)


def write(path, script, **more):
    pages.write_page(
        path, ODD, {"": pages.tag("p", ODD), ODD: pages.tag("i", ODD)}, "test", {"name": ODD}, script, **more
    )
    return path


def test_a_page_shows_names_as_text_and_asks_for_nothing(tmp_path, browser):
    script = "const given = JSON.parse(document.getElementById('data').textContent);"
    browser.open(write(tmp_path / "<img onerror=alert(1)>.html", script, style="i { color: rgb(1, 2, 3) }"))
    assert browser.errors == [] and len(browser.requests) == 1
    assert browser.run("given.name.length") == len(ODD) and browser.run("given.name").startswith(ODD[:40])
    assert browser.run("document.images.length") == 0 and "<img src=x" in browser.run("document.title")
    assert browser.run("getComputedStyle(document.querySelector('i')).color") == "rgb(1, 2, 3)"
    assert browser.run("document.querySelectorAll('h2').length") == 1


@pytest.mark.parametrize(
    "wanted",
    [
        "fetch('https://example.com/')",
        "fetch('other.json')",
        "new Promise((_, no) => Object.assign(new Image(), {src: 'https://example.com/a.png', onerror: no}))",
        "new Promise((_, no) => Object.assign(new Image(), {src: 'a.png', onerror: no}))",
    ],
)
def test_the_policy_forbids_requests(wanted, tmp_path, browser):
    browser.open(write(tmp_path / "page.html", ""))
    assert browser.run(f"{wanted}.then(() => 'allowed', () => 'refused')") == "refused"
    assert browser.requests[1:] == [] and "Content Security Policy" in str(browser.errors)


def test_the_policy_forbids_scripts_that_came_in_another_way(tmp_path, browser):
    browser.open(write(tmp_path / "page.html", "window.ours = 1"))
    browser.run("document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.theirs = 1\">')")
    browser.run("document.body.lastElementChild.click()")
    assert browser.run("[window.ours, window.theirs ?? null]") == [1, None]


def test_data_never_end_their_script(tmp_path):
    text = write(tmp_path / "page.html", "1;").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n<!-- egodistill test -->\n") and text.count("<script") == 2
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(data) == {"name": ODD} and "<" not in data
