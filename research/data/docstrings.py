"""Docstrings of Python files as plain English. Files are parsed, never imported."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator

MIN_CHARACTERS = 200
MIN_PROSE = 0.8  # share of letters and spaces
WRAPPED_LINE = 60  # a line at least this long was broken by its width

_EXAMPLE = re.compile(r"\s*>>>")
_DECORATION = re.compile(r"[\W_]*$|\s*%\(\w+\)s$|\s*\.\. \w+::.*$")
_LIST_ITEM = re.compile(r"\s*([-*+•:]|\w{1,2}[.)]|\.\.)\s?")


def texts(source: bytes) -> Iterator[str]:
    """The cleaned docstrings of a module, its classes and its functions, in order.

    Yields nothing for a file that this Python cannot parse.
    """
    if b'"""' not in source and b"'''" not in source:
        return
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    scopes: list[ast.AST] = [tree]
    while scopes:
        scope = scopes.pop()
        docstring = ast.get_docstring(scope, clean=False)  # type: ignore[arg-type]
        if docstring and (text := clean(docstring)):
            yield text
        inner = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        body = scope.body  # type: ignore[attr-defined]
        scopes.extend(node for node in reversed(body) if isinstance(node, inner))


def clean(docstring: str) -> str:
    """The prose of a docstring, paragraphs on one line each; '' if there is too little.

    Interactive examples, underlines, directives and template fields are dropped, and
    lines that were broken at the margin are joined, so that a newline in the corpus
    ends a sentence, a heading or a list item.
    """
    lines: list[str] = []
    in_example = False
    wrapped = False  # the last line kept goes on in the next one
    for raw in inspect.cleandoc(docstring).splitlines():
        line = raw.rstrip()
        if _EXAMPLE.match(line):
            in_example = True
        if not line:
            in_example = False
        if in_example:
            continue
        if _DECORATION.match(line):
            wrapped = False
            if not line and lines and lines[-1]:
                lines.append("")
        elif wrapped and not _LIST_ITEM.match(line):
            lines[-1] += " " + line.strip()
            wrapped = len(line) >= WRAPPED_LINE
        else:
            lines.append(line.strip())
            wrapped = len(line) >= WRAPPED_LINE
    text = "\n".join(lines).strip()
    if len(text) < MIN_CHARACTERS:
        return ""
    prose = sum(map(str.isalpha, text)) + text.count(" ") + text.count("\n")
    return text if prose >= MIN_PROSE * len(text) else ""
