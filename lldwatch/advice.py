"""What to do about each kind of collapse, what helped most first, with the names it has in the trainers.

The order of the remedies for LLD is that of measured runs (README, "What helps"); for the other kinds it is that of the
sources named beside them. Configuration keys: TRL 1.14, verl 0.9, OpenRLHF 0.11 (ms-swift takes TRL's with `--`).
"""

from __future__ import annotations

from collections.abc import Mapping

from lldwatch.diagnosis import Family, Stage
from lldwatch.schema import Observation

_FEWER_UPDATES = (
    "make fewer optimizer updates on each rollout batch{reuse}: in the miniature this alone keeps the run alive "
    "(TRL: num_iterations=1 and steps_per_generation=gradient_accumulation_steps; verl: actor.ppo_epochs=1 and "
    "actor.ppo_mini_batch_size=data.train_batch_size; OpenRLHF: --train.max_epochs 1 and a larger --train.batch_size)"
)
_LLDS = "add a likelihood-preserving term (LLDS, arXiv:2512.04220) on the correct responses of earlier batches"
_KL = (
    "add a KL penalty to the reference policy (TRL: beta; verl: actor.use_kl_loss=True, actor.kl_loss_coef; "
    "OpenRLHF: --algo.kl.init_coef)"
)
_RATE = (
    "lower the learning rate{rate} (TRL: learning_rate; verl: actor.optim.lr), and warm it up "
    "(TRL: warmup_steps; verl: actor.optim.lr_warmup_steps)"
)
_BACK = "go back to the last checkpoint before step {onset}"
_CLIP = "clip gradients lower (TRL: max_grad_norm; verl: actor.grad_clip), and look at the batches of the spike"

ADVICE: Mapping[Family | None, tuple[str, ...]] = {
    Family.LLD_SPIRAL: (_FEWER_UPDATES, _LLDS, _KL, _RATE, _BACK),
    Family.OFF_POLICY_OVERUSE: (_FEWER_UPDATES, _LLDS, _KL, _BACK),
    Family.SHARPENING: (
        "let rare tokens rise: clip higher (DAPO, arXiv:2503.14476: TRL: epsilon_high=0.28; verl: "
        "actor.clip_ratio_high=0.28; OpenRLHF: --actor.eps_clip_low_high 0.2 0.28)",
        "sample at temperature 1, and add a small entropy bonus (verl: actor.entropy_coeff; OpenRLHF: "
        "--actor.entropy_coef)",
        "no LLDS: it holds what is likely already, and sharpens further",
        _BACK,
    ),
    Family.FORMAT_LOSS: (
        "read the responses of the last steps: what do they end with, and what could the reward not parse?",
        "leave responses that were cut off out of the loss (TRL: mask_truncated_completions=True), or allow longer "
        "ones (TRL: max_completion_length; verl: data.max_response_length; OpenRLHF: --rollout.max_new_tokens)",
        "give the format a reward of its own, and check that no unusual stop token or template slipped in",
        _BACK,
    ),
    Family.MISMATCH: (
        "correct for the mismatch between rollout engine and trainer (TRL: vllm_importance_sampling_correction=True; "
        "verl: algorithm.rollout_correction.rollout_is=token; OpenRLHF: --algo.advantage.is_correction_level token)",
        "make the two compute alike: same precision (float16 rather than bfloat16: arXiv:2510.26788), float32 logits, "
        "no quantised rollout, same kernels for mixture-of-experts routing",
        "no LLDS: what it would hold is not what is sampled",
        _BACK,
    ),
    Family.NUMERICAL: (
        _BACK,
        "compute log-probs and loss in float32, and look for -inf log-probs and divisions by a zero standard deviation",
        "skip updates whose gradient norm is not finite",
    ),
    Family.GRADIENT_STARVATION: (
        "give it prompts that it gets right sometimes: filter those that are always right or always wrong (verl: "
        "algorithm.filter_groups.enable=True; OpenRLHF: --algo.dynamic_filtering_enable), or take easier or harder "
        "ones",
        "sample more responses to each prompt (TRL: num_generations; verl: rollout.n)",
        "no LLDS: nothing is being unlearnt",
    ),
    Family.OPTIMISER_BLOW_UP: (_BACK, _RATE, _CLIP, _KL),
    None: (
        "look at the responses of the last steps: a reward that falls alone is often a parser or an environment",
        _BACK,
    ),
}
"""Family -> remedies, what helped most first."""


def advise(stage: Stage, family: Family | None, onset: int | None, observation: Observation) -> tuple[str, ...]:
    """The remedies for a run, filled in with its numbers.

    Args:
        stage: how far it is; there is no advice for a healthy run.
        family: which kind of collapse it is.
        onset: first step at which something was wrong.
        observation: the last step.
    """
    if stage is Stage.HEALTHY:
        return ()
    reuse = f" (now {observation.updates_per_batch})" if observation.updates_per_batch else ""
    rate = f" (now {observation.learning_rate:.3g})" if observation.learning_rate else ""
    return tuple(line.format(onset=onset, reuse=reuse, rate=rate) for line in ADVICE[family])
