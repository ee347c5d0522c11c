"""Shows what an objective does to text.

    python -m research.preview --config=bert --rows=2

Rows are those of a training step, corrupted as the step will: clean text beside the
inputs, then token by token what is predicted where. Statistics over more rows stand
beside their nominal values.
"""

from __future__ import annotations

from absl import flags

from research.config import command_line, parse
from research.previewing import preview


def define_flags() -> None:
    """Defines the flags of this command."""
    command_line.define_config()
    flags.DEFINE_integer("rows", 2, "rows to show", lower_bound=0)
    flags.DEFINE_integer("step", 0, "training step they are of", lower_bound=0)
    flags.DEFINE_integer(
        "statistics_rows", 4096, "rows of the statistics; 0 = none", lower_bound=0
    )


def main(given: flags.FlagValues) -> None:
    """Prints the preview of a config."""
    command_line.require(given, config="NAME")
    preview.preview(
        parse.parse(given.config),
        step=given.step,
        num_rows=given.rows,
        statistics_rows=given.statistics_rows,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
