"""Folders and tokenizer files of the Hugging Face hub."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import tokenizers

from models.transformer.config import TransformerConfig
from objectives.vocabulary import Vocabulary
from research.conversion import origin
from research.conversion.origin import Origin
from research.data.tokenizer import Tokenizer
from research.machine import files

_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "vocab.bpe")


def folder_of(source: str) -> pathlib.Path:
    """A folder as it is; a hub id is fetched.

    Raises:
      ValueError: if it is neither, or cannot be fetched, saying which files to put
        where.
    """
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return path
    advice = (
        "Put config.json, model.safetensors and the tokenizer's files (tokenizer.json, "
        "or vocab.txt, or vocab.json and merges.txt, or spiece.model) into a folder and "
        "give that as --from."
    )
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise ValueError(f"There is no folder {source}. {advice}")
    try:
        import huggingface_hub
    except ImportError:
        raise ValueError(
            f"{source} is no folder, and fetching it from the hub needs the package "
            f"huggingface_hub: pip install -e '.[hub]'. {advice}"
        ) from None
    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(source, allow_patterns=list(_FILES))
        )
    except Exception as error:
        raise ValueError(
            f"{source} is no folder and could not be fetched from the hub "
            f"({type(error).__name__}). {advice}"
        ) from error


def write_tokenizer(
    folder: pathlib.Path,
    tokenizer: Tokenizer,
    vocabulary: Vocabulary,
    *,
    config: TransformerConfig,
    ids: Mapping[str, Any],
    came: Origin | None,
) -> None:
    """tokenizer.json and what transformers' AutoTokenizer reads beside it.

    Here objectives put special tokens such as [CLS] and [SEP] around a text; in
    transformers the tokenizer does, so tokenizer.json gets a template for the
    architecture. A published tokenizer that has a template keeps it.

    Args:
      folder: to write to.
      tokenizer: of the run.
      vocabulary: its.
      config: of the model.
      ids: special ids of the exported config.json, by their names there.
      came: what the run was imported from.
    """
    backend = tokenizers.Tokenizer.from_str(tokenizer.definition)
    frame = _template(tokenizer, vocabulary, config.architecture)
    if frame is not None and not backend.encode("").ids:
        backend.post_processor = frame
    backend.save(str(folder / "tokenizer.json"))
    roles = {r: getattr(vocabulary, f"{r}_id") for r in ("unk", "cls", "sep", "mask")}
    roles |= {r: ids.get(f"{r}_token_id") for r in ("pad", "bos", "eos")}
    tokens = {
        f"{role}_token": tokenizer.token(number)
        for role, number in roles.items()
        if isinstance(number, int) and 0 <= number < tokenizer.vocab_size
    }
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.max_seq_len,
        "model_input_names": _inputs(config),
        "clean_up_tokenization_spaces": False,
        **tokens,
    }
    if came is not None:
        theirs = came.values(origin.TOKENIZER)
        settings |= {
            name: value
            for name, value in theirs.items()
            if name.endswith("_token") or name == "chat_template"
        }
        template = came.folder / origin.TEMPLATE
        if template.exists():
            shutil.copyfile(template, folder / origin.TEMPLATE)
    path = folder / "tokenizer_config.json"
    files.write(path, json.dumps(settings, indent=2) + "\n")


def _inputs(config: TransformerConfig) -> list[str]:
    """What the tokenizer gives; models without token types refuse or misread them."""
    types = ["token_type_ids"] if config.num_token_types > 1 else []
    return ["input_ids", *types, "attention_mask"]


def _template(
    tokenizer: Tokenizer, vocabulary: Vocabulary, architecture: str
) -> tokenizers.processors.TemplateProcessing | None:
    """[CLS] A [SEP] B [SEP] for encoders, A EOS for encoder-decoders."""
    if architecture == "encoder":
        cls, sep = (
            tokenizer.token(vocabulary.cls_id),
            tokenizer.token(vocabulary.sep_id),
        )
        single, pair = f"{cls} $A {sep}", f"{cls} $A {sep} $B:1 {sep}:1"
        special = [(cls, vocabulary.cls_id), (sep, vocabulary.sep_id)]
    elif architecture == "encoder_decoder" and vocabulary.eos_id >= 0:
        eos = tokenizer.token(vocabulary.eos_id)
        single, pair = f"$A {eos}", f"$A {eos} $B:0 {eos}:0"
        special = [(eos, vocabulary.eos_id)]
    else:
        return None
    return tokenizers.processors.TemplateProcessing(
        single=single, pair=pair, special_tokens=special
    )
