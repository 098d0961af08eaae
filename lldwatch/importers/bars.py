"""Which step a line of a console log belongs to, from the progress bars around it.

transformers' Trainer writes its rows through tqdm, without a step. tqdm takes the bar away, writes the row and shows
the bar again, unchanged: a bar that is shown twice with the same number tells that a row was written at this step.
Where the rows are in a buffer of their own (a log of both streams, as `nohup` makes it) they come later than their
bars, many at once; the bars that were shown twice still are as many as the rows, in the same order.
"""

from __future__ import annotations

import re
from collections import deque

_BAR = re.compile(r"\s*(?:Train(?:ing)?: {0,3})?\d{1,3}%\|[^|]{0,500}\| {0,9}(\d{1,12})/(\d{1,12}) \[")
_MOST_ROWS_BEHIND = 100_000


class Bars:
    """Follows the bar of the training; bars with a text in front are not it, nor one with another total.

    Attributes:
        counts: rows are counted since the last bar that told the step of one.
    """

    def __init__(self) -> None:
        self.counts = 0
        self._shown: int | None = None
        self._total: int | None = None
        self._settled = False
        self._logged: deque[int] = deque(maxlen=_MOST_ROWS_BEHIND)
        self._last, self._stride = 0, 1

    def find(self, text: str) -> int | None:
        """The number that a bar of the training at the start of the text shows; None if there is none."""
        found = _BAR.match(text) if "%|" in text else None
        if found is None:
            return None
        total = int(found[2])
        if total != self._total:
            if self._settled:
                return None
            self._total, self._shown = total, None
            self._logged.clear()
        return int(found[1])

    def show(self, number: int, *, of_row: bool) -> None:
        """A bar was shown; `of_row`: it is the one that follows a row at once."""
        if self._shown is not None and number < self._shown:
            self._logged.clear()
            self._last = 0
        elif number == self._shown and not of_row and (not self._logged or self._logged[-1] != number):
            self._logged.append(number)
        self._shown = number

    def logged(self) -> int | None:
        """The step of a row that comes later than its bars; None if no bar waits for its row."""
        while self._logged and self._logged[0] <= self._last:
            self._logged.popleft()
        return self._take(self._logged.popleft()) if self._logged else None

    def after(self, number: int, same_line: int | None) -> int:
        """The step of a row, from the bar that stands in the same line before it, else from the one that follows."""
        if (self.counts and number != self._shown) or (self._shown is not None and number < self._shown):
            return self.count()  # the bar comes after the row by chance, or is that of another training
        return self._take(number if same_line is None else same_line)

    def count(self) -> int:
        """The step of a row that no bar belongs to: so much after the last one as that was after the one before."""
        self.counts += 1
        self._last += self._stride
        return self._last

    def end(self) -> None:
        """The training ended; another one may begin, with another total."""
        self._settled = False
        self._last, self._stride, self.counts = 0, 1, 0
        self._logged.clear()

    def _take(self, step: int) -> int:
        if step <= self._last:
            return self.count()  # the bar lags behind
        self._stride, self._last, self._settled, self.counts = step - self._last, step, True, 0
        return step
