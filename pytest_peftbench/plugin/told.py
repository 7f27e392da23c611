"""How a case's failure is shown: its text once, folded to the terminal, and elsewhere its first line."""

from __future__ import annotations

import pytest
from _pytest._code.code import ReprFileLocation, TerminalRepr
from _pytest._io import TerminalWriter

from pytest_peftbench.results.words import first_line, folded, printable


class Told(TerminalRepr):
    """A failure in words. In CI pytest's summary repeats all of a message that has no `reprcrash`."""

    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self.reprcrash = ReprFileLocation(file, 1, printable(text.partition("\n")[0]))

    def __str__(self) -> str:
        return self._text

    def toterminal(self, tw: TerminalWriter) -> None:
        """Write the text, the line that matters first."""
        first, *rest = folded(self._text, tw.fullwidth)
        tw.line(first, red=True, bold=True)
        for line in rest:
            tw.line(line)


def tell(report: pytest.TestReport) -> None:
    """Have a case's failure shown so. One with a traceback has its error there; what repeats it is cut to a line."""
    if not report.failed or not hasattr(report, "peftbench"):
        return
    if isinstance(report.longrepr, str):
        report.longrepr = Told(report.longrepr, report.location[0])
    elif crash := getattr(report.longrepr, "reprcrash", None):
        crash.message = first_line(crash.message)
