r"""verl (0.9, and older versions as far as their insides are the same): a training is watched without a change to it.

```sh
LLDWATCH_RUN=/runs/search LLDWATCH_LLDS=auto python -m verl.trainer.main_ppo ... \
    actor_rollout_ref.actor.calculate_entropy=True
```

verl 0.9 loads this module by itself, as a plugin, in every process; before that (from 0.6) it does with
`VERL_USE_EXTERNAL_MODULES=lldwatch.integrations.verl`. Without `LLDWATCH_RUN` nothing happens. Give it as an absolute
path that all nodes of the actor share. On a Ray cluster that runs already the job must be given the variables
(`runtime_env={"env_vars": {...}}`), or its workers do not see them.

What is recorded is what the actor's processes see: log-probs, advantages, rewards, prompts, the gradient norm of each
update, entropy if verl computes it (`actor.calculate_entropy=True`). A step is a rollout batch with all its updates.
The numbers that lldwatch has for any logger stand among verl's own as `actor/lldwatch_...`, as of the step that has
ended. `LLDWATCH_PROBES=economy` adds the headline, see `verl_probe`; LLDS is described in `verl_loss`. While it is
switched on, verl's `actor/pg_loss` contains it. A training that verl resumes goes on with its numbers
(`LLDWATCH_RESUME=1`).

Alerts go out from the first process of the actor (`LLDWATCH_WEBHOOK`, `LLDWATCH_ALERT_COMMAND`). verl has no place
where a worker can ask the driver to stop, and what raises in a worker ends the job without a checkpoint: instead of
`LLDWATCH_STOP_ON` let the alert's command end it (`ray job stop`), with a `trainer.save_freq` that you can live with.

What is looked for stands in `verl_seams`. What is not there is said, with what is lost; nothing here ends a training.
"""

from __future__ import annotations

from lldwatch.integrations.verl_seams import watch


def register() -> bool:
    """Watch the verl trainings of this process, if the environment asks for it. A second call does nothing.

    Returns:
        Whether they are watched.
    """
    return watch("verl")


register()  # verl loads a plugin without calling it
