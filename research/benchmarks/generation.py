"""Greedy decoding beside transformers' generate, in alternating rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.benchmarks import ours, peers
from research.benchmarks.table import Options, Table, ratios
from research.config import checks
from research.config import parse as config_lib
from research.config.sections import RunConfig
from research.generation import decoding
from research.generation.language_model import language_model
from research.machine import timing
from research.training import program

# GPT-2's shape: four layers x 256, float32.
MODEL = {
    **ours.sizes(4, 256, 4, 1024),
    "model.max_seq_len": 1024,
    "model.dtype": "float32",
}
VOCAB_SIZES = (8192, 50257)
BATCH_SIZES = (1, 16)
PROMPT_LENGTH = 32
NEW_TOKENS = 128


def measure(options: Options) -> Table:
    """New tokens a second of a decoder, one prompt at a time and sixteen."""
    rows = []
    for vocab_size in VOCAB_SIZES:
        changes = MODEL | ours.vocabulary_of(vocab_size)
        run = config_lib.parse(ours.config_of("gpt2_small", changes))
        for batch_size in BATCH_SIZES:
            prompts = f"{batch_size} prompts" if batch_size > 1 else "1 prompt"
            case = f"{prompts}, V = {vocab_size:,}"
            print(f"measuring {case} ...", flush=True)
            rows.append({"case": case} | _measure(run, batch_size, options))
    return Table(
        title="greedy decoding: GPT-2 of 4 layers x 256, float32",
        rows=rows,
        notes=(
            (
                f"{PROMPT_LENGTH} tokens read and {NEW_TOKENS} written, reading included, "
                f"after compilation"
            ),
            (
                "peer: transformers' generate with its key-value cache; ratios are medians "
                "of alternating rounds, 'at its best' against the peer's fastest round"
            ),
        ),
    )


def _measure(run: RunConfig, batch_size: int, options: Options) -> dict[str, Any]:
    steps = {"ours": _ours(run, batch_size)}
    if options.peers:
        steps["peer"] = _peer(run, batch_size)
    times = timing.alternate(steps, rounds=options.rounds, repeats=1)
    median, new = times["ours"].median, batch_size * NEW_TOKENS
    row = {"ours ms/token": 1e3 * median / NEW_TOKENS, "tokens/s": new / median}
    if options.peers:
        row["peer ms/token"] = 1e3 * times["peer"].median / NEW_TOKENS
        row |= ratios(times["ours"], times["peer"])
    return row


def _ours(run: RunConfig, batch_size: int) -> Callable[[], None]:
    """Decodes prompts of random tokens to the last token allowed."""
    vocabulary = checks.provisional_vocabulary(run.data.tokenizer)
    parts = program.create(run, vocabulary)
    # Without tokens that end a text every row is decoded to its end.
    network = language_model(parts.objective, parts.modules, stop_ids=())
    params = parts.init_weights()
    settings = decoding.DecodingConfig(
        max_new_tokens=NEW_TOKENS,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        num_beams=1,
        length_penalty=1.0,
    )
    shape = (batch_size, PROMPT_LENGTH)
    random = np.random.default_rng(0).integers(8, vocabulary.vocab_size, shape)
    prompts = jnp.asarray(random, jnp.int32)
    arguments = (params, prompts, jnp.ones(shape, bool), jax.random.key(0))
    return lambda: jax.block_until_ready(
        decoding.generate(network, settings, *arguments)
    )


def _peer(run: RunConfig, batch_size: int) -> Callable[[], None]:
    torch, transformers = peers.libraries()
    torch.manual_seed(0)
    config = peers.gpt2_config(run.model)
    network = transformers.GPT2LMHeadModel(config).eval()
    prompts = torch.randint(8, config.vocab_size, (batch_size, PROMPT_LENGTH))
    mask = torch.ones_like(prompts)

    def generate() -> None:
        with torch.inference_mode():
            network.generate(
                prompts,
                attention_mask=mask,
                max_new_tokens=NEW_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )

    return generate
