r"""Fine-tunes a pretrained run on SQuAD (Devlin et al. 2019, sections 4.2 and 4.3).

    python -m research.squad --config=squad --checkpoint=runs/mlm \
        --workdir=runs/mlm-squad --config.train_file=train-v1.1.json \
        --config.dev_file=dev-v1.1.json

BERT-base reaches F1 88.5 on the dev set of version 1.1.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from experiments import presets


def get_config() -> ml_collections.ConfigDict:
    """Every field; the values are BERT's for version 1.1."""
    return ml_collections.ConfigDict(
        {
            # SQuAD's JSON files, of version 1.1 or 2.0
            "train_file": "",
            "dev_file": "",
            "which": "last",  # checkpoint: 'last' or 'best'
            "seeds": (0, 1, 2),
            "floor_seeds": 1,  # of the random-initialisation floor; 0 = none
            "max_train_questions": 0,  # 0 = all
            "save_seconds": 60.0,
            "windows": {
                "max_query_tokens": 64,
                "stride": 128,  # tokens from one window's beginning to the next
                "max_answer_tokens": 30,
            },
            "finetune": presets.finetune(
                eval_batch_size=64,
                num_epochs=3,
                max_length=384,
                bucket_lengths=(64, 128, 256),
                learning_rate=5e-5,
                dropout_rate=placeholder(float),  # None = as pretrained
                selection_metric="loss",
            ),
        }
    )
