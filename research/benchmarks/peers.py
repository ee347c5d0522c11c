"""The same networks in transformers and torch, trained the way their users do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from objectives.types import Lengths
from research.config.sections import RunConfig
from research.conversion.families import FAMILIES
from research.errors import UserError

# What the peers' own training scripts do beside forward and backward.
CLIP_NORM = 1.0
LEARNING_RATE = 1e-3


def libraries(*others: str) -> tuple[Any, Any]:
    """torch and transformers; `others` must be installed too.

    Raises:
      UserError: if the extra 'peers' is not installed.
    """
    try:
        import torch
        import transformers

        for name in others:
            __import__(name)
    except ImportError as error:
        raise UserError(
            f"the peers are not installed ({error.name}): make .venv/peers, or "
            f"pip install -e '.[peers]'. --nopeers measures without them."
        ) from None
    transformers.utils.logging.set_verbosity_error()
    return torch, transformers


def config_of(family: str, model: Any, **others: Any) -> Any:
    """transformers' config with our model's settings; `family` in FAMILIES."""
    fields = {**FAMILIES[family].hf_config(model), **others}
    return libraries()[1].AutoConfig.for_model(**fields, model_type=family)


def bert_config(model: Any, **others: Any) -> Any:
    """Of a BERT, which always has two token types."""
    return config_of("bert", model, type_vocab_size=2, **others)


def gpt2_config(model: Any) -> Any:
    """Of a GPT-2 that no token ends."""
    return config_of("gpt2", model, bos_token_id=None, eos_token_id=None)


def make(
    run: RunConfig,
    lengths: Lengths,
    *,
    gathered_head: bool = False,
    on_gpu: bool = False,
) -> Callable[[], None]:
    """One optimizer step of the peer on random tokens, as a function.

    On a GPU the network is compiled (torch.compile), attends by
    scaled_dot_product_attention, its library's default, and computes in bfloat16 where
    autocast does; the function then returns before the step is done.

    Args:
      run: ours, whose batch and model sizes the peer takes.
      lengths: of our objective, so that both read and predict the same positions.
      gathered_head: run an encoder's head on the predicted positions only, as we do;
        the peer's own code projects every position.
      on_gpu: whether the peer trains there.
    """
    torch, _ = libraries()
    torch.manual_seed(0)
    model: Any = run.model
    batch_size = run.train.batch_size
    device = "cuda" if on_gpu else "cpu"
    with torch.device(device):
        if model.architecture == "encoder":
            network, loss = _bert(model, lengths, batch_size, gathered_head)
        elif model.architecture == "decoder":
            network, loss = _gpt2(model, lengths, batch_size)
        else:
            network, loss = _t5(model, lengths, batch_size)
    network.train()
    if on_gpu:
        torch.set_float32_matmul_precision("high")
        network.compile()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=on_gpu):
            value = loss()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
        optimizer.step()

    return step


def _bert(model, lengths, batch_size, gathered_head):
    torch, transformers = libraries()
    network = transformers.BertForMaskedLM(bert_config(model))
    shape = (batch_size, lengths.inputs)
    tokens = torch.randint(0, model.vocab_size, shape)
    labels = torch.full(shape, -100)
    for row in range(batch_size):
        chosen = torch.randperm(lengths.inputs)[: lengths.targets["mlm"]]
        labels[row, chosen] = tokens[row, chosen]
    predicted = labels != -100

    def loss():
        if not gathered_head:
            return network(input_ids=tokens, labels=labels).loss
        hidden = network.bert(input_ids=tokens).last_hidden_state[predicted]
        logits = network.cls(hidden)
        return torch.nn.functional.cross_entropy(logits, labels[predicted])

    return network, loss


def _gpt2(model, lengths, batch_size):
    torch, transformers = libraries()
    network = transformers.GPT2LMHeadModel(gpt2_config(model))
    tokens = torch.randint(0, model.vocab_size, (batch_size, lengths.inputs))
    return network, lambda: network(input_ids=tokens, labels=tokens).loss


def _t5(model, lengths, batch_size):
    torch, transformers = libraries()
    network = transformers.T5ForConditionalGeneration(
        config_of("t5", model, decoder_start_token_id=0)
    )
    for module in network.modules():
        # Its one dropout rate also drops attention weights; ours are separate.
        if type(module).__name__ == "T5Attention":
            module.dropout = model.attention_dropout_rate
    read = torch.randint(0, model.vocab_size, (batch_size, lengths.encoder))
    written = torch.randint(0, model.vocab_size, (batch_size, lengths.inputs))
    return network, lambda: network(input_ids=read, labels=written).loss
