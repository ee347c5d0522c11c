"""Strict JAX for every test: no silent rank promotion, parsed absl flags."""

import sys

import jax
from absl import flags

# grain reads absl flags on import of its loaders; unparsed flags raise there.
if not flags.FLAGS.is_parsed():
    flags.FLAGS(sys.argv[:1])

jax.config.update("jax_numpy_rank_promotion", "raise")
