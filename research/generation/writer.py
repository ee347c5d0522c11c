"""A run's checkpoint as something that writes."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from models.backbone import BackboneConfig
from objectives.base import Objective
from objectives.vocabulary import Vocabulary
from research.data.tokenizer import Tokenizer
from research.generation import filling, prompts
from research.generation.decoding import DecodingConfig, generate
from research.generation.language_model import LanguageModel
from research.training import state, trained_run
from research.training import workdir as workdir_lib

# Candidates shown for a mask where --top_k does not say.
CANDIDATES = 5


@dataclasses.dataclass
class Writer:
    """A checkpoint, its tokenizer, and the compiled programs that decode with it."""

    language_model: LanguageModel
    params: Any
    tokenizer: Tokenizer
    vocabulary: Vocabulary
    model_config: BackboneConfig
    begin: tuple[int, ...]
    rng: jax.Array

    @classmethod
    def load(cls, workdir: pathlib.Path, *, which: str, seed: int) -> Writer:
        """Reads a run.

        Raises:
          ValueError: if its objective has no language-model head.
        """
        run = trained_run.load(workdir, which)
        objective = run.objective
        modules = state.create_modules(run.model_config, objective)
        # Texts of runs trained here begin with nothing; published models' may.
        imported = (workdir / workdir_lib.IMPORTED).is_dir()
        begin = run.tokenizer.begin() if imported else ()
        return cls(
            language_model=language_model(objective, modules),
            params=run.params,
            tokenizer=run.tokenizer,
            vocabulary=run.vocabulary,
            model_config=run.model_config,
            begin=begin if objective.architecture == "decoder" else (),
            rng=jax.random.key(seed),
        )

    def write(self, texts: Sequence[str], settings: DecodingConfig) -> list[str]:
        """What follows each prompt, or each prompt with its masks filled.

        Args:
          texts: prompts.
          settings: of decoding; an encoder takes only `top_k` of them.

        Raises:
          ValueError: for a prompt that is longer than the model can read, or one without
            a mask where masks are filled.
        """
        prompt = self.language_model.prompt
        frame = dataclasses.replace(prompt, before=(*self.begin, *prompt.before))
        encoded = prompts.encode(texts, self.tokenizer, self.vocabulary, frame)
        self._check_lengths(encoded, settings)
        # Decoders continue at the right edge; what is read whole begins at the left one.
        is_decoder = self.model_config.architecture == "decoder"
        left = is_decoder and not prompt.fills
        padded = prompts.pad(encoded, self.vocabulary.pad_id, left=left)
        tokens, is_text = (jnp.asarray(x) for x in padded)
        if prompt.fills:
            return self._fill(texts, tokens, is_text, settings.top_k or CANDIDATES)
        self.rng, rng = jax.random.split(self.rng)
        written = generate(
            self.language_model, settings, self.params, tokens, is_text, rng
        )
        return [self._text(row) for row in jax.device_get(written)]

    def _check_lengths(self, encoded: list[list[int]], settings: DecodingConfig):
        config = self.model_config
        if config.max_length is None:
            return
        longest = max(len(prompt) for prompt in encoded)
        longest = -(-longest // prompts.MULTIPLE) * prompts.MULTIPLE
        new = settings.max_new_tokens if config.architecture == "decoder" else 0
        if longest + new > config.max_length:
            raise ValueError(
                f"A prompt of {longest} tokens (padded) and {new} new ones exceed the "
                f"{config.max_length} positions of the model: shorten the prompt or "
                f"lower --max_new_tokens."
            )

    def _text(self, row: Sequence[int]) -> str:
        ids = []
        for number in row:
            if number in self.language_model.stop_ids:
                break
            ids.append(int(number))
        # Sentinels say which span an answer belongs to, so they are shown.
        hidden = {self.vocabulary.pad_id}
        return self.tokenizer.decode([n for n in ids if n not in hidden]).strip()

    def _fill(self, texts, tokens, is_text, count) -> list[str]:
        mask_id = self.vocabulary.mask_id
        filled = filling.fill(
            self.language_model,
            self.params,
            tokens,
            is_text,
            mask_id=mask_id,
            count=count,
        )
        lines = []
        for text, masks in zip(texts, filled, strict=True):
            if not masks:
                raise ValueError(
                    f"The prompt {text!r} has no {prompts.MASK} for the model to fill."
                )
            lines.append("\n  ".join(self._candidates(mask) for mask in masks))
        return lines

    def _candidates(self, mask: list[filling.Candidate]) -> str:
        shown = [
            f"{self.tokenizer.decode([c.token_id]).strip() or '(space)'} "
            f"{c.probability:.3g}"
            for c in mask
        ]
        return "[MASK] = " + "   ".join(shown)


def language_model(
    objective: Objective,
    modules: state.Modules,
    *,
    stop_ids: tuple[int, ...] | None = None,
) -> LanguageModel:
    """The network of an objective as functions of its parameters.

    Args:
      objective: whose readout gives the logits.
      modules: of the run.
      stop_ids: tokens that end a text; None = those of the vocabulary that do.

    Raises:
      ValueError: if no term of the objective predicts tokens of the vocabulary.
    """
    term, prompt = objective.token_term, objective.prompt
    if term is None or prompt is None:
        raise ValueError(
            f"The objective {objective.name} has no language-model head to write with."
        )
    return LanguageModel(
        modules=modules,
        objective=objective,
        term=term,
        prompt=prompt,
        stop_ids=_stop_ids(objective) if stop_ids is None else stop_ids,
        pad_id=objective.vocabulary.pad_id,
    )


def _stop_ids(objective: Objective) -> tuple[int, ...]:
    vocabulary = objective.vocabulary
    decoder = objective.architecture == "decoder"
    stops = (vocabulary.eod_id, vocabulary.eos_id) if decoder else (vocabulary.eos_id,)
    return tuple(dict.fromkeys(stop for stop in stops if stop >= 0))
