"""A batch entry of its own length, behind padding, in a cache or packed, is what the same sequence is alone."""

import pytest
import torch
import torch._dynamo.testing

import splash_attention as sa

HEADS, KV_HEADS, DIM, N = 4, 2, 16, 330
LENGTHS = (330, 200, 1, 0, 129, 64)
DRAWN = torch.rand(len(LENGTHS), HEADS, N, N, generator=torch.Generator().manual_seed(1))
INDEX = torch.randint(0, N, (len(LENGTHS), HEADS, N), generator=torch.Generator().manual_seed(2))
pytestmark = pytest.mark.usefixtures("one_thread")


def fixed(pattern):
    return lambda entries, Nq, Nk, device: pattern


def joined(*makers):
    def make(*problem):
        terms = [maker(*problem) for maker in makers]
        pattern = terms[0]
        for term in terms[1:]:
            pattern = pattern & term
        return pattern

    return make


def blocks(block):
    def make(entries, Nq, Nk, device):
        mask = DRAWN[entries, :, : -(-Nq // block), : -(-Nk // block)] < 0.5
        return sa.BlockMask(mask.to(device), block)

    return make


def elements(entries, Nq, Nk, device):
    return sa.ElementMask((DRAWN[entries, :, :Nq, :Nk] < 0.6).to(device))


def keys_mask(entries, Nq, Nk, device):
    return sa.ElementMask((DRAWN[entries, :1, :1, :Nk] < 0.6).to(device))


def indices(entries, Nq, Nk, device):
    return sa.IndexCausal(INDEX[entries, :, :Nq].to(device), INDEX[entries, :, :Nk].flip(1).to(device))


BY_POSITION = {
    "full": fixed(sa.Full()),
    "causal": fixed(sa.Causal()),
    "window": fixed(sa.SlidingWindow(30, 7)),
    "streaming": fixed(sa.Streaming(5, 40)),
    "diagonal": fixed(sa.BlockDiagonal(50)),
    "diagonal causal": fixed(sa.BlockDiagonal(64, causal=True)),
    "dilated": fixed(sa.Dilated(20, 3)),
    "dilated both": fixed(sa.Dilated(9, 4, causal=False)),
    "dilated heads": fixed(sa.Dilated(9, (1, 2, 4, 8))),
    "strided": fixed(sa.Strided(20, 9)),
    "fixed": fixed(sa.Fixed(24, 5)),
    "longformer": fixed(sa.Longformer(20, 3)),
    "longformer dilated": fixed(sa.Longformer(9, 2, dilation=3)),
    "longformer tokens": fixed(sa.Longformer(10, (0, 90, 131, 400))),
    "longformer causal": fixed(sa.Longformer(10, (2, 150), causal=True)),
    "bigbird": fixed(sa.BigBird(16)),
    "bigbird 64": fixed(sa.BigBird(seed=3)),
    "bigbird odd": fixed(sa.BigBird(7, 1, first=0, last=2, random=5)),
    "bigbird heads": fixed(sa.BigBird(16, random=2, per_head=True)),
    "bigbird causal": fixed(sa.BigBird(16, last=2, causal=True)),
    "bigbird & window": fixed(sa.BigBird(32, per_head=True) & sa.SlidingWindow(90, None)),
    "bigbird & bigbird & causal": fixed(sa.BigBird(32) & sa.BigBird(16, window=9, random=9) & sa.Causal()),
}
BY_ROW = {
    "blocks": blocks(32),
    "blocks 64 & causal": joined(blocks(64), fixed(sa.Causal())),
    "elements": elements,
    "mask of keys": keys_mask,
    "indices": indices,
    "bigbird & elements": joined(fixed(sa.BigBird(16)), elements),
    "bigbird & blocks & indices": joined(fixed(sa.BigBird(16, random=9)), blocks(64), indices),
}
PATTERNS = {**BY_POSITION, **BY_ROW}

DTYPE = {"cpu": torch.float32, "cuda": torch.float16}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-2}


def tensors(rows, columns, device):
    generator = torch.Generator().manual_seed(7)
    sizes = (HEADS, rows), (KV_HEADS, columns), (KV_HEADS, columns), (HEADS, rows)
    drawn = (torch.randn(len(LENGTHS), *size, DIM, generator=generator) for size in sizes)
    return [tensor.to(device, DTYPE[device]) for tensor in drawn]


def assert_close(got, want, **options):
    torch.testing.assert_close(got, want, atol=TOLERANCE[got.dtype], rtol=0, **options)


def with_gradients(q, k, v, grad, call):
    q, k, v = (t.detach().clone().requires_grad_() for t in (q, k, v))
    out = call(q, k, v)
    return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def assert_equal(got, want, text):
    for name, ours, theirs in zip(("out", "dq", "dk", "dv"), got, want, strict=True):
        assert ours.shape == theirs.shape
        assert_close(ours, theirs, msg=lambda m, name=name: f"{name} of {text}: {m}")


@pytest.mark.parametrize("name", PATTERNS)
def test_lengths(name, device):
    q, k, v, grad = tensors(N, N, device)
    lengths = torch.tensor(LENGTHS, device=device)
    pattern = PATTERNS[name](slice(None), N, N, device)
    padded = with_gradients(q, k, v, grad, lambda *qkv: sa.attention(*qkv, pattern, lengths=lengths))
    for b, length in enumerate(LENGTHS):
        entry = slice(b, b + 1)
        alone = with_gradients(
            *(t[entry, :, :length] for t in (q, k, v, grad)),
            lambda *qkv, entry=entry, n=length: sa.attention(*qkv, PATTERNS[name](entry, n, n, device)),
        )
        assert_equal([t[entry, :, :length] for t in padded], alone, f"length {length}")
        assert not any(t[entry, :, length:].any() for t in padded)


@pytest.mark.parametrize("queries", [1, 37])
@pytest.mark.parametrize("name", PATTERNS)
def test_kv_lengths(name, queries, device):
    q, k, v, grad = tensors(queries, N, device)
    held = torch.tensor(LENGTHS, device=device)
    pattern = PATTERNS[name](slice(None), queries, N, device)
    padded = with_gradients(q, k, v, grad, lambda *qkv: sa.attention(*qkv, pattern, kv_lengths=held))
    for b, length in enumerate(LENGTHS):
        entry = slice(b, b + 1)
        own = q[entry], k[entry, :, :length], v[entry, :, :length], grad[entry]
        of_entry = PATTERNS[name](entry, queries, length, device)
        alone = with_gradients(*own, lambda *qkv, of_entry=of_entry: sa.attention(*qkv, of_entry))
        got = [padded[0][entry], padded[1][entry], *(t[entry, :, :length] for t in padded[2:])]
        assert_equal(got, alone, f"cache of {length}")
        assert not any(t[entry, :, length:].any() for t in padded[2:])


@pytest.mark.parametrize("name", BY_POSITION)
def test_packed(name, device):
    q, k, v, grad = tensors(N, N, device)
    rows = [(b, slice(0, length)) for b, length in enumerate(LENGTHS)]
    packed = [torch.cat([t[b][:, own] for b, own in rows], 1).transpose(0, 1).contiguous() for t in (q, k, v, grad)]
    ends = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)], dtype=torch.int32, device=device)
    pattern = BY_POSITION[name](slice(None), N, N, device)
    got = with_gradients(*packed, lambda *qkv: sa.attention_varlen(*qkv, ends, ends, N, N, pattern))
    lengths = torch.tensor(LENGTHS, device=device)
    padded = with_gradients(q, k, v, grad, lambda *qkv: sa.attention(*qkv, pattern, lengths=lengths))
    want = [torch.cat([t[b][:, own] for b, own in rows], 1).transpose(0, 1) for t in padded]
    assert_equal(got, want, "packed sequences")


@pytest.mark.parametrize("per_head", [False, True])
def test_a_given_length_overrides(per_head, device):
    """What every entry then is a part of."""
    q, k, v, grad = tensors(N, N, device)
    pattern = sa.BigBird(16, per_head=per_head, length=500)
    lengths = torch.tensor(LENGTHS, device=device)
    padded = with_gradients(q, k, v, grad, lambda *qkv: sa.attention(*qkv, pattern, lengths=lengths))
    for b, length in enumerate(LENGTHS):
        own = [t[b : b + 1, :, :length] for t in (q, k, v, grad)]
        alone = with_gradients(*own, lambda *qkv: sa.attention(*qkv, pattern))
        assert_equal([t[b : b + 1, :, :length] for t in padded], alone, f"length {length}")


def test_slices_with_lengths(device):
    """lengths are those of whole sequences, of which q, k and v are a part."""
    q, k, v, _ = tensors(N, N, device)
    lengths, pattern = torch.tensor(LENGTHS, device=device), sa.BigBird(16)

    def part(k_start):
        keys = slice(k_start, k_start + 110)
        options = {"lengths": lengths, "q_start": 80, "k_start": k_start, "return_statistic": True}
        return sa.attention(q[:, :, 80:190], k[:, :, keys], v[:, :, keys], pattern, **options)

    merged, _ = sa.merge(*sa.merge(*part(0), *part(110)), *part(220))
    whole = sa.attention(q, k, v, pattern, lengths=lengths)
    assert_close(merged, whole[:, :, 80:190])


def test_prepared_with_other_lengths(device):
    q, k, v, _ = tensors(N, N, device)
    prepared = sa.prepare(sa.BigBird(16) & sa.Causal(), q, k)
    for options in (
        {"lengths": torch.tensor(LENGTHS, device=device)},
        {"kv_lengths": torch.tensor(LENGTHS, device=device)},
        {"q_start": 40},
        {},
    ):
        want = sa.attention(q, k, v, sa.BigBird(16) & sa.Causal(), **options)
        assert torch.equal(sa.attention(q, k, v, prepared, **options), want)
    prepared = sa.prepare(sa.BigBird(16, length=800), q, k, q_start=400)
    want = sa.attention(q, k, v, sa.BigBird(16, length=800), q_start=400)
    assert torch.equal(sa.attention(q, k, v, prepared, q_start=400), want)


@pytest.mark.parametrize("name", ["lengths", "kv_lengths"])
@pytest.mark.parametrize(
    "pattern", [sa.BigBird(16) & sa.Causal(), sa.Longformer(9, (0, 40)), sa.SlidingWindow.causal(9)]
)
def test_prepared_with_lengths(pattern, name, device, monkeypatch):
    """Metadata is built once for the very lengths, and anew for all others."""
    q, k, v, _ = tensors(N, N, device)
    lengths = torch.tensor(LENGTHS, device=device, dtype=torch.int32)
    prepared = sa.prepare(pattern, q, k, **{name: lengths})
    built = []
    encode = type(pattern).encode
    monkeypatch.setattr(type(pattern), "encode", lambda self, extent: built.append(1) or encode(self, extent))

    def check(count, **options):
        built.clear()
        got = sa.attention(q, k, v, prepared, **options)
        assert len(built) == (count if pattern.by_place else 0)
        assert torch.equal(got, sa.attention(q, k, v, pattern, **options))

    check(0, **{name: lengths})
    check(1, **{name: lengths.clone()})
    check(1)
    check(1, **{"kv_lengths" if name == "lengths" else "lengths": lengths})
    lengths[0] -= 1
    check(1, **{name: lengths})
    with pytest.raises(ValueError, match=f"{name}: expected values from 0 to"):
        sa.prepare(pattern, q, k, **{name: torch.full_like(lengths, N + 1)})


@pytest.mark.parametrize("share_group", [False, True])
@pytest.mark.parametrize("block", [16, (32, 64), (64, 16)])
def test_chosen_blocks(block, share_group, device):
    q, k, v, _ = tensors(N, N, device)
    lengths = torch.tensor(LENGTHS, device=device)
    chosen = sa.top_k_blocks(q, k, block, 3, share_group, lengths=lengths)
    padded = sa.attention(q, k, v, chosen, lengths=lengths)
    few = q[:, :, :37].contiguous()
    cached = sa.attention(
        few, k, v, sa.top_k_blocks(few, k, block, 3, share_group, kv_lengths=lengths), kv_lengths=lengths
    )
    for b, n in enumerate(LENGTHS):
        own = [t[b : b + 1, :, :n] for t in (q, k, v)]
        alone = sa.attention(*own, sa.top_k_blocks(*own[:2], block, 3, share_group))
        assert_close(padded[b : b + 1, :, :n], alone)
        alone = sa.attention(few[b : b + 1], *own[1:], sa.top_k_blocks(few[b : b + 1], own[1], block, 3, share_group))
        assert_close(cached[b : b + 1], alone)


@pytest.mark.parametrize("causal", [False, True])
def test_longnet(causal, device):
    q, k, v, grad = tensors(N, N, device)
    lengths, segments = torch.tensor(LENGTHS, device=device), ((64, 1), (100, 3), (256, 4))
    padded = with_gradients(q, k, v, grad, lambda *qkv: sa.longnet_attention(*qkv, segments, causal, lengths=lengths))
    for b, n in enumerate(LENGTHS):
        own = [t[b : b + 1, :, :n] for t in (q, k, v, grad)]
        alone = with_gradients(*own, lambda *qkv: sa.longnet_attention(*qkv, segments, causal))
        assert_equal([t[b : b + 1, :, :n] for t in padded], alone, f"length {n}")


@pytest.mark.parametrize("name", ["bigbird", "bigbird heads", "bigbird & elements"])
def test_vmap(name):
    """Mapped lengths: each call of the map has its own."""
    q, k, v, _ = tensors(N, N, "cpu")
    lengths = torch.tensor(LENGTHS)
    pattern = sa.BigBird(16, per_head="heads" in name)
    if "elements" in name:
        pattern = pattern & elements(slice(0, 1), N, N, "cpu")

    def one(q, k, v, length):
        return sa.attention(q[None], k[None], v[None], pattern, lengths=length[None])[0]

    mapped = torch.vmap(one)(q, k, v, lengths)
    assert torch.equal(mapped, torch.stack([one(*entry) for entry in zip(q, k, v, lengths, strict=True)]))


def test_compiled():
    torch._dynamo.reset()
    q, k, v, _ = tensors(N, N, "cpu")
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")

    def call(q, k, v, lengths, held):
        few = sa.attention(q[:, :, :5], k, v, sa.BigBird(16), kv_lengths=held)
        return sa.attention(q, k, v, sa.BigBird(16), lengths=lengths), few

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=counter)
    for n in (330, 200, 129, 65):
        lengths = torch.tensor(LENGTHS).clamp(max=n)
        part = [t[:, :, :n].contiguous() for t in (q, k, v)]
        for got, want in zip(compiled(*part, lengths, lengths), call(*part, lengths, lengths), strict=True):
            assert torch.equal(got, want)
    assert counter.frame_count <= 2
