"""Styles of fine-tuning on sentences: a new head's classes, or a label written as text.

A style has the objective, the framing of rows, the batches and the reading of outputs.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from models.backbone import BackboneConfig
from objectives.finetuning.classification import Classification, LabelledBatch
from objectives.finetuning.text_to_text import TextBatch, TextToText
from research.errors import UserError
from research.evaluation.finetuning import batching, encoding
from research.evaluation.finetuning.data import Split
from research.evaluation.finetuning.encoding import EncodedSplit
from research.evaluation.finetuning.settings import FinetuneSettings
from research.evaluation.finetuning.task import Task
from research.training.trained_run import TrainedRun

# Logits of a head that serves all of GLUE: MNLI has three classes.
MIN_CLASSES = 3
# Grid of a score written as text (Raffel et al. 2020, section 2.4).
SCORE_STEP = 0.2


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class _Style:
    """What the styles share: rows that are framed and padded.

    Attributes:
      order: of the two sentences; None = as they come.
    """

    objective: Any
    task: Task
    tokenizer: Any
    framing: encoding.Framing
    order: tuple[int, ...] | None = None

    def encode(self, split: Split) -> EncodedSplit:
        """Framed rows of a split."""
        return encoding.encode(self.tokenizer, self.framing, split, order=self.order)

    def batch(
        self,
        encoded: EncodedSplit,
        split: Split,
        rows: np.ndarray,
        length: int,
        size: int,
    ) -> LabelledBatch | TextBatch:
        """Some rows as a batch of `size` rows of `length`; a test set has any labels."""
        pad_id = self.objective.vocabulary.pad_id
        padded = batching.pad([encoded.rows[i] for i in rows], length, size, pad_id)
        labels = None if split.labels is None else split.labels[rows]
        return self._labelled(padded, encoded.first_lengths[rows], labels)

    def _labelled(
        self, padded: dict[str, Any], firsts: np.ndarray, labels: np.ndarray | None
    ) -> LabelledBatch | TextBatch:
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class HeadStyle(_Style):
    """A new layer on one hidden state."""

    objective: Classification
    num_token_types: int
    unit_scores: bool

    def _labelled(self, padded, firsts, labels) -> LabelledBatch:
        types = batching.token_types(
            padded["segment_ids"], firsts, self.num_token_types
        )
        targets = np.zeros(len(padded["tokens"]), np.float32)
        if labels is not None:
            targets[: len(labels)] = self._targets(labels)
        return LabelledBatch(
            **padded,
            token_type_ids=types,
            labels=targets,
            num_classes=np.full(len(targets), self.task.num_classes, np.int32),
        )

    def _targets(self, labels: np.ndarray) -> np.ndarray:
        if not (self.task.is_regression and self.unit_scores):
            return labels.astype(np.float32)
        low, high = self.task.limits
        return (labels - low) / (high - low)

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Classes or scores [rows] from logits [rows, classes]."""
        outputs = np.nan_to_num(outputs)
        if not self.task.is_regression:
            return outputs[:, : self.task.num_classes].argmax(-1).astype(np.int32)
        scores = outputs[:, 0].astype(np.float32)
        if not self.unit_scores:
            return scores
        low, high = self.task.limits
        return low + (high - low) * scores

    def losses(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Loss of each row."""
        if self.task.is_regression:
            return np.square(outputs[:, 0] - self._targets(labels))
        logits = outputs[:, : self.task.num_classes].astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        log_z = np.log(np.exp(logits).sum(-1))
        return log_z - logits[np.arange(len(labels)), labels]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class TextStyle(_Style):
    """A label word that an encoder-decoder (or a prefix decoder) writes.

    Attributes:
      answers: token ids, with EOS, of each label word or score of the grid.
      values: class or score of each answer.
    """

    objective: TextToText
    answers: tuple[tuple[int, ...], ...]
    values: np.ndarray

    def _labelled(self, padded, firsts, labels) -> TextBatch:
        del firsts
        answers = batching.pad(
            [np.array(answer) for answer in self.answers],
            self.objective.answer_length,
            len(self.answers),
            self.objective.vocabulary.pad_id,
        )
        choices, present = answers["tokens"], answers["segment_ids"]
        size = len(padded["tokens"])
        chosen = np.zeros(size, np.int64)
        if labels is not None:
            chosen[: len(labels)] = np.abs(self.values - labels[:, None]).argmin(-1)
        return TextBatch(
            **padded,
            targets=choices[chosen],
            target_segment_ids=present[chosen],
            choices=np.broadcast_to(choices, (size, *choices.shape)),
            choice_segment_ids=np.broadcast_to(present, (size, *present.shape)),
        )

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Classes or scores from scores of the answers, or from written tokens."""
        if not self.objective.free:
            chosen = np.nan_to_num(outputs)[:, : len(self.values)].argmax(-1)
            return self.values[chosen]
        return np.array([self._read(row) for row in outputs], self.values.dtype)

    def _read(self, written: np.ndarray) -> float | int:
        """The label of a written answer; anything else counts as wrong.

        A class that does not exist is wrong for every row; a score falls to the lowest.
        """
        eos_id = self.objective.vocabulary.eos_id
        ids = [int(token) for token in written]
        ids = ids[: ids.index(eos_id)] if eos_id in ids else ids
        text = self.tokenizer.decode(ids).strip()
        if not self.task.is_regression:
            words = self.task.label_words
            return words.index(text) if text in words else len(words)
        low, high = self.task.limits
        try:
            score = float(text)
        except ValueError:
            return low
        return score if low <= score <= high else low

    def losses(self, outputs: np.ndarray, labels: np.ndarray) -> None:
        """None: scores of answers are no loss."""
        del outputs, labels


Style = HeadStyle | TextStyle


def make_style(
    trained: TrainedRun,
    config: BackboneConfig,
    task: Task,
    settings: FinetuneSettings,
) -> Style:
    """The style of the settings for a pretrained run and a task.

    Raises:
      UserError: a style that the architecture cannot serve.
    """
    if settings.style == "head":
        return _head_style(trained, config, task, settings)
    if config.architecture == "encoder":
        raise UserError(
            f"style = {settings.style!r} needs a model that writes: an encoder_decoder "
            f"or a decoder, not an encoder. Set style = 'head'."
        )
    return _text_style(trained, config, task, settings)


def readable_length(config: BackboneConfig, wanted: int) -> int:
    """`wanted`, or the longest sequence that the model can read if that is less."""
    return wanted if config.max_length is None else min(wanted, config.max_length)


def _head_style(
    trained: TrainedRun,
    config: BackboneConfig,
    task: Task,
    settings: FinetuneSettings,
) -> HeadStyle:
    readout = settings.readout
    if readout == "auto":
        readout = "cls" if role(trained) == "encoder" else "last"
    length = readable_length(config, settings.max_length)
    vocabulary = trained.vocabulary
    objective = Classification(
        architecture=config.architecture,
        vocabulary=vocabulary,
        row_length=length,
        num_classes=max(MIN_CLASSES, task.num_classes),
        reads=readout,
        # GPT has a bare linear layer; BERT, T5 and BART a tanh layer before it.
        with_pooler=role(trained) != "decoder",
        decoder_start_id=decoder_start_id(trained),
        reading=trained.objective.attention,
    )
    return HeadStyle(
        objective=objective,
        task=task,
        tokenizer=trained.tokenizer,
        framing=encoding.sentence_framing(
            trained.tokenizer, vocabulary, role(trained), length
        ),
        num_token_types=config.num_token_types,
        unit_scores=settings.unit_scores,
    )


def _text_style(
    trained: TrainedRun,
    config: BackboneConfig,
    task: Task,
    settings: FinetuneSettings,
) -> TextStyle:
    vocabulary, tokenizer = trained.vocabulary, trained.tokenizer
    if vocabulary.eos_id < 0:
        raise UserError(
            f"style = {settings.style!r}: the tokenizer has no EOS, which ends an answer."
        )
    words, values = answers_of(task)
    end = (vocabulary.eos_id,)
    answers = tuple((*tokenizer.encode(word), *end) for word in words)
    answer_length = max(settings.min_answer_length, *map(len, answers))
    # A decoder reads prompt and answer in one sequence.
    room = answer_length if config.architecture == "decoder" else 0
    length = readable_length(config, settings.max_length + room) - room
    objective = TextToText(
        architecture=config.architecture,
        vocabulary=vocabulary,
        row_length=length,
        loss_weight=1.0,
        z_loss=settings.z_loss,
        loss_normalizing_factor=0.0,
        bidirectional_inputs=trained.objective.attention != "causal",
        isolate_documents=False,
        free=settings.style == "text_to_text_free",
        answer_length=answer_length,
        reads_first=decoder_start_id(trained),
    )
    names = [task.tfds.get(column, column) for column in task.texts]
    order = tuple(int(i) for i in np.argsort(names))
    start = tokenizer.encode(f"{task.name} {names[order[0]]}:")
    between = tokenizer.encode(f" {names[order[-1]]}:")
    return TextStyle(
        objective=objective,
        task=task,
        tokenizer=tokenizer,
        framing=encoding.Framing(tuple(start), tuple(between), end, length),
        order=order,
        answers=answers,
        values=values,
    )


def answers_of(task: Task) -> tuple[tuple[str, ...], np.ndarray]:
    """What a model may write, and the class or score that it stands for."""
    if not task.is_regression:
        return task.label_words, np.arange(task.num_classes, dtype=np.int32)
    low, high = task.limits
    grid = np.linspace(low, high, round((high - low) / SCORE_STEP) + 1)
    return tuple(f"{score:.1f}" for score in grid), grid.astype(np.float32)


def role(trained: TrainedRun) -> str:
    """The architecture that texts are framed for and heads stand on.

    A decoder that was pretrained to read texts in both directions has the role of an
    encoder: it knows [CLS] and [SEP].
    """
    architecture = trained.model_config.architecture
    is_decoder = architecture == "decoder"
    both_ways = is_decoder and trained.objective.attention == "bidirectional"
    return "encoder" if both_ways else architecture


def decoder_start_id(trained: TrainedRun) -> int:
    """What the pretraining objective's decoder read first: T5 padding, BART EOS."""
    prompt = trained.objective.prompt
    return trained.vocabulary.pad_id if prompt is None else prompt.start_id


def reusable_pooler(params: Any, like: dict[str, Any]) -> dict[str, Any] | None:
    """A pretrained tanh pooler of the right shape, wherever the heads keep it."""
    if not isinstance(params, dict):
        return None
    # A dense layer beside a table of classes: the head of next-sentence prediction.
    if set(params) == {"dense", "kernel", "bias"}:
        dense = params["dense"]
        if all(dense[name].shape == like[name].shape for name in like):
            return dense
    found = (reusable_pooler(value, like) for value in params.values())
    return next((pooler for pooler in found if pooler is not None), None)


def language_model_head(params: Any, like: dict[str, Any]) -> dict[str, Any]:
    """The pretrained head that writes tokens.

    Raises:
      UserError: no head of the checkpoint has its parameters.
    """
    head = _same_tree(params, like)
    if head is None:
        raise UserError(
            "the checkpoint has no head that writes tokens one after the other, which "
            "text-to-text needs. Set style = 'head'."
        )
    return head


def _same_tree(params: Any, like: Any) -> Any:
    """The subtree with the names and shapes of `like`; None if there is none."""
    if not jax.tree.leaves(like):
        return like
    if not isinstance(params, dict):
        return None
    if _shapes(params) == _shapes(like):
        return params
    found = (_same_tree(value, like) for value in params.values())
    return next((head for head in found if head is not None), None)


def _shapes(tree: Any) -> list[tuple[Any, tuple[int, ...]]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(path, leaf.shape) for path, leaf in leaves]
