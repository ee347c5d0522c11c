"""The host's side: tokenising, the token store and the loader."""

from __future__ import annotations

import itertools
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy as np

from research.benchmarks import ours
from research.benchmarks.table import Table
from research.config import parse as config_lib
from research.config.sections import RunConfig
from research.data import corpora, loader, run_data

_SECONDS = 3.0
_BATCH = 256
_TOKENISED_BYTES = 8_000_000


def measure() -> Table:
    """Tokens a second of the loader, bytes a second of the tokenizer."""
    with tempfile.TemporaryDirectory() as folder:
        changes = {"data.cache_dir": folder, "data.tokenizer.vocab_size": 8192}
        run = config_lib.parse(ours.config_of("masked_lm", changes))
        begin = time.perf_counter()
        corpus = run_data.load(run.data)
        built = time.perf_counter() - begin
        rows: list[dict[str, Any]] = [
            {
                "what": f"loader, rows of {length}",
                "rate": _loader_rate(corpus.train, length) / 1e6,
                "unit": "M tokens/s",
            }
            for length in (128, 512)
        ]
        rows.append(_tokenizer_row(corpus.tokenizer, run))
        rows.append(
            {
                "what": "embedded corpus, tokenizer and store from nothing",
                "rate": built,
                "unit": "s",
            }
        )
    return Table(title="input", rows=tuple(rows), notes=())


def _loader_rate(store: Any, row_length: int) -> float:
    batches = loader.train_batches(
        store,
        row_length=row_length,
        batch_size=_BATCH,
        seed=0,
        start_step=0,
    )
    for _ in itertools.islice(batches, 20):
        pass
    begin, tokens = time.perf_counter(), 0
    while time.perf_counter() - begin < _SECONDS:
        tokens += np.asarray(next(batches).tokens).size
    return tokens / (time.perf_counter() - begin)


def _tokenizer_row(tokenizer: Any, run: RunConfig) -> dict[str, Any]:
    texts, size = [], 0
    corpus = corpora.open_corpus(run.data.source, text_field=run.data.text_field)
    for text in corpus.documents():
        texts.append(text)
        size += len(text.encode())
        if size > _TOKENISED_BYTES:
            break
    begin = time.perf_counter()
    tokenizer.encode_batch(texts)
    rate = size / (time.perf_counter() - begin)
    cores = os.cpu_count() or 1
    return {
        "what": f"tokeniser, {cores} cores",
        "rate": rate / 1e6,
        "unit": "MB of text/s",
    }


def startup(root: pathlib.Path) -> Table:
    """Seconds from the command to the first step, cold and with the cache."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": f"{folder}/xla"}
        for label in ("store from nothing", "cold", "compilation cache"):
            if label == "cold":
                environment["JAX_COMPILATION_CACHE_DIR"] = f"{folder}/xla2"
            command = [
                sys.executable,
                "-m",
                "research.pretrain",
                "--config=experiments/masked_lm.py",
                f"--workdir={folder}/{label.replace(' ', '_')}",
                f"--config.data.cache_dir={folder}/data",
                "--config.train.num_train_steps=1",
                "--config.train.log_every_steps=1",
                "--config.optimizer.warmup_steps=0",
                "--config.eval.num_batches=1",
            ]
            begin = time.perf_counter()
            with subprocess.Popen(
                command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout is not None
                seconds = next(
                    (
                        time.perf_counter() - begin
                        for line in process.stdout
                        if line.startswith("step 1")
                    ),
                    None,
                )
                process.stdout.read()
            rows.append({"start": label, "seconds to the first step": seconds})
    return Table(
        title="start-up of masked LM, 4 layers x 256, embedded corpus",
        rows=tuple(rows),
        notes=("cold: the token store is there, nothing is compiled yet",),
    )
