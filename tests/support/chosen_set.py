"""Which tests a short run makes: every test function, and of its parameters every value at least once.

A function with parameters a, b, ... is called for few of their combinations: greedily, the one with most values that no
chosen one has yet. Problems, which have `features`, count as their pattern, normalizer, dtype, layout and so on.
"""

from collections import defaultdict

import torch

PLAIN = (str, bytes, bool, int, float, type(None), torch.dtype, type)


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


def chosen(items):
    """These of `items`, in their order."""
    functions = defaultdict(list)
    for place, item in enumerate(items):
        functions[item.nodeid.partition("[")[0]].append((place, features(item)))
    kept = sorted(place for calls in functions.values() for place in cover(calls))
    return [items[place] for place in kept]


def cover(calls):
    """Of pairs (place, set) the places of some whose sets have every element; at least one."""
    missing = frozenset().union(*(has for _, has in calls))
    places = []
    while missing or not places:
        place, has = max(calls, key=lambda call: (len(call[1] & missing), -call[0]))
        places.append(place)
        missing -= has
    return places
