"""How the rooms depend on each other, as CONTRIBUTING draws it, and which of them stay light.

An import counts wherever it stands: one inside a function or under TYPE_CHECKING is knowledge of another module too.
What `import_module` reads from a string, such as a task's class, does not: its name is data.
"""

import ast
import graphlib
import os
import re
import subprocess
import sys

import pytest
from support import REPOSITORY, output

PACKAGE = "pytest_peftbench"
HEAVY = ("torch", "peft", "transformers", "diffusers", "datasets")


def name_of(file):
    parts = file.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted((REPOSITORY / PACKAGE).rglob("*.py"))}


def imported_from_ours(module):
    """The modules of the package that one of them imports."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: relative, write the module's whole name"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        found.update(name if name in MODULES else name.rpartition(".")[0] for name in names)
    return found & MODULES.keys() - {module}


IMPORTS = {module: imported_from_ours(module) for module in MODULES}


def room_of(module):
    """`compare` of `pytest_peftbench.compare.noise`; none of the package's own `__init__`, which is the door."""
    return [*module.split("."), ""][1]


def arrows():
    """Room -> the rooms that it imports from."""
    found = {room: set() for room in map(room_of, MODULES) if room}
    for module, others in IMPORTS.items():
        if room := room_of(module):
            found[room] |= {room_of(other) for other in others} - {room, ""}
    return found


# The drawing ----------------------------------------------------------------------------------------------------------


def drawn():
    """Room -> the rooms right of its arrow, in CONTRIBUTING's order."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (drawing,) = (block for block in re.findall(r"```text\n(.*?)```", text, re.DOTALL) if "→" in block)
    rows = (line.partition("→") for line in drawing.splitlines())
    return {room.strip(): others.replace(",", " ").split() for room, _, others in rows}


def drawing_of_the_code():
    """What CONTRIBUTING should hold: a row per room, users above what they use, in the order that it has now."""
    found, order = arrows(), [*drawn()]
    rooms = sorted(found, key=lambda room: order.index(room) if room in order else -1)
    width = max(map(len, rooms))
    rows = (f"{room:<{width}} → {', '.join(other for other in rooms if other in found[room])}" for room in rooms)
    return "\n".join(row.rstrip("→ ") for row in rows)


def test_contributing_draws_the_arrows_that_the_imports_make():
    assert {room: set(others) for room, others in drawn().items()} == arrows(), (
        f"CONTRIBUTING.md draws other arrows than the imports make; they make\n\n{drawing_of_the_code()}\n"
    )


def test_arrows_go_down_only():
    order = [*drawn()]
    upwards = [
        f"{room} → {other}: {', '.join(module for module in MODULES if goes(module, room, other))}"
        for room, others in arrows().items()
        for other in others
        if order.index(other) < order.index(room)
    ]

    assert upwards == []


def goes(module, room, other):
    return room_of(module) == room and other in map(room_of, IMPORTS[module])


def test_no_circle_of_imports():
    try:
        graphlib.TopologicalSorter(IMPORTS).prepare()
    except graphlib.CycleError as error:
        pytest.fail("a circle of imports: " + " <- ".join(error.args[1]))


# What stays light -----------------------------------------------------------------------------------------------------


def modules_of(room):
    return [module for module in MODULES if room_of(module) == room and not module.endswith(".__main__")]


def known_before_a_task_runs(module):
    """The packages, and the modules that describe a task; not those that run one."""
    return MODULES[module].name in ("__init__.py", "config.py", "spec.py", "registry.py")


# What collecting, and a command's usage error, must not wait for.
LIGHT = {
    **{room: modules_of(room) for room in ("plugin", "commands", "report", "compare", "affected", "suites", "results")},
    "tasks": list(filter(known_before_a_task_runs, modules_of("tasks"))),
    "measure.environment": [f"{PACKAGE}.measure.environment"],
}
# Says at the end of a run which of them were imported.
REPORTS_IMPORTS = f"""
    import sys

    def pytest_unconfigure():
        print("imported:", *sorted(set({HEAVY}) & set(sys.modules)))
"""


def imported_by(code):
    program = f"import sys\n{code}\nprint('imported:', *sorted(set({HEAVY}) & set(sys.modules)))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("room", LIGHT)
def test_no_module_of_a_light_room_imports_anything_heavy(room):
    assert imported_by("\n".join(f"import {module}" for module in LIGHT[room])) == "imported:"


def test_the_package_itself_imports_nothing_heavy():
    assert imported_by("from pytest_peftbench import run_experiment") == "imported:"


@pytest.mark.parametrize("arguments", [("--collect-only",), ("--collect-only", "-k", "loha", "-q"), ("--fixtures",)])
def test_a_run_that_only_collects_imports_nothing_heavy(bench, arguments):
    bench.trains()
    bench.write("conftest.py", REPORTS_IMPORTS)

    result = bench.spawn(*arguments)

    assert result.returncode == 0
    assert "imported:\n" in output(result)


def test_a_heavy_import_would_be_noticed(bench):
    """Shows that the test above can fail; the stand-in for torch saves its seconds."""
    bench.write("torch.py", "")
    path = os.pathsep.join([".", *filter(None, [os.environ.get("PYTHONPATH")])])
    bench.write("conftest.py", "    import torch\n" + REPORTS_IMPORTS)

    assert "imported: torch\n" in output(bench.spawn("--collect-only", PYTHONPATH=path))
