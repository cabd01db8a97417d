"""BigBird's blocks, one row after the other with plain integers."""

from __future__ import annotations

from ..patterns import BigBird

_WORD = 2**32


def big_bird_blocks(pattern: BigBird, length: int, head: int) -> dict[int, frozenset[int]]:
    """The block columns that each block row of [0, length) keeps."""
    blocks = max(0, -(-length // pattern.block))
    return {row: frozenset(_row(pattern, blocks, head if pattern.per_head else 0, row)) for row in range(blocks)}


def _row(pattern: BigBird, blocks: int, head: int, row: int) -> set[int]:
    allowed = range(row + 1 if pattern.causal else blocks)
    if row < pattern.first or row >= blocks - pattern.last:
        return set(allowed)
    kept = {
        column
        for column in allowed
        if abs(column - row) <= pattern.window // 2 or column < pattern.first or column >= blocks - pattern.last
    }
    candidates = [column for column in allowed if column not in kept]
    chosen: list[int] = []
    count = min(pattern.random, len(candidates))
    state = _hash_row(pattern.seed, head, row)
    for number in range(count):
        last = len(candidates) - count + number
        drawn = _scramble((state + (number + 1) * 0x27D4EB2F) % _WORD) * (last + 1) // _WORD
        chosen.append(last if drawn in chosen else drawn)
    return kept | {candidates[index] for index in chosen}


def _hash_row(seed: int, head: int, row: int) -> int:
    high, low = divmod(seed, _WORD)
    state = _scramble(low ^ 0x9E3779B9)
    state = _scramble(state ^ high)
    state = _scramble((state + head * 0x85EBCA6B) % _WORD)
    return _scramble((state + row * 0xC2B2AE35) % _WORD)


def _scramble(word: int) -> int:
    word ^= word >> 16
    word = word * 0x7FEB352D % _WORD
    word ^= word >> 15
    word = word * 0x846CA68B % _WORD
    return word ^ (word >> 16)
