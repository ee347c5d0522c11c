# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tutorial: an objective, its loss, a run, a comparison
#
# Everything here runs on a laptop's CPU in less than two minutes. A run is its config,
# and an experiment gives one. This one is masked language modelling, made small; the text
# is the documentation of the Python libraries that are installed anyway.

# %%
from experiments import presets
from research.config import experiments, parse
from research.data import run_data

config = experiments.load_config("masked_lm")
config.model.update(presets.SIZES["tiny"], position="rope", dropout_rate=0.0)
config.data.row_length = 64
config.data.tokenizer.update(vocab_size=2048, num_sentinels=32)
config.train.update(num_train_steps=60, batch_size=16)
config.optimizer.update(warmup_steps=6, learning_rate=3e-3)
config.eval.update(every_steps=20, num_batches=4)
run = parse.parse(config)  # checks every field, and freezes them
data = run_data.load(run.data)  # tokenises once; later calls find it in a cache
print(f"{data.vocabulary.vocab_size} token types")

# %% [markdown]
# ## What an objective does to text
#
# An objective turns clean rows into inputs and weighted targets. It is a pure function of
# a key and a batch, so it can be tried on one sentence.

# %%
import jax
import jax.numpy as jnp

import objectives

text = (
    "The function returns a new array of the given shape and type, filled with zeros."
)
tokens = jnp.array([data.tokenizer.encode(text)])
objective = objectives.create(
    "masked_lm",
    {"masked_lm": {**presets.OBJECTIVES["masked_lm"], "noise_density": 0.3}},
    vocabulary=data.vocabulary,
    row_length=tokens.shape[1],
    architecture="encoder",
)
batch = objectives.TokenBatch(
    tokens=tokens, row_ids=jnp.arange(1), first_document=jnp.zeros(1, jnp.int32)
)
example = objective.corrupt(jax.random.key(0), batch)
target = example.targets["mlm"]
print("input:  ", data.tokenizer.decode(example.inputs.tokens[0].tolist()))
print("targets:", [data.tokenizer.decode([i]) for i in target.values[0].tolist()])

# %% [markdown]
# ## A loss and its gradient
#
# Networks are Flax modules by name; a loss term is a sum and a weight. A fresh model
# should be about as good as a guess among all token types, ln V nats.

# %%
import dataclasses
import math

from flax import nnx

model = dataclasses.replace(run.model, vocab_size=data.vocabulary.vocab_size)
networks = objective.networks(model, rngs=nnx.Rngs(0))


def loss(networks):
    total, weight = objective.losses(networks, example)[0]["mlm"]
    return total / weight


value, gradient = nnx.value_and_grad(loss)(networks)
norm = math.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
print(
    f"loss {value:.2f} nats, ln V {math.log(model.vocab_size):.2f}, gradient {norm:.2f}"
)

# %% [markdown]
# ## A short run, and its curve
#
# `pretrain` does what the command `palimpsest pretrain` does. Its workdir holds the
# config, checkpoints and `metrics.jsonl`, where a line is of the split train or eval.

# %%
import pathlib
import tempfile

import pandas as pd

from research.training import pretraining

folder = pathlib.Path(tempfile.mkdtemp())
pretraining.pretrain(config, folder / "masked", say=lambda line: None)


def heldout(name):
    lines = pd.read_json(folder / name / "metrics.jsonl", lines=True)
    return lines[lines.split == "eval"].set_index("step")


heldout("masked")[["mlm", "mlm_unigram"]]

# %% [markdown]
# ## A comparison of two
#
# Losses of different objectives do not compare. How far each is below the unigram entropy
# of its own targets, its margin, says at least which has begun to use the context.

# %%
config.model.architecture = "decoder"
config.objective = presets.objective("causal_lm")
pretraining.pretrain(config, folder / "causal", say=lambda line: None)
curves = {"masked_lm": heldout("masked"), "causal_lm": heldout("causal")}
terms = {"masked_lm": "mlm", "causal_lm": "clm"}
pd.DataFrame(
    {name: c[f"{terms[name]}_unigram"] - c[terms[name]] for name, c in curves.items()}
)

# %% [markdown]
# For a statement about which is better, take `palimpsest compare`: several seeds, the same
# learning rates tried for both, one evaluation, intervals and a test. See
# [your own comparison](how-to/comparison.md).
