"""Writes text with a pretrained model, or fills its masks.

    python -m research.generate --checkpoint=runs/causal --prompt="The function returns" --top_p=0.9
    python -m research.generate --checkpoint=runs/t5 --prompt="The <extra_id_0> walks." --num_beams=4
    python -m research.generate --checkpoint=runs/bert --prompt="Paris is the [MASK] of France."
    python -m research.generate --checkpoint=runs/diffusion --prompt="The" --sampler=confidence

Decoders continue a prompt, encoder-decoders answer it, encoders fill each [MASK] with
the most probable tokens. Greedy unless a temperature, --top_k or --top_p is given.
"""

from __future__ import annotations

import pathlib

from absl import flags

from research.config import command_line
from research.errors import UserError, user_errors
from research.generation import session, unmasking


def define_flags() -> None:
    """Defines the flags of this command."""
    flags.DEFINE_string("checkpoint", None, "workdir of a run")
    flags.DEFINE_string("which", "last", "its checkpoint: last, best or a step")
    flags.DEFINE_multi_string("prompt", [], "a prompt; may be given repeatedly")
    flags.DEFINE_string("prompts_file", None, "file with a prompt a line")
    flags.DEFINE_bool("interactive", False, "ask for prompts")
    flags.DEFINE_integer("max_new_tokens", 64, "tokens written at most")
    flags.DEFINE_float(
        "temperature",
        None,
        "of sampling; 0 = greedy; default: 1 if --top_k or --top_p is given, else 0",
    )
    flags.DEFINE_integer(
        "top_k", 0, "sample among the k most probable; for encoders, candidates shown"
    )
    flags.DEFINE_enum(
        "sampler",
        None,
        unmasking.SAMPLERS,
        "writes with a model that fills masks: a prompt without [MASK] is continued by "
        "--max_new_tokens of them",
    )
    flags.DEFINE_integer("num_steps", 16, "passes of --sampler", lower_bound=1)
    flags.DEFINE_float("top_p", 1.0, "sample among the most probable p of mass")
    flags.DEFINE_integer("num_beams", 1, "beams of beam search")
    flags.DEFINE_float("length_penalty", 1.0, "exponent of a beam's length")
    flags.DEFINE_integer("num_samples", 1, "texts for each prompt", lower_bound=1)
    flags.DEFINE_integer("batch_size", 16, "prompts computed at once", lower_bound=1)
    flags.DEFINE_integer("seed", 0, "of the samples")


def main(given: flags.FlagValues) -> None:
    """Prints a text for every prompt."""
    command_line.require(given, checkpoint="WORKDIR_OF_A_RUN")
    if not (given.prompt or given.prompts_file or given.interactive):
        raise UserError("give --prompt=..., --prompts_file=... or --interactive.")
    prompts = list(given.prompt)
    if given.prompts_file:
        with user_errors(), open(given.prompts_file, encoding="utf-8") as file:
            prompts += [line.rstrip("\n") for line in file]
    session.run(
        pathlib.Path(given.checkpoint),
        prompts,
        which=given.which,
        interactive=given.interactive,
        num_samples=given.num_samples,
        batch_size=given.batch_size,
        seed=given.seed,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        num_beams=given.num_beams,
        length_penalty=given.length_penalty,
        sampler=given.sampler,
        num_steps=given.num_steps,
    )


if __name__ == "__main__":
    command_line.run(main, define_flags)
