import pytest
import torch

from lldwatch.search_world.policy import Policy
from lldwatch.search_world.pretrain import PretrainSettings, base_policy

SHORT = PretrainSettings(steps=120, batch_size=24, warmup_steps=10, practice=0.2)


@pytest.fixture(scope="session")
def short_base(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Weights after a few seconds of pre-training: enough to search and to keep to the format, not to be right."""
    return base_policy(SHORT, cache_dir=tmp_path_factory.mktemp("cache")).state_dict()


@pytest.fixture
def policy(short_base: dict[str, torch.Tensor]) -> Policy:
    fresh = Policy(72, 66, seed=0)
    fresh.load_state_dict(short_base)
    return fresh
