"""Run a consumer, such as a teacher, on the frames of clips while `data.prepare()` decodes them.

    from egodistill import data, teachers

    data.prepare(segments, "store", consumer=teachers.Extraction(teacher))      # a teacher's outputs, not its frames

The decoding processes write the frames of each clip to a file; `data.prepare()` reads them in the order of the store,
gives them to a `Consumer` in batches, and removes them.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..recordings.spec import ClipSpec
from ..support import files
from ..support.errors import DataError
from .store import ClipStore, StoreWriter

__all__ = ["Consumer", "Pending", "ConsumerGroup"]

Consume = Callable[[np.ndarray, Mapping[str, np.ndarray]], Any]
WAITING_BYTES = 2 << 30  # of all frames that wait


class Consumer(Protocol):
    """A reader of the frames of all clips while `prepare()` decodes them, so that the store need not keep these frames.

    `teachers.Extraction` is one, `distillation.EndFeatures` another.
    """

    specs: Mapping[str, ClipSpec]  # the frames that it reads: "clip", "ends"
    arrays: Sequence[str]  # names of the arrays that it adds to the store
    record: Mapping[str, Any]  # JSON values; an unfinished store is continued only with equal ones
    batch_size: int  # clips per call of the function from `open()`

    def open(self, store: ClipStore) -> contextlib.AbstractContextManager[Consume]:
        """Return a context with a function that takes rows of the store and their frames uint8 [B, T, 3, H, W]."""
        ...


class ConsumerGroup:
    """Several consumers as one; they get the batches of the first.

    Raise DataError if two of them read the same frames, or add the same arrays or record.
    """

    def __init__(self, *consumers: Consumer) -> None:
        self.consumers, self.batch_size = consumers, consumers[0].batch_size
        for what in ("specs", "arrays", "record"):
            names = [name for one in consumers for name in getattr(one, what)]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise DataError(
                    f"two of the consumers have the same {what} ({', '.join(twice)}); run one after the other"
                )
        self.specs = {name: spec for one in consumers for name, spec in one.specs.items()}
        self.arrays = [name for one in consumers for name in one.arrays]
        self.record = {name: value for one in consumers for name, value in one.record.items()}

    @contextlib.contextmanager
    def open(self, store: ClipStore) -> Iterator[Consume]:
        """Yield a function that calls those of all consumers."""
        with contextlib.ExitStack() as stack:
            every = [stack.enter_context(one.open(store)) for one in self.consumers]
            yield lambda rows, frames: [consume(rows, frames) for consume in every]


class Pending:
    """Frames of clips that `data.prepare()` has decoded and its consumer has not read yet, one file per clip.

    They are in the store's folder `pending`, which `prepare()` removes at the end. At most about 2 GB of frames wait:
    then `put()` waits, too, unless the consumer needs this recording first. Rows are counted in the whole store.
    """

    def __init__(self, store: StoreWriter) -> None:
        self.store, self.folder = store, store.path / "pending"
        self.specs = {name: ClipSpec(**spec) for name, spec in store.settings["consumer"]["specs"].items()}
        size = sum(math.prod(spec.arrays(name)[name][1]) for name, spec in self.specs.items())
        self.room = max(64, WAITING_BYTES // size)
        self.batch_size = store.settings["consumer"]["batch_size"]

    def tidy(self) -> None:
        """Remove files that nobody will read, and mark the rows whose frames are lost as missing."""
        if self.folder.is_symlink():  # to a folder of somebody else, whose files are not ours to remove
            self.folder.unlink()
        self.folder.mkdir(exist_ok=True)
        wanted = set(self.lacking().tolist())
        found = self.rows()
        for row in found - wanted:
            self.file(row).unlink()
        self.store.reset(np.array(sorted(wanted - found), np.int64))

    def lacking(self) -> np.ndarray:
        """Return the written rows whose frames the consumer has not read, int [m], ascending."""
        rows = self.store.finished()
        return rows[~self.store.is_consumed(rows)]

    def rows(self) -> set[int]:
        """Return the rows whose frames wait."""
        return {int(name.removesuffix(".npy")) for name in os.listdir(self.folder) if name[:1].isdigit()}

    def file(self, row: int) -> Path:
        """Return the path of a row's frames."""
        return self.folder / f"{row}.npy"

    def put(self, row: int, frames: Mapping[str, np.ndarray], together: Sequence[int]) -> None:
        """Write a row's frames {name: uint8 [T, 3, H, W]}. Wait while too many others wait.

        `together` are the rows of its recording.
        """
        before, moved = None, time.monotonic()
        while len(waiting := self.rows()) >= self.room and not self.is_needed(waiting, together):
            if waiting != before:
                before, moved = waiting, time.monotonic()
            elif time.monotonic() - moved > 60:  # the consumer needs a recording that nobody decodes yet
                break
            time.sleep(0.05)
        with files.atomic_write(self.file(row), through_link=False) as part, open(part, "wb") as file:
            for name in self.specs:
                np.save(file, frames[name])

    def is_needed(self, waiting: set[int], together: Sequence[int]) -> bool:
        """Return whether the consumer cannot go on without a recording: its next batch ends among or after its rows.

        `waiting` are the rows whose frames wait, `together` those of the recording.
        """
        first = self.store.missing().min(initial=len(self.store))
        return first in together and sum(row < first for row in waiting) < self.batch_size

    def read(self, rows: Sequence[int]) -> dict[str, np.ndarray]:
        """Return the frames of B rows, each uint8 [B, T, 3, H, W]."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in self.specs}
        for row in rows:
            with open(self.file(row), "rb") as file:
                for name in self.specs:
                    found[name].append(np.load(file))
        return {name: np.stack(frames) for name, frames in found.items()}

    def remove(self, rows: Sequence[int]) -> None:
        """Remove the frames of rows that the consumer has read."""
        for row in rows:
            self.file(row).unlink()
