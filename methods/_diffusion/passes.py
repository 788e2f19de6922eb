"""Gradients of a step in the memory there is: activations recomputed, rows in turns, if need be."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal

import torch

_log = logging.getLogger(__name__)
#: whether activations are recomputed; "auto": once a step did not fit into the GPU's memory
Checkpointing = bool | Literal["auto"]


class Passes:
    """Forward and backward passes through a UNet, by as many rows at a time as memory holds.

    The gradients of a step add up to the same however its rows are split. A step that does not fit
    is begun again: first with activations recomputed, unless that was ruled out, which gives the
    same numbers in a third more time; then with half of the rows at a time.

    Leaving the block takes the UNet back to evaluation mode without checkpointing.

    Parameters
    ----------
    unet : a UNet of diffusers
    checkpointing : True, False or "auto"
    rows : int
        Of a step.
    what : str
        What is trained, for messages.
    """

    def __init__(self, unet: Any, checkpointing: Checkpointing, rows: int, what: str) -> None:
        self._unet, self._what = unet, what
        self._at_once = self._rows = rows
        self._spare = checkpointing == "auto"  # may still be turned on
        self._recompute = checkpointing is True

    def __enter__(self) -> Passes:
        if self._recompute:
            self._recomputing()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._unet.disable_gradient_checkpointing()
        self._unet.eval()

    def gradients(
        self, run: Callable[[slice], torch.Tensor], clear: Callable[[], None]
    ) -> torch.Tensor:
        """Leave the gradients of one step; returns its loss, detached.

        Parameters
        ----------
        run : takes some of the rows forward and backward, and returns their share of the loss
        clear : takes away what gradients a failed pass has left

        Raises
        ------
        MemoryError
            Not even one row fits.
        """
        while True:
            try:
                firsts = range(0, self._rows, self._at_once)
                turns = [run(slice(first, first + self._at_once)) for first in firsts]
                return torch.stack([loss.detach() for loss in turns]).sum()
            except torch.OutOfMemoryError as failure:
                if self._at_once == 1 and not self._spare:
                    message = f"{self._what}: one image does not fit into the GPU's memory"
                    raise MemoryError(message) from failure
            # out of the except block, whose traceback keeps the failed pass's tensors alive
            clear()
            torch.cuda.empty_cache()
            if self._spare:
                self._spare = False
                self._recomputing()
                text = "%s: out of GPU memory, recomputing activations from here on (checkpointing)"
                _log.warning(text, self._what)
            else:
                self._at_once = (self._at_once + 1) // 2
                text = "%s: out of GPU memory, going on with %d at a time"
                _log.warning(text, self._what, self._at_once)

    def _recomputing(self) -> None:
        # diffusers heeds it in training mode only; nothing else differs
        self._unet.train().enable_gradient_checkpointing()
