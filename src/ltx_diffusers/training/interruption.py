"""Stopping a run on request: SIGTERM and SIGINT are noted, and obeyed after the step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType

import torch
from accelerate import Accelerator

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """Notes the signals that ask a run to stop, while it is entered. A second SIGINT stops at once.

    Attributes:
        received: The first of them, or None.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():  # no other thread may set handlers
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def agreed(self, accelerator: Accelerator) -> signal.Signals | None:
        """The signal that any of the processes got, the same on all of them; every process has to ask."""
        if accelerator.num_processes == 1:
            return self.received
        mine = torch.tensor([int(self.received or 0)], device=accelerator.device)
        number = int(accelerator.gather(mine).max())
        return signal.Signals(number) if number else None

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)
