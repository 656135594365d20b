"""Draw faults in the library, plant each in a copy, and see whether the tests notice it.

    python tools/faults.py draw --seed 1 --count 120                           # the list; the same for one commit
    python tools/faults.py plant --seed 1 --count 120 --out faults.jsonl       # hours; a killed run continues
    python tools/faults.py draw --seed 58 --count 40 --only "commands/report|drawing/"   # of these modules

`plant` works in a clone of the last commit, never in the checkout. It runs the tests of the fault's module; of those
faults that are left, the tests that import the module, and those of modules that import it; then its slow ones. A fault
is noticed by a test that fails with it and passes without it. Functions are drawn evenly, one fault in each, so that no
file dominates. A survivor is a missing test or a change without effect, and one that takes too "long" perhaps a
program that hangs: judge each by hand.
"""

from __future__ import annotations

import argparse
import ast
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
SWAPS = "Lt LtE | LtE Lt | Gt GtE | GtE Gt"  # a boundary; the other pairs are other operators
SWAPS += " | Eq NotEq | NotEq Eq | Is IsNot | IsNot Is | In NotIn | NotIn In | And Or | Or And"
SWAPS += " | Add Sub | Sub Add | Mult Div | Div Mult | FloorDiv Mult | Mod FloorDiv | Pow Mult | BitAnd BitOr"
OTHER = {old: getattr(ast, new) for old, new in (pair.split() for pair in SWAPS.split(" | "))}
# Calls whose arguments are words or types, keywords that are words, and calls where an exchange is no subtle fault.
WORDS = {"print", "warn", "note", "add_argument", "add_parser", "overload", "cast", "TypeVar", "NamedTuple"}
WORDY = {"help", "metavar", "description", "epilog", "stacklevel", "title", "label", "desc"}
UNORDERED = {"min", "max", "isinstance", "getattr", "setattr", "hasattr"}


class Fault(NamedTuple):
    """One edit: `before`, at a line and column (in bytes, from 1), becomes `after`."""

    file: str
    function: str
    line: int
    column: int
    kind: str
    before: str
    after: str


def sites(node: ast.AST, file: str, lines: list[bytes], function: str = "") -> Iterator[Fault]:
    """Yield the faults below a node, but not in words, types and f-strings, whose places Python 3.11 does not know."""
    types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    names = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    words = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in WORDS
    if types or names or words or isinstance(node, (ast.JoinedStr, ast.Raise, ast.Assert)):
        return
    for kind, place, after in edits(node):
        found = lines[place.lineno - 1 : place.end_lineno]
        found[-1] = found[-1][: place.end_col_offset]
        found[0] = found[0][place.col_offset :]
        yield Fault(file, function, place.lineno, place.col_offset + 1, kind, b"".join(found).decode(), after)
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        function = f"{function}.{node.name}".lstrip(".")
    for name, value in ast.iter_fields(node):
        if name not in ("annotation", "returns", "decorator_list", "bases"):
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    yield from sites(child, file, lines, function)


def edits(node: ast.AST) -> Iterator[tuple[str, ast.expr, str]]:
    """Yield (kind, expression, its new source) for each fault that can be made at one node."""
    if isinstance(node, ast.Compare):
        for k, old in enumerate(node.ops):
            if type(old).__name__ in OTHER:
                kind = "boundary" if isinstance(old, (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) else "comparison"
                operators = [*node.ops[:k], OTHER[type(old).__name__](), *node.ops[k + 1 :]]
                yield kind, node, f"({ast.unparse(ast.Compare(node.left, operators, node.comparators))})"
    elif isinstance(node, ast.BoolOp):
        yield "logic", node, f"({ast.unparse(ast.BoolOp(OTHER[type(node.op).__name__](), node.values))})"
    elif isinstance(node, ast.BinOp) and type(node.op).__name__ in OTHER:
        if not any(ast.unparse(side).lstrip("bf")[:1] in ("'", '"') for side in (node.left, node.right)):  # no text
            new = ast.BinOp(node.left, OTHER[type(node.op).__name__](), node.right)
            yield "arithmetic", node, f"({ast.unparse(new)})"
    elif isinstance(node, ast.Constant) and isinstance(value := node.value, (bool, int, float)):
        other = not value if isinstance(value, bool) else value * 1.5 if isinstance(value, float) else value + 1
        yield "constant", node, repr(other)
    elif isinstance(node, ast.Slice):
        yield from (("slice", bound, f"{ast.unparse(bound)} + 1") for bound in (node.lower, node.upper) if bound)
    elif isinstance(node, (ast.If, ast.While, ast.IfExp)):
        yield "negated", node.test, f"(not ({ast.unparse(node.test)}))"
    elif isinstance(node, ast.Call):
        for one in node.keywords:
            if one.arg and one.arg not in WORDY:
                rest = [other for other in node.keywords if other is not one]
                yield "keyword", node, ast.unparse(ast.Call(node.func, node.args, rest))
        ordered = ast.unparse(node.func) not in UNORDERED and not any(isinstance(x, ast.Starred) for x in node.args)
        for k, (one, two) in enumerate(itertools.pairwise(node.args)):
            if ordered and ast.dump(one) != ast.dump(two):
                swapped = [*node.args[:k], two, one, *node.args[k + 2 :]]
                yield "swapped", node, ast.unparse(ast.Call(node.func, swapped, node.keywords))


def modules(root: Path) -> list[str]:
    """Return the files of the library, relative to the root: those in front of the house and those in its rooms."""
    found = [*root.glob("*.py"), *(path for sign in root.glob("*/__init__.py") for path in sign.parent.glob("*.py"))]
    found += root.glob("figures/*.py")
    return sorted(path.relative_to(root).as_posix() for path in found if path.name not in ("setup.py", "__init__.py"))


def draw(root: Path, seed: int, count: int, only: str = "") -> list[Fault]:
    """Return faults in random order, at most one for each function; of each function a kind first, then a place."""
    chance, functions, drawn = random.Random(seed), {}, []
    for file in [file for file in modules(root) if re.match(only, file)]:
        whole = (root / file).read_bytes()
        for fault in sites(ast.parse(whole), file, whole.splitlines(keepends=True)):
            functions.setdefault((file, fault.function), []).append(fault)
    for faults in chance.sample([*functions.values()], min(count, len(functions))):
        kind = chance.choice(sorted({fault.kind for fault in faults}))
        drawn.append(chance.choice([fault for fault in faults if fault.kind == kind]))
    return drawn


def planted(text: str, fault: Fault) -> str:
    """Return the text of a file with the fault in it."""
    whole, before = text.encode(), fault.before.encode()
    start = sum(map(len, whole.splitlines(keepends=True)[: fault.line - 1])) + fault.column - 1
    assert whole[start : start + len(before)] == before, f"{fault.file}:{fault.line} is not {fault.before}"
    return (whole[:start] + fault.after.encode() + whole[start + len(before) :]).decode()


def own_tests(root: Path, file: str) -> list[str]:
    """Return the files of tests that mirror a module: test_video.py and test_video_x.py, unless video_x is another."""
    room, stem = Path(file).parent, Path(file).stem
    others = "|".join(path.stem.removeprefix(stem) for path in (root / room).glob(f"{stem}_*.py")) or "-"
    found = sorted((root / "tests" / room).glob(f"test_{stem}*.py"))
    own = [path for path in found if re.fullmatch(rf"test_{stem}(?!{others})(_.*)?", path.stem)]
    return [path.relative_to(root).as_posix() for path in own]


def imported(path: Path) -> set[str]:
    """Return the names that the import statements of a file have."""
    nodes = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.ImportFrom)]
    return {part for node in nodes for part in [*(node.module or "").split("."), *(name.name for name in node.names)]}


def stages(root: Path, fault: Fault) -> list[tuple[list[str], str]]:
    """Return (files of tests, marker) in the order in which they are likely to notice a fault."""
    stem, own, room = Path(fault.file).stem, own_tests(root, fault.file), Path(fault.file).parent.name
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(root.glob("tests/**/test_*.py"))}
    direct = [path for path, text in texts.items() if stem in imported(path) or fault.file in text]
    names = set(re.findall(r"\w{4,}", fault.function))
    direct.sort(key=lambda path: (not any(name in texts[path] for name in names), path.parent.name != room))
    above = [test for other in modules(root) if stem in imported(root / other) for test in own_tests(root, other)]
    whole = [f"tests/test_{name}.py" for name in ("structure", "portability", "docstrings", "types")]
    users = dict.fromkeys([*(path.relative_to(root).as_posix() for path in direct), *whole, *above])
    return [(own, "not slow"), ([test for test in users if test not in own], "not slow"), (own, "slow")]


def run(root: Path, tests: list[str], marker: str, broken: list[str], limit: float) -> str:
    """Return the first test that fails, "" if all pass, or "long" if they take more than `limit` seconds."""
    words = [sys.executable, "-m", "pytest", "-x", "-q", "-rfE", "-p", "no:cacheprovider", "-m", marker, *tests]
    words += [f"--deselect={test}" for test in broken]
    # PYTHONPATH: processes that a test starts have the fault, too, where an editable install names another checkout.
    own = {"OMP_NUM_THREADS": "1", "TMPDIR": str(root.parent), "PYTHONPATH": str(root)}
    about = {"env": os.environ | own, "start_new_session": True}
    with subprocess.Popen(words, cwd=root, stdout=-1, stderr=-2, text=True, **about) as process:
        try:
            output = process.communicate(timeout=limit)[0]
        except subprocess.TimeoutExpired:
            return "long"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    failed = re.findall(r"^(?:FAILED|ERROR) ([^\s\[]+)", output, re.MULTILINE)
    return failed[0] if failed else "" if process.returncode in (0, 5) else f"pytest ends with {process.returncode}"


def notice(root: Path, fault: Fault, tests: list[str], marker: str, broken: list[str], limit: float) -> str:
    """Return the test that notices a fault, "" or "long"; tests that fail without it, too, go to `broken`."""
    path = root / fault.file
    text = path.read_text(encoding="utf-8")
    while tests:
        write(path, planted(text, fault))
        failed = run(root, tests, marker, broken, limit)
        write(path, text)
        if "::" not in failed or not run(root, [failed], marker, broken, limit):
            return failed
        broken.append(failed)
    return ""


def write(path: Path, text: str) -> None:
    """Write a module and remove what Python compiled of another text with its size and second."""
    path.write_text(text, encoding="utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()


def plant(faults: list[Fault], root: Path, out: Path, limit: float) -> None:
    """Plant those faults that `out` does not have, and append a line for each; the quick tests of all come first."""
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
    done, broken = {tuple(line[name] for name in Fault._fields) for line in lines}, []
    for stage in range(3):
        for number, fault in enumerate(faults, 1):
            if fault in done:
                continue
            noticed = notice(root, fault, *stages(root, fault)[stage], broken, limit)
            print(f"{number} {shown(fault)}: {noticed or 'not noticed'}", flush=True)
            if noticed or stage == 2:
                done.add(fault)
                with out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"number": number, "noticed": noticed} | fault._asdict()) + "\n")


def shown(fault: Fault) -> str:
    before = " ".join(fault.before.split())
    return f"{fault.file}:{fault.line}:{fault.column} {fault.function} [{fault.kind}] {before} -> {fault.after}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("draw", "plant"))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=120)
    parser.add_argument("--only", default="", help="modules whose path begins with this regular expression")
    parser.add_argument("--out", type=Path, default=Path("faults.jsonl"), help="a line for each fault that was planted")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds for one run of tests")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; the same command goes on"))
    if given.command == "draw":
        print("\n".join(map(shown, draw(ROOT, given.seed, given.count, given.only))))
        return
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        plant(draw(clone, given.seed, given.count, given.only), clone, given.out, given.limit)


if __name__ == "__main__":
    main()
