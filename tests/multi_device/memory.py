"""Compiles one train step and prints what XLA allocates on each device, in bytes.

    python -m tests.multi_device.memory SIZE FSDP TENSOR BATCH_SIZE ARCHITECTURE REMAT

A last line of JSON: arguments, temporaries, our estimate of both, the all-gathers of the
program as lists of shapes, the memory of this process before it compiles, and
the arrays it holds after. What the compiler itself needs grows with the machine's cores.
"""

from __future__ import annotations

import json
import re
import sys

import jax
import psutil

from experiments import base, presets
from research.config import checks
from research.config import parse as config_lib
from research.planning import activations, estimate
from research.training import program

# 1.1B parameters.
BILLION = dict(num_layers=22, emb_dim=2048, num_heads=32, mlp_dim=8192)

OBJECTIVES = {
    "encoder": "masked_lm",
    "decoder": "causal_lm",
    "encoder_decoder": "span_corruption",
}


def main() -> None:
    size = sys.argv[1]
    fsdp, tensor, batch_size = (int(argument) for argument in sys.argv[2:5])
    architecture, remat = sys.argv[5:]
    config = base.get_config()
    config.model = presets.model(
        "base" if size == "billion" else size, architecture=architecture
    )
    if size == "billion":
        config.model.update(BILLION)
    config.model.update(remat=remat, scan_layers=True)
    config.objective = presets.objective(OBJECTIVES[architecture])
    config.data.row_length = 126
    config.data.tokenizer.vocab_size = 30522
    config.train.batch_size = config.eval.batch_size = batch_size
    config.parallel.update(fsdp=fsdp, tensor=tensor)
    run = config_lib.parse(config)
    vocabulary = checks.provisional_vocabulary(run.data.tokenizer)
    parts = program.create(run, vocabulary)
    lowered = parts.lower_train_step(parts.objective)
    # Not the highest: a process inherits that from the one that started it.
    process = psutil.Process().memory_info().rss
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    kept = activations.count(parts, "cpu")
    text = compiled.as_text()
    gathers = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather", text)
    print(
        json.dumps(
            {
                "arguments": memory.argument_size_in_bytes,
                "temporaries": memory.temp_size_in_bytes,
                "gathers": [[int(n) for n in g.split(",") if n] for g in gathers],
                "estimated": estimate.estimate(parts, kept).total,
                "process": process,
                "live": sum(array.nbytes for array in jax.live_arrays()),
                "params": program.state.count_params(parts.state.params),
            }
        )
    )


if __name__ == "__main__":
    main()
