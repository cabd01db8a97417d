"""torch.ops.splash.longnet_mix against a gather and a softmax over the parts, and what Torch asks of an operator."""

import pytest
import torch

import splash_attention  # noqa: F401 -- registers the operators

MIX = torch.ops.splash.longnet_mix.default
SPLIT = torch.ops.splash.longnet_mix_backward.default
# (w, r, first residue, residues) of each part; 4 heads, 30 tokens
PARTS = {
    "one": [(30, 1, 0, 1)],
    "two": [(8, 1, 0, 1), (30, 2, 0, 2)],
    "ragged": [(30, 4, 0, 2), (30, 4, 2, 2), (10, 3, 0, 1), (10, 3, 1, 1), (10, 3, 2, 1)],
    "holes": [(20, 4, 1, 1), (9, 5, 3, 1)],
    "many": [(7 + n, 1, 0, 1) for n in range(40)],
}
HEADS, TOKENS = 4, 30
BOUNDS = {torch.float64: 1e-13, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def own_tokens(w, r, residue):
    return [n for n in range(TOKENS) if n % w % r == residue and n % w >= residue]


def draw(parts, dtype, device="cpu", dim=16, batch=2):
    """The operator's arguments, with a row of padding (-inf) in each part and NaN in its output there."""
    generator = torch.Generator().manual_seed(len(parts))
    real = torch.float64 if dtype is torch.float64 else torch.float32
    outs, lses = [], []
    for w, r, first, residues in parts:
        shape = batch, residues, len(range(first, HEADS, r)), len(own_tokens(w, r, first))
        lse = torch.randn(shape, generator=generator, dtype=real) * 3
        out = torch.randn(*shape, dim, generator=generator).to(dtype)
        lse[..., -1] = -torch.inf
        out[..., -1, :] = torch.nan
        outs.append(out.to(device))
        lses.append(lse.to(device))
    return outs, lses, [n for part in parts for n in part[:3]], HEADS, TOKENS


def places(parts):
    """Of each part: the entry, the head and the token of each of its rows."""
    for n, (w, r, first, residues) in enumerate(parts):
        for i in range(residues):
            for g, head in enumerate(range(first + i, HEADS, r)):
                for t, token in enumerate(own_tokens(w, r, first + i)):
                    yield (n, i, g, t), head, token


def plain(parts, outs, lses):
    """The operator in float64, and the weights of each part's rows."""
    batch, dim = outs[0].shape[0], outs[0].shape[-1]
    spread = torch.full((len(parts), batch, HEADS, TOKENS), -torch.inf, dtype=torch.float64)
    rows = torch.zeros(len(parts), batch, HEADS, TOKENS, dim, dtype=torch.float64)
    for (n, i, g, t), head, token in places(parts):
        spread[n, :, head, token] = lses[n][:, i, g, t]
        rows[n, :, head, token] = outs[n][:, i, g, t].nan_to_num().double()
    weights = torch.softmax(spread, 0).nan_to_num(0)
    gathered = [torch.zeros(lse.shape, dtype=torch.float64) for lse in lses]
    for (n, i, g, t), head, token in places(parts):
        gathered[n][:, i, g, t] = weights[n, :, head, token]
    return (weights[..., None] * rows).sum(0), gathered


def split(parts, gradient, weights):
    want = [weight[..., None] * torch.ones(gradient.shape[-1]) for weight in weights]
    for (n, i, g, t), head, token in places(parts):
        want[n][:, i, g, t] *= gradient[:, head, token].nan_to_num().double()
    return want


def on_devices(dtypes):
    for dtype in dtypes:
        yield pytest.param(dtype, "cpu", id=f"{dtype}-cpu")
        if dtype is not torch.float64:
            yield pytest.param(dtype, "cuda", id=f"{dtype}-cuda", marks=pytest.mark.gpu)


@pytest.mark.parametrize("dim", [16, 5, 40, 256])
@pytest.mark.parametrize("dtype, device", list(on_devices(BOUNDS)))
@pytest.mark.parametrize("parts", PARTS)
def test_against_plain(parts, dtype, device, dim):
    parts = PARTS[parts]
    outs, lses, *rest = draw(parts, dtype, device, dim)
    want, weights = plain(parts, [out.cpu() for out in outs], [lse.cpu() for lse in lses])
    got = MIX(outs, lses, *rest)
    assert got.dtype is dtype and got.shape == want.shape
    assert (got.cpu().double() - want).abs().max() <= BOUNDS[dtype] * max(1, want.abs().max())

    gradient = torch.randn(want.shape, generator=torch.Generator().manual_seed(5)).to(dtype)
    gradient[:, :, -1] = torch.nan  # padding in most parts, and no gradient there
    gradients = SPLIT(gradient.to(device), lses, rest[0])
    for part, mine, right, lse in zip(parts, gradients, split(parts, gradient, weights), lses, strict=True):
        padding = (lse == -torch.inf).cpu()
        assert (mine.cpu()[padding] == 0).all()
        real = ~padding & torch.tensor([token < TOKENS - 1 for token in own_tokens(*part[:3])])
        assert (mine.cpu().double() - right)[real].abs().max() <= BOUNDS[dtype] * 4


def test_extreme_log_sum_exps(device):
    """Shares stay finite at any magnitude; one part alone counts in full."""
    parts = PARTS["two"]
    for low, high in ((-1e30, 1e30), (-3e4, -2.9e4), (1e4, 1e4)):
        outs, lses, *rest = draw(parts, torch.float32, device)
        outs = [out.nan_to_num(1) for out in outs]
        lses = [torch.full_like(lses[0], low), torch.full_like(lses[1], high)]
        want, _ = plain(parts, [out.cpu() for out in outs], [lse.cpu() for lse in lses])
        assert (MIX(outs, lses, *rest).cpu() - want).abs().max() <= 1e-5


def test_opcheck(device):
    for parts in ("ragged", "holes"):
        outs, lses, *rest = draw(PARTS[parts], torch.float32, device)
        outs = [out.nan_to_num(0).requires_grad_() for out in outs]
        torch.library.opcheck(MIX, (outs, lses, *rest))
        grad = torch.randn(2, HEADS, TOKENS, 16, device=device)
        torch.library.opcheck(SPLIT, (grad, lses, rest[0]))


def test_strided(device):
    """Any strides with a unit last one, and others at the price of a copy."""
    parts = PARTS["ragged"]
    outs, lses, *rest = draw(parts, torch.bfloat16, device)
    want = MIX(outs, lses, *rest)
    for turn in (
        lambda out: out.transpose(0, 3).contiguous().transpose(0, 3),
        lambda out: out.transpose(0, 4).contiguous().transpose(0, 4),
        lambda out: torch.nn.functional.pad(out, (3, 2))[..., 3:-2],
    ):
        assert torch.equal(MIX([turn(out) for out in outs], lses, *rest), want)
    lses = [lse.transpose(0, 3).contiguous().transpose(0, 3) for lse in lses]
    assert torch.equal(MIX(outs, lses, *rest), want)
    grad = torch.randn(2, HEADS, TOKENS, 16, device=device)
    for a, b in zip(SPLIT(grad.mT.contiguous().mT, lses, rest[0]), SPLIT(grad, lses, rest[0]), strict=True):
        assert torch.equal(a, b)


def test_vmap():
    outs, lses, *rest = draw(PARTS["two"], torch.float64, batch=6)
    want = MIX(outs, lses, *rest)
    outs, lses = ([tensor.unflatten(0, (3, 2)) for tensor in tensors] for tensors in (outs, lses))
    got = torch.func.vmap(lambda outs, lses: MIX(outs, lses, *rest))(outs, lses)
    assert torch.equal(got.flatten(0, 1), want)


def test_second_derivatives_are_refused():
    outs, lses, *rest = draw(PARTS["two"], torch.float64)
    outs = [out.requires_grad_() for out in outs]
    grad = torch.autograd.grad(MIX(outs, lses, *rest).sum(), outs[0], torch.tensor(1.0).double(), create_graph=True)
    assert not grad[0].requires_grad  # the gradient is linear: weights have none
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad((MIX(outs, lses, *rest) * weight).nansum(), outs[0], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        grad.sum().backward()


def change(place, edit):
    arguments = list(draw(PARTS["two"], torch.float32))
    arguments[place] = edit(arguments[place])
    return arguments


BAD = {
    "no outs": (change(0, lambda outs: []), "ValueError: outs is empty"),
    "fewer outs": (change(0, lambda outs: outs[:1]), "different lengths"),
    "fewer lses": (change(1, lambda lses: lses[:1]), "numbers for 1"),
    "numbers": (change(2, lambda parts: parts[:-1]), "expected 3 each"),
    "dimensions": (change(0, lambda outs: [outs[0][0], outs[1]]), "5"),
    "lse dimensions": (change(1, lambda lses: [lses[0][0], lses[1]]), "expected 4"),
    "dtypes": (change(0, lambda outs: [outs[0], outs[1].half()]), "TypeError: outs have different dtypes"),
    "integers": (change(0, lambda outs: [out.nan_to_num().int() for out in outs]), "TypeError"),
    "lse dtype": (change(1, lambda lses: [lse.double() for lse in lses]), "TypeError: lses.0. must be float32"),
    "head dims": (change(0, lambda outs: [outs[0], outs[1][..., :8]]), "different head dimensions"),
    "batch": (change(0, lambda outs: [outs[0], outs[1][:1]]), "ValueError: part 1"),
    "lse shape": (change(1, lambda lses: [lses[0], lses[1][:, :, :, 1:]]), "of different shapes"),
    "zero segment": (change(2, lambda parts: [0, *parts[1:]]), "1 to 2"),
    "huge rate": (change(2, lambda parts: [*parts[:4], 2**31, 0]), "1 to 2"),
    "residue": (change(2, lambda parts: [*parts[:5], 1]), "heads that there are not"),
    "negative residue": (change(2, lambda parts: [*parts[:5], -1]), "heads that there are not"),
    "rate": (change(2, lambda parts: [*parts[:4], 3, 0]), "other heads or tokens"),
    "more heads": (change(3, lambda heads: 8), "other heads or tokens"),
    "more tokens": (change(4, lambda tokens: 31), "other heads or tokens"),
    "no tokens": (change(4, lambda tokens: -1), "0 or more"),
}


@pytest.mark.parametrize("name", BAD)
def test_refused(name):
    arguments, text = BAD[name]
    with pytest.raises(RuntimeError, match=text):
        MIX(*arguments)


@pytest.mark.gpu
def test_too_many_parts_for_a_launch():
    parts = [(30, 1, 0, 1)] * 129
    outs, lses, *rest = draw(parts, torch.float16, "cuda")
    with pytest.raises(RuntimeError, match="at most 128 calls"):
        MIX(outs, lses, *rest)
    outs, lses, *_ = draw(parts[:128], torch.float16, "cuda")
    want, _ = plain(parts[:128], [out.cpu() for out in outs], [lse.cpu() for lse in lses])
    got = MIX(outs, lses, rest[0][: 3 * 128], HEADS, TOKENS)
    assert (got.cpu().double() - want).abs().max() <= BOUNDS[torch.float16] * max(1, want.abs().max())
