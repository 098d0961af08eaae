from __future__ import annotations

import json
import math

from lldwatch.diagnosis import Check, Diagnosis, Evidence, Family, Stage


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
        "collapse_probability": None,
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
    assert empty["evidence"] == empty["checks"] == empty["advice"] == []
