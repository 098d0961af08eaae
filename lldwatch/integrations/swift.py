"""lldwatch in ms-swift: `swift rlhf --rlhf_type grpo --external_plugins FILE ...`, where FILE is this one.

LLDWATCH_RUN=runs/search LLDWATCH_LLDS=auto swift rlhf --rlhf_type grpo \
    --external_plugins "$(python -c 'import lldwatch.integrations.swift as s; print(s.__file__)')" ...

`lldwatch run --llds auto -- swift rlhf ...` does the same without the plugin. The settings are those of
`lldwatch.integrations.environment`. Megatron-SWIFT and the Ray trainers have a loss of their own, which is not watched.
"""

from __future__ import annotations

import sys

from lldwatch.integrations.environment import wanted

try:
    if wanted() is None:
        sys.stderr.write("lldwatch: LLDWATCH_RUN is not set: nothing is watched\n")
    else:
        from lldwatch.integrations.startup_trl import watch_every_trainer

        watch_every_trainer()
except Exception as error:  # a plugin that fails would end the training
    sys.stderr.write(f"lldwatch: nothing is watched ({error}); the training goes on without lldwatch\n")
