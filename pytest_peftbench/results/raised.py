"""Where an error comes from, for whoever works on a method: not from torch, which only noticed it."""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

_OURS = Path(__file__).parents[1]
_STDLIB = Path(sysconfig.get_path("stdlib"))
# Installed packages that run a method, and hold none.
_LIBRARIES = frozenset(
    "torch transformers diffusers accelerate datasets safetensors huggingface_hub bitsandbytes torchao numpy scipy "
    "pytest _pytest pluggy xdist execnet".split()
)


def raised_in(error: BaseException) -> str:
    """` (peft/tuners/loha/layer.py:240)`: the last line of PEFT, or of another method's own file, on an error's way.

    Empty where there is none below this package's code: pytest shows what a test itself raised.
    """
    found, below = "", False
    for frame in traceback.extract_tb(error.__traceback__):
        if Path(frame.filename).is_relative_to(_OURS):
            below = True
        elif below and (name := _name(frame.filename)):
            found = f" ({name}:{frame.lineno})"
    return found


def _name(filename: str) -> str:
    """A file as its package or the working directory names it; empty for one of a library."""
    path = Path(filename)
    place = path.as_posix().rpartition("-packages/")[2]
    if place.partition("/")[0] in _LIBRARIES:
        return ""
    if place != path.as_posix():
        return place
    if not path.is_absolute() or path.is_relative_to(_STDLIB):  # `<string>` is code without a file
        return ""
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.as_posix()
