"""Kinds of parameters that several methods and generators take, with their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Predicate
from pydantic import Field


def odd(value: int) -> bool:
    """Whether a square of this side has a middle."""
    return value % 2 == 1


Size = Annotated[int, Field(ge=8, le=4096)]  # pixels per side
Share = Annotated[float, Field(ge=0, le=1)]
SomeShare = Annotated[float, Field(gt=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Sigma = Annotated[float, Field(ge=0, le=256)]  # of a Gaussian, in pixels
OddSide = Annotated[int, Field(ge=1), Predicate(odd)]
LevelNumbers = Annotated[Sequence[Annotated[int, Field(ge=1)]], Field(min_length=1)]
