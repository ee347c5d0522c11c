"""Writes text with a pretrained model, or fills its masks.

    python -m research.generate --checkpoint=runs/causal --prompt="The function returns" --top_p=0.9
    python -m research.generate --checkpoint=runs/t5 --prompt="The <extra_id_0> walks." --num_beams=4
    python -m research.generate --checkpoint=runs/bert --prompt="Paris is the [MASK] of France."

Decoders continue a prompt, encoder-decoders answer it, encoders fill each [MASK] with
the most probable tokens. Greedy unless a temperature, --top_k or --top_p is given.
"""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterator, Sequence

from absl import flags

from research.config import command_line
from research.errors import UserError, user_errors

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Workdir of a run.")
_WHICH = flags.DEFINE_string("which", "last", "Its checkpoint: last, best or a step.")
_PROMPT = flags.DEFINE_multi_string("prompt", [], "A prompt; may be given repeatedly.")
_FILE = flags.DEFINE_string("prompts_file", None, "File with a prompt a line.")
_INTERACTIVE = flags.DEFINE_bool("interactive", False, "Ask for prompts.")
_TOKENS = flags.DEFINE_integer("max_new_tokens", 64, "Tokens written at most.")
_TEMPERATURE = flags.DEFINE_float(
    "temperature", None, "Of sampling; 0 = greedy. 1 if --top_k or --top_p is given."
)
_TOP_K = flags.DEFINE_integer(
    "top_k", 0, "Sample among the k most probable; for encoders, candidates shown."
)
_TOP_P = flags.DEFINE_float("top_p", 1.0, "Sample among the most probable p of mass.")
_BEAMS = flags.DEFINE_integer("num_beams", 1, "Beams of beam search.")
_PENALTY = flags.DEFINE_float("length_penalty", 1.0, "Exponent of a beam's length.")
_SAMPLES = flags.DEFINE_integer(
    "num_samples", 1, "Texts for each prompt.", lower_bound=1
)
_BATCH = flags.DEFINE_integer(
    "batch_size", 16, "Prompts computed at once.", lower_bound=1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the samples.")


def main(argv: Sequence[str]) -> int:
    """Prints a text for every prompt."""
    del argv
    if _CHECKPOINT.value is None:
        raise UserError("give --checkpoint=W, the workdir of a run.")
    if not (_PROMPT.value or _FILE.value or _INTERACTIVE.value):
        raise UserError("give --prompt=..., --prompts_file=... or --interactive.")
    from research.generation.writer import Writer

    with user_errors():
        writer = Writer.load(
            pathlib.Path(_CHECKPOINT.value), which=_WHICH.value, seed=_SEED.value
        )
        settings = writer.settings(
            max_new_tokens=_TOKENS.value,
            temperature=_temperature(),
            top_k=_TOP_K.value,
            top_p=_TOP_P.value,
            num_beams=_BEAMS.value,
            length_penalty=_PENALTY.value,
        )
        for prompts in _batches():
            try:
                texts = writer.write(prompts, settings)
            except ValueError as error:
                if not _INTERACTIVE.value:
                    raise
                texts = [str(error)]
            for prompt, text in zip(prompts, texts):
                print(text if _INTERACTIVE.value else f"{prompt}\n  {text}\n")
    return 0


def _temperature() -> float:
    if _TEMPERATURE.value is not None:
        return _TEMPERATURE.value
    samples = _TOP_K.value > 0 or _TOP_P.value < 1.0 or _SAMPLES.value > 1
    return 1.0 if samples and _BEAMS.value == 1 else 0.0


def _batches() -> Iterator[list[str]]:
    prompts = list(_PROMPT.value)
    if _FILE.value:
        prompts += pathlib.Path(_FILE.value).read_text().splitlines()
    prompts = [prompt for prompt in prompts for _ in range(_SAMPLES.value)]
    for first in range(0, len(prompts), _BATCH.value):
        yield prompts[first : first + _BATCH.value]
    while _INTERACTIVE.value:
        print("> ", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            print()
            return
        yield [line.rstrip("\n")] * _SAMPLES.value


if __name__ == "__main__":
    command_line.run(main)
