"""Converted checkpoints against transformers, and back again bit for bit."""

import dataclasses
import json
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import objectives
from experiments import imported, presets
from models.inputs import ModelInputs
from objectives import cross_entropy
from objectives.types import Example, PromptFrame, Target
from research.conversion import exporter, importer, safetensors
from research.generation.decoding import DecodingConfig, generate
from research.generation.language_model import LanguageModel
from research.training.state import create_modules
from tests.helpers import toy_vocabulary

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

VOCAB = 512
SHAPE = dict(
    vocab_size=VOCAB,
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=48,
)
GPT2 = dict(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=48)
GPT2 |= dict(bos_token_id=5, eos_token_id=7)
T5 = dict(vocab_size=VOCAB, d_model=32, d_kv=12, d_ff=64, num_layers=2, num_heads=4)
BART = dict(
    vocab_size=VOCAB,
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=64,
    decoder_ffn_dim=64,
    max_position_embeddings=48,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
MODERNBERT = {**SHAPE, "classifier_bias": True, "pad_token_id": 0}
MODERNBERT |= dict(bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
MODERNBERT |= dict(layer_types=["full_attention"] * 2)
BIASES = ("norm_bias", "attention_bias", "mlp_bias")

# name -> (transformers' class, its config's class, settings)
CASES = {
    "bert": ("BertForPreTraining", "BertConfig", SHAPE),
    "bert-masked-lm": ("BertForMaskedLM", "BertConfig", SHAPE),
    "bert-relu": ("BertForMaskedLM", "BertConfig", {**SHAPE, "hidden_act": "relu"}),
    "roberta": (
        "RobertaForMaskedLM",
        "RobertaConfig",
        {**SHAPE, "max_position_embeddings": 50, "type_vocab_size": 1},
    ),
    "distilbert": (
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        dict(
            vocab_size=VOCAB,
            dim=32,
            hidden_dim=64,
            n_layers=2,
            n_heads=4,
            max_position_embeddings=48,
        ),
    ),
    "electra-generator": (
        "ElectraForMaskedLM",
        "ElectraConfig",
        {**SHAPE, "embedding_size": 16},
    ),
    "electra-unfactorised": (
        "ElectraForMaskedLM",
        "ElectraConfig",
        {**SHAPE, "embedding_size": 32},
    ),
    "modernbert": ("ModernBertForMaskedLM", "ModernBertConfig", MODERNBERT),
    "modernbert-biases": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**MODERNBERT, **dict.fromkeys(BIASES, True)},
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2-narrow": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "n_inner": 48}),
    "llama2": ("LlamaForCausalLM", "LlamaConfig", SHAPE),
    "llama3": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**SHAPE, "num_key_value_heads": 2, "rope_parameters": LLAMA3},
    ),
    "llama-tied-linear": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {
            **SHAPE,
            "tie_word_embeddings": True,
            "rope_parameters": dict(rope_type="linear", rope_theta=1e4, factor=2.0),
        },
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "t5-uneven": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "num_decoder_layers": 1, "relative_attention_num_buckets": 8},
    ),
    "t5-1.1": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART),
    "bart-scaled": (
        "BartForConditionalGeneration",
        "BartConfig",
        {**BART, "scale_embedding": True, "encoder_layers": 1},
    ),
}
GENERATIVE = ("gpt2", "llama3", "t5", "bart")


@dataclasses.dataclass
class Pair:
    """One network, theirs and ours."""

    theirs: object
    folder: object
    checkpoint: importer.Checkpoint
    objective: objectives.Objective
    modules: object
    params: dict

    @property
    def config(self):
        return importer.transformer_config(self.checkpoint)


def randomised(module):
    """Every parameter drawn anew, so that norms and biases matter too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_((1.0 if is_scale else 0.0) + 0.15 * noise)
    return module.eval()


def quietly(function, *args, **kwargs):
    """transformers' and torch's own warnings are not ours to mend."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **kwargs)


def make_pair(name, folder) -> Pair:
    model_class, config_class, settings = CASES[name]
    config = quietly(getattr(transformers, config_class), **settings)
    theirs = randomised(quietly(getattr(transformers, model_class), config))
    quietly(theirs.save_pretrained, folder)
    checkpoint = importer.read(folder)
    config = importer.transformer_config(checkpoint)
    stages = imported.get_config(checkpoint.hf_class).objective.name
    objective = objectives.create(
        stages,
        {stage: presets.OBJECTIVES[stage] for stage in stages},
        vocabulary=toy_vocabulary(VOCAB),
        row_length=40,
        architecture=config.architecture,
    )
    modules = create_modules(config, objective)
    params, carried = importer.params_from(checkpoint, modules.params)
    assert not carried
    params = jax.tree.map(np.asarray, params)
    return Pair(theirs, folder, checkpoint, objective, modules, params)


@pytest.fixture(params=CASES)
def pair(request, tmp_path):
    return make_pair(request.param, tmp_path)


LENGTHS = (17, 9, 23)


def batch(seed: int, pad_id: int):
    """Token ids and their mask, rows of mixed lengths padded on the right."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(10, VOCAB, (len(LENGTHS), max(LENGTHS)))
    if pad_id == 0:
        tokens[:, 3] = 1  # [UNK] of tokenizers trained here
    mask = np.arange(max(LENGTHS))[None] < np.array(LENGTHS)[:, None]
    return np.where(mask, tokens, pad_id).astype(np.int32), mask.astype(np.int32)


def inputs_of(tokens, mask, **changes) -> ModelInputs:
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    return ModelInputs(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.asarray(mask),
        positions=jnp.asarray(positions.astype(np.int32)),
        **changes,
    )


def compare(pair: Pair):
    """(hidden states, logits) of ours and theirs at the real positions."""
    pad_id = pair.theirs.config.pad_token_id or 0
    tokens, mask = batch(0, pad_id)
    as_torch = dict(
        input_ids=torch.tensor(tokens).long(), attention_mask=torch.tensor(mask).long()
    )
    if pair.config.architecture == "encoder_decoder":
        read, read_mask = batch(1, pad_id)
        inputs = inputs_of(tokens, mask, encoder=inputs_of(read, read_mask))
        as_torch = dict(
            input_ids=torch.tensor(read).long(),
            attention_mask=torch.tensor(read_mask).long(),
            decoder_input_ids=as_torch["input_ids"],
            decoder_attention_mask=as_torch["attention_mask"],
        )
    else:
        inputs = inputs_of(tokens, mask)
    with torch.no_grad():
        result = quietly(pair.theirs, **as_torch, output_hidden_states=True)
    states = result.get("decoder_hidden_states", result.get("hidden_states"))
    logits = result.get("prediction_logits", result.get("logits"))
    networks = pair.modules.merge(jax.tree.map(jnp.asarray, pair.params))
    hidden = networks["model"](inputs)
    term = pair.objective.token_term
    ours = logits_of(pair.objective, term, networks, hidden, inputs)
    real = mask.astype(bool)
    # Their labels predict the token in place, or the next one for decoders.
    shift = int(pair.config.architecture == "decoder")
    predicted = np.pad(real[:, shift:], ((0, 0), (0, shift)))
    target = Target(
        values=jnp.asarray(np.pad(tokens[:, shift:], ((0, 0), (0, shift)))),
        loss_weights=jnp.asarray(predicted.astype(np.float32)),
    )
    example = Example(
        inputs=inputs,
        targets={term: target},
        row_ids=jnp.arange(len(tokens)),
        document_ids=jnp.zeros(tokens.shape, jnp.int32),
    )
    (loss_sum, weight), *_ = pair.objective.losses(networks, example)[0].values()
    return (
        (np.asarray(hidden)[real], states[-1].numpy()[real]),
        (np.asarray(ours)[real], logits.numpy()[real]),
        (float(loss_sum / weight), their_loss(pair, logits, tokens, real, as_torch)),
    )


def their_loss(pair: Pair, logits, tokens, real, as_torch) -> float:
    """The mean loss that transformers gives for these labels."""
    labels = torch.tensor(np.where(real, tokens, -100)).long()
    if type(pair.theirs).__name__ == "BertForPreTraining":
        # Its loss needs a pair label besides.
        return float(
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
        )
    with torch.no_grad():
        return float(quietly(pair.theirs, **as_torch, labels=labels).loss)


def test_same_hidden_states_logits_and_loss(pair):
    hidden, logits, losses = compare(pair)
    np.testing.assert_allclose(*hidden, atol=1e-4)
    np.testing.assert_allclose(*logits, atol=1e-3)
    assert abs(losses[0] - losses[1]) < 1e-5


def test_export_returns_every_bit(pair, tmp_path):
    origin = pair.checkpoint.family.model_type
    export = exporter.plan(pair.config, pair.params["heads"], origin=origin)
    specs, load = exporter.tensors(export, pair.params, {})
    folder = tmp_path / "exported"
    folder.mkdir()
    safetensors.write(folder / "model.safetensors", specs, load)
    config = exporter.special_ids(pair.objective) | export.hf_config
    (folder / "config.json").write_text(json.dumps(config))
    before = safetensors.open_folder(pair.folder)
    after = safetensors.open_folder(folder)
    assert set(before) - set(after) <= {"final_logits_bias"}
    assert set(after) <= set(before)
    for name in after:
        np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    again, info = quietly(
        type(pair.theirs).from_pretrained, folder, output_loading_info=True
    )
    assert not info["missing_keys"] - {"final_logits_bias"}
    assert not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, parameter in again.named_parameters():
        original = dict(pair.theirs.named_parameters())[name]
        assert torch.equal(parameter, original), name
    for field in ("num_attention_heads", "layer_norm_eps", "rope_parameters"):
        if hasattr(pair.theirs.config, field):
            ours, theirs = (getattr(m.config, field) for m in (again, pair.theirs))
            assert ours == theirs, field


def test_positions_of_an_encoder_follow_the_padding_of_its_tokenizer(tmp_path):
    """RoBERTa's positions skip pad_token_id, which is 1 there and [UNK] here."""
    pair = make_pair("roberta", tmp_path / "in")
    config, params = exporter.with_their_positions(pair.config, pair.params, 0)
    export = exporter.plan(config, params["heads"])
    assert export.hf_config["pad_token_id"] == 0
    specs, load = exporter.tensors(export, params, {})
    safetensors.write(tmp_path / "model.safetensors", specs, load)
    (tmp_path / "config.json").write_text(json.dumps(export.hf_config))
    again = quietly(type(pair.theirs).from_pretrained, tmp_path)
    for ours, theirs in compare(dataclasses.replace(pair, theirs=again))[:2]:
        np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_pair_label_head(tmp_path):
    pair = make_pair("bert", tmp_path)
    tokens, mask = batch(0, 0)
    with torch.no_grad():
        theirs = pair.theirs(
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
        ).seq_relationship_logits.numpy()
    networks = pair.modules.merge(jax.tree.map(jnp.asarray, pair.params))
    inputs = inputs_of(tokens, mask)
    first = networks["model"](inputs)[:, :1]
    ours = logits_of(pair.objective, "nsp", networks, first, inputs)
    np.testing.assert_allclose(np.asarray(ours)[:, 0], theirs, atol=1e-4)


def logits_of(objective, term, networks, hidden, inputs):
    readout = objective.readout(
        term,
        networks["heads"],
        hidden,
        Target(
            values=jnp.zeros(hidden.shape[:2], jnp.int32),
            loss_weights=jnp.ones(hidden.shape[:2]),
        ),
        networks["model"].embedding,
        inputs,
    )
    return cross_entropy.logits(*readout)


def language_model(pair: Pair, stop_id: int) -> LanguageModel:
    config = pair.theirs.config
    start = getattr(config, "decoder_start_token_id", None)
    return LanguageModel(
        modules=pair.modules,
        objective=pair.objective,
        prompt=PromptFrame(
            start_id=(config.pad_token_id or 0) if start is None else start
        ),
        stop_ids=(stop_id,),
    )


def generated(pair: Pair, *, num_beams: int, length_penalty: float, stop_id: int):
    """New tokens of ours and theirs, for prompts of mixed lengths.

    Their encoders number positions from the left edge, padding included, so encoders
    read prompts padded on the right; decoders continue prompts padded on the left.
    """
    tokens, mask = batch(2, 0)
    is_encoder_decoder = pair.config.architecture == "encoder_decoder"
    if not is_encoder_decoder:
        tokens, mask = tokens[:, ::-1].copy(), mask[:, ::-1].copy()
    settings = DecodingConfig(
        max_new_tokens=12,
        temperature=0.0,
        top_k=0,
        top_p=1.0,
        num_beams=num_beams,
        length_penalty=length_penalty,
    )
    params = jax.tree.map(jnp.asarray, pair.params)
    ours = generate(
        language_model(pair, stop_id),
        settings,
        params,
        jnp.asarray(tokens),
        jnp.asarray(mask.astype(bool)),
        jax.random.key(0),
    )
    start = getattr(pair.theirs.config, "decoder_start_token_id", None)
    theirs = quietly(
        pair.theirs.generate,
        input_ids=torch.tensor(tokens).long(),
        attention_mask=torch.tensor(mask).long(),
        max_new_tokens=12,
        min_new_tokens=0,
        do_sample=False,
        num_beams=num_beams,
        length_penalty=length_penalty,
        eos_token_id=stop_id,
        forced_eos_token_id=None,
        pad_token_id=0,
        decoder_start_token_id=0 if start is None else start,
    ).numpy()
    theirs = theirs[:, 1 if is_encoder_decoder else tokens.shape[1] :]
    theirs = np.pad(theirs, ((0, 0), (0, 12 - theirs.shape[1])))
    return until_stop(np.asarray(ours), stop_id), until_stop(theirs, stop_id)


def until_stop(tokens, stop_id: int):
    """Zeros after the first end of text: their beam search fills up with others."""
    stops = tokens == stop_id
    return np.where(np.cumsum(stops, axis=1) - stops > 0, 0, tokens)


@pytest.mark.parametrize("name", GENERATIVE)
@pytest.mark.parametrize(
    ("num_beams", "length_penalty"),
    [
        (1, 1.0),
        pytest.param(4, 1.0, marks=pytest.mark.slow),
        pytest.param(3, 0.2, marks=pytest.mark.slow),
    ],
)
def test_same_generation(name, num_beams, length_penalty, tmp_path):
    pair = make_pair(name, tmp_path)
    # A first run shows which token is common enough to be an end of text.
    free, _ = generated(pair, num_beams=1, length_penalty=1.0, stop_id=9)
    values, counts = np.unique(free[:, 3:], return_counts=True)
    for stop_id in (9, int(values[counts.argmax()])):
        ours, theirs = generated(
            pair, num_beams=num_beams, length_penalty=length_penalty, stop_id=stop_id
        )
        np.testing.assert_array_equal(ours, theirs)


def test_errors_name_every_tensor(tmp_path):
    pair = make_pair("bert-masked-lm", tmp_path)
    tensors = dict(safetensors.open_folder(tmp_path))
    tensors["surprise"] = np.zeros(3, np.float32)
    del tensors["bert.encoder.layer.1.output.dense.bias"]
    short = "bert.encoder.layer.0.output.dense.bias"
    tensors[short] = tensors[short][:5]
    specs = {name: (t.dtype, t.shape) for name, t in tensors.items()}
    copies = {name: np.array(t) for name, t in tensors.items()}
    safetensors.write(tmp_path / "model.safetensors", specs, copies.__getitem__)
    with pytest.raises(ValueError) as error:
        importer.params_from(importer.read(tmp_path), pair.modules.params)
    for name in ("surprise", "layer.1.output.dense.bias", "layer.0.output.dense.bias"):
        assert name in str(error.value)
