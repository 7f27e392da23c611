"""Changes the source of functions while the program runs, and puts everything back."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import FunctionType
from typing import Any


class StaleEdit(LookupError):
    """An edit that no longer fits: the target, or the text in it, is gone."""


@dataclass(frozen=True)
class Edit:
    """Another text in a function's source.

    target: `module:function` or `module:Class.method`, where it is defined and not where it is inherited. old, new:
    the text there and what takes its place; further lines of `new` are indented like the line in which `old` starts.
    times: how often `old` stands there.
    """

    target: str
    old: str
    new: str
    times: int = 1

    def apply(self, source: str) -> str:
        """The edited source. Raises StaleEdit when `old` is not there just as often as expected."""
        found = source.count(self.old)
        if found != self.times:
            raise StaleEdit(f"{self.target}: holds this {found} times, expected {self.times}:\n{self.old}")
        edited, *rest = source.split(self.old)
        for part in rest:
            line = edited.rpartition("\n")[2]
            indent = line[: len(line) - len(line.lstrip())]
            edited += self.new.replace("\n", f"\n{indent}") + part
        return edited


@contextmanager
def patched(edits: Sequence[Edit]) -> Iterator[None]:
    """Apply `edits` while the body runs, those of one function together. Raises StaleEdit, with nothing changed."""
    by_target: dict[str, list[Edit]] = {}
    for edit in edits:
        by_target.setdefault(edit.target, []).append(edit)
    replacements = [_replacement(target, group) for target, group in by_target.items()]
    with ExitStack() as restore:
        for owner, name, original, edited in replacements:
            restore.callback(setattr, owner, name, original)
            setattr(owner, name, edited)
        yield


def _replacement(target: str, edits: Sequence[Edit]) -> tuple[Any, str, Any, Any]:
    """Where the target lies: its owner and name, what is there, and what takes its place."""
    owner, name = _owner(target)
    original = vars(owner)[name]
    function = _function(target, original)
    source = textwrap.dedent(inspect.getsource(function))
    for edit in edits:
        source = edit.apply(source)
    return owner, name, original, _compiled(source, name, function, owner)


def _owner(target: str) -> tuple[Any, str]:
    module, _, path = target.partition(":")
    *classes, name = path.split(".")
    try:
        owner: Any = import_module(module)
        for part in classes:
            owner = getattr(owner, part)
    except (ImportError, AttributeError) as error:
        raise StaleEdit(f"{target}: {error}") from error
    if name not in vars(owner):
        raise StaleEdit(f"{target}: {owner.__name__} does not define {name!r}")
    return owner, name


def _function(target: str, original: Any) -> FunctionType:
    """The function below decorators: its code tells file and line."""
    if isinstance(original, property):
        original = original.fget
    function = inspect.unwrap(getattr(original, "__func__", original))
    if not isinstance(function, FunctionType):
        raise StaleEdit(f"{target}: is no function written in Python")
    if captured := set(function.__code__.co_freevars) - {"__class__"}:
        raise StaleEdit(f"{target}: made inside another function, whose {', '.join(sorted(captured))} it reads")
    return function


def _compiled(source: str, name: str, function: FunctionType, owner: Any) -> Any:
    """What the source defines, decorators included, in the function's own module and file.

    It is defined inside a function whose argument is `__class__`, which is where `super()` looks for its class.
    """
    tree = ast.parse(f"def _define(__class__):\n{textwrap.indent(source, ' ')}\n return {name}")
    ast.increment_lineno(tree, function.__code__.co_firstlineno - 2)
    namespace: dict[str, Any] = {}
    exec(compile(tree, function.__code__.co_filename, "exec"), function.__globals__, namespace)
    return namespace["_define"](owner)
