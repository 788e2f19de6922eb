"""One UNet for all customized models of a base in a worker, and whose change lies on it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from methods._diffusion import finetune, model

State = Mapping[str, np.ndarray]


class SharedUnet:
    """The UNet of a base, bare or with one customized model's change.

    A UNet of its own for each generator would take 3.4 GB of a GPU for each set of parameters.

    Parameters
    ----------
    base : str
        As ``model.load_unet`` takes it.
    device : str
    """

    def __init__(self, base: str, device: str) -> None:
        self._base, self._device = base, device
        # Loaded on first use: what a worker shares is sealed as it is made, and this is meant to be
        # changed, and put back, by those who share it.
        self._unet: Any = None
        self._applied: State | None = None
        self._own: dict[str, torch.Tensor] = {}  # the base's values of what the state changed

    @property
    def unet(self) -> Any:
        """The UNet as it is now, for what does not depend on its weights."""
        if self._unet is None:
            self._unet = model.load_unet(self._base, self._device)
        return self._unet

    def bare(self) -> Any:
        """The UNet with the base's own weights, bit for bit."""
        finetune.restore(self.unet, self._own)
        self._applied, self._own = None, {}
        return self.unet

    def changed(self, state: State) -> Any:
        """The UNet with a state's change; nothing is done where it is that already.

        Raises
        ------
        ValueError
            The state belongs to another base; the UNet is bare then.
        """
        if self._applied is not state:
            self.bare()
            self._own = finetune.apply(self.unet, state, self._base)
            self._applied = state
        return self.unet
