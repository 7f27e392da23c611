"""The repository that `peftbench init` is given: what it is, what its workflows install, what may be written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import requires
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from pytest_peftbench.measure.environment import installed
from pytest_peftbench.results.files import InputError, require_writable, resolved, stands

PACKAGE = "pytest-peftbench"
# What workflows need beside the package.
_RUNNER = "pytest-xdist"


@dataclass(frozen=True)
class Repository:
    """root: its folder, without links. has_git: whether that is a git repository's top.

    is_peft: whether PEFT itself is developed there. is_package: whether pip can install it.
    """

    root: Path
    has_git: bool
    is_peft: bool
    is_package: bool

    @classmethod
    def at(cls, root: Path) -> Repository:
        """The repository in a folder. Raises InputError for what is no folder, or one that cannot be written to.

        And for a folder inside of a repository: GitHub reads workflows from its top alone.
        """
        if not root.is_dir():
            raise InputError(f"{root}: is {'a file' if stands(root) else 'no folder'}; give the folder of a repository")
        folder = resolved(root)
        above = next((parent for parent in folder.parents if stands(parent / ".git")), None)
        has_git = stands(folder / ".git")
        if above and not has_git:
            raise InputError(
                f"{root}: lies in the repository {above}, and GitHub reads workflows from its top alone; give {above}, "
                "or make this one with git init"
            )
        require_writable(str(root), folder)
        is_peft = (folder / "src" / "peft" / "__init__.py").is_file()
        is_package = _is_package(folder)
        return cls(folder, has_git, is_peft, is_package)

    def constraints(self) -> str:
        """The installed versions of all that figures can depend on; not of PEFT where that is developed here.

        pip refuses to install a PEFT of one version that its constraints say is of another.
        """
        left_out = {"peft"} if self.is_peft else set()
        pins = {name: installed(name) for name in sorted(_needed([PACKAGE, _RUNNER]) - left_out - {PACKAGE})}
        header = "# What the baselines are compared and recorded with" + (", beside PEFT." if self.is_peft else ".")
        return "\n".join(
            [header, *(f"{name}=={version}" for name, version in pins.items() if version != "not installed"), ""]
        )

    def requirements(self) -> str:
        """What workflows install, as arguments of pip."""
        return " ".join(
            [f"{PACKAGE}=={installed(PACKAGE)}", _RUNNER, *(["-e", "."] if self.is_package or self.is_peft else [])]
        )

    def depth(self) -> str:
        """How many commits a pull request's workflow fetches, 0 for all: the last alone where none are compared."""
        return "0" if self.is_peft else "1"

    def affected(self) -> str:
        """The option that leaves out what a pull request cannot reach, and a blank: where PEFT itself is changed."""
        return '--peft-affected="origin/$GITHUB_BASE_REF" ' if self.is_peft else ""

    def require_inside(self, names: Iterable[str]) -> None:
        """Raise InputError where one of these files would be written through a link that leads out, or below a file."""
        below = {above for name in names for above in PurePosixPath(name).parents} - {PurePosixPath()}
        for name in sorted(below):  # the one above first, which is the link, or the file
            folder = self.root / name
            if not resolved(folder).is_relative_to(self.root):
                raise InputError(f"{folder}: is a link that leads out of {self.root}; put a folder in its place")
            if stands(folder) and not folder.is_dir():
                raise InputError(f"{folder}: is no folder, and files are to be written there; move it away")


def _needed(packages: Iterable[str]) -> set[str]:
    """The packages and all that they require, optional parts left out; their names as the index writes them."""
    found, waiting = set[str](), list(packages)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found or installed(name) == "not installed":
            continue
        found.add(name)
        for line in requires(name) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)
    return found


def _is_package(folder: Path) -> bool:
    """Whether pip can install a folder; a pyproject.toml may hold no more than settings of tools."""
    project = folder / "pyproject.toml"
    lines = project.read_text(encoding="utf-8", errors="replace").splitlines() if project.is_file() else []
    return (folder / "setup.py").is_file() or any(line.strip() in ("[project]", "[build-system]") for line in lines)
