"""One table per Hugging Face family."""

from research.conversion.families.bart import BART
from research.conversion.families.bert import BERT, DISTILBERT, ELECTRA, ROBERTA
from research.conversion.families.gpt2 import GPT2
from research.conversion.families.llama import LLAMA
from research.conversion.families.modernbert import MODERNBERT
from research.conversion.families.t5 import T5, T5_GATED

# Families by name; `model_type` of a config.json picks among them.
FAMILIES = {
    # Of several that are equally near to a model that none expresses, the first is named.
    "modernbert": MODERNBERT,
    "bert": BERT,
    "roberta": ROBERTA,
    "distilbert": DISTILBERT,
    "electra": ELECTRA,
    "gpt2": GPT2,
    "llama": LLAMA,
    "t5": T5,
    "t5_gated": T5_GATED,
    "bart": BART,
}
