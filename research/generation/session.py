"""Writes a text for every prompt, given or typed."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from research.errors import user_errors
from research.generation.decoding import DecodingConfig
from research.generation.unmasking import Unmasking
from research.generation.writer import Writer


def run(
    checkpoint: pathlib.Path,
    prompts: Sequence[str],
    *,
    which: str,
    interactive: bool,
    num_samples: int,
    batch_size: int,
    seed: int,
    temperature: float | None,
    sampler: str | None,
    num_steps: int,
    **settings: Any,
) -> None:
    """Prints the texts of all prompts, then asks for more if `interactive`.

    Args:
      checkpoint: workdir of a run.
      prompts: what to write about.
      which: its checkpoint: 'last', 'best' or a step.
      interactive: read more prompts from the terminal until it ends.
      num_samples: texts for each prompt.
      batch_size: prompts computed at once.
      seed: of the samples.
      temperature: None = 1 if top_k, top_p or num_samples ask for sampling, else 0.
      sampler, num_steps: of unmasking, see `unmasking.Unmasking`; None = no unmasking.
      **settings: the other fields of DecodingConfig.

    Raises:
      UserError: for a checkpoint that cannot write, or a prompt that is too long.
    """
    if temperature is None:
        samples = settings["top_k"] > 0 or settings["top_p"] < 1.0 or num_samples > 1
        temperature = 1.0 if samples and settings["num_beams"] == 1 else 0.0
    with user_errors():
        writer = Writer.load(checkpoint, which=which, seed=seed)
        decoding = DecodingConfig(temperature=temperature, **settings)
        unmasking = Unmasking(sampler, num_steps, temperature) if sampler else None
        repeated = [prompt for prompt in prompts for _ in range(num_samples)]
        for first in range(0, len(repeated), batch_size):
            batch = repeated[first : first + batch_size]
            for prompt, text in zip(batch, writer.write(batch, decoding, unmasking)):
                print(f"{prompt}\n  {text}\n")
        if not interactive:
            return
        for prompt in _typed():
            try:
                print(
                    *writer.write([prompt] * num_samples, decoding, unmasking), sep="\n"
                )
            except ValueError as error:  # The next prompt may be a good one.
                print(error)


def _typed() -> Iterator[str]:
    """Lines from the terminal until it ends."""
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            print()
            return
        yield line.rstrip("\n")
