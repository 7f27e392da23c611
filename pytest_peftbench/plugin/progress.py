"""The line of the terminal that shows what a case is doing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter


class Progress:
    """Shows on one line of the terminal what a case is doing; silent without a terminal, under -q and in a worker."""

    INTERVAL_S = 0.2

    def __init__(self, config: pytest.Config, title: str) -> None:
        reporter: TerminalReporter | None = config.pluginmanager.get_plugin("terminalreporter")
        worker = hasattr(config, "workerinput")
        self._reporter = reporter if reporter and reporter.isatty and reporter.verbosity >= 0 and not worker else None
        self._capture: Any = config.pluginmanager.get_plugin("capturemanager")
        self._title = title
        self._shown_at = 0.0
        self._width = 0

    def __call__(self, text: str) -> None:
        """Show `text` in place of what was shown."""
        if self._reporter is not None and time.monotonic() - self._shown_at >= self.INTERVAL_S:
            self._shown_at = time.monotonic()
            # a line that wraps could not be taken back
            self._write(f"{self._title}: {text}"[: self._reporter._tw.fullwidth - 1])

    def clear(self) -> None:
        """Remove what was shown."""
        if self._width:
            self._write("")

    def _write(self, line: str) -> None:
        assert self._reporter is not None
        with self._capture.global_and_fixture_disabled():
            self._reporter._tw.write("\r" + line.ljust(self._width) + ("" if line else "\r"), flush=True)
        self._width = len(line)
