"""Run the script of every broken law, and tell which of them do not show what was recorded.

`python tests/reproduce.py` takes them all, some minutes; `--method lora --law weighted` some. Exits with 1 when one
does not reproduce: its word is a defect of ours and none of PEFT's.
"""

import argparse
import contextlib
import io
import logging
import math
import sys
import warnings
from functools import cache
from pathlib import Path

import torch

from pytest_peftbench.cases.life_cycle.cell import rounds
from pytest_peftbench.commands.laws.cells import cells, groups
from pytest_peftbench.commands.laws.scripts import script
from pytest_peftbench.commands.laws.templates import LAWS

REPOSITORY = Path(__file__).resolve().parent.parent
# A difference that rounding in single precision does not explain; in half precision, of what rounds there.
BOUND, HALF_BOUND = 1e-5, 0.01
_SHOULD = "should be 0: "


def shown_by(text):
    """What a script shows: the class of the error that it ends in, or the number that should be 0."""
    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(compile(text, "script", "exec"), {"__name__": "script"})
    except Exception as error:
        return type(error).__name__, str(error)
    finally:
        torch.set_default_dtype(torch.float32)
    last = [line for line in output.getvalue().splitlines() if line.startswith(_SHOULD)][-1]
    return float(last.removeprefix(_SHOULD).split()[0]), last


def reproduces(cell, shown):
    """Whether it is the error of the recorded word, or a difference."""
    if cell.error:
        return shown == cell.error
    bound = HALF_BOUND if "float16" in cell.setting and rounds(cell.law) else BOUND
    return isinstance(shown, float) and (shown > bound or (math.isnan(shown) and math.isinf(cell.size)))


@cache
def broken_laws(by_design=False):
    """The simplest cell of each method, law and cause that PEFT alone can show; what is by design where asked for."""
    found = [group.simplest for group in groups(cells(REPOSITORY / "baselines"))]
    return [cell for cell in found if cell.law in LAWS and (by_design or not cell.is_by_design)]


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method")
    parser.add_argument("--law")
    parser.add_argument("--by-design", action="store_true", help="those that are by design, too")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    failed, asked = [], broken_laws(options.by_design)
    asked = [cell for cell in asked if options.method in (None, cell.method) and options.law in (None, cell.law)]
    for cell in asked:
        text = script(cell, REPOSITORY / "benchmarks")
        shown, said = shown_by(text)
        if options.verbose:
            print(text)
        if not reproduces(cell, shown):
            failed.append(cell)
            print(f"{cell.method} {cell.law} {cell.place}: recorded {cell.by}, shown {shown}: {said[:200]}", flush=True)
    print(f"{len(asked) - len(failed)} of {len(asked)} reproduce")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
