"""The library's own noise: standard normal numbers that depend on a seed, a row number and a column, and on nothing else.

Philox4x32-10 (Salmon et al., SC 2011, https://doi.org/10.1145/2063384.2063405) gives 32 bits for each column; one bit is the sign, 23 are
the probability, and a rational function turns that into the number. Whatever the batching, a row gets the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10
Words = np.ndarray[Any, np.dtype[np.uint64]]


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32-10 of counters of shape (n, 4), as 32-bit words in uint64."""
    c0, c1, c2, c3 = (counter[:, at].astype(np.uint64) for at in range(4))
    k0, k1 = key
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(ROUNDS):
        p0, p1 = c0 * np.uint64(M0), c2 * np.uint64(M1)
        c0, c1, c2, c3 = (p1 >> shift) ^ c1 ^ np.uint64(k0), p1 & low, (p0 >> shift) ^ c3 ^ np.uint64(k1), p0 & low
        k0, k1 = (k0 + W0) & 0xFFFFFFFF, (k1 + W1) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=1)


def normals(seed: int, first_row: int, rows: int, columns: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The numbers of `rows` rows from `first_row` on, shape (rows, columns), exact to float64."""
    blocks = -(-columns // 4)
    row = np.uint64(first_row) + np.arange(rows, dtype=np.uint64)
    counter = np.empty((rows, blocks, 4), np.uint64)
    counter[..., 0] = np.arange(blocks, dtype=np.uint64)
    counter[..., 1] = 0
    counter[..., 2] = (row & np.uint64(0xFFFFFFFF))[:, None]
    counter[..., 3] = (row >> np.uint64(32))[:, None]
    words = philox(counter.reshape(-1, 4), (seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF)).reshape(rows, blocks * 4)[:, :columns]
    probability = ((words >> np.uint64(9)).astype(np.float64) + 0.5) * 2.0**-24
    size = -special.ndtri(probability)
    return np.asarray(np.where(words & np.uint64(1), -size, size))
