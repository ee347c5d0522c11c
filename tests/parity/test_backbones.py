"""Hidden states of every family against transformers, on the same random weights.

The tables below name our parameters and theirs; a kernel is stored transposed there
(torch's Linear), except GPT-2's.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import models
from experiments import presets
from models.inputs import ModelInputs

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow

VOCAB = 31
LENGTHS = (9, 12, 4)
WIDTH = 12


def randomised(module):
    """The module with every parameter drawn anew, biases and norms included."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_scale = "norm" in name.lower() or "ln_" in name
            base = 1.0 if is_scale and name.endswith("weight") else 0.0
            parameter.copy_(base + 0.2 * noise)
    return module.eval()


def ours(preset: str, rows: dict[str, str], module, **changes):
    """Our model with their weights; `rows` maps our names to theirs."""
    section = presets.paper_model(preset, vocab_size=VOCAB, **changes)
    config = models.TransformerConfig(**section.to_dict())
    model = models.create(config, rngs=nnx.Rngs(0))
    theirs = {n: p.detach().numpy() for n, p in module.named_parameters()}
    graph, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    used, filled = set(), []
    for path, leaf in flat:
        name = "/".join(str(part) for part in path)
        source = rows[name]
        value = theirs[source]
        used.add(source)
        transposed = name.endswith("kernel") and preset != "gpt2_small"
        value = value.T if transposed else value
        assert value.shape == leaf.shape, (name, source, value.shape, leaf.shape)
        filled.append((path, leaf.replace(jnp.asarray(value))))
    assert set(theirs) - used <= {"pooler.dense.weight", "pooler.dense.bias"}
    return nnx.merge(graph, nnx.from_flat_state(filled))


def linear(our: str, their: str, bias: bool = True) -> dict[str, str]:
    rows = {f"{our}/kernel": f"{their}.weight"}
    return {**rows, f"{our}/bias": f"{their}.bias"} if bias else rows


def norm(our: str, their: str, bias: bool = True) -> dict[str, str]:
    rows = {f"{our}/scale": f"{their}.weight"}
    return {**rows, f"{our}/bias": f"{their}.bias"} if bias else rows


def batch(seed: int = 0, lengths=LENGTHS, width=WIDTH):
    """Token ids, their attention mask, and our inputs; padding holds garbage."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(3, VOCAB, (len(lengths), width)).astype(np.int32)
    mask = np.arange(width)[None] < np.asarray(lengths)[:, None]
    positions = np.broadcast_to(np.arange(width, dtype=np.int32), tokens.shape)
    inputs = ModelInputs(
        tokens=jnp.asarray(tokens),
        segment_ids=jnp.asarray(mask.astype(np.int32)),
        positions=jnp.asarray(positions),
    )
    return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(mask), inputs


def compare(hidden, expected, mask):
    hidden, expected = np.asarray(hidden), expected.detach().numpy()
    assert np.abs(expected).max() > 0.5
    real = mask.numpy()
    np.testing.assert_allclose(hidden[real], expected[real], atol=1e-4, rtol=1e-4)


def bert_rows(num_layers: int, factorised: bool = False) -> dict[str, str]:
    rows = {
        "token_embedding": "embeddings.word_embeddings.weight",
        "embedder/position_embedding": "embeddings.position_embeddings.weight",
        "embedder/token_type_embedding": "embeddings.token_type_embeddings.weight",
        **norm("embedder/norm", "embeddings.LayerNorm"),
    }
    if factorised:
        rows |= linear("embedder/projection", "embeddings_project")
    for i in range(num_layers):
        our, their = f"stack/layers/{i}", f"encoder.layer.{i}"
        for name in ("query", "key", "value"):
            rows |= linear(f"{our}/attention/{name}", f"{their}.attention.self.{name}")
        rows |= linear(f"{our}/attention/out", f"{their}.attention.output.dense")
        rows |= norm(f"{our}/attention_norm", f"{their}.attention.output.LayerNorm")
        rows |= linear(f"{our}/mlp/up", f"{their}.intermediate.dense")
        rows |= linear(f"{our}/mlp/down", f"{their}.output.dense")
        rows |= norm(f"{our}/mlp_norm", f"{their}.output.LayerNorm")
    return rows


def with_types(inputs: ModelInputs) -> tuple[np.ndarray, ModelInputs]:
    types = np.random.default_rng(1).integers(0, 2, inputs.tokens.shape)
    types = types.astype(np.int32)
    return types, ModelInputs(
        tokens=inputs.tokens,
        segment_ids=inputs.segment_ids,
        positions=inputs.positions,
        token_type_ids=jnp.asarray(types),
    )


@pytest.mark.parametrize(
    "sizes",
    [
        {"emb_dim": 16, "num_heads": 2, "mlp_dim": 40, "num_layers": 2},
        {"emb_dim": 24, "num_heads": 4, "mlp_dim": 32, "num_layers": 1},
    ],
)
@pytest.mark.parametrize("family", ["bert", "electra"])
def test_bert_and_electra(family, sizes):
    common = {
        "vocab_size": VOCAB,
        "hidden_size": sizes["emb_dim"],
        "num_hidden_layers": sizes["num_layers"],
        "num_attention_heads": sizes["num_heads"],
        "intermediate_size": sizes["mlp_dim"],
        "max_position_embeddings": 20,
    }
    changes = dict(sizes, max_seq_len=20)
    if family == "electra":
        common["embedding_size"] = changes["embedding_dim"] = 8
        module = transformers.ElectraModel(transformers.ElectraConfig(**common))
        preset = "electra_base"
    else:
        module = transformers.BertModel(transformers.BertConfig(**common))
        preset = "bert_base"
    module = randomised(module)
    rows = bert_rows(sizes["num_layers"], factorised=family == "electra")
    model = ours(preset, rows, module, **changes)
    tokens, mask, inputs = batch()
    types, inputs = with_types(inputs)
    types = torch.from_numpy(types.astype(np.int64))
    expected = module(tokens, attention_mask=mask, token_type_ids=types)
    compare(model(inputs), expected.last_hidden_state, mask)


def test_roberta():
    module = transformers.RobertaModel(
        transformers.RobertaConfig(
            vocab_size=VOCAB,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=40,
            max_position_embeddings=22,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            pad_token_id=1,
        )
    )
    module = randomised(module)
    model = ours(
        "roberta_base",
        bert_rows(2),
        module,
        emb_dim=16,
        num_heads=2,
        mlp_dim=40,
        num_layers=2,
        max_seq_len=20,
    )
    tokens, mask, inputs = batch()
    tokens = torch.where(mask, tokens, 1)  # Its positions count what is not padding.
    expected = module(tokens, attention_mask=mask)
    compare(model(inputs), expected.last_hidden_state, mask)


def gpt2_rows(module, num_layers: int, dim: int) -> dict[str, str]:
    """Splits the joint projection, so that the table is one to one."""
    rows = {
        "token_embedding": "wte.weight",
        "embedder/position_embedding": "wpe.weight",
        **norm("stack/final_norm", "ln_f"),
    }
    for i in range(num_layers):
        our, their = f"stack/layers/{i}", f"h.{i}"
        joint = module.h[i].attn.c_attn
        for part, name in enumerate(("query", "key", "value")):
            at = slice(part * dim, (part + 1) * dim)
            piece = torch.nn.Module()
            piece.weight = torch.nn.Parameter(joint.weight[:, at])
            piece.bias = torch.nn.Parameter(joint.bias[at])
            module.h[i].attn.add_module(f"piece_{name}", piece)
            rows |= linear(f"{our}/attention/{name}", f"{their}.attn.piece_{name}")
        del module.h[i].attn.c_attn
        rows |= linear(f"{our}/attention/out", f"{their}.attn.c_proj")
        rows |= norm(f"{our}/attention_norm", f"{their}.ln_1")
        rows |= norm(f"{our}/mlp_norm", f"{their}.ln_2")
        rows |= linear(f"{our}/mlp/up", f"{their}.mlp.c_fc")
        rows |= linear(f"{our}/mlp/down", f"{their}.mlp.c_proj")
    return rows


def test_gpt2():
    module = randomised(
        transformers.GPT2Model(
            transformers.GPT2Config(
                vocab_size=VOCAB, n_positions=20, n_embd=16, n_layer=2, n_head=4
            )
        )
    )
    tokens, mask, inputs = batch()
    expected = module(tokens, attention_mask=mask).last_hidden_state
    model = ours(
        "gpt2_small",
        gpt2_rows(module, 2, 16),
        module,
        emb_dim=16,
        num_heads=4,
        mlp_dim=64,
        num_layers=2,
        max_seq_len=20,
    )
    compare(model(inputs), expected, mask)


def llama_rows(num_layers: int) -> dict[str, str]:
    rows = {
        "token_embedding": "embed_tokens.weight",
        **norm("stack/final_norm", "norm", bias=False),
    }
    for i in range(num_layers):
        our, their = f"stack/layers/{i}", f"layers.{i}"
        names = {"query": "q", "key": "k", "value": "v", "out": "o"}
        for name, letter in names.items():
            rows |= linear(
                f"{our}/attention/{name}", f"{their}.self_attn.{letter}_proj", False
            )
        for name in ("gate", "up", "down"):
            rows |= linear(f"{our}/mlp/{name}", f"{their}.mlp.{name}_proj", False)
        rows |= norm(f"{our}/attention_norm", f"{their}.input_layernorm", False)
        rows |= norm(f"{our}/mlp_norm", f"{their}.post_attention_layernorm", False)
    return rows


LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.mark.parametrize(
    ("rope", "changes"),
    [
        ({"rope_type": "default", "rope_theta": 10000.0}, {}),
        (
            {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
            {"rope_scaling": ("linear", 2.0)},
        ),
        (
            LLAMA3,
            {"rope_theta": 5000.0, "rope_scaling": ("llama3", 8.0, 1.0, 4.0, 64)},
        ),
    ],
)
def test_llama(rope, changes):
    module = randomised(
        transformers.LlamaModel(
            transformers.LlamaConfig(
                vocab_size=VOCAB,
                hidden_size=32,
                intermediate_size=40,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=16,
                rms_norm_eps=1e-5,
                max_position_embeddings=512,
                rope_parameters=rope,
            )
        )
    )
    model = ours(
        "llama",
        llama_rows(2),
        module,
        emb_dim=32,
        mlp_dim=40,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        **changes,
    )
    tokens, mask, inputs = batch(lengths=(70, 33), width=70)
    expected = module(tokens, attention_mask=mask).last_hidden_state
    compare(model(inputs), expected, mask)


def t5_rows(num_layers: int, gated: bool) -> dict[str, str]:
    rows = {"token_embedding": "shared.weight"}
    for side in ("encoder", "decoder"):
        stack = f"{side}_stack"
        bias = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows[f"{stack}/relative_bias"] = bias
        rows |= norm(f"{stack}/final_norm", f"{side}.final_layer_norm", False)
        for i in range(num_layers):
            our, their = f"{stack}/layers/{i}", f"{side}.block.{i}.layer"
            kinds = [("attention", "SelfAttention")]
            if side == "decoder":
                kinds.append(("cross_attention", "EncDecAttention"))
            for at, (kind, name) in enumerate(kinds):
                for part, letter in zip(
                    ("query", "key", "value", "out"), "qkvo", strict=True
                ):
                    rows |= linear(
                        f"{our}/{kind}/{part}", f"{their}.{at}.{name}.{letter}", False
                    )
                rows |= norm(f"{our}/{kind}_norm", f"{their}.{at}.layer_norm", False)
            last = f"{their}.{len(kinds)}"
            rows |= norm(f"{our}/mlp_norm", f"{last}.layer_norm", False)
            dense = f"{last}.DenseReluDense"
            rows |= linear(f"{our}/mlp/down", f"{dense}.wo", False)
            if gated:
                rows |= linear(f"{our}/mlp/gate", f"{dense}.wi_0", False)
                rows |= linear(f"{our}/mlp/up", f"{dense}.wi_1", False)
            else:
                rows |= linear(f"{our}/mlp/up", f"{dense}.wi", False)
    return rows


def encoder_decoder_batch():
    """Both sides, with different lengths in every row."""
    encoder_tokens, encoder_mask, encoder = batch(1, lengths=(7, 15, 11), width=15)
    tokens, mask, decoder = batch()
    inputs = ModelInputs(
        tokens=decoder.tokens,
        segment_ids=decoder.segment_ids,
        positions=decoder.positions,
        encoder=encoder,
    )
    theirs = {
        "input_ids": encoder_tokens,
        "attention_mask": encoder_mask,
        "decoder_input_ids": tokens,
        "decoder_attention_mask": mask,
    }
    return theirs, encoder_mask, mask, inputs


@pytest.mark.parametrize("version", ["t5_base", "t5_1_1_base"])
def test_t5(version):
    gated = version == "t5_1_1_base"
    module = randomised(
        transformers.T5Model(
            transformers.T5Config(
                vocab_size=VOCAB,
                d_model=24,
                d_kv=6,
                d_ff=32,
                num_layers=2,
                num_heads=3,
                relative_attention_num_buckets=8,
                relative_attention_max_distance=20,
                feed_forward_proj="gated-gelu" if gated else "relu",
            )
        )
    )
    model = ours(
        version,
        t5_rows(2, gated),
        module,
        emb_dim=24,
        head_dim=6,
        mlp_dim=32,
        num_layers=2,
        num_heads=3,
        relative_num_buckets=8,
        relative_max_distance=20,
    )
    theirs, encoder_mask, mask, inputs = encoder_decoder_batch()
    expected = module(**theirs)
    compare(model.encode(inputs), expected.encoder_last_hidden_state, encoder_mask)
    compare(model(inputs), expected.last_hidden_state, mask)


def bart_rows(num_layers: int) -> dict[str, str]:
    rows = {"token_embedding": "shared.weight"}
    for side in ("encoder", "decoder"):
        embedder = f"{side}_embedder"
        rows[f"{embedder}/position_embedding"] = f"{side}.embed_positions.weight"
        rows |= norm(f"{embedder}/norm", f"{side}.layernorm_embedding")
        for i in range(num_layers):
            our, their = f"{side}_stack/layers/{i}", f"{side}.layers.{i}"
            kinds = [("attention", "self_attn")]
            if side == "decoder":
                kinds.append(("cross_attention", "encoder_attn"))
            for kind, name in kinds:
                parts = {"query": "q", "key": "k", "value": "v", "out": "out"}
                for part, letter in parts.items():
                    rows |= linear(
                        f"{our}/{kind}/{part}", f"{their}.{name}.{letter}_proj"
                    )
                rows |= norm(f"{our}/{kind}_norm", f"{their}.{name}_layer_norm")
            rows |= linear(f"{our}/mlp/up", f"{their}.fc1")
            rows |= linear(f"{our}/mlp/down", f"{their}.fc2")
            rows |= norm(f"{our}/mlp_norm", f"{their}.final_layer_norm")
    return rows


def test_bart():
    module = randomised(
        transformers.BartModel(
            transformers.BartConfig(
                vocab_size=VOCAB,
                d_model=16,
                max_position_embeddings=20,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=24,
                decoder_ffn_dim=24,
            )
        )
    )
    model = ours(
        "bart_base",
        bart_rows(2),
        module,
        emb_dim=16,
        num_heads=4,
        mlp_dim=24,
        num_layers=2,
        max_seq_len=20,
    )
    theirs, encoder_mask, mask, inputs = encoder_decoder_batch()
    expected = module(**theirs)
    compare(model.encode(inputs), expected.encoder_last_hidden_state, encoder_mask)
    compare(model(inputs), expected.last_hidden_state, mask)
