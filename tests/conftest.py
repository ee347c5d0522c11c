"""Strict JAX for every test: no silent rank promotion, parsed absl flags."""

import sys

import jax
from absl import flags

# grain reads absl flags on import of its loaders; unparsed flags raise there.
if not flags.FLAGS.is_parsed():
    flags.FLAGS(sys.argv[:1])

_define_flag = flags.FlagValues.__setitem__


def _redefine_flag(values, name, flag):
    """Entry points are programs of their own; only tests import several into one."""
    flag.allow_override = True
    _define_flag(values, name, flag)


flags.FlagValues.__setitem__ = _redefine_flag

jax.config.update("jax_numpy_rank_promotion", "raise")
