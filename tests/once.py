"""What several tests look at and nobody changes: made once for all processes of a run of pytest.

    demo = once("demo", lambda folder: Demo(folder / "out", "0,1"))   # `once` is a fixture of conftest.py

The first process that asks fills the folder, under a lock, and the others wait. What `make()` returned is pickled, so
that each process gets its own. At the end of the run `changed()` names the files that somebody changed, and the run
fails.
"""

import hashlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock


class Once:
    """Folders in one place, which all processes of a run know."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str, make: Callable[[Path], Any]) -> Any:
        """Return what `make(folder)` returned when it filled the folder of this name."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder, value, sums = (self.root / f"{name}{end}" for end in ("", ".pickle", ".sums"))
        with FileLock(f"{folder}.lock"):
            if not sums.exists():
                shutil.rmtree(folder, ignore_errors=True)  # of a try that failed
                folder.mkdir()
                value.write_bytes(pickle.dumps(make(folder)))
                sums.write_text(checksums(folder))
        return pickle.loads(value.read_bytes())

    def changed(self) -> list[str]:
        """Return the files that were added, removed or changed since their folder was made."""
        lines = []
        for sums in sorted(self.root.glob("*.sums")):
            before, now = (set(text.splitlines()) for text in (sums.read_text(), checksums(sums.with_suffix(""))))
            lines += sorted({f"{sums.stem}: {line.split('  ', 1)[1]}" for line in before ^ now})
        return lines


def checksums(folder: Path) -> str:
    """Return a line for each file below a folder: its checksum and its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n" for path in files
    )
