"""What a training loop calls raises mistakes in the first step, and nothing after it."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable
from typing import Any, TypeVar, cast

from lldwatch.errors import LldwatchError

Method = TypeVar("Method", bound=Callable[..., None])


def never_hurt(method: Method) -> Method:
    """After the first step, an exception is kept as an event instead of reaching the training loop.

    Args:
        method: of a `Monitor`.
    """

    @functools.wraps(method)
    def guarded(self: Any, *args: Any, **kwargs: Any) -> None:
        step = self._course.open_step
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            if self._steps_closed == 0 and isinstance(error, LldwatchError):
                raise
            words = f"Monitor.{method.__name__} failed: {type(error).__name__}: {error}\n{traceback.format_exc()}"
            self._say_once("error", words, step)

    return cast(Method, guarded)
