"""What was computed before, as far as there is room for it."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Hashable

from torch import Tensor


class Memo:
    """Keeps tensors whose sizes come to at most `most`, those that were asked for last; `size` is of one of them."""

    def __init__(self, most: int, size: Callable[[Tensor], int] = Tensor.numel) -> None:
        self._most, self._size = most, size
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._size_of_kept = 0

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, key: Hashable, compute: Callable[[], Tensor]) -> Tensor:
        """What belongs to `key`, to be left as it is; computed where it is not kept."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = compute()
        if self._size(found) <= self._most:
            self._kept[key] = found
            self._size_of_kept += self._size(found)
        while self._size_of_kept > self._most:
            self._size_of_kept -= self._size(self._kept.popitem(last=False)[1])
        return found


def digest(tensor: Tensor) -> bytes:
    """Tells tensors of one shape and type apart; SHA-256, for which processors have instructions."""
    return hashlib.sha256(tensor.detach().cpu().contiguous().numpy().data).digest()
