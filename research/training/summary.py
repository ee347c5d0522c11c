"""Lines that a run prints before its first step and after its last."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping

import jax

from research.data.run_data import Data, describe_text
from research.training import metrics, schedules
from research.training.heldout import HeldoutLoss
from research.training.loop import Result
from research.training.program import Program
from research.training.state import count_params

# Share of [UNK] that is warned of, and how.
MAX_UNKNOWN = 1e-3
UNKNOWN_WARNING = (
    ": this text is not what the tokenizer was made for. Train one on it with "
    "data.tokenizer.kind=bpe, which knows every character, or raise "
    "data.tokenizer.vocab_size"
)


def opening(program: Program, data: Data, first_step: int) -> str:
    """Model, objective, data and devices in a few lines."""
    config, model, short = program.config, program.model_config, metrics.short
    counts = {name: count_params(tree) for name, tree in program.weights.items()}
    learned = count_params(program.state.params)
    devices = jax.devices()
    mesh = f" as {config.parallel.mode} {dict(program.parallel.mesh.shape)}"
    networks = ", ".join(f"{short(count)} in {name}" for name, count in counts.items())
    what = f"{program.objective.name} on {model.architecture}: parameters {networks}"
    if learned < sum(counts.values()):
        what += f"; {short(learned)} of them are learned"
    tokens = (
        f"{config.data.source}: {describe_text(data.text())}; "
        f"{short(data.train.num_tokens)} tokens to train on, "
        f"{short(data.heldout.num_tokens)} held out, vocabulary of "
        f"{data.vocabulary.vocab_size}"
    )
    steps = (
        f"{config.train.num_train_steps} steps of {config.train.batch_size} rows of "
        f"{config.data.row_length} tokens, on {len(devices)} {devices[0].device_kind}"
        f"{mesh if len(devices) > 1 else ''}"
    )
    lines = [what, tokens, steps]
    warmup = schedules.warmup_steps(config.optimizer, config.train.num_train_steps)
    if warmup < config.optimizer.warmup_steps:
        lines.append(
            f"config.optimizer.warmup_steps = {config.optimizer.warmup_steps} is more "
            f"than this run has: it warms up for {warmup} steps"
        )
    for name, part, _ in program.objective.parts():
        lines += [f"note: {name}{': ' * bool(name)}{note}" for note in part.notes]
    unknown = data.vocabulary.unknown_share
    if unknown > 0:
        lines.append(
            f"[UNK] makes up {unknown:.2%} of the training tokens"
            + UNKNOWN_WARNING * (unknown > MAX_UNKNOWN)
        )
    if first_step:
        lines.append(f"going on from the checkpoint of step {first_step}")
    return "\n".join(lines)


def closing(
    total: int, result: Result, values: Mapping[str, float], folder: pathlib.Path
) -> str:
    """Losses beside their unigram baselines, cost, and the workdir.

    `total` are the steps of the whole run, `values` those of the last log line, if any.
    """
    if result.step < total:
        return (
            f"stopped by {result.stopped_by} after step {result.step} of {total}, which "
            f"is saved: the same command goes on from there"
        )
    lines = [f"finished {total} steps"]
    if result.heldout is not None:
        lines += _losses(result.heldout)
    if values:
        lines.append(
            f"{metrics.short(values['tokens'])} tokens in "
            f"{metrics.duration(values['seconds'])}, "
            f"{metrics.short(values['tokens_per_second'])} tokens/s at the end"
        )
    lines.append(f"everything is in {folder}")
    return "\n".join(lines)


def _losses(heldout: HeldoutLoss) -> list[str]:
    lines = []
    for term, baseline in heldout.baselines.items():
        margin = heldout.margin(term)
        verdict = "" if margin > 0 else "; still on its plateau: no better than that"
        lines.append(
            f"  {term}: held-out loss {heldout.values[term]:.3f} nats, unigram "
            f"{baseline:.3f}, margin {margin:+.3f}{verdict}"
        )
    return lines
