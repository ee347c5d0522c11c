"""Commands over runs in phases and over partly learned runs."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import clm_then_mlm
from research.config import parse
from research.conversion import run as conversion
from research.errors import UserError
from research.planning import compiled
from research.training import pretraining, workdir
from tests.research.training import tiny


def test_a_plan_compiles_every_phase():
    config = clm_then_mlm.get_config()
    config.model.update(num_layers=1, emb_dim=32, num_heads=2, mlp_dim=64)
    config.data.row_length = 24
    config.train.update(batch_size=4, num_train_steps=8)
    config.optimizer.warmup_steps = 2
    found = compiled.compile_step(parse.parse(config), 1)
    assert found.allocated > 0


def test_a_partly_learned_run_is_exported_whole(tmp_path):
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"a line of words number {n}." * 8 for n in range(80))
    )
    config = tiny.config(
        "causal_lm",
        train__trainable=r".*bias",
        train__num_train_steps=2,
        data__source=str(tmp_path / "text.txt"),
        data__cache_dir=str(tmp_path / "cache"),
    )
    pretraining.pretrain(config, tmp_path / "run", say=lambda line: None)
    conversion.export_workdir(tmp_path / "run", tmp_path / "out", which="last")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert {"transformer.wte.weight", "transformer.h.0.mlp.c_fc.weight"} <= set(tensors)
    assert all(np.isfinite(tensor).all() for tensor in tensors.values())


def test_runs_whose_update_rule_changed_are_refused(tmp_path):
    config = tiny.config(model__scan_layers=True, optimizer__name="adafactor")
    workdir.save_config(tmp_path, config)
    workdir.check_config(tmp_path, config)
    old = json.loads((tmp_path / "config.json").read_text())
    del old["train"]["trainable"]
    (tmp_path / "config.json").write_text(json.dumps(old))
    (tmp_path / "checksums.json").unlink()  # Workdirs of that time have none.
    with pytest.raises(UserError, match="Adafactor takes each of the scanned layers"):
        workdir.check_config(tmp_path, config)
