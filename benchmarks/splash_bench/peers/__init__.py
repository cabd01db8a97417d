"""splash and its peers, each behind the interface of base.Peer."""

from __future__ import annotations

from .adasplash import Adasplash
from .base import Peer
from .dense import TorchDense
from .flash4 import Flash4
from .flex import Flex
from .sdpa import SDPA
from .sparse import TorchSparse
from .splash import Splash, SplashDense

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Splash(),
        SplashDense(),
        SDPA("sdpa", None),
        SDPA("sdpa-causal", None, causal=True),
        SDPA("sdpa-flash", "FLASH_ATTENTION"),
        SDPA("sdpa-efficient", "EFFICIENT_ATTENTION"),
        SDPA("sdpa-cudnn", "CUDNN_ATTENTION"),
        TorchDense(),
        TorchSparse(),
        Flex(),
        Adasplash(),
        Flash4(),
    )
}
DEFAULT = {
    "cpu": ["splash", "sdpa"],
    "cuda": ["splash", "sdpa-flash", "sdpa-cudnn", "flex", "adasplash", "fa4"],
}
"""What runs where the command line names no peer: what says most for the time it takes."""


def choose(names: list[str] | None, device: str) -> list[Peer]:
    """The named peers, "all" of them, or the default ones. ValueError for an unknown name."""
    if not names:
        names = DEFAULT[device]
    if "all" in names:
        return list(PEERS.values())
    for name in names:
        if name not in PEERS:
            raise ValueError(f"peer: expected one of all, {', '.join(PEERS)}, got {name!r}")
    return [PEERS[name] for name in dict.fromkeys(names)]


__all__ = ["PEERS", "Peer", "choose"]
