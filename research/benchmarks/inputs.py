"""The host's side: tokenising, the token store and the loader."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from research.benchmarks import ours
from research.benchmarks.table import Options, Table
from research.config import experiments
from research.config import parse as config_lib
from research.config.sections import DataConfig
from research.data import corpora, loader, run_data
from research.data.store import TokenStore
from research.data.tokenizer import Tokenizer

_SECONDS = 3.0
_BATCH = 256
_TOKENISED_BYTES = 8_000_000


def measure(options: Options) -> Table:
    """Tokens a second of the loader, bytes a second of the tokenizer."""
    del options  # Neither rounds nor peers.
    with tempfile.TemporaryDirectory() as folder:
        changes = {"data.cache_dir": folder, "data.tokenizer.vocab_size": 8192}
        run = config_lib.parse(ours.config_of("masked_lm", changes))
        begin = time.perf_counter()
        corpus = run_data.load(run.data)
        built = time.perf_counter() - begin
        figures = [
            (
                f"loader, rows of {length}",
                _loader_rate(corpus.train, length) / 1e6,
                "M tokens/s",
            )
            for length in (128, 512)
        ]
        figures += [
            (
                f"tokeniser, {os.cpu_count()} cores",
                _tokenizer_rate(corpus.tokenizer, run.data) / 1e6,
                "MB of text/s",
            ),
            ("embedded corpus, tokenizer and store from nothing", built, "s"),
        ]
    columns = ("what", "rate", "unit")
    return Table("input", [dict(zip(columns, row, strict=True)) for row in figures])


def _loader_rate(store: TokenStore, row_length: int) -> float:
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


def _tokenizer_rate(tokenizer: Tokenizer, data: DataConfig) -> float:
    texts, size = [], 0
    for text in corpora.open_corpus(
        data.source, text_field=data.text_field
    ).documents():
        texts.append(text)
        size += len(text.encode())
        if size > _TOKENISED_BYTES:
            break
    begin = time.perf_counter()
    tokenizer.encode_batch(texts)
    return size / (time.perf_counter() - begin)


def startup(options: Options) -> Table:
    """Seconds from the command to the first step, cold and with the cache."""
    del options
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        # The second run finds the token store, the third the compiled programs as well.
        for label, cache in (
            ("store from nothing", "xla"),
            ("cold", "xla2"),
            ("compilation cache", "xla2"),
        ):
            seconds = _seconds_to_first_step(
                f"--workdir={folder}/{label.replace(' ', '_')}",
                f"--config.data.cache_dir={folder}/data",
                cache=f"{folder}/{cache}",
            )
            rows.append({"start": label, "seconds to the first step": seconds})
    return Table(
        title="start-up of masked LM, 4 layers x 256, embedded corpus",
        rows=rows,
        notes=("cold: the token store is there, nothing is compiled yet",),
    )


def _seconds_to_first_step(*arguments: str, cache: str) -> float | None:
    """Of a run with a folder of compiled programs; None if it never gets there."""
    command = [
        sys.executable,
        "-m",
        "research.pretrain",
        "--config=experiments/masked_lm.py",
        "--config.train.num_train_steps=1",
        "--config.train.log_every_steps=1",
        "--config.optimizer.warmup_steps=0",
        "--config.eval.num_batches=1",
        *arguments,
    ]
    begin, found = time.perf_counter(), None
    with subprocess.Popen(
        command,
        cwd=experiments.FOLDER.parent,
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if found is None and line.startswith("step 1"):
                found = time.perf_counter() - begin
    return found
