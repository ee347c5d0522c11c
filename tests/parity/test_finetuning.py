"""Fine-tuning steps against transformers and torch: same weights, batches and losses."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from objectives.finetuning.classification import Classification, LabelledBatch
from objectives.finetuning.text_to_text import TextBatch, TextToText
from research.conversion import importer
from research.conversion.families import FAMILIES
from research.evaluation.finetuning import loop
from research.evaluation.finetuning import optimizer as finetune_optimizer
from research.training.state import TrainState
from tests.helpers import toy_vocabulary
from tests.research.evaluation.toy import settings

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB, ROWS, LENGTH, STEPS = 512, 8, 24, 20
RATE, WARMUP, DECAY = 5e-3, 4, 0.05
EOS = 6
# Dropout is off on both sides: their generators differ.
BERT = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=48,
    hidden_dropout_prob=0.0,
    attention_probs_dropout_prob=0.0,
    num_labels=2,
)
GPT2 = dict(
    vocab_size=VOCAB,
    n_embd=32,
    n_layer=2,
    n_head=4,
    n_positions=48,
    resid_pdrop=0.0,
    embd_pdrop=0.0,
    attn_pdrop=0.0,
    pad_token_id=0,
    bos_token_id=5,
    eos_token_id=7,
    num_labels=3,
)
T5 = dict(
    vocab_size=VOCAB,
    d_model=32,
    d_kv=8,
    d_ff=64,
    num_layers=2,
    num_heads=4,
    dropout_rate=0.0,
    classifier_dropout=0.0,
    eos_token_id=EOS,
    pad_token_id=0,
    decoder_start_token_id=0,
    num_labels=3,
)


def make_theirs(name, config_name, config):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = getattr(transformers, config_name)(**config)
        return getattr(transformers, name)(config).train()


def our_config(family_name, theirs):
    family = FAMILIES[family_name]
    hf = {**family.defaults, **theirs.config.to_dict()}
    names = dict(theirs.named_parameters()).keys()
    values = family.settings(hf, names)
    return loop.dropout_config(importer.TransformerConfig(**values), 0.0), family


def bare(family, name):
    """The name of a tensor in a backbone without a head."""
    # T5 with a classification head keeps the whole model under this name.
    own = "transformer." if family.model_type == "t5" else family.prefix
    return name.removeprefix(own)


def our_params(program, family, theirs, head):
    """Their backbone under our names; `head` maps our head's names to theirs."""
    rows = {row.ours: row for row in family.rows}
    tensors = {
        bare(family, name): tensor.detach().numpy().copy()
        for name, tensor in theirs.named_parameters()
    }
    leaves = []
    for path in importer.flatten(program.modules.params):
        pattern, layer = importer.layers_of(path)
        if path in head:
            name, transpose = head[path], path.endswith("kernel")
            tensor = tensors[name].T if transpose else tensors[name]
        else:
            row = rows[pattern]
            name = bare(family, row.theirs).replace("{i}", layer)
            tensor = row.to_ours(tensors[name])
        leaves.append(jnp.asarray(tensor))
    structure = jax.tree.structure(program.modules.params)
    return jax.tree.unflatten(structure, leaves)


def run_ours(program, params, batches):
    """Losses of the steps, and the parameters after them."""
    hyper = loop.hyperparameters(
        params,
        program.config,
        settings(
            learning_rate=RATE,
            weight_decay=DECAY,
            clip_norm=1.0,
            warmup_fraction=WARMUP / STEPS,
            epsilon=1e-6,
        ),
        STEPS,
    )
    state = TrainState(
        seed=jnp.uint32(0),
        step=jnp.int32(0),
        skipped=jnp.int32(0),
        params=params,
        opt_state=finetune_optimizer.init(params, hyper),
    )
    losses = []
    for batch in batches:
        state, metrics = program.step(state, {}, batch)
        losses.append(float(metrics.sums["loss"][0]))
    return losses, state.params


def run_theirs(module, loss_of, batches):
    """Losses of the same steps with torch's own AdamW, clipping and schedule."""
    groups = {True: [], False: []}
    for name, parameter in module.named_parameters():
        is_norm = any(part in name for part in ("ln_", "layer_norm", "LayerNorm"))
        is_bias = name.endswith("bias") or "relative_attention_bias" in name
        groups[not (is_norm or is_bias)].append(parameter)
    assert groups[True] and groups[False]
    optimizer = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": DECAY},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=RATE,
        betas=(0.9, 0.999),
        eps=1e-6,
    )
    schedule = transformers.get_linear_schedule_with_warmup(optimizer, WARMUP, STEPS)
    losses = []
    for batch in batches:
        optimizer.zero_grad()
        loss = loss_of(module, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            optimizer.step()
            schedule.step()
        losses.append(loss.item())
    return losses


def labelled_batches(num_classes, *, types: bool, end: int | None):
    rng = np.random.default_rng(1)
    for _ in range(STEPS):
        lengths = rng.integers(5, LENGTH + 1, ROWS)
        real = (np.arange(LENGTH)[None] < lengths[:, None]).astype(np.int32)
        tokens = rng.integers(10, VOCAB, (ROWS, LENGTH)).astype(np.int32)
        if end is not None:
            tokens[np.arange(ROWS), lengths - 1] = end
        # A signal that can be learned.
        labels = (tokens[:, 1] % max(num_classes, 2)).astype(np.float32)
        second = (np.arange(LENGTH)[None] >= (lengths // 2)[:, None]) & (real > 0)
        yield LabelledBatch(
            tokens=np.where(real > 0, tokens, 0).astype(np.int32),
            segment_ids=real,
            token_type_ids=second.astype(np.int32) if types else None,
            labels=labels * (0.7 if num_classes == 1 else 1.0),
            num_classes=np.full(ROWS, num_classes, np.int32),
            weights=np.ones(ROWS, np.float32),
            row_ids=np.arange(ROWS, dtype=np.int32),
        )


def their_labelled_loss(module, batch):
    labels = torch.tensor(batch.labels)
    regression = batch.num_classes[0] == 1
    more = {}
    if batch.token_type_ids is not None:
        more["token_type_ids"] = torch.tensor(batch.token_type_ids).long()
    logits = module(
        input_ids=torch.tensor(batch.tokens).long(),
        attention_mask=torch.tensor(batch.segment_ids).long(),
        **more,
    ).logits
    if regression:
        return torch.nn.functional.mse_loss(logits[:, 0], labels)
    return torch.nn.functional.cross_entropy(logits, labels.long())


CASES = {
    "bert": (
        "BertForSequenceClassification",
        "BertConfig",
        BERT,
        2,
        {
            "heads/pooler/kernel": "pooler.dense.weight",
            "heads/pooler/bias": "pooler.dense.bias",
            "heads/output/kernel": "classifier.weight",
            "heads/output/bias": "classifier.bias",
        },
    ),
    "bert-score": (
        "BertForSequenceClassification",
        "BertConfig",
        {**BERT, "num_labels": 1},
        1,
        {
            "heads/pooler/kernel": "pooler.dense.weight",
            "heads/pooler/bias": "pooler.dense.bias",
            "heads/output/kernel": "classifier.weight",
            "heads/output/bias": "classifier.bias",
        },
    ),
    "gpt2": (
        "GPT2ForSequenceClassification",
        "GPT2Config",
        GPT2,
        3,
        {"heads/output/kernel": "score.weight"},
    ),
    "t5": (
        "T5ForSequenceClassification",
        "T5Config",
        T5,
        3,
        {
            "heads/pooler/kernel": "classification_head.dense.weight",
            "heads/pooler/bias": "classification_head.dense.bias",
            "heads/output/kernel": "classification_head.out_proj.weight",
            "heads/output/bias": "classification_head.out_proj.bias",
        },
    ),
}


def program_for(config, num_classes):
    return loop.make_program(
        config,
        Classification(
            architecture=config.architecture,
            vocabulary=toy_vocabulary(VOCAB),
            row_length=LENGTH,
            num_classes=num_classes,
            reads="cls" if config.architecture == "encoder" else "last",
            with_pooler=config.architecture != "decoder",
            decoder_start_id=0,
            reading="causal",
        ),
    )


@pytest.mark.parametrize("case", CASES)
def test_classification_steps_match(case):
    name, config_name, config, num_classes, head = CASES[case]
    theirs = make_theirs(name, config_name, config)
    config, family = our_config(case.partition("-")[0], theirs)
    program = program_for(config, num_classes)
    params = our_params(program, family, theirs, head)
    end = EOS if case == "t5" else None
    types = config.num_token_types > 0
    batches = list(labelled_batches(num_classes, types=types, end=end))
    theirs_losses = run_theirs(theirs, their_labelled_loss, batches)
    losses, params = run_ours(program, params, batches)
    assert losses[-1] != pytest.approx(losses[0], abs=1e-3), "nothing was learned"
    np.testing.assert_allclose(losses, theirs_losses, atol=1e-4, rtol=0)
    logits = np.asarray(program.outputs(params, batches[0]))
    with torch.no_grad():
        batch = batches[0]
        more = {}
        if types:
            more["token_type_ids"] = torch.tensor(batch.token_type_ids).long()
        wanted = theirs(
            input_ids=torch.tensor(batch.tokens).long(),
            attention_mask=torch.tensor(batch.segment_ids).long(),
            **more,
        ).logits.numpy()
    np.testing.assert_allclose(logits, wanted, atol=2e-3)
    np.testing.assert_array_equal(logits.argmax(-1), wanted.argmax(-1))


def text_batches():
    rng = np.random.default_rng(2)
    for _ in range(STEPS):
        lengths = rng.integers(5, LENGTH + 1, ROWS)
        real = (np.arange(LENGTH)[None] < lengths[:, None]).astype(np.int32)
        tokens = rng.integers(10, VOCAB, (ROWS, LENGTH)).astype(np.int32)
        choices = np.array([[20, 21, EOS, 0], [30, EOS, 0, 0]], np.int32)
        present = np.array([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32)
        labels = tokens[:, 1] % 2
        yield TextBatch(
            tokens=np.where(real > 0, tokens, 0).astype(np.int32),
            segment_ids=real,
            targets=choices[labels],
            target_segment_ids=present[labels],
            choices=np.broadcast_to(choices[None], (ROWS, 2, 4)),
            choice_segment_ids=np.broadcast_to(present[None], (ROWS, 2, 4)),
            weights=np.ones(ROWS, np.float32),
            row_ids=np.arange(ROWS, dtype=np.int32),
        )


def their_text_loss(module, batch):
    labels = np.where(batch.target_segment_ids > 0, batch.targets, -100)
    return module(
        input_ids=torch.tensor(batch.tokens).long(),
        attention_mask=torch.tensor(batch.segment_ids).long(),
        labels=torch.tensor(labels).long(),
    ).loss


def test_text_to_text_steps_match():
    theirs = make_theirs("T5ForConditionalGeneration", "T5Config", T5)
    config, family = our_config("t5", theirs)
    objective = TextToText(
        architecture="encoder_decoder",
        vocabulary=toy_vocabulary(VOCAB),
        row_length=LENGTH,
        loss_weight=1.0,
        z_loss=0.0,
        loss_normalizing_factor=0.0,
        bidirectional_inputs=True,
        isolate_documents=False,
        free=False,
        answer_length=4,
        reads_first=0,
    )
    program = loop.make_program(config, objective)
    params = our_params(program, family, theirs, {})
    batches = list(text_batches())
    theirs_losses = run_theirs(theirs, their_text_loss, batches)
    losses, params = run_ours(program, params, batches)
    assert losses[-1] < losses[0] - 1
    np.testing.assert_allclose(losses, theirs_losses, atol=1e-4, rtol=0)
    scores = np.asarray(program.outputs(params, batches[0]))
    wanted = np.stack([their_choice_scores(theirs, batches[0], c) for c in (0, 1)], 1)
    np.testing.assert_allclose(scores, wanted, atol=2e-3)
    np.testing.assert_array_equal(scores.argmax(-1), wanted.argmax(-1))


def their_choice_scores(module, batch, choice):
    """Summed log-probability of one choice, row by row."""
    present = batch.choice_segment_ids[:, choice] > 0
    labels = np.where(present, batch.choices[:, choice], -100)
    with torch.no_grad():
        logits = module(
            input_ids=torch.tensor(batch.tokens).long(),
            attention_mask=torch.tensor(batch.segment_ids).long(),
            labels=torch.tensor(labels).long(),
        ).logits
    losses = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.tensor(labels).long(), reduction="none"
    )
    return -losses.sum(-1).numpy()
