"""lldwatch: watch a GRPO run for Lazy Likelihood Displacement.

`Monitor` is what a training loop holds, `Run` reads what it wrote, `CollapseDetector` says what it means. The hooks
that need torch are in `lldwatch.hooks` and `lldwatch.probes`; this package itself loads neither torch, dash nor pandas.
"""

from lldwatch.alert_channels import Command, Webhook
from lldwatch.alerts import Alert
from lldwatch.checks import Settings
from lldwatch.detector import CollapseDetector, diagnose
from lldwatch.diagnosis import Diagnosis, Family, Stage
from lldwatch.errors import (
    DeliveryError,
    InputError,
    LldwatchError,
    RanksError,
    RunError,
    RunExistsError,
    RunNotFoundError,
    SchemaTooNewError,
    ScoreError,
)
from lldwatch.monitor import Monitor
from lldwatch.run import Run, list_runs
from lldwatch.schema import Observation, Probes, Responses, RunInfo
from lldwatch.signals import SIGNALS

__version__ = "0.1.0"

__all__ = [
    "SIGNALS",
    "Alert",
    "CollapseDetector",
    "Command",
    "DeliveryError",
    "Diagnosis",
    "Family",
    "InputError",
    "LldwatchError",
    "Monitor",
    "Observation",
    "Probes",
    "RanksError",
    "Responses",
    "Run",
    "RunError",
    "RunExistsError",
    "RunInfo",
    "RunNotFoundError",
    "SchemaTooNewError",
    "ScoreError",
    "Settings",
    "Stage",
    "Webhook",
    "diagnose",
    "list_runs",
]
