"""How the tensors of patterns are made: without synchronisation, under torch.compile, cached, and shared by threads."""

import threading

import pytest
import torch
import torch._dynamo.testing
from torch._subclasses import FakeTensorMode

from splash_attention.patterns import (
    BigBird,
    BlockMask,
    Dilated,
    ElementMask,
    Extent,
    IndexCausal,
    Longformer,
    cache,
    top_k_blocks,
)
from splash_attention.reference import dense_mask

CPU = torch.device("cpu")
LENGTHS = (130, 200, 256, 333, 500)
pytestmark = pytest.mark.usefixtures("one_thread")


def draw(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(len(shape))) < 0.5


def sparse(length):
    """Every row keeps two columns."""
    crow = torch.arange(length + 1) * 2
    col = torch.stack([torch.arange(length), torch.arange(length) * 7 % length], 1).flatten()
    return crow, col


def offsets(length):
    return (torch.tensor([0, length // 3, length // 3, length], dtype=torch.int32),)


def no_tensors(length):
    return ()


BUILDS = {
    "dilated": (no_tensors, lambda q: Dilated(5, (1, 2, 3, 4))),
    "longformer": (no_tensors, lambda q: Longformer(5, (1, 200, 31))),
    "big_bird": (no_tensors, lambda q: BigBird(16, per_head=True)),
    "big_bird causal": (no_tensors, lambda q: BigBird(64, causal=True, length=5000)),
    "block mask": (lambda n: (draw(-(-n // 16), -(-n // 16)),), lambda q, mask: BlockMask(mask, 16)),
    "element mask": (lambda n: (draw(n, n),), lambda q, mask: ElementMask(mask)),
    "sparse rows": (sparse, lambda q, crow, col: ElementMask.from_csr(crow, col, q.shape[2], q.shape[2])),
    "indices": (lambda n: (torch.arange(n), torch.arange(n) // 2), lambda q, *indices: IndexCausal(*indices)),
    "chosen blocks": (no_tensors, lambda q: top_k_blocks(q, q, 16, 3)),
}


def encode(make, q, *tensors, cu_seqlens=None):
    extent = Extent(*q.shape[:3], q.shape[2], q.device)
    if cu_seqlens is not None:
        ends = {"cu_seqlens_q": cu_seqlens, "cu_seqlens_k": cu_seqlens, "rows": q.shape[2], "columns": q.shape[2]}
        extent = extent._replace(**ends)
    return make(q, *tensors).encode(extent).tensors


def decode(tensors, length):
    """What ElementMask's tensors keep, whatever number of tiles they carry."""
    _, _, index, words = tensors
    bits = (words[..., None] >> torch.arange(32, dtype=torch.int32) & 1).bool().flatten(-2)
    tiles = torch.cat([bits, torch.ones(1, 64, 64, dtype=torch.bool), torch.zeros(1, 64, 64, dtype=torch.bool)])
    picked = tiles[torch.where(index == -2, len(words), torch.where(index == -1, len(words) + 1, index.long()))]
    return picked.transpose(3, 4).flatten(4, 5).flatten(2, 3)[..., :length, :length]


@pytest.mark.parametrize("name", BUILDS)
def test_one_graph_serves_all_lengths(name):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    make_tensors, make = BUILDS[name]
    compiled = torch.compile(lambda q, *t: encode(make, q, *t), fullgraph=True, dynamic=True, backend=counter)
    for length in LENGTHS:
        q, tensors = torch.randn(1, 4, length, 8), make_tensors(length)
        traced, eager = compiled(q, *tensors), encode(make, q, *tensors)
        assert [t.dtype for t in traced] == [t.dtype for t in eager]
        if name in ("element mask", "sparse rows"):  # graphs cannot count the partial tiles
            assert torch.equal(decode(traced, length), decode(eager, length))
            assert all(torch.equal(a, b) for a, b in zip(traced[:2], eager[:2], strict=True))
        else:
            assert all(torch.equal(a, b) for a, b in zip(traced, eager, strict=True))
    assert counter.frame_count <= 2


def test_one_graph_serves_packed_sequences():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")

    def build(q, cu_seqlens):
        return encode(lambda q: BigBird(16, random=2), q, cu_seqlens=cu_seqlens)

    compiled = torch.compile(build, fullgraph=True, dynamic=True, backend=counter)
    for length in LENGTHS:
        q = torch.randn(3, 4, length, 8)
        for ours, theirs in zip(compiled(q, *offsets(length)), build(q, *offsets(length)), strict=True):
            assert torch.equal(ours, theirs)
    assert counter.frame_count <= 2


def test_graphs_of_core_operations_draw_the_same_blocks():
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda q: encode(lambda q: BigBird(16, seed=2**63 + 1), q), fullgraph=True, backend="aot_eager_decomp_partition"
    )
    q = torch.randn(1, 2, 500, 8)
    for ours, theirs in zip(compiled(q), encode(lambda q: BigBird(16, seed=2**63 + 1), q), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", BUILDS)
def test_nothing_looks_at_values_where_there_are_none(name):
    """Fake tensors raise where Python asks for a value, as a synchronisation with a device does."""
    make_tensors, make = BUILDS[name]
    with FakeTensorMode() as mode:
        q = torch.randn(1, 4, 300, 8)
        fake = encode(make, q, *(mode.from_tensor(t) for t in make_tensors(300)))
        assert all(isinstance(t, torch._subclasses.FakeTensor) for t in fake)
    real = encode(make, torch.randn(1, 4, 300, 8), *make_tensors(300))  # and nothing of it was kept
    assert all(type(t) is torch.Tensor for t in real)


def same_tensors(name, length, on_device, on_cpu):
    on_device = [t.cpu() for t in on_device]
    if name in ("element mask", "sparse rows"):  # devices do not count the partial tiles
        assert torch.equal(decode(on_device, length), decode(on_cpu, length))
        on_device, on_cpu = on_device[:2], on_cpu[:2]
    assert all(torch.equal(a, b) for a, b in zip(on_device, on_cpu, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("name", BUILDS)
def test_nothing_waits_for_the_device(name):
    make_tensors, make = BUILDS[name]
    q = torch.randn(1, 4, 700, 8, device="cuda")
    encode(make, q[:, :, :640], *(t.cuda() for t in make_tensors(640)))  # numbers travel once, and that waits
    tensors = [t.cuda() for t in make_tensors(700)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = encode(make, q, *tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    same_tensors(name, 700, found, encode(make, q.cpu(), *make_tensors(700)))


@pytest.mark.gpu
@pytest.mark.parametrize("name", BUILDS)
def test_metadata_is_captured_in_a_graph(name):
    make_tensors, make = BUILDS[name]
    q = torch.randn(1, 4, 500, 8, device="cuda")
    tensors = [t.cuda() for t in make_tensors(500)]
    encode(make, q, *tensors)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = encode(make, q, *tensors)
    graph.replay()
    same_tensors(name, 500, found, encode(make, q.cpu(), *make_tensors(500)))


@pytest.mark.parametrize(
    "make", [lambda: Dilated(3, (1, 5)), lambda: Longformer(3, (2, 9)), lambda: BigBird(8, seed=77)]
)
def test_tensors_of_numbers_are_made_once(make):
    extent = Extent(1, 2, 90, 90, CPU)
    first, second = make().tensors(extent), make().tensors(extent)
    assert all(a is b for a, b in zip(first, second, strict=True))
    with torch.inference_mode():
        inside = make().tensors(Extent(1, 2, 91, 91, CPU))
    assert not any(t.is_inference() for t in inside)


def test_the_cache_forgets(monkeypatch):
    monkeypatch.setattr(cache, "_ENTRIES", 3)
    made = []

    def build(key):
        return cache.cached(("a test", key), lambda: made.append(key) or [torch.tensor(key)])[0].item()

    assert [build(key) for key in (1, 2, 1, 3, 4, 1, 2)] == [1, 2, 1, 3, 4, 1, 2]
    assert made == [1, 2, 3, 4, 2]
    monkeypatch.setattr(cache, "_BYTES", 7)
    assert build(9) == 9 and build(9) == 9 and made[-2:] == [9, 9]


def test_threads_share_the_cache():
    results, failures = {}, []

    def work(number):
        try:
            for seed in range(40):
                results[number, seed] = BigBird(8, seed=seed).tensors(Extent(1, 1, 200, 200, CPU))[0]
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    for seed in range(40):
        assert all(torch.equal(results[0, seed], results[number, seed]) for number in range(1, 4))


def test_the_reference_names_what_it_does_not_know():
    class Even(BigBird):
        pass

    with pytest.raises(TypeError, match="reference: no formula for Even"):
        dense_mask(Even(), torch.zeros(1, 1, 1, 1), torch.zeros(1))
