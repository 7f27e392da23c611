"""What `peftbench ab` orders of a session of pytest, and what the session tells it: two files between two processes.

A session is one side of a comparison: it has a PEFT of its own, and runs the cases it is told to. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pytest_peftbench.results.result import CaseId

# The variable that names the file of the orders: xdist's workers have it, too.
ORDERS = "PEFTBENCH_ORDERS"


@dataclass(frozen=True)
class Orders:
    """What a session is to do.

    peft: the folder that its PEFT must come from, absolute. report: the file for `Told`. imports: whether PEFT is
    imported before anything is collected, so that one that cannot be is told at once. cases: the node ids to run; None:
    all. clock: where steps are timed on demand instead of being measured.
    """

    peft: str
    report: str
    imports: bool = False
    cases: list[str] | None = None
    clock: Clock | None = None


@dataclass(frozen=True)
class Clock:
    """Whom a session asks what to time: `multiprocessing.connection`'s address and key, as hexadecimal digits.

    name: what the session calls itself. core: the core to stay on, where the system can do that; None: any.
    """

    address: str
    key: str
    name: str
    core: int | None = None


@dataclass(frozen=True)
class CaseTold:
    """What is known of a selected test.

    case: None where only the test itself knows which. trained: whether steps of it can be timed. definition: a hash of
    all files and settings that its figures depend on, but for PEFT, this package and the machine; empty where nobody
    knows them. margins: the experiment's own. ran: whether it gave a result. problem: why it gave none, or failed
    beside it; empty where it did not. skipped: whether that is by pytest's `skip`.
    """

    case: CaseId | None
    trained: bool = False
    definition: str = ""
    margins: dict[str, float] = field(default_factory=dict)
    ran: bool = False
    problem: str = ""
    skipped: bool = False


@dataclass(frozen=True)
class Told:
    """What a session tells: its tests by node id, in their order.

    around: what figures depend on beside the cases and PEFT, in words; of a session that only collected.
    """

    cases: dict[str, CaseTold] = field(default_factory=dict)
    around: list[str] = field(default_factory=list)
