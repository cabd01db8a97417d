"""Calls whose tensors hold no values: fake tensors, make_fx, torch.export, torch.compile of any length."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mask_inputs import blocks, draw, sparse
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

import splash_attention as sa
from splash_attention import _library, _values
from splash_attention.patterns import cache

pytestmark = pytest.mark.usefixtures("one_thread")
PACKAGE = Path(sa.__file__).parent
LENGTHS = (130, 200, 64, 17, 333, 500, 256, 2, 77, 401)
N = torch.export.Dim("n", min=2, max=8192)


def ends(n):
    return torch.tensor([0, n // 3, n], dtype=torch.int32), n - n // 3


def nothing(n):
    return ()


def with_pattern(make):
    return lambda q, k, v, *tensors: sa.attention(q, k, v, make(q, *tensors))


def with_lengths(pattern):
    return lambda q, k, v, lengths: sa.attention(q, k, v, pattern, lengths=lengths)


def with_cache(q, k, v, kv_lengths):
    return sa.attention(q[:, :, :1], k, v, "causal", kv_lengths=kv_lengths)


def with_packed(pattern):
    def call(q, k, v, cu_seqlens, longest):
        q, k, v = (t[0].transpose(0, 1) for t in (q, k, v))
        return sa.attention_varlen(q, k, v, cu_seqlens, cu_seqlens, longest, longest, pattern)

    return call


def length_of(n):
    return (torch.tensor([n - 1]),)


# What to call, the arguments beside q, k and v of n tokens, and how their sizes depend on n.
CALLS = {
    "causal": (with_pattern(lambda q: sa.Causal()), nothing, ()),
    "dilated": (with_pattern(lambda q: sa.Dilated(5, (1, 2, 3, 4))), nothing, ()),
    "longformer": (with_pattern(lambda q: sa.Longformer(5, (1, 200, 31))), nothing, ()),
    "big_bird": (with_pattern(lambda q: sa.BigBird(16)), nothing, ()),
    "big_bird by head": (with_pattern(lambda q: sa.BigBird(16, per_head=True, causal=True)), nothing, ()),
    "big_bird of a length": (with_pattern(lambda q: sa.BigBird(16, length=5000)), nothing, ()),
    "big_bird, lengths": (with_lengths(sa.BigBird(16)), length_of, ({},)),
    "top_k_blocks": (with_pattern(lambda q: sa.top_k_blocks(q, q, 64, 3)), nothing, ()),
    "block mask": (
        with_pattern(lambda q, mask: sa.BlockMask(mask, 64) & sa.Causal()),
        lambda n: (draw(blocks(n) + 1, blocks(n) + 1)[1:, 1:],),
        ({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO},),
    ),
    "blocks of sparse rows": (
        with_pattern(lambda q, *csr: sa.BlockMask.from_csr(*csr, (blocks(q.shape[2]),) * 2, 64)),
        lambda n: sparse(blocks(n)),
        ({0: torch.export.Dim.AUTO}, {0: torch.export.Dim.AUTO}),
    ),
    "element mask": (with_pattern(lambda q, mask: sa.ElementMask(mask)), lambda n: (draw(n, n),), ({0: N, 1: N},)),
    "sparse rows": (
        with_pattern(lambda q, *csr: sa.ElementMask.from_csr(*csr, q.shape[2], q.shape[2])),
        sparse,
        ({0: N + 1}, {0: 2 * N}),
    ),
    "indices": (
        with_pattern(lambda q, *indices: sa.IndexCausal(*indices)),
        lambda n: (torch.arange(n), torch.arange(n) // 2),
        ({0: N}, {0: N}),
    ),
    "lengths": (with_lengths("causal"), length_of, ({},)),
    "kv_lengths": (with_cache, length_of, ({},)),
    "packed": (with_packed("causal"), ends, ({}, torch.export.Dim.AUTO)),
    "packed big_bird": (with_packed(sa.BigBird(16)), ends, ({}, torch.export.Dim.AUTO)),
    "longnet": (
        lambda q, k, v: sa.longnet_attention(q, k, v, ((64, 1), (128, 2), (200, 3))),
        nothing,
        (),
    ),
}
NEEDS_BLOCKS = ("block mask", "blocks of sparse rows")  # Torch takes a size of 1 in an example for a constant


def draw_qkv(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 4, n, 16, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("name", CALLS)
def test_fake_tensors(name):
    """The fake result is like the real one, with the mode entered or not, and nothing of it stays in the caches."""
    call, others, _ = CALLS[name]
    real = *draw_qkv(300), *others(300)
    cache._kept.clear()
    with FakeTensorMode() as mode:
        fake = tree_map(lambda x: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x, real)
        inside = call(*fake)
    want = call(*real)
    assert type(want) is torch.Tensor
    assert all(type(tensor) is torch.Tensor for made in cache._kept.values() for tensor in made)
    with mode:  # with what is real in the caches
        again = call(*fake)
    for got in (inside, again):
        assert isinstance(got, torch._subclasses.FakeTensor)
        assert (got.shape, got.dtype, got.stride()) == (want.shape, want.dtype, want.stride())


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic", "pre_dispatch"])
def test_make_fx(name, mode):
    """The graph computes what the call does, of other values too."""
    call, others, _ = CALLS[name]
    options = {"pre_dispatch": True} if mode == "pre_dispatch" else {"tracing_mode": mode}
    graph = make_fx(call, **options)(*draw_qkv(300), *others(300))
    arguments = *draw_qkv(300, seed=1), *others(300)
    torch.testing.assert_close(graph(*arguments), call(*arguments))


class Module(torch.nn.Module):
    def __init__(self, call, count):
        super().__init__()
        self.call, self.count = call, count

    def forward(self, q, k, v, first=None, second=None):
        return self.call(q, k, v, *(first, second)[: self.count])


def export(name, n, strict=False):
    call, others, shapes = CALLS[name]
    arguments = *draw_qkv(n), *others(n)
    return torch.export.export(
        Module(call, len(shapes)), arguments, dynamic_shapes=(*({2: N},) * 3, *shapes), strict=strict
    )


@pytest.mark.parametrize("name", CALLS)
def test_export_of_any_length(name):
    """One exported graph serves every length of its range, shorter ones than a block among them."""
    call, others, _ = CALLS[name]
    exported = export(name, 300).module()
    for n in LENGTHS[:6]:
        if name in NEEDS_BLOCKS and n <= 64:
            continue
        arguments = *draw_qkv(n), *others(n)
        torch.testing.assert_close(exported(*arguments), call(*arguments))


@pytest.mark.parametrize("name", ["big_bird", "top_k_blocks", "sparse rows", "lengths", "packed", "longnet"])
def test_strict_export_of_any_length(name):
    call, others, _ = CALLS[name]
    exported = export(name, 300, strict=True).module()
    for n in (77, 500):
        arguments = *draw_qkv(n), *others(n)
        torch.testing.assert_close(exported(*arguments), call(*arguments))


def gradients(call, qkv, others):
    qkv = [t.detach().requires_grad_() for t in qkv]
    out = call(*qkv, *others)
    return out, *torch.autograd.grad(out.square().sum(), qkv)


@pytest.mark.parametrize("name", CALLS)
def test_ten_lengths_take_two_graphs(name):
    call, others, _ = CALLS[name]
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend=counter)
    for n in LENGTHS:
        n = n + 64 if name in NEEDS_BLOCKS else n
        arguments = draw_qkv(n), others(n)
        for got, want in zip(gradients(compiled, *arguments), gradients(call, *arguments), strict=True):
            torch.testing.assert_close(got, want)
    assert counter.frame_count <= 2


SEGMENTS = [((16, 2),), ((8, 1), (32, 4)), ((7, 1), (20, 3), (45, 5)), ((4, 7), (3, 3)), ((12, 3), (12, 3))]


@pytest.mark.parametrize("segments", SEGMENTS, ids=str)
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (5, 5)], ids=str)
def test_longnet_in_a_graph(segments, heads):
    torch._dynamo.reset()

    def call(q, k, v, lengths=None):
        return sa.longnet_attention(q, k, v, segments, lengths=lengths)

    compiled = torch.compile(call, fullgraph=True, dynamic=True, backend="aot_eager")
    generator = torch.Generator().manual_seed(3)
    for n, batch in ((45, 2), (64, 2)):
        qkv = [torch.randn(batch, count, n, 8, generator=generator) for count in (heads[0], heads[1], heads[1])]
        for others in ((), (torch.tensor([n, n // 2]),)):
            for got, want in zip(gradients(compiled, qkv, others), gradients(call, qkv, others), strict=True):
                torch.testing.assert_close(got, want)


OPERATORS = {
    "big_bird": "big_bird_bits",
    "top_k_blocks": "chosen_blocks",
    "block mask": "mask_bits",
    "blocks of sparse rows": "mask_of_csr",
    "element mask": "mask_tiles",
    "sparse rows": "csr_tiles",
    "indices": "index_ranges",
    "longnet": "longnet",
}


@pytest.mark.parametrize("name", OPERATORS)
def test_metadata_is_one_operation_in_a_graph(name):
    call, others, _ = CALLS[name]
    torch._dynamo.reset()
    graphs = []
    compiled = torch.compile(call, fullgraph=True, backend=lambda graph, _: graphs.append(graph) or graph.forward)
    compiled(*draw_qkv(130), *others(130))
    calls = [node for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert any(OPERATORS[name] in str(node.target) for node in calls)
    assert len(calls) < 25


ALONE = """
import sys, torch
torch.ops.load_library(sys.argv[1])
cases = torch.load(sys.argv[2])
for path, kind, calls in cases:
    run = torch._inductor.aoti_load_package(path) if kind == "package" else torch.export.load(path).module()
    for arguments, want in calls:
        torch.testing.assert_close(run(*arguments), want, msg=lambda text: path + ": " + text)
assert not any(name.startswith("splash_attention") for name in sys.modules)
"""


def runs_alone(folder, cases):
    """Runs [(path, "program" or "package", name)] where Torch and libsplash_torch.so are all that there is."""
    kept = []
    for path, kind, name in cases:
        call, others, _ = CALLS[name]
        calls = []
        for n in (300, 77, 130):
            arguments = *draw_qkv(n), *others(n)
            calls.append((arguments, call(*arguments)))
        kept.append((str(path), kind, calls))
    torch.save(kept, folder / "cases.pt")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", ALONE, str(_library.find(_library.OPERATORS)), str(folder / "cases.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]


def test_exported_programs_need_no_python(tmp_path):
    """They hold operators of Torch and of the library, whatever is dynamic."""
    cases = []
    # Torch saves a size that depends on another one of the arguments, and does not load it again.
    for number, name in enumerate(CALLS.keys() - {"block mask"}):
        torch.export.save(export(name, 300), tmp_path / f"{number}.pt2")
        cases.append((tmp_path / f"{number}.pt2", "program", name))
    runs_alone(tmp_path, cases)


@pytest.mark.parametrize("name", ["causal", "big_bird", "block mask", "sparse rows", "longnet"])
def test_packages_of_aot_inductor_need_no_python(name, tmp_path):
    path = tmp_path / "model.pt2"
    torch._inductor.aoti_compile_and_package(export(name, 300), package_path=str(path))
    runs_alone(tmp_path, [(path, "package", name)])


def test_mapped_calls_in_a_graph():
    """torch.vmap inside of torch.compile maps the operators of metadata, too."""
    torch._dynamo.reset()
    masks = torch.stack([draw(70, 70), draw(70, 70).T, torch.ones(70, 70, dtype=torch.bool)])
    q, k, v = (torch.stack([t, t + 1, t - 1]) for t in draw_qkv(70))

    def call(q, k, v, masks):
        return torch.vmap(lambda q, k, v, mask: sa.attention(q, k, v, sa.ElementMask(mask)))(q, k, v, masks)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    want = torch.stack([sa.attention(*one, sa.ElementMask(mask)) for *one, mask in zip(q, k, v, masks, strict=True)])
    torch.testing.assert_close(compiled(q, k, v, masks), want)


def test_values_that_cannot_be_read_are_not_checked_and_others_are():
    q, k, v = draw_qkv(9)
    wrong = torch.tensor([10])
    with pytest.raises(ValueError, match="lengths: expected values from 0 to 9"):
        sa.attention(q, k, v, lengths=wrong)
    with pytest.raises(ValueError, match="lengths: expected values from 0 to 9"):
        torch.func.grad(lambda q: sa.attention(q, k, v, lengths=wrong).sum())(q)
    with torch.inference_mode(), pytest.raises(ValueError, match="lengths: expected values from 0 to 9"):
        sa.attention(q, k, v, lengths=torch.tensor([10]))
    torch.vmap(lambda length: sa.attention(q, k, v, lengths=length[None]))(torch.tensor([10, 3]))


def seen_by(transform):
    """(tracing, readable of the argument, lasting of a new tensor), as seen inside."""
    seen = []

    def look(x):
        seen.append((_values.tracing(), _values.readable(x), _values.lasting(torch.arange(3))))
        return x * 2

    transform(look)
    return seen[0]


X = torch.arange(3.0)


def fake(look):
    with FakeTensorMode() as mode:
        look(mode.from_tensor(X))


def in_inference(look):
    with torch.inference_mode():
        look(torch.arange(3))


@pytest.mark.parametrize(
    "transform, expected",
    [
        (lambda look: look(X), (False, True, True)),
        (lambda look: make_fx(look)(X), (True, False, False)),
        (lambda look: make_fx(look, tracing_mode="symbolic")(X), (True, False, False)),
        (lambda look: make_fx(look, pre_dispatch=True)(X), (True, False, False)),
        (lambda look: make_fx(torch.func.functionalize(look))(X), (True, False, False)),
        (lambda look: torch.func.functionalize(look)(X), (False, False, False)),
        (lambda look: torch.vmap(look)(X), (False, False, True)),
        (lambda look: torch.func.grad(lambda x: look(x).sum())(X), (False, True, False)),
        (lambda look: torch.vmap(torch.func.grad(look))(X), (False, False, False)),
        (lambda look: torch.jit.trace(look, (X,), check_trace=False), (True, False, False)),
        (fake, (True, False, False)),
        (lambda look: look(FakeTensorMode().from_tensor(X)), (False, False, True)),
        (lambda look: look(X.to("meta")), (False, False, True)),
        (in_inference, (False, True, False)),
    ],
    ids=lambda value: "",
)
def test_when_values_may_be_read(transform, expected):
    assert seen_by(transform) == expected


ASKING = {"readable", "checkable", "lasting", "tracing", "compiling", "exporting"}
DECIDING = {
    "is_functorch_wrapped_tensor", "FakeTensor", "is_fake", "is_meta", "get_proxy_mode", "dispatch_mode",
    "count_dispatch_modes", "is_current_stream_capturing", "tracing_state", "is_exporting", "is_dynamo_compiling",
    "FunctionalTensor",
}  # fmt: skip
READING = {"item", "tolist", "aminmax", "nonzero"}
# Calls that have nothing to do with whether values may be read: ways through the dispatcher, and the stand-ins of q, k
# and v themselves, whose shapes alone are looked at.
EXEMPT = {
    ("_autograd.py", "count_dispatch_modes"),
    ("_checks.py", "is_meta"),
    ("patterns/checks.py", "is_meta"),
}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] not in ("bench", "demo", "reference", "info.py", "__main__.py"):
            yield name, ast.parse(path.read_text())


def names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Name):
            yield node.id


def test_one_module_decides_whether_values_may_be_read():
    found = {
        (name, used) for name, tree in modules() if name not in ("_values.py", "_torch.py") for used in names(tree)
    }
    assert {pair for pair in found if pair[1] in DECIDING} <= EXEMPT


def reads(function):
    """Ways in which Python asks a tensor for values: as a number, as a bool, as a list."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in READING:
            yield called
        if called in ("int", "bool", "float") and node.args:
            inner = {part.attr for part in ast.walk(node.args[0]) if isinstance(part, ast.Attribute)}
            if inner & {"any", "all", "min", "max", "sum", "amin", "amax"}:
                yield called


# Functions that are asked for a number, and have no other answer than to read it; of flex.py blocks_of() asks for all.
READERS = {"patterns/base.py:density", "patterns/flex.py:is_causal"}


def test_whoever_reads_values_asks_whether_it_may():
    silent = []
    for name, tree in modules():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef) and list(reads(function)) and not ASKING & set(names(function)):
                silent.append(f"{name}:{function.name}")
    assert set(silent) <= READERS


def test_what_a_capture_reads_stays(monkeypatch):
    """A CUDA graph reads the memory of a kept tensor at each replay, so that it must not go."""
    monkeypatch.setattr(cache, "_ENTRIES", 1)
    monkeypatch.setattr(cache, "_captured", {})
    kept = cache.cached(("a test", 1), lambda: [torch.ones(3)])
    monkeypatch.setattr(cache, "is_capturing", lambda tensor: True)
    assert cache.cached(("a test", 1), lambda: [torch.zeros(3)]) is kept
    monkeypatch.setattr(cache, "is_capturing", lambda tensor: False)
    cache.cached(("a test", 2), lambda: [torch.ones(3)])
    assert any(made is kept for made in cache._captured.values())
