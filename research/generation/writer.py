"""A run's checkpoint as something that writes."""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from research.generation import filling, prompts
from research.generation.decoding import DecodingConfig, generate
from research.generation.language_model import LanguageModel, language_model
from research.generation.unmasking import Unmasking, unmask
from research.training import state, trained_run
from research.training import workdir as workdir_lib
from research.training.trained_run import TrainedRun

# Candidates shown for a mask where --top_k does not say.
CANDIDATES = 5


@dataclasses.dataclass
class Writer:
    """A run that writes, and the compiled programs that decode with it."""

    run: TrainedRun
    language_model: LanguageModel
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
        is_decoder = objective.architecture == "decoder"
        return cls(
            run=run,
            language_model=language_model(
                objective,
                modules,
                stop_ids=(*workdir_lib.imported_ends(workdir), *objective.stop_ids),
            ),
            begin=run.tokenizer.begin() if imported and is_decoder else (),
            rng=jax.random.key(seed),
        )

    def write(
        self,
        texts: Sequence[str],
        settings: DecodingConfig,
        unmasking: Unmasking | None = None,
    ) -> list[str]:
        """What follows each prompt, or each prompt with its masks filled.

        Args:
          texts: prompts.
          settings: of decoding; an encoder takes only `top_k` of them.
          unmasking: writes the masks of a text over several passes; a text without one
            gets max_new_tokens masks behind it. None = shows candidates for each mask.

        Raises:
          ValueError: for a prompt that is longer than the model can read, or one without
            a mask where masks are filled.
        """
        prompt = self.language_model.prompt
        frame = dataclasses.replace(prompt, before=(*self.begin, *prompt.before))
        tokenizer, vocabulary = self.run.tokenizer, self.run.vocabulary
        encoded = prompts.encode(texts, tokenizer, vocabulary, frame)
        if unmasking is not None:
            if not prompt.fills:
                raise ValueError(
                    f"--sampler={unmasking.sampler}: objective "
                    f"{self.run.objective.name} does not fill masks, it continues a "
                    f"prompt: leave --sampler out."
                )
            masks = [vocabulary.mask_id] * settings.max_new_tokens
            end = len(prompt.after)
            encoded = [
                ids
                if vocabulary.mask_id in ids
                else [*ids[: len(ids) - end], *masks, *ids[len(ids) - end :]]
                for ids in encoded
            ]
        self._check_lengths(encoded, settings)
        # Decoders continue at the right edge; what is read whole begins at the left one.
        is_decoder = self.run.model_config.architecture == "decoder"
        left = is_decoder and not prompt.fills
        padded = prompts.pad(encoded, vocabulary.pad_id, left=left)
        tokens, is_text = (jnp.asarray(x) for x in padded)
        if unmasking is not None:
            self.rng, rng = jax.random.split(self.rng)
            filled = unmask(
                self.language_model, unmasking, self.run.params, tokens, is_text, rng
            )
            frames = len(frame.before), len(frame.after)
            return [
                tokenizer.decode(list(map(int, row[frames[0] : len(ids) - frames[1]])))
                for row, ids in zip(jax.device_get(filled), encoded)
            ]
        if prompt.fills:
            return self._fill(texts, tokens, is_text, settings.top_k or CANDIDATES)
        self.rng, rng = jax.random.split(self.rng)
        written = generate(
            self.language_model, settings, self.run.params, tokens, is_text, rng
        )
        return [self._text(row) for row in jax.device_get(written)]

    def _check_lengths(self, encoded: list[list[int]], settings: DecodingConfig):
        config = self.run.model_config
        if config.max_length is None:
            return
        longest = max(len(prompt) for prompt in encoded)
        longest = -(-longest // prompts.MULTIPLE) * prompts.MULTIPLE
        continues = (
            config.architecture == "decoder" and not self.language_model.prompt.fills
        )
        new = settings.max_new_tokens if continues else 0
        if longest + new > config.max_length:
            raise ValueError(
                f"A prompt of {longest} tokens (padded) and {new} new ones exceed the "
                f"{config.max_length} positions of the model: shorten the prompt or "
                f"lower --max_new_tokens."
            )

    def _text(self, row: Sequence[int]) -> str:
        stops = self.language_model.stop_ids
        ids = itertools.takewhile(lambda number: number not in stops, map(int, row))
        # Sentinels say which span an answer belongs to, so they are shown.
        pad_id = self.language_model.pad_id
        return self.run.tokenizer.decode([n for n in ids if n != pad_id]).strip()

    def _fill(self, texts, tokens, is_text, count) -> list[str]:
        filled = filling.fill(
            self.language_model, self.run.params, tokens, is_text, count=count
        )
        lines = []
        for text, masks in zip(texts, filled, strict=True):
            if not masks:
                raise ValueError(
                    f"The prompt {text!r} has no {prompts.MASK} for the model to fill."
                )
            lines.append("\n  ".join(map(self._candidates, masks)))
        return lines

    def _candidates(self, mask: list[tuple[int, float]]) -> str:
        shown = [
            f"{self.run.tokenizer.decode([token]).strip() or '(space)'} {p:.3g}"
            for token, p in mask
        ]
        return f"{prompts.MASK} = " + "   ".join(shown)
