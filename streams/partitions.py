"""Which partition a key belongs to, for many keys at once.

As every Kafka client has it by default: murmur2 of the key's bytes, without its sign, modulo the
number of partitions. The client under Faust works it out byte by byte, in Python, for each record.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Words = NDArray[np.uint32]
_SEED = 0x9747B28C
_FACTOR = np.uint32(0x5BD1E995)


def partitions_of(keys: Sequence[bytes | None], count: int) -> list[int]:
    """The partition of each key, from 0 to below ``count``; any for a record without a key."""
    found = [0] * len(keys)
    of_length: dict[int, list[int]] = defaultdict(list)
    for place, key in enumerate(keys):
        if key is None:
            found[place] = random.randrange(count)
        else:
            of_length[len(key)].append(place)
    for length, places in of_length.items():
        joined = b"".join(keys[place] or b"" for place in places)
        hashed = _murmur2(np.frombuffer(joined, np.uint8).reshape(len(places), length))
        for place, partition in zip(places, (hashed & 0x7FFFFFFF) % count, strict=True):
            found[place] = int(partition)
    return found


def _murmur2(keys: NDArray[np.uint8]) -> _Words:
    """Murmur2 of rows of bytes, all of one length."""
    number, length = keys.shape
    whole = length // 4 * 4
    hashed = np.full(number, _SEED ^ length, np.uint32)
    words = np.ascontiguousarray(keys[:, :whole]).view("<u4").astype(np.uint32)
    for word in words.T:
        mixed = word * _FACTOR
        mixed ^= mixed >> 24
        hashed = (hashed * _FACTOR) ^ (mixed * _FACTOR)
    if whole < length:
        rest = np.zeros((number, 4), np.uint8)
        rest[:, : length - whole] = keys[:, whole:]
        hashed = (hashed ^ rest.view("<u4").astype(np.uint32)[:, 0]) * _FACTOR
    hashed ^= hashed >> 13
    hashed *= _FACTOR
    hashed ^= hashed >> 15
    return hashed
