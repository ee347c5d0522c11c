"""Losses of some steps for each of several ways to share them among devices.

Run in a process of its own, whose devices XLA_FLAGS makes up:

    python -m tests.multi_device.losses CASES [COORDINATOR NUM_PROCESSES PROCESS_ID]

CASES is a JSON list of {'objective': name, 'steps': n, 'devices': n, 'interleaved': n,
...overrides}; the losses come out as a JSON list of lists on the last line.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import jax
import numpy as np

import objectives
from experiments import presets
from objectives.types import TokenBatch
from research.config import parse as config_lib
from research.data import loader
from research.machine import hosts
from research.training import program
from research.training import steps as steps_lib
from tests.helpers import toy_batch, toy_vocabulary
from tests.research.training import tiny

BATCH_SIZE = 32
# Stages, and the architecture they are for.
STAGES = {
    "next_sentence": ("next_sentence", "masked_lm"),
    "sentence_order": ("sentence_order", "masked_lm"),
    "span_boundary": ("span_boundary",),
}


# Causal and masked LM on one decoder stack, at once and one after the other.
COMBINED = {
    "mixture": presets.mixture(
        causal=(presets.objective("causal_lm"), 1),
        masked=(presets.objective("masked_lm"), 1),
    ),
    "phases": presets.phases(
        clm=(presets.objective("causal_lm"), 0.5),
        mlm=(presets.objective("masked_lm"), 1.0),
    ),
}


def config(objective: str, overrides: dict[str, Any]):
    values = tiny.config()
    values.train.batch_size = BATCH_SIZE
    values.eval.batch_size = BATCH_SIZE
    values.train.num_train_steps = 20
    if objective in COMBINED:
        values.objective = COMBINED[objective]
        values.model.update(architecture="decoder", position="rope")
    else:
        stages = STAGES.get(objective, (objective,))
        values.objective = presets.objective(*stages)
        architectures = objectives.OBJECTIVES[stages[-1]].architectures
        values.model.architecture = architectures[0]
    values.model.num_token_types = 2
    values.model.num_heads = 8
    values.model.max_seq_len = 128
    values.data.tokenizer.num_sentinels = 64
    values.update_from_flattened_dict(overrides)
    return config_lib.parse(values)


def losses(case: dict[str, Any]) -> list[float]:
    case = dict(case)
    objective, steps = case.pop("objective"), case.pop("steps")
    devices = jax.devices()[: case.pop("devices", None)]
    # As where meshes follow a network: a host's devices are not side by side.
    period = case.pop("interleaved", len(devices))
    devices = sorted(devices, key=lambda device: device.id % period)
    vocabulary = toy_vocabulary(512, 64)
    run = config(objective, case)
    row_length = run.data.row_length
    parts = program.create(run, vocabulary, devices=devices)
    state, constants = parts.init()
    compiled = {
        start: steps_lib.compile_train_step(parts, parts.objective.at(start))
        for start in (0, *parts.objective.switches)
    }
    rows = loader.host_rows(BATCH_SIZE, *parts.parallel.host_part)
    found = []
    for step in range(steps):
        whole = toy_batch(BATCH_SIZE, row_length, vocabulary=vocabulary, seed=step)
        own = TokenBatch(
            tokens=whole.tokens[rows],
            row_ids=whole.row_ids[rows],
            first_document=whole.first_document[rows],
        )
        batch = parts.parallel.place(own)
        with jax.transfer_guard("disallow"):
            start = max(start for start in compiled if start <= step)
            state, metrics = compiled[start](state, constants, batch)
        found.append(float(np.asarray(metrics.sums["loss"][0])))
    evaluate = steps_lib.compile_eval_step(parts)
    result = evaluate(
        state.params, constants, state.step, batch, state.seed, state.step
    )
    terms = [result.sums[term] for term in sorted(parts.objective.terms)]
    return found + [float(np.asarray(v)) / float(np.asarray(w)) for v, w in terms]


def main() -> None:
    cases = json.loads(sys.argv[1])
    if len(sys.argv) > 2:
        coordinator, count, process = sys.argv[2:]
        hosts.initialise(coordinator, int(count), int(process))
    print(json.dumps([losses(case) for case in cases]))


if __name__ == "__main__":
    main()
