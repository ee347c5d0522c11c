"""Lists the commands, and runs one of them.

palimpsest                                      # the same as python -m research
palimpsest pretrain --config=masked_lm ...      # as python -m research.pretrain ...
"""

from __future__ import annotations

import ast
import pathlib
import runpy
import sys

from research.errors import USAGE_ERROR, nearest

_FOLDER = pathlib.Path(__file__).parent
# What the index shows first is what a new user needs first.
_COMMANDS = (
    "compare",
    "report",
    "preview",
    "plan",
    "pretrain",
    "glue",
    "squad",
    "generate",
    "convert",
    "benchmark",
)


def main() -> int:
    """Runs the command that the first argument names; returns the exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("--help", "-h", "help"):
        print(index())
        return 0
    if name not in _COMMANDS:
        hint = nearest(name, _COMMANDS)
        print(
            f"error: there is no command {name!r}.{hint}\n\n{index()}", file=sys.stderr
        )
        return USAGE_ERROR
    # The name of the program in the command's messages and its --help.
    sys.argv = [f"palimpsest {name}", *arguments]
    runpy.run_module(f"research.{name}", run_name="__main__", alter_sys=True)
    return 0


def index() -> str:
    """The commands with a line each."""
    width = max(map(len, _COMMANDS))
    lines = []
    for name in _COMMANDS:
        text = (_FOLDER / f"{name}.py").read_text(encoding="utf-8")
        docstring = ast.get_docstring(ast.parse(text)) or ""
        lines.append(f"  {name:{width}}  {docstring.splitlines()[0]}")
    return "\n".join(
        [
            "palimpsest COMMAND [--FLAG=VALUE ...], or python -m research.COMMAND ...",
            "",
            *lines,
            "",
            "COMMAND --help lists its flags; compare --list lists the experiments.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
