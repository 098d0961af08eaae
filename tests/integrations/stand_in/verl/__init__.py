"""A stand-in for verl: the names, signatures and the order of calls that lldwatch.integrations.verl relies on, no more.

Written from verl's documented interfaces: engine workers as in 0.9, `DataParallelPPOActor` as in 0.1 and in Search-R1.
"""

import importlib
import os

for plugin in filter(None, os.environ.get("VERL_USE_EXTERNAL_MODULES", "").split(",")):
    importlib.import_module(plugin)
