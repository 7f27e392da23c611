"""Which files of a package a piece of work executes functions of."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import os
import pkgutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType

_NAME = "peftbench"


def import_all(package: str) -> None:
    """Import every module of a package that can be, so that no work later does: what that runs is nobody's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module(package)
        for module in pkgutil.walk_packages(found.__path__, f"{package}.", onerror=lambda name: None):
            with contextlib.suppress(Exception):  # one that needs a package that is not installed
                importlib.import_module(module.name)


@contextmanager
def executed_files(folder: Path) -> Iterator[set[str]]:
    """Gives a set that holds in the end the files below `folder` of which a function was called, named `a/b.py`.

    What stands at the top of a module or a class, which runs at import, does not count, nor do other threads before
    Python 3.12. There it is a profiler: the work of another one, as `count_host_calls` has, is not seen.
    """
    found: set[str] = set()
    codes: dict[int, CodeType] = {}
    with _watching(codes):
        yield found
    top = os.path.join(folder, "")
    functions = [code for code in codes.values() if code.co_flags & inspect.CO_OPTIMIZED]
    names = {code.co_filename for code in functions if code.co_filename.startswith(top)}
    found |= {Path(name).relative_to(folder).as_posix() for name in names}


if sys.version_info >= (3, 12):

    @contextmanager
    def _watching(codes: dict[int, CodeType]) -> Iterator[None]:
        watch = sys.monitoring
        tool = next(tool for tool in (4, 3) if watch.get_tool(tool) is None)  # the two that are nobody's by convention

        def started(code: CodeType, offset: int) -> object:
            codes[id(code)] = code
            return watch.DISABLE  # once a function is enough

        watch.use_tool_id(tool, _NAME)
        try:
            watch.register_callback(tool, watch.events.PY_START, started)
            watch.set_events(tool, watch.events.PY_START)
            watch.restart_events()
            yield
        finally:
            watch.set_events(tool, watch.events.NO_EVENTS)
            watch.free_tool_id(tool)

else:

    @contextmanager
    def _watching(codes: dict[int, CodeType]) -> Iterator[None]:
        def profile(frame: FrameType, event: str, arg: object) -> None:
            code = frame.f_code
            codes[id(code)] = code  # not in a set: the hash of a code is that of all that it holds

        earlier = sys.getprofile()
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(earlier)
