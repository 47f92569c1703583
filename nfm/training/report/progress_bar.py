"""Progress of a training: a bar in a terminal, log lines otherwise."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any, Self

from tqdm import tqdm

log = logging.getLogger(__name__)

_SECONDS = 5  # between log lines


class Bar:
    """Progress bar with the loss, the rows per second and the remaining time of an epoch."""

    def __init__(self, epochs: int, rows: int, batch_size: int) -> None:
        """Prepare for a training with this many rows in an epoch."""
        self._epochs, self._rows, self._batch_size = epochs, rows, batch_size
        self._terminal = sys.stderr.isatty()
        self._bar: tqdm[Any] | None = None
        self._number = self._done = self._from = 0
        self._first = True  # whether the next batch is the first, whose time includes compiling
        self._started = self._next_line = time.monotonic()

    def __enter__(self) -> Self:
        """Return the bar."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def epoch(self, finished: int, batches: int) -> None:
        """Start an epoch, possibly partway through."""
        self._number, self._from = finished + 1, min(batches * self._batch_size, self._rows)
        self._done, self._started = self._from, time.monotonic()
        if self._terminal:
            name = f"epoch {self._number}/{self._epochs}"
            self._bar = tqdm(
                total=self._rows, initial=self._done, desc=name, unit=" rows", unit_scale=True, leave=False
            )

    def step(self, rows: int, loss: float) -> None:
        """Show that a batch of this many rows was trained on, with its mean loss."""
        first, self._first = self._first, False
        self._done += rows
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
            self._bar.update(rows)
        elif first:
            self._started, self._from = time.monotonic(), self._done
        elif time.monotonic() >= self._next_line:
            seconds = max(time.monotonic() - self._started, 1e-9)
            rate = (self._done - self._from) / seconds
            self._next_line = time.monotonic() + _SECONDS
            log.info(
                "epoch %d of at most %d: %3.0f %%, loss %.4f, %s rows/s, %.0f s left in this epoch",
                self._number,
                self._epochs,
                100 * self._done / self._rows,
                loss,
                f"{rate:,.0f}",
                (self._rows - self._done) / max(rate, 1e-9),
            )

    def end(self, metrics: Mapping[str, float], is_last: bool) -> None:
        """Close the bar of an epoch, and show the epoch's metrics; the last epoch is always logged."""
        text = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._bar is not None:
            self._bar.close()
            tqdm.write(f"epoch {self._number}/{self._epochs}  {text}", file=sys.stderr)
            self._bar = None
        elif time.monotonic() >= self._next_line or is_last:
            self._next_line = time.monotonic() + _SECONDS
            log.info("epoch %d of at most %d  %s", self._number, self._epochs, text)
