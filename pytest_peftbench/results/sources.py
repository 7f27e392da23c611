"""What installed packages define, read from their source: importing them takes seconds, and torch."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from pytest_peftbench.results.files import InputError


def class_in(package: str, file: str, name: str) -> ast.ClassDef:
    """A class in a file of an installed package. Raises InputError where the package or the class is not there."""
    source = folder_of(package) / file
    tree = ast.parse(source.read_text(encoding="utf-8")) if source.is_file() else ast.Module([], [])
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node
    raise InputError(f"{source}: defines no class {name}; this version of {package} is not known here")


def folder_of(package: str) -> Path:
    """The folder of an installed package, as Python has it. Raises InputError where it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"{package} is not installed: pip install {package}")
    return Path(spec.origin).parent
