"""Objectives one after the other: when each begins, and whose networks they share."""

import jax
import numpy as np
import pytest
from flax import nnx

from objectives import Phases
from tests.helpers import tiny_config
from tests.objectives.test_mixture import VOCABULARY, R, batch, component, hybrid


def phases(ends=(0.5, 1.0), num_train_steps=7, components=None):
    components = components or {
        "clm": component("causal_lm", "decoder"),
        "mlm": component("masked_lm", "decoder"),
    }
    return Phases(
        components=tuple(components.items()),
        ends=ends,
        num_train_steps=num_train_steps,
        vocabulary=VOCABULARY,
        row_length=R,
        architecture="decoder",
    )


@pytest.mark.parametrize(
    "share,steps,switch",
    [(0.5, 7, 4), (0.5, 5, 2), (0.25, 10, 2), (0.75, 1000, 750), (0.15, 30, 4)],
)
def test_a_phase_ends_at_its_share_rounded_half_to_even(share, steps, switch):
    objective = phases((share, 1.0), steps)
    assert objective.switches == (switch,)
    assert objective.at(switch - 1).name == "mixture(causal_lm)"
    assert objective.at(switch).name == "mixture(masked_lm)"
    assert objective.at(steps + 5) == objective.at(steps - 1)
    assert sum(objective.component_shares) == pytest.approx(1)


def test_a_phase_names_its_terms_and_what_it_trains():
    objective = phases()
    assert list(objective.at(0).terms) == ["clm/clm"]
    assert list(objective.at(6).terms) == ["mlm/mlm"]
    assert objective.at(0).head_names == ("causal_lm",)
    assert objective.head_names == ("causal_lm", "masked_lm")
    weights = {name: term.weight for name, term in objective.terms.items()}
    assert weights == {"clm/clm": 0.0, "mlm/mlm": 1.0}


def test_phases_hold_mixtures():
    objective = phases(
        components={"both": hybrid(), "mlm": component("masked_lm", "decoder")}
    )
    assert [name for name, *_ in objective.parts()] == [
        "both/causal",
        "both/masked",
        "mlm",
    ]
    assert objective.denominator == 3
    networks = objective.networks(
        tiny_config("decoder", position="rope"), rngs=nnx.Rngs(0)
    )
    first = objective.at(0)
    example = first.corrupt(jax.random.key(0), batch(6))
    terms, _ = first.losses(networks, example)
    assert set(terms) == {"both/causal/clm", "both/masked/mlm"} == set(first.terms)
    assert all(np.isfinite(value) for value, _ in terms.values())


def test_the_last_phase_answers_for_the_run():
    objective = phases()
    assert objective.token_term == "mlm/mlm"
    assert objective.prompt.fills and objective.scoring().kind == "pseudo"
    assert objective.attention == "bidirectional"


@pytest.mark.parametrize("ends", [(0.5,), (0.5, 0.9), (0.8, 0.5), (0.0, 1.0)])
def test_ends_rise_to_one(ends):
    with pytest.raises(ValueError, match=r"phases.ends .* must rise to 1"):
        phases(ends)


def test_a_phase_without_a_step_is_refused():
    with pytest.raises(ValueError, match="leave a phase without a step"):
        phases((0.01, 1.0), 10)
