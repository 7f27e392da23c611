"""Which file of a package leads to which: read from its sources, of which none is imported."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

INIT = "__init__.py"
# They ask about a class, and run nothing of it.
_ASKING = ("isinstance", "issubclass")


@dataclass(frozen=True)
class _Import:
    """`from module import name as local`; without a name `import module`. module: dotted, below the package."""

    module: str
    name: str
    local: str


@dataclass
class _Module:
    """What a file says. used: names that it does more with than to ask about them."""

    file: str
    imports: list[_Import] = field(default_factory=list)
    defined: set[str] = field(default_factory=set)
    functions: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    readable: bool = True

    @property
    def is_init(self) -> bool:
        """Whether it is a package's, which hands on what others define."""
        return self.file.endswith(INIT)


class Package:
    """The Python files of a package, named as below its folder: `tuners/loha/layer.py`.

    An import counts wherever it stands, inside of functions too, unless its name is used in annotations or asked about
    with `isinstance` alone. `from peft.tuners.lora import LoraModel` leads to the file that defines it, by way of the
    `__init__` files that hand it on, and not to all else that these import.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._modules = {
            _dotted(file): _read(folder, file)
            for file in sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
        }
        self._by_file = {module.file: module for module in self._modules.values()}
        self.leads_to = cache(self._leads_to)

    @property
    def files(self) -> list[str]:
        """All of them, sorted."""
        return sorted(self._by_file)

    @cached_property
    def unreadable(self) -> list[str]:
        """Those that cannot be parsed."""
        return [module.file for module in self._modules.values() if not module.readable]

    def functions_of(self, file: str) -> set[str]:
        """The names of the functions and methods that a file defines."""
        return self._by_file[file].functions

    def _leads_to(self, file: str) -> frozenset[str]:
        """The files that the imports of a file lead to."""
        module = self._by_file[file]
        found: set[str] = set()
        for item in module.imports:
            if module.is_init or item.local in module.used:
                found |= self.sources(item.module, item.name)
        return frozenset(found - {file})

    def sources(self, module: str, name: str, seen: frozenset[tuple[str, str]] = frozenset()) -> set[str]:
        """The files that `from module import name` leads to; an empty name stands for the module itself."""
        held = self._modules.get(module)
        if held is None or (module, name) in seen:
            return set()
        if not held.is_init:
            return {held.file}
        seen |= {(module, name)}
        if not name:
            return {held.file, *self._handed_on(held, seen)}
        for item in held.imports:
            if item.local == name and item.name:
                return {held.file} | self.sources(item.module, item.name, seen)
        below = self._modules.get(f"{module}.{name}".removeprefix("."))
        if below is not None:
            return {held.file, below.file, *self._handed_on(below, seen)}
        # a name from nowhere, or a `*`, may be any of the package's
        return {held.file} if name in held.defined else set(self._below(held.file))

    def _handed_on(self, module: _Module, seen: frozenset[tuple[str, str]]) -> Iterator[str]:
        """Who has the module itself may take all that it hands on."""
        for item in module.imports if module.is_init else ():
            yield from self.sources(item.module, item.name, seen)

    def _below(self, init: str) -> list[str]:
        folder = init.removesuffix(INIT)
        return [file for file in self._by_file if file.startswith(folder)]


def _dotted(file: str) -> str:
    """`tuners.loha.layer`; empty of the package's own `__init__`."""
    parts = file.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _read(folder: Path, file: str) -> _Module:
    module = _Module(file)
    try:
        tree = ast.parse((folder / file).read_bytes())
    except (SyntaxError, ValueError, OSError, RecursionError):
        module.readable = False
        return module
    _Reader(folder.name, module).visit(tree)
    return module


class _Reader(ast.NodeVisitor):
    """Fills in what a module says."""

    def __init__(self, package: str, module: _Module) -> None:
        self._package = package
        self._module = module
        parts = module.file.split("/")[:-1]
        self._above = [package, *parts]

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.partition(".")[0] == self._package:
                local = alias.asname or self._package
                self._module.imports.append(_Import(self._inside(alias.name), "", local))

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        above = self._above[: len(self._above) + 1 - node.level] if node.level else []
        module = ".".join([*above, *([node.module] if node.module else [])])
        if module.partition(".")[0] != self._package:
            return
        for alias in node.names:
            local = alias.asname or alias.name
            self._module.imports.append(_Import(self._inside(module), alias.name, local))
            if alias.name == "*":
                self._module.used.add("*")

    def visit_If(self, node: ast.If) -> None:
        if "TYPE_CHECKING" in (getattr(node.test, "id", ""), getattr(node.test, "attr", "")):
            self._visit_all(node.orelse)
        else:
            self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in _ASKING:
            self._visit_all(node.args[:1])
        else:
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._module.functions.add(node.name)
        self._module.defined.add(node.name)
        self._visit_all([*node.decorator_list, node.args, *node.body])

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._module.defined.add(node.name)
        self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._visit_all([node.target, *([node.value] if node.value else [])])

    def visit_arg(self, node: ast.arg) -> None:
        """An annotation runs nothing."""

    def visit_Name(self, node: ast.Name) -> None:
        (self._module.used if isinstance(node.ctx, ast.Load) else self._module.defined).add(node.id)

    def _visit_all(self, nodes: list[ast.AST] | list[ast.stmt] | list[ast.expr]) -> None:
        for node in nodes:
            self.visit(node)

    def _inside(self, module: str) -> str:
        """The dotted name below the package."""
        return module.removeprefix(self._package).removeprefix(".")
