"""No code outside objectives/ names an objective or asks for an objective's class."""

import ast
import importlib
import pathlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import objectives

ROOT = pathlib.Path(__file__).parent.parent
# Benchmarks choose what to run, as experiments do.
FILES = [
    path.relative_to(ROOT)
    for package in ("models", "research")
    for path in sorted((ROOT / package).rglob("*.py"))
    if ROOT / "research/benchmarks" not in path.parents
]


def _classes() -> set[str]:
    """Names of all classes of objectives, those over labelled batches too."""
    for module in pkgutil.walk_packages(objectives.__path__, "objectives."):
        importlib.import_module(module.name)
    found, left = set(), [objectives.Objective]
    while left:
        subclasses = left.pop().__subclasses__()
        found |= {
            cls.__name__
            for cls in subclasses
            if cls.__module__.startswith("objectives")
        }
        left += subclasses
    return found


CLASSES = _classes()
NAME = re.compile(rf"\b({'|'.join(objectives.OBJECTIVES)})\b")
CLASS = re.compile(rf"\b({'|'.join(CLASSES)})\b")
MODULES = {f"objectives.{name}" for name in objectives.OBJECTIVES}


def mentions(tree: ast.AST) -> Iterator[str]:
    """'line 12: ...' for each place in code, docstrings left out."""
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documentation and NAME.search(node.value):
                yield f"line {node.lineno}: {node.value!r}"
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            if node.module in MODULES or names & MODULES:
                yield f"line {node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, ast.Call) and CLASS.search(_class_check(node)):
            yield f"line {node.lineno}: {ast.unparse(node)}"


def _class_check(call: ast.Call) -> str:
    """The class that isinstance or issubclass asks for."""
    asks = ast.unparse(call.func) in ("isinstance", "issubclass")
    return ast.unparse(call.args[1]) if asks and len(call.args) == 2 else ""


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_objective_is_named(path):
    found = list(mentions(ast.parse((ROOT / path).read_text())))
    assert not found, "\n".join(found)
