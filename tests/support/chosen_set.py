"""Which tests a short run makes: every test function, and every value of each of its parameters.

Of a function with parameters a, b, ... few combinations run: greedily, the one with most values that no chosen one has
yet. A problem, which has `features`, counts as its pattern, normalizer, dtype, layout and so on. Calls that cost much,
which SLOW lists, stay out; of a file that has no others one runs.
"""

from collections import defaultdict
from pathlib import Path

import torch

SLOW = Path(__file__).resolve().parents[1] / "slow.txt"
SECONDS = 0.7  # of processor time, from which on `pytest --all --write-slow` lists a test
PLAIN = (str, bytes, bool, int, float, type(None), torch.dtype, type)


def slow():
    """{test: seconds}, as measured once."""
    lines = (line.split(maxsplit=1) for line in SLOW.read_text().splitlines())
    return {test: float(seconds) for seconds, test in lines}


def write_slow(seconds):
    """seconds: {test: seconds} of all tests."""
    kept = sorted((test, cost) for test, cost in seconds.items() if cost >= SECONDS)
    SLOW.write_text("".join(f"{cost:.1f} {test}\n" for test, cost in kept))


def plain(value):
    if isinstance(value, (tuple, list, set, frozenset)):
        return all(map(plain, value))
    return isinstance(value, PLAIN)


def features(item):
    """What a call of a test function has, as a set of (parameter, value); other than plain values by their identity."""
    found = set()
    for name, value in item.callspec.params.items() if hasattr(item, "callspec") else ():
        if hasattr(value, "features"):
            found |= {(name, feature) for feature in value.features}
        else:
            found.add((name, repr(value) if plain(value) else id(value)))
    return frozenset(found)


def chosen(items, seconds):
    """These of `items`, in their order. seconds: of the slow ones, by nodeid."""
    functions, files = defaultdict(list), defaultdict(list)
    for place, item in enumerate(items):
        files[item.nodeid.partition("::")[0]].append(place)
        if item.nodeid not in seconds:
            functions[item.nodeid.partition("[")[0]].append((place, features(item)))
    kept = set().union(*map(cover, functions.values()))
    for places in files.values():
        if kept.isdisjoint(places):
            kept.add(min(places, key=lambda place: (seconds[items[place].nodeid], place)))
    return [items[place] for place in sorted(kept)]


def cover(calls):
    """Of pairs (place, set) the places of some whose sets have every element; at least one."""
    missing = frozenset().union(*(has for _, has in calls))
    places = set()
    while missing or not places:
        place, has = max(calls, key=lambda call: (len(call[1] & missing), -call[0]))
        places.add(place)
        missing -= has
    return places
