"""A toy backbone, tokenizer, task and settings."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import models
import objectives
from experiments import presets
from objectives.vocabulary import Vocabulary
from research.evaluation.finetuning.data import Split, TaskData
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.task import Task
from research.evaluation.glue.tasks import TASKS
from tests.helpers import DATA, tiny_config, toy_vocabulary

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[BOS]", "[EOS]", "[EOD]"]
needs_glue = pytest.mark.skipif(
    not (DATA / "glue").is_dir(),
    reason=f"no official GLUE files in {DATA / 'glue'}; set PALIMPSEST_DATA",
)
VOCAB = 512
_MODEL = dict(max_seq_len=48, init_stddev=0.1)
FREE = range(len(SPECIALS), VOCAB - 256)


@dataclasses.dataclass(eq=False)
class ToyTokenizer:
    """Whole words, numbered as they come."""

    words: dict[str, int] = dataclasses.field(default_factory=dict)
    fingerprint: str = "toy"
    vocab_size: int = VOCAB

    def encode(self, text: str) -> list[int]:
        for word in text.split():
            if word not in self.words:
                self.words[word] = FREE[len(self.words) % len(FREE)]
        return [self.words[word] for word in text.split()]

    def encode_batch(self, texts) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode(self, ids, *, skip_special: bool = False) -> str:
        names = {number: word for word, number in self.words.items()}
        return " ".join(names.get(int(i), "[UNK]") for i in ids)

    def token(self, number: int) -> str:
        return SPECIALS[number] if number < len(SPECIALS) else f"word{number}"


def settings(**changes: Any) -> FinetuneSettings:
    """Few epochs at a high rate, no dropout."""
    values = dict(
        style="head",
        readout="auto",
        batch_size=16,
        eval_batch_size=32,
        num_epochs=2,
        max_length=32,
        bucket_lengths=(16,),
        learning_rate=3e-3,
        schedule="linear",
        warmup_fraction=0.1,
        final_fraction=0.0,
        beta1=0.9,
        beta2=0.999,
        epsilon=1e-6,
        weight_decay=0.01,
        clip_norm=1.0,
        layer_decay=1.0,
        frozen_layers=0,
        reinit_layers=0,
        dropout_rate=None,
        selection="last",
        selection_metric="accuracy",
        patience=0,
        unit_scores=True,
        z_loss=0.0,
        min_answer_length=8,
    )
    return FinetuneSettings(**{**values, **changes})


@dataclasses.dataclass(frozen=True, eq=False)
class ToyBackbone:
    """What fine-tuning reads of a TrainedRun."""

    config: Any
    tokenizer: ToyTokenizer
    vocabulary: Vocabulary
    model_config: models.TransformerConfig
    params: dict[str, Any]
    objective: objectives.Composed
    step: int
    pooler: Any = None


def backbone(
    architecture: str = "encoder", seed: int = 0, stage: str = "", **changes
) -> ToyBackbone:
    """A random backbone; heads of a language model where it has no parameters."""
    config = tiny_config(architecture, **{**_MODEL, **changes})
    model = models.create(config, rngs=nnx.Rngs(seed))
    name = {"encoder": "masked_lm", "decoder": "causal_lm"}
    stage = stage or name.get(architecture, "span_corruption")
    return ToyBackbone(
        config=types.SimpleNamespace(objective=types.SimpleNamespace(name=(stage,))),
        tokenizer=ToyTokenizer(),
        vocabulary=toy_vocabulary(VOCAB),
        model_config=config,
        params={"model": nnx.to_pure_dict(nnx.state(model)), "heads": {}},
        objective=objectives.create(
            (stage,),
            {stage: presets.OBJECTIVES[stage]},
            vocabulary=toy_vocabulary(VOCAB),
            row_length=32,
            architecture=architecture,
        ),
        step=0,
    )


def word_task(task: Task = TASKS["sst2"], rows: int = 96, seed: int = 0) -> TaskData:
    """A task whose label is whether a good or a bad word occurs; pairs as needed."""
    rng = np.random.default_rng(seed)

    def split(count: int, with_labels: bool) -> Split:
        texts, labels = [], []
        for _ in range(count):
            label = int(rng.integers(max(2, task.num_classes)))
            filler = [f"w{rng.integers(30)}" for _ in range(rng.integers(3, 20))]
            # Often enough that a mean over the sentence tells.
            for place in range(0, len(filler), 2):
                filler[place] = ("bad", "good", "so-so")[label]
            parts = [" ".join(filler)] + ["w1 w2"] * (len(task.texts) - 1)
            texts.append(tuple(parts))
            labels.append(label)
        dtype = np.float32 if task.is_regression else np.int32
        return Split(tuple(texts), np.array(labels, dtype) if with_labels else None)

    dev = {name: split(rows // 2, True) for name in task.dev}
    test = {name: split(rows // 4, False) for name in task.test}
    return TaskData(task, {"train": split(rows, True), **dev, **test}, ())


def same_trees(first: Any, second: Any) -> bool:
    """Whether two trees have equal leaves, bit for bit."""
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.array_equal(x, y) for x, y in pairs)
