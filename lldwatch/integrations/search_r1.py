r"""Search-R1 and what grew out of it, the authors' LLDS code among it: verl of early 2025, kept inside of a repository.

Its verl knows no plugins. One line at the end of its `verl/__init__.py`, which every process of it imports, is enough:

```sh
echo 'import lldwatch.integrations.search_r1' >> verl/__init__.py
LLDWATCH_RUN=/runs/nqhot LLDWATCH_LLDS=auto bash train_grpo.sh
```

Without `LLDWATCH_RUN` it does nothing. What is watched is `compute_policy_loss`, the `DataParallelPPOActor` around it
and its optimizer steps, as in `lldwatch.integrations.verl`; tool feedback is left out by the loss mask
(`actor_rollout_ref.actor.state_masking=true`). LLDS is normalised as that code does its loss: a mean over each
micro-batch. In the authors' LLDS code leave its own term switched off, or both act. `LLDWATCH_PROBES=economy` adds the
headline.

The paper's setting, GRPO on NQ and HotpotQA with search: Search-R1 has a script for it, in which only the model and the
folders are to be set. It makes ten updates on each rollout batch (512 questions, 5 answers each, `ppo_mini_batch_size`
256). It wants a retriever with a Wikipedia index and eight GPUs, and was not run here:

```sh
bash scripts/nq_hotpotqa/data_process.sh                      # or their data set nq_hotpotqa_train
bash retrieval_launch.sh &                                    # the search engine, on port 8000
export LLDWATCH_RUN=$PWD/runs/nqhot LLDWATCH_LLDS=auto LLDWATCH_PROBES=economy
bash scripts/nq_hotpotqa/v0.2/train_grpo.sh
lldwatch watch $LLDWATCH_RUN                                  # in another terminal, or: lldwatch dashboard runs
lldwatch llds $LLDWATCH_RUN on                                # if it has to be now
```
"""

from __future__ import annotations

from lldwatch.integrations.verl_seams import watch

__all__ = ["attach"]


def attach() -> bool:
    """Watch the Search-R1 trainings of this process, if the environment asks for it. A second call does nothing.

    Returns:
        Whether they are watched.
    """
    return watch("Search-R1")


attach()
