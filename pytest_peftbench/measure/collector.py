"""Python's garbage collector, kept out of what is measured."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """Collect once, then not again while the body runs."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def freeze_collector() -> None:
    """Take what is there now, imported modules above all, out of the garbage collector's rounds.

    The collector runs before each measurement; going through the 400,000 objects that PEFT and transformers make takes
    a fifth of a second each time. Call this before a model is made. What was frozen earlier and nobody holds any more
    is freed.
    """
    gc.unfreeze()
    freeze_what_came()


def freeze_what_came() -> None:
    """The same of what came since, in a few milliseconds: what was frozen earlier stays so, held or not."""
    gc.collect()
    gc.freeze()
