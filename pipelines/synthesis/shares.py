"""Choosing by shares: the random draw that words, faces and colours have in common."""

from bisect import bisect_right
from collections.abc import Mapping
from itertools import accumulate
from random import Random
from typing import Generic, TypeVar

Choice = TypeVar("Choice")


class Shares(Generic[Choice]):
    """Things with the share of draws that each gets; shares need not add up to 1. ValueError if none is above 0."""

    def __init__(self, shares: Mapping[Choice, float]):
        self.choices = tuple(shares)
        self._limits = tuple(accumulate(shares.values()))
        if not self._limits or self._limits[-1] <= 0:
            raise ValueError(f"expected a share above 0 among {shares}, found none: nothing could be drawn")

    def pick(self, random: Random) -> Choice:
        """One of them."""
        return self.choices[bisect_right(self._limits, random.random() * self._limits[-1], hi=len(self.choices) - 1)]
