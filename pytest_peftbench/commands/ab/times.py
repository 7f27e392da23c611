"""Times two PEFTs in turn: processes of both stay alive on one core, and run blocks of steps when they are told to."""

from __future__ import annotations

import math
import os
import secrets
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Listener
from typing import Any

from pytest_peftbench.commands.ab.peft_sources import PeftSource
from pytest_peftbench.commands.ab.sessions import Sessions
from pytest_peftbench.compare.in_turn import Round
from pytest_peftbench.results.files import InputError
from pytest_peftbench.results.orders import Clock
from pytest_peftbench.results.words import first_line

# Sets of processes, and blocks of each case in each of them.
ROUNDS, BLOCKS = 4, 5
# How long a process runs at a stretch: a call or more, after one that nobody times.
_STRETCH_S, _MOST_CALLS = 0.1, 50
_OLD, _COPY, _NEW = "old", "copy", "new"
# Each side stands early and late alike, so that a clock that drifts favours none.
_BLOCK = (_OLD, _NEW, _COPY, _COPY, _NEW, _OLD)


@dataclass
class Timed:
    """What a case gave: rounds by the kind of work, `step` or `decode`, and why there is none."""

    rounds: dict[str, list[Round]] = field(default_factory=dict)
    problem: str = ""


def times(
    sessions: Sessions,
    old: PeftSource,
    new: PeftSource,
    cases: Sequence[str],
    progress: Callable[[str], None],
    rounds: int = ROUNDS,
) -> dict[str, Timed]:
    """Time the cases, by node id, in so many sets of processes: one of `new`, and two of `old`."""
    found = {case: Timed() for case in cases}
    for number in range(1, rounds + 1):
        progress(f"times: set of processes {number} of {rounds}")
        with _processes(sessions, {_OLD: old, _COPY: old, _NEW: new}, cases) as processes:
            for case in cases:
                _time(case, processes, found[case])
    return found


@dataclass
class _Process:
    """A session that times on demand. told: what it said of the case that it is at; None: it is on its way."""

    connection: Connection[Any, Any]
    told: tuple[str, Sequence[str], str] | None = None

    def arrive(self, case: str) -> tuple[Sequence[str], str]:
        """Wait until it is at a case, or beyond it: the kinds of work of the case, and why there are none."""
        if self.told is None:
            try:
                self.told = self.connection.recv()
            except (EOFError, ConnectionError):
                self.told = ("", (), "")  # it has ended
        name, work, problem = self.told or ("", (), "")
        return (work, problem) if name == case else ((), "its test could not be set up")

    def leave(self, case: str) -> None:
        """Let it go on to the next case."""
        if self.told is not None and self.told[0] == case:
            self.connection.send(None)
            self.told = None

    def run(self, what: str, calls: int) -> list[float]:
        """The seconds of each call. Raises InputError for what the case raised."""
        self.connection.send((what, calls))
        answer = self.connection.recv()
        if isinstance(answer, tuple):
            raise InputError(answer[2])
        seconds: list[float] = answer
        return seconds


def _time(case: str, processes: dict[str, _Process], found: Timed) -> None:
    told = {name: process.arrive(case) for name, process in processes.items()}
    try:
        for name, (_, problem) in told.items():
            if problem:
                raise InputError(f"{'the new side' if name == _NEW else 'the old side'}: {problem}")
        for what in told[_OLD][0]:
            if all(what in work for work, _ in told.values()):
                found.rounds.setdefault(what, []).append(_round(processes, what))
    except (InputError, EOFError, ConnectionError) as error:
        found.problem = found.problem or first_line(error)
    for process in processes.values():
        with suppress(ConnectionError):
            process.leave(case)


def _round(processes: dict[str, _Process], what: str) -> Round:
    calls = _calls(processes[_OLD].run(what, 2))
    change, copy = [], []
    for _ in range(BLOCKS):
        spent = {_OLD: 0.0, _COPY: 0.0, _NEW: 0.0}
        for name in _BLOCK:
            # of a few calls the least: whoever else uses the core makes a call longer, and never shorter
            spent[name] += min(processes[name].run(what, calls))
        change.append(2 * spent[_NEW] / (spent[_OLD] + spent[_COPY]))
        copy.append(spent[_COPY] / spent[_OLD])
    return Round(change, copy)


def _calls(seconds: Sequence[float]) -> int:
    least = max(statistics.median(seconds), 1e-6)
    return max(1, min(_MOST_CALLS, math.ceil(_STRETCH_S / least)))


@contextmanager
def _processes(
    sessions: Sessions, sources: dict[str, PeftSource], cases: Sequence[str]
) -> Iterator[dict[str, _Process]]:
    """A connected process of each source, by its name; they end with the block, or are ended."""
    key, processes = secrets.token_bytes(16), dict[str, _Process]()
    with Listener(authkey=key) as listener:
        clock = {name: Clock(_address(listener), key.hex(), name, _core()) for name in sources}
        started = {name: sessions.clock(source, cases, clock[name]) for name, source in sources.items()}
        try:
            processes |= _connected(listener, started)
            yield processes
        finally:
            for process in processes.values():
                process.connection.close()  # nobody asks any more
            for session in started.values():
                _end(session)


def _connected(listener: Listener, started: dict[str, subprocess.Popen[str]]) -> dict[str, _Process]:
    """The processes by name, once all are there. Raises InputError where one ended before."""
    found: dict[str, _Process] = {}

    def accept() -> None:
        with suppress(OSError, EOFError):
            while len(found) < len(started):
                connection = listener.accept()
                found[connection.recv()] = _Process(connection)

    waiting = threading.Thread(target=accept, daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(0.2)
        for name, process in started.items():
            if process.poll() is not None and name not in found:
                raise InputError(f"times: a process ended with code {process.returncode} before it could be timed")
    return found


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _address(listener: Listener) -> str:
    address = listener.address
    return address if isinstance(address, str) else str(address)


def _core() -> int | None:
    """The core that all share: the last of this process's, where the system tells."""
    return max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
