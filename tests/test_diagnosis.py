from __future__ import annotations

import json
import math

import pytest

from lldwatch.diagnosis import Check, Diagnosis, Episode, Evidence, Family, Stage, Verdict


def test_stages_are_ordered_as_the_spiral_goes() -> None:
    assert sorted(Stage, reverse=True) == [Stage.COLLAPSE, Stage.DECAY, Stage.STAGNATION, Stage.HEALTHY]


def test_a_diagnosis_is_json_and_what_is_not_finite_is_still_seen() -> None:
    diagnosis = Diagnosis(
        step=7,
        stage=Stage.COLLAPSE,
        family=Family.NUMERICAL,
        onsets={Stage.COLLAPSE: 5},
        known={Stage.COLLAPSE: 7},
        first_warning=7,
        confidence="high",
        collapse_probability=0.75,
        horizon=20,
        steps_to_collapse=(1, 7, 30),
        episodes=(Episode(Stage.DECAY, Family.LLD_SPIRAL, 1, 2, 4), Episode(Stage.DECAY, None, 1, 2, 4)),
        evidence=(Evidence("loss", math.nan, None, -math.inf, 5, "IEEE 754"),),
        checks=(Check("numerical", "critical", "loss is nan"),),
        advice=("go back",),
    )
    assert json.loads(json.dumps(diagnosis.as_dict(), allow_nan=False)) == {
        "step": 7,
        "stage": "collapse",
        "family": "numerical",
        "onsets": {"stagnation": None, "decay": None, "collapse": 5},
        "known": {"stagnation": None, "decay": None, "collapse": 7},
        "first_warning": 7,
        "confidence": "high",
        "collapse_probability": 0.75,
        "horizon": 20,
        "steps_to_collapse": [1, 7, 30],
        "episodes": [
            {"stage": "decay", "family": "lld_spiral", "onset": 1, "known": 2, "until": 4},
            {"stage": "decay", "family": None, "onset": 1, "known": 2, "until": 4},
        ],
        "evidence": [
            {"signal": "loss", "value": "nan", "baseline": None, "limit": "-inf", "since": 5, "reference": "IEEE 754"}
        ],
        "checks": [{"name": "numerical", "status": "critical", "reason": "loss is nan"}],
        "advice": ["go back"],
    }


def test_before_the_first_step_nothing_is_known() -> None:
    empty = Diagnosis().as_dict()
    assert empty["step"] is None
    assert empty["stage"] == "healthy"
    assert empty["family"] is empty["first_warning"] is None
    assert empty["collapse_probability"] is empty["horizon"] is empty["steps_to_collapse"] is None
    assert empty["confidence"] == "low"
    assert empty["evidence"] == empty["checks"] == empty["advice"] == empty["episodes"] == []


@pytest.mark.parametrize("family", Family)
def test_each_family_has_a_name_for_people(family: Family) -> None:
    assert family.label
    assert "_" not in family.label
    assert len({each.label for each in Family}) == len(Family)


def test_a_verdict_keeps_what_is_drawn_of_each_step() -> None:
    assert Verdict._fields == ("step", "stage", "family", "collapse_probability")
