import torch

from lldwatch.search_world.policy import Policy


def draw_tokens(rows: int, length: int) -> torch.Tensor:
    return torch.randint(72, (rows, length), generator=torch.Generator().manual_seed(0))


def test_size() -> None:
    assert sum(weight.numel() for weight in Policy(72, 66, seed=0).parameters()) == 51_624


def test_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, second, other = (Policy(72, 66, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_step_by_step_with_a_cache_equals_one_full_forward(policy: Policy) -> None:
    tokens = draw_tokens(3, 66)
    with torch.no_grad():
        full, _ = policy(tokens)
        logits, cache = policy(tokens[:, :5])
        pieces = [logits]
        for place in range(5, 66):
            logits, cache = policy(tokens[:, place : place + 1], cache, before=tokens[:, place - 1])
            pieces.append(logits)
    torch.testing.assert_close(torch.cat(pieces, dim=1), full, atol=1e-4, rtol=0)


def test_causal(policy: Policy) -> None:
    tokens = draw_tokens(2, 20)
    changed = tokens.clone()
    changed[:, 12] = (changed[:, 12] + 1) % 72
    with torch.no_grad():
        difference = (policy.log_probs(tokens)[0] - policy.log_probs(changed)[0]).abs()
    assert difference[:, :12].max() < 1e-5
    assert difference[:, 12:].max() > 1e-3


def test_log_probs_and_entropy_equal_a_slow_twin(policy: Policy) -> None:
    tokens = draw_tokens(2, 12)
    log_probs, entropy = policy.log_probs(tokens)
    assert log_probs.shape == entropy.shape == (2, 12)
    assert not log_probs[:, 0].any()
    assert not entropy[:, 0].any()
    for row in range(2):
        for place in range(1, 12):
            logits, _ = policy(tokens[row : row + 1, :place])
            chances = logits[0, -1].double().softmax(-1)
            assert abs(chances[tokens[row, place]].log() - log_probs[row, place]) < 1e-4
            assert abs(-(chances * chances.log()).sum() - entropy[row, place]) < 1e-4
