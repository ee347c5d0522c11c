"""Small corpora, tokenizers and stores."""

import random

import numpy as np

from research.config.sections import DataConfig, TokenizerConfig
from research.data.store import TokenStore

WORDS = """the a of model row token loss batch step sentence document returns given when
value shape array function method class module error file line number"""


def sentences(count: int, seed: int = 0) -> list[str]:
    """Documents of one to four sentences."""
    rng = random.Random(seed)
    return [
        " ".join(
            " ".join(rng.choices(WORDS.split(), k=rng.randint(3, 9))).capitalize() + "."
            for _ in range(rng.randint(1, 4))
        )
        for _ in range(count)
    ]


def tokenizer_config(kind: str = "bpe", **changes) -> TokenizerConfig:
    values = dict(vocab_size=320, lowercase=False, num_sentinels=8, path="")
    return TokenizerConfig(kind=kind, **(values | changes))


def data_config(source, cache_dir, **changes) -> DataConfig:
    values = dict(
        text_field="text",
        heldout_fraction=0.1,
        row_length=16,
        num_workers=2,
        tokenizer=tokenizer_config(),
    )
    return DataConfig(
        source=str(source), cache_dir=str(cache_dir), **(values | changes)
    )


def memory_store(lengths, *, eod_id: int = 7, seed: int = 0) -> TokenStore:
    """A store of random documents with these numbers of tokens, [EOD] included."""
    rng = np.random.default_rng(seed)
    documents = [
        np.append(rng.integers(8, 1000, length - 1), eod_id) for length in lengths
    ]
    tokens = np.concatenate(documents).astype(np.uint16)
    return TokenStore(
        tokens=tokens,
        document_starts=np.cumsum(lengths) - np.asarray(lengths),
        unigram_counts=np.bincount(tokens, minlength=1000),
        header={"eod_id": eod_id},
        split="train",
    )
