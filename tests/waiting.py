"""Waiting for what another process or thread does. The limit only ends a hang: no test depends on how long it takes."""

import time
from collections.abc import Callable
from typing import Any

LIMIT = 600.0  # seconds


def until(happened: Callable[[], Any]) -> Any:
    """Return the first true value of `happened()`."""
    end = time.monotonic() + LIMIT
    while not (value := happened()):
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.005)
    return value
