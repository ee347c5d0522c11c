"""Flags of runs on several hosts are checked before anything connects."""

import pytest

from research import pretrain
from research.errors import UserError
from research.machine import hosts


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("nonsense", None, None), "--coordinator=nonsense: must be HOST:PORT"),
        (("node1:x", 2, 0), "--coordinator=node1:x: must be HOST:PORT"),
        (("node1:1234", 2, 2), "--process_id=2: must be 0 to 1"),
        (("node1:1234", 2, None), "go together"),
    ],
)
def test_wrong_flags(flags, words):
    with pytest.raises(UserError, match=words):
        hosts.initialise(*flags)


@pytest.mark.parametrize("steps", ["²:³", "3:2", "x", ":", "1:2:3"])
def test_steps_to_profile_are_two_numbers(steps):
    with pytest.raises(UserError, match="must be FIRST:LAST, such as 10:15"):
        pretrain._parse_steps(steps)
