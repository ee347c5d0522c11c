"""Greedy decoding beside transformers' generate, in alternating rounds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from research.benchmarks import ours, peers
from research.benchmarks.table import Table
from research.config import objective_section
from research.config import parse as config_lib
from research.generation import decoding
from research.generation.writer import language_model
from research.machine import timing
from research.training import program, state

# GPT-2's shape: four layers x 256, float32.
MODEL = {
    "model.num_layers": 4,
    "model.emb_dim": 256,
    "model.num_heads": 4,
    "model.mlp_dim": 1024,
    "model.max_seq_len": 1024,
    "model.dtype": "float32",
}
VOCAB_SIZES = (8192, 50257)
BATCH_SIZES = (1, 16)
PROMPT_LENGTH = 32
NEW_TOKENS = 128


def measure(*, rounds: int, with_peers: bool) -> Table:
    """New tokens a second of a decoder, one prompt at a time and sixteen."""
    rows = []
    for vocab_size in VOCAB_SIZES:
        for batch_size in BATCH_SIZES:
            case = f"{batch_size} prompts" if batch_size > 1 else "1 prompt"
            print(f"measuring {case}, V = {vocab_size:,} ...", flush=True)
            rows.append(
                {"case": f"{case}, V = {vocab_size:,}"}
                | _measure(vocab_size, batch_size, rounds, with_peers)
            )
    return Table(
        title="greedy decoding: GPT-2 of 4 layers x 256, float32",
        rows=tuple(rows),
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


def _measure(
    vocab_size: int, batch_size: int, rounds: int, with_peers: bool
) -> dict[str, Any]:
    steps = {"ours": _ours(vocab_size, batch_size)}
    if with_peers:
        steps["peer"] = _peer(vocab_size, batch_size)
    times = timing.alternate(steps, rounds=rounds, repeats=1)
    median, new = times["ours"].median, batch_size * NEW_TOKENS
    row = {"ours ms/token": 1e3 * median / NEW_TOKENS, "tokens/s": new / median}
    if with_peers:
        peer = times["peer"]
        row |= {
            "peer ms/token": 1e3 * peer.median / NEW_TOKENS,
            "ratio": peer.median / median,
            "at its best": peer.best / median,
        }
    return row


def _ours(vocab_size: int, batch_size: int) -> Callable[[], None]:
    """Decodes prompts of random tokens to the last token allowed."""
    changes = MODEL | {
        "model.vocab_size": vocab_size,
        "data.tokenizer.vocab_size": vocab_size,
    }
    run = config_lib.parse(ours.config_of("gpt2_small", changes))
    objective = objective_section.provisional(run)
    model_config = program.resolve_model(run.model, objective.vocabulary)
    modules = state.create_modules(model_config, objective)
    # Without tokens that end a text every row is decoded to its end.
    network = language_model(objective, modules, stop_ids=())
    init = functools.partial(state.init_params, model_config, objective)
    params = jax.jit(init)(jax.random.key(0))
    settings = decoding.DecodingConfig(
        max_new_tokens=NEW_TOKENS,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        num_beams=1,
        length_penalty=1.0,
    )
    rng = np.random.default_rng(0)
    shape = (batch_size, PROMPT_LENGTH)
    prompts = jnp.asarray(rng.integers(8, vocab_size, shape), jnp.int32)
    arguments = (params, prompts, jnp.ones(shape, bool), jax.random.key(0))
    return lambda: jax.block_until_ready(
        decoding.generate(network, settings, *arguments)
    )


def _peer(vocab_size: int, batch_size: int) -> Callable[[], None]:
    torch, transformers = peers.libraries()
    torch.manual_seed(0)
    network = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=vocab_size,
            n_positions=MODEL["model.max_seq_len"],
            n_embd=MODEL["model.emb_dim"],
            n_layer=MODEL["model.num_layers"],
            n_head=MODEL["model.num_heads"],
            n_inner=MODEL["model.mlp_dim"],
            bos_token_id=None,
            eos_token_id=None,
        )
    ).eval()
    prompts = torch.randint(8, vocab_size, (batch_size, PROMPT_LENGTH))
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
