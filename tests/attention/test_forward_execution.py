"""How the softmax forward runs: the same bits each time, in CUDA graphs, on streams at once, without waiting."""

import threading
from dataclasses import dataclass

import pytest
import torch
from cases import PATTERNS, fixed
from forward_cases import GLOBAL, drawn
from operators import FORWARD, forward_arguments
from packed_cases import packed

import splash_attention as sa
from splash_attention.patterns import Extent

pytestmark = pytest.mark.usefixtures("one_thread")

BF16 = {"dtype": torch.bfloat16}
DENSE = {
    "tiles": drawn("run", "causal", PATTERNS["causal"], dim=128, queries=300, keys=300, heads=(8, 2), alpha=1, **BF16),
    "sink": drawn("run", "full", PATTERNS["full"], dim=256, queries=200, keys=333, alpha="sink", **BF16),
    "cache": drawn("run", "causal", PATTERNS["causal"], dim=128, queries=1, keys=3000, heads=(8, 1), alpha="sink",
                   kv_lengths=(3000, 1, 700, 64), **BF16),
    "padded": drawn("run", "streaming", PATTERNS["streaming"], dim=64, queries=300, lengths=(300, 0, 65), **BF16),
    "blocks": drawn("run", "blocks64", PATTERNS["blocks64"], dim=64, queries=500, keys=500, **BF16),
    "blocks128": drawn("run", "blocks128", PATTERNS["blocks128"], dim=96, queries=500, keys=500, **BF16),
    "dilated": drawn("run", "dilated", fixed(lambda: sa.Dilated(30, 7)), dim=128, queries=501, keys=501, **BF16),
    "dilated-heads": drawn("run", "dilated-heads", PATTERNS["dilated-heads"], queries=501, keys=400, **BF16),
    "bigbird": drawn("run", "bigbird", GLOBAL["bigbird-heads"], dim=64, queries=1100, keys=1100, heads=(2, 1), **BF16),
    "longformer": drawn("run", "longformer", GLOBAL["longformer-tokens"], dim=192, queries=1100, keys=1100, **BF16),
    "strided": drawn("run", "strided", fixed(lambda: sa.Strided(40, 64)), dim=128, queries=700, keys=700, **BF16),
    "fixed": drawn("run", "fixed", fixed(lambda: sa.Fixed(64, 3)), dim=32, queries=700, keys=700, **BF16),
    "elements": drawn("run", "elements", PATTERNS["elements"], dim=128, queries=300, keys=300, **BF16),
    "any": drawn("run", "streaming&dilated", PATTERNS["streaming&dilated"], dim=64, queries=300, keys=300, **BF16),
}  # fmt: skip
PACKED = {
    "packed": packed("uneven", "causal", (3, 3), dim=128, heads=(4, 2), **BF16),
    "packed-decode": packed("decode", "causal", dim=128, heads=(8, 1), **BF16),
    "packed-bigbird": packed("off-tiles", "bigbird64", dim=64, heads=(2, 1), **BF16),
    "packed-dilated": packed("self", "dilated10x3", dim=96, heads=(3, 3), alpha="sink", **BF16),
}
NAMES = (*DENSE, *PACKED)


@dataclass
class Call:
    """A problem by name, and the tensors that may change between calls of it: q, k, v and lengths."""

    name: str
    device: str

    def __post_init__(self):
        problem = DENSE.get(self.name) or PACKED[self.name]
        self.case = problem if self.name in DENSE else problem.case
        self.pattern = self.case.full_pattern(self.device)
        self.normalizer = self.case.normalizer_of(self.case.parameters(self.device))
        self.options, self.positional = self.case.options(self.device), []
        if self.name in PACKED:
            self.positional = [*problem.ends(self.device), *problem.longest]
            self.options = {"scale": self.case.scale}

    def tensors(self, seed=0):
        tensors = self.case.inputs(self.device, seed)[:3]
        return [t[0].transpose(0, 1) for t in tensors] if self.name in PACKED else tensors

    def __call__(self, tensors, **changed):
        function = sa.attention_varlen if self.name in PACKED else sa.attention
        options = {**self.options, **changed, "return_statistic": True}
        return function(*tensors, *self.positional, self.pattern, self.normalizer, **options)

    def prepare(self):
        if self.name in DENSE:
            self.pattern = sa.prepare(self.pattern, *self.tensors()[:2], backward=False)
        return self


def assert_bits(got, want):
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_repeats_bit_for_bit(device):
    """Problems in turn, so that each finds in memory what another one left."""
    calls = [Call(name, device) for name in NAMES]
    inputs = [call.tensors() for call in calls]
    first = [call(tensors) for call, tensors in zip(calls, inputs, strict=True)]
    for _ in range(2 if device == "cpu" else 10):
        for call, tensors, want in zip(reversed(calls), reversed(inputs), reversed(first), strict=True):
            assert_bits(call(tensors), want)


def captured(call, tensors):
    """A CUDA graph of the call, which ran once before on another stream, and the results that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        call(tensors)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call(tensors)
    return graph, results


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_cuda_graph(name):
    """Replayed on other numbers, and again: a counter or workspace that one replay leaves would tell in the next."""
    call = Call(name, "cuda").prepare()
    static = call.tensors()
    graph, results = captured(call, static)
    for seed in (1, 2, 3):
        fresh = call.tensors(seed)
        for target, source in zip(static, fresh, strict=True):
            target.copy_(source)
        want = call(fresh)
        for _ in range(3):
            for result in results:
                result.fill_(torch.nan)
            graph.replay()
            assert_bits(results, want)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["cache", "padded", "packed", "packed-decode"])
def test_cuda_graph_of_other_lengths(name):
    """A cache that grows between replays: what was empty gets keys, and the other way round."""
    call = Call(name, "cuda").prepare()
    tensors = call.tensors()
    lengths = [t for t in (call.options.get("lengths"), call.options.get("kv_lengths")) if t is not None]
    lengths += [t for t in call.positional if isinstance(t, torch.Tensor)]
    before = [t.clone() for t in lengths]
    graph, results = captured(call, tensors)
    turned = [
        t.flip(0) if name in DENSE else torch.nn.functional.pad(t.diff().flip(0).cumsum(0), (1, 0)) for t in before
    ]
    halved = [t // 2 for t in before]
    for values in (turned, halved, [t * 0 for t in before], before):
        for t, value in zip(lengths, values, strict=True):
            t.copy_(value)
        graph.replay()
        assert_bits(results, call(tensors))


@pytest.mark.gpu
def test_streams_at_once():
    """Every problem on a stream of its own, all at the same time: no two share a workspace."""
    calls = [Call(name, "cuda") for name in NAMES]
    inputs = [call.tensors() for call in calls]
    want = [call(tensors) for call, tensors in zip(calls, inputs, strict=True)]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in calls]
    got = []
    for _ in range(8):
        for call, tensors, stream in zip(calls, inputs, streams, strict=True):
            with torch.cuda.stream(stream):
                got.append(call(tensors))
    torch.cuda.synchronize()
    for n, results in enumerate(got):
        assert_bits(results, want[n % len(want)])


@pytest.mark.gpu
def test_one_problem_on_streams_at_once():
    """The same problem on several streams from several threads."""
    for name in ("cache", "bigbird", "packed-decode"):
        call = Call(name, "cuda")
        inputs = [call.tensors(seed) for seed in range(4)]
        want = [call(tensors) for tensors in inputs]
        torch.cuda.synchronize()
        wrong = []

        def run(worker, call=call, inputs=inputs, want=want, wrong=wrong):
            with torch.cuda.stream(torch.cuda.Stream()), torch.no_grad():
                for _ in range(15):
                    results = call(inputs[worker])
                    if not all(torch.equal(a, b) for a, b in zip(results, want[worker], strict=True)):
                        wrong.append(worker)

        threads = [threading.Thread(target=run, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong, name


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device(name):
    """Lists that tell of a pattern are built, and lengths read, on the device."""
    call = Call(name, "cuda")
    tensors = call.tensors()
    call(tensors)  # numbers of a pattern travel once, and that waits
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call(tensors)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_behind_work_on_its_stream(name):
    """Inputs that a kernel before it on the same stream still writes; every launch of a call is in order with it."""
    call = Call(name, "cuda")
    tensors = call.tensors()
    want = call(tensors)
    late = [torch.zeros_like(t) for t in tensors]
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(20_000_000)
        for target, source in zip(late, tensors, strict=True):
            target.copy_(source)
        got = call(late)
        for target in late:
            target.fill_(torch.nan)  # what follows on the stream must not overtake it either
    torch.cuda.synchronize()
    assert_bits(got, want)


@pytest.mark.parametrize("name", ["cache", "blocks", "dilated", "bigbird", "packed"])
def test_opcheck(device, name):
    """Schema, fake kernel and autograd registration of the paths that other lists of operators do not have."""
    call = Call(name, device)
    if name in DENSE:
        arguments = forward_arguments(call.case, device)
        arguments["normalizer_parameters"] = [p.to(device) for p in arguments["normalizer_parameters"]]
    else:
        q, k, v = (t.transpose(0, 1)[None] for t in call.tensors())
        (cu_q, cu_k, max_q, max_k), heads = call.positional, q.shape[1]
        of_tensors = {"cu_seqlens_q": cu_q, "cu_seqlens_k": cu_k, "rows": q.shape[2], "columns": k.shape[2]}
        encoded = call.pattern.encode(Extent(len(cu_q) - 1, heads, max_q, max_k, q.device, **of_tensors))
        rows = None, None, cu_q, cu_k, max_q, max_k, 0, 0
        values = q, k, v, *encoded, *call.normalizer.encode(), *rows, 0.1, False
        arguments = dict(zip((a.name for a in FORWARD._schema.arguments), values, strict=True))
    torch.library.opcheck(FORWARD, (), arguments, test_utils=("test_schema", "test_faketensor"))


def test_autocast(device):
    """float32 inputs run in 16 bits, the sink stays float32, and the output has the dtype of autocast."""
    case = drawn(
        "autocast", "causal", PATTERNS["causal"], dim=64, queries=130, keys=130, alpha="sink", layout="bhnd", **BF16
    )
    q, k, v, _ = case.inputs(device)
    normalizer = case.normalizer_of(case.parameters(device))
    want = sa.attention(q, k, v, "causal", normalizer, return_statistic=True)
    with torch.autocast(device, torch.bfloat16):
        got = sa.attention(*(t.float() for t in (q, k, v)), "causal", normalizer, return_statistic=True)
    assert got[0].dtype is torch.bfloat16 and got[1].dtype is torch.float32
    assert_bits(got, want)
