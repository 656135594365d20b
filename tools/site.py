"""Build the documentation as a site: a page for each Markdown file and each public module.

    pip install ".[docs]"
    python tools/site.py --out site     # then open site/index.html

docs/guide.md becomes docs/guide.html, README.md index.html, and egodistill.data egodistill/data.html. Links to other
files of the repository lead to its address. A warning, or a link that leads nowhere, is an error.
"""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import os
import re
import shutil
import sys
import typing
import warnings
from pathlib import Path
from types import ModuleType

import api
import torch
from pdoc import render, render_helpers
from pdoc.doc import Class, Module

ROOT = api.ROOT
FILES = re.search(r'(?m)^HOME = "(.+)"$', (ROOT / "setup.py").read_text(encoding="utf-8"))[1] + "/blob/main"
LINK = re.compile(r'(<(?:a|img)\b[^>]*? (?:href|src)=")(?!\w+:)([^"#$]*)(#[^"]*)?')  # $: written by pdoc's JavaScript


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the documentation as a site.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the site; its files are replaced")
    broken = build(parser.parse_args().out)
    if broken:
        sys.exit("\n".join(["Links that lead nowhere:", *broken]))


def build(out: Path) -> list[str]:
    """Write the site, and return its links that lead nowhere."""
    render.configure(docformat="google", template_directory=ROOT / "tools" / "templates")
    render_helpers.markdown_extensions["toc"]["depth"] = 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Cannot determine where .* is taken from")  # TypedDict before Python 3.12
        pages, modules = documents(), reference()
        rest = [name for name in pages if name.startswith("docs.") and name not in ("docs.guide", "docs.api")]
        names = ["index", "docs.guide", *rest, "CHANGELOG", "CONTRIBUTING"]
        render.env.globals["navigation"] = [pages[name] for name in names]
        for module in [*pages.values(), *(as_shown(module, modules) for module in modules.values())]:
            html = render.html_module(module, modules)
            html = without_dead_ends(html) if module.modulename in modules else html
            path = out / f"{module.modulename.replace('.', '/')}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(relink(html, path.parent.relative_to(out), out), encoding="utf-8")
        (out / "search.js").write_text(render.search_index(modules), encoding="utf-8")
    return broken_links(out)


def documents() -> dict[str, Module]:
    """Return each Markdown file as a module of pdoc whose docstring is the text."""
    pages = {}
    for path in (
        path
        for folder in ("", "docs", "results", "lab", "examples/web")
        for path in sorted((ROOT / folder).glob("*.md"))
    ):
        place = path.relative_to(ROOT).as_posix()
        name = re.sub(r"README$", "index", place.removesuffix(".md")).replace("/", ".")
        text = path.read_text(encoding="utf-8")
        pages[name] = page = Module(ModuleType(name))
        page.docstring = text if text.startswith("# ") else f"# {place}\n\n{text}"
        page.title = page.docstring.splitlines()[0].removeprefix("# ")
    return pages


def reference() -> dict[str, Module]:
    """Return the public modules and their rooms. A name that a module hands on is the one of the module it is from."""
    names = [*api.MODULES, *api.LOWER]
    modules = [api.import_module(name) for name in [*names, *dict.fromkeys(n.split(".")[0] for n in names if "." in n)]]
    for value in [getattr(module, name) for module in modules for name in getattr(module, "__all__", ())]:
        if inspect.isclass(value):
            prepare(value)
    encoders = api.import_module("engine.image_encoders")
    vars(encoders)["IMAGE_ENCODERS"] = encoders.IMAGE_ENCODERS  # pdoc does not ask a module's `__getattr__()`
    known = {module.__name__: Module(module) for module in modules}
    for name, module in known.items():
        module.submodules = [other for path, other in known.items() if path.rpartition(".")[0] == name]
        for member, doc in module.members.items():
            home, qualname = doc.taken_from
            module.members[member] = (known[home].get(qualname) if home in known else None) or doc
            if isinstance(doc, Class):
                tidy(doc)
    return known


def prepare(value: type) -> None:
    """Correct what pdoc would read of a class in the wrong module."""
    if value.__module__ == "egodistill" and "__firstlineno__" in vars(value):
        del value.__firstlineno__  # an exception of support.errors; from Python 3.13 on, its line in that file
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        types = typing.get_type_hints(value)  # of the fields, inherited ones in the module of their class
        for function in filter(inspect.isfunction, (value.__init__, value.__new__)):
            function.__annotations__ |= {name: types[name] for name in function.__annotations__ if name in types}


def tidy(doc: Class) -> None:
    """Drop docstrings that Python or torch wrote, and fields without one: the constructor shows those."""
    for name, member in doc.members.items():
        inherited = member.docstring == inspect.getdoc(getattr(torch.nn.Module, name, None))
        if inherited or member.docstring.startswith(("Alias for field", "Create new instance")):
            member.docstring = ""
    doc.members = {
        name: member for name, member in doc.members.items() if member.docstring or member.kind != "variable"
    }


def as_shown(module: Module, modules: dict[str, Module]) -> Module:
    """Return a module with links below its docstring to the names that are from other modules, and in its columns."""

    def link(path: str, name: str, anchor: str = "") -> str:
        page = render_helpers.relative_link(module.modulename, path)
        return f"[`{name}`]({page}{anchor})" if path in modules else f"`{name}`"

    def item(row: re.Match[str]) -> str:
        return f"- {', '.join(link(f'{module.modulename}.{name}', name) for name in row[1].split(', '))}: "

    shown = Module(module.obj)
    shown.submodules = module.submodules
    shown.members = {name: doc for name, doc in module.members.items() if doc.modulename == module.modulename}
    shown.docstring = re.sub(r"(?m)^((?:\w+, )*\w+) {2,}", item, module.docstring)
    others = {name: doc for name, doc in module.members.items() if name not in shown.members}
    if others:
        shown.docstring += "\n\n## Names from other modules\n"
    for name, doc in others.items():
        summary = f": {api.summary(doc.obj)}" if doc.docstring else ""
        shown.docstring += f"\n- {link(doc.modulename, name, f'#{doc.qualname}')}{summary}"
    return shown


def without_dead_ends(html: str) -> str:
    """Return a page of pdoc without its links to inherited names and base classes that it does not show."""
    return re.sub(
        r'<a href="#([\w.]+)">(.*?)</a>', lambda found: found[0] if f'id="{found[1]}"' in html else found[2], html
    )


def relink(html: str, folder: Path, out: Path) -> str:
    """Return a page whose links to files of the repository lead to their pages, copies or addresses."""

    def new(found: re.Match[str]) -> str:
        start, link, anchor = found.groups(default="")
        path = Path(os.path.normpath(folder / link))
        if not link or not (ROOT / path).exists():
            return found[0]
        if start.startswith("<img"):
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, out / path)
            return found[0]
        if (ROOT / path / "README.md").exists():
            return f"{start}{link.rstrip('/')}/index.html{anchor}"
        if path.suffix == ".md":
            return f"{start}{re.sub('README.md$', 'index.md', link).removesuffix('.md')}.html{anchor}"
        return f"{start}{FILES}/{path.as_posix()}{anchor}"

    return LINK.sub(new, html)


def broken_links(site: Path) -> list[str]:
    """Return the links that lead to no file, or to no id of a page, as 'page: link'."""
    pages = {path: path.read_text(encoding="utf-8") for path in sorted(site.rglob("*.html"))}
    ids = {path: set(re.findall(r'<[^>]* id="([^"]*)"', html)) for path, html in pages.items()}
    broken = []
    for path, html in pages.items():
        for link, anchor in sorted({found.groups(default="")[1:] for found in LINK.finditer(html)}):
            target = Path(os.path.normpath(path.parent / link)) if link else path
            if not target.is_file() or (anchor and anchor[1:] not in ids.get(target, {anchor[1:]})):
                broken.append(f"{path.relative_to(site).as_posix()}: {link}{anchor}")
    return broken


if __name__ == "__main__":
    main()
