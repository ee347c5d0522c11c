"""Configs that an earlier version saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Fields of a run's config that were added since commit af48e5f, each with the value that
# does what runs did before there was the field.
ADDED: Mapping[str, Mapping[str, Any]] = {"train": {"trainable": ".*"}}


def refusal(values: Mapping[str, Any]) -> str:
    """Why this version cannot go on with the run of a saved config, or ''."""
    is_old = "trainable" not in values.get("train", {})
    rule = values.get("optimizer", {}).get("name")
    if is_old and rule == "adafactor" and values.get("model", {}).get("scan_layers"):
        return (
            "Adafactor takes each of the scanned layers by itself now, where it took all "
            "of them as one block: the run would go on with other updates"
        )
    return ""


def complete(values: Mapping[str, Any]) -> dict[str, Any]:
    """The saved config of a run, with the fields that were added since."""
    return {
        name: {**ADDED[name], **section}
        if name in ADDED and isinstance(section, Mapping)
        else section
        for name, section in values.items()
    }


def complete_comparison(values: Mapping[str, Any]) -> dict[str, Any]:
    """The saved config of a comparison, with those fields in every run's config."""
    arms = {
        name: {**arm, "base": complete(arm["base"]), "config": complete(arm["config"])}
        for name, arm in values["arms"].items()
    }
    return {**values, "shared": complete(values["shared"]), "arms": arms}
