"""Views that hold the numbers of a tensor (B, H, N, D) in other ways; all have a unit last stride."""


def transposed(t):
    """A (B, N, H, D) tensor seen as (B, H, N, D)."""
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def sliced(t):
    """A part of a larger buffer of NaN: every stride is larger than the shape says."""
    batch, heads, length, dim = t.shape
    buffer = t.new_full((batch, length + 3, heads, dim + 16), float("nan"))
    view = buffer[:, 1 : 1 + length, :, 8 : 8 + dim].transpose(1, 2)
    return view.copy_(t)


def expanded(dim):
    """The first entry along a dimension for all of them, by stride 0."""
    return lambda t: t.narrow(dim, 0, 1).expand(t.shape) if t.shape[dim] else t


def odd_strides_of_ones(t):
    """Strides that no tensor map takes, along dimensions of size 1, where they mean nothing."""
    strides = [
        7 if size == 1 and n < 3 else stride for n, (size, stride) in enumerate(zip(t.shape, t.stride(), strict=True))
    ]
    return t.as_strided(t.shape, strides)


LAYOUTS = {
    "bhnd": lambda t: t,
    "bnhd": transposed,
    "sliced": sliced,
    "expanded": expanded(1),
    "expanded-batch": expanded(0),
    "expanded-rows": expanded(2),
    "odd-ones": odd_strides_of_ones,
}
SHARED = {"expanded": 1, "expanded-batch": 0, "expanded-rows": 2}
"""The dimension along which a layout has one entry for all."""
