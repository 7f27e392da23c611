"""The PEFT of a side: the installed one, a folder's, a git revision's or a released version, copied to a folder of its
own, so that nothing that happens to it meanwhile has a say."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pytest_peftbench.results.files import InputError, require_name
from pytest_peftbench.results.revisions import blob_contents, blobs, git
from pytest_peftbench.results.words import first_line

_VERSION = re.compile(r"\d+(\.\d+)+((a|b|rc|\.post|\.dev)\d+)*")
_COMPILED = "__pycache__"


@dataclass(frozen=True)
class PeftSource:
    """name: as it was asked for. folder: holds `peft/`, for PYTHONPATH. version: its own. digest: of its files."""

    name: str
    folder: Path
    version: str
    digest: str

    @property
    def label(self) -> str:
        """The name, and the version where that says more."""
        return self.name if self.version in self.name else f"{self.name} (PEFT {self.version})"


def peft_source(flag: str, text: str | None, out: Path) -> PeftSource:
    """The PEFT that an option asks for, in `out`, which is new. text: None for the installed one.

    What is there as a path is a path, then what looks like a version is one, and all else is a revision of the git
    checkout that the installed PEFT is in. Raises InputError, naming the option, where there is no such PEFT.
    """
    about = f"{flag} {text}" if text is not None else flag
    if text is None:
        _copy(about, _installed(about), out)
    elif Path(text).exists():
        _copy(about, _package_in(about, Path(text)), out)
    elif _VERSION.fullmatch(text):
        _install(about, text, out)
    else:
        _export(about, text, out)
    version = _version(about, out / "peft" / "__init__.py")
    _register(out, version)
    return PeftSource("the installed PEFT" if text is None else text, out, version, _digest(out / "peft"))


def _installed(about: str) -> Path:
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        raise InputError(f"{about}: PEFT is not installed: pip install peft")
    return Path(spec.origin).resolve().parent


def _package_in(about: str, path: Path) -> Path:
    for place in (path / "peft", path / "src" / "peft", path):
        if (place / "__init__.py").is_file() and place.resolve().name == "peft":
            return place
    raise InputError(f"{about}: holds no PEFT, neither peft/__init__.py nor src/peft/__init__.py")


def _copy(about: str, package: Path, out: Path) -> None:
    """Compiled files as well, which stay valid: compiling takes a second."""
    try:
        shutil.copytree(package, out / "peft")
    except (OSError, shutil.Error) as error:
        raise InputError(f"{about}: {package}: cannot be copied: {first_line(error)}") from error


def _install(about: str, version: str, out: Path) -> None:
    target = ["--no-deps", "--quiet", "--disable-pip-version-check", "--target", str(out), f"peft=={version}"]
    pip = subprocess.run(
        [sys.executable, "-m", "pip", "install", *target], capture_output=True, text=True, errors="replace", check=False
    )
    if pip.returncode:
        told = [line for line in pip.stderr.splitlines() if "ERROR" in line] or pip.stderr.splitlines() or ["no reason"]
        words = told[-1].removeprefix("ERROR: ").strip()
        raise InputError(
            f"{about}: pip cannot install peft {version}: {words}; give a folder that holds it, or a revision"
        )


def _export(about: str, revision: str, out: Path) -> None:
    package = _installed(about)
    top = _checkout_of(about, package)
    place = package.relative_to(top).as_posix()
    tree = git(about, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}", folder=top).strip()
    files = blobs(about, tree, place, folder=top)
    if f"{place}/__init__.py" not in files:
        raise InputError(f"{about}: this commit of {top} holds no PEFT at {place}")
    for name, content in zip(files, blob_contents(about, files.values(), folder=top), strict=True):
        inside = PurePosixPath(name).relative_to(place)
        for part in inside.parts:
            require_name(about, part)
        file = out / "peft" / inside
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)


def _checkout_of(about: str, package: Path) -> Path:
    """The top folder of the checkout that tracks the package: one that merely lies around it is another project's."""
    way_out = "install PEFT from a clone in editable mode, or give a version or a folder"
    nowhere = f"{about}: the installed PEFT, {package}, is in no git checkout, so there are no revisions; {way_out}"
    try:
        top = Path(git(about, "rev-parse", "--show-toplevel", folder=package).strip()).resolve()
        tracked = git(about, "ls-files", "--", "__init__.py", folder=package).strip()
    except InputError as error:
        if "git cannot be run" in str(error):
            raise
        raise InputError(nowhere) from error
    if not tracked:
        raise InputError(nowhere)
    return top


def _version(about: str, file: Path) -> str:
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError) as error:
        raise InputError(f"{about}: peft/__init__.py cannot be read: {first_line(error)}") from error
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__version__"]:
            return str(getattr(node.value, "value", "unknown"))
    return "unknown"


def _register(folder: Path, version: str) -> None:
    """Have `importlib.metadata` find this version, and not that of the PEFT which is installed."""
    for stale in folder.glob("peft-*.dist-info"):
        shutil.rmtree(stale)
    place = folder / "peft-0.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: peft\nVersion: {version}\n", encoding="utf-8")


def _digest(package: Path) -> str:
    sha = hashlib.sha256()
    for file in sorted(path for path in package.rglob("*") if path.is_file() and _COMPILED not in path.parts):
        name = file.relative_to(package).as_posix()
        sha.update(f"{name}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return sha.hexdigest()
