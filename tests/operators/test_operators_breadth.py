"""What test_operators.py asks of the operators, of learned parameters, patterns with tensors and packed sequences."""

import pytest
import torch
from cases import PATTERNS, RULES, Case, Shape
from operators import BACKWARD, BACKWARD_NAMES, FORWARD, backward_arguments, forward_arguments
from test_operators import assert_same, run_in_threads
from torch._dynamo.testing import CompileCounterWithBackend

import splash_attention as sa

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = Shape(2, 4, 2, 45, 70, 16)
FAMILIES = ("strided", "dilated-heads", "longformer-tokens", "bigbird", "indices", "elements", "elements&bigbird")
CASES = [Case("streaming", PATTERNS["streaming"], rule, torch.float32, SHAPE) for rule in RULES]
CASES += [Case("streaming", PATTERNS["streaming"], rule, torch.bfloat16, SHAPE) for rule in ("sink", "elastic")]
CASES += [Case(name, PATTERNS[name], 1.5, torch.float32, SHAPE) for name in FAMILIES]


def packed_arguments(case):
    """The forward's arguments for three sequences, of which one is empty."""
    arguments = forward_arguments(case, "cpu")
    ends = [torch.tensor(e, dtype=torch.int32) for e in ((0, 20, 20, 41), (0, 30, 31, 70))]
    arguments |= {name: arguments[name][:1] for name in "qkv"} | {"q_start": 0}
    return arguments | dict(zip(("cu_seqlens_q", "cu_seqlens_k"), ends, strict=True), max_seqlen_q=21, max_seqlen_k=39)


PACKED = [Case("streaming", PATTERNS["streaming"], alpha, torch.float32, SHAPE) for alpha in (1.5, "elastic")]


def requiring_grad(arguments):
    learned = {name: arguments[name].detach().requires_grad_() for name in "qkv"}
    parameters = [p.detach().requires_grad_() for p in arguments["normalizer_parameters"]]
    return {**arguments, **learned, "normalizer_parameters": parameters}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_opcheck(case):
    torch.library.opcheck(FORWARD, (), requiring_grad(forward_arguments(case, "cpu")))
    torch.library.opcheck(BACKWARD, (), backward_arguments(case, "cpu"))


@pytest.mark.parametrize("case", PACKED, ids=lambda case: case.id)
def test_opcheck_of_packed_sequences(case):
    arguments = packed_arguments(case)
    torch.library.opcheck(FORWARD, (), requiring_grad(arguments))
    out, statistic, saved = FORWARD(**arguments)
    results = {"out": out, "statistic": statistic, "saved": saved}
    grads = {"grad_out": torch.randn_like(out), "grad_statistic": torch.randn_like(statistic)}
    merged = {**arguments, **results, **grads}
    torch.library.opcheck(BACKWARD, (), {name: merged[name] for name in BACKWARD_NAMES})


def gradients(function, tensors, *constants):
    """The output of function(*tensors, *constants) and the gradients of the tensors, parameters among them."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    out = function(*tensors, *constants)
    return out, *torch.autograd.grad(out.square().sum(), tensors)


def problem(rule, queries, keys, name="streaming"):
    case = Case(name, PATTERNS[name], rule, torch.float32, Shape(1, 4, 2, queries, keys, 16))
    return case, [*case.inputs("cpu")[:3], *case.parameters()]


@pytest.mark.parametrize("rule", RULES)
def test_ten_lengths_of_a_normalizer_take_two_graphs(rule):
    """Gradients of learned parameters come through compiled graphs too."""
    torch._dynamo.reset()
    make = RULES[rule].make

    def function(q, k, v, *parameters):
        normalizer = make(*(p * 2 for p in parameters))
        return sa.attention(q.sin(), k, v, sa.Streaming(3, 20), normalizer) * 2

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for n in range(10):
        _, tensors = problem(rule, 30 + 13 * n, 50 + 17 * n)
        assert_same(gradients(compiled, tensors), gradients(function, tensors))
    assert counter.frame_count <= 2


def make_pattern(name, table):
    if name == "dilated-heads":
        return sa.Dilated(5, (1, 2, 4, 8))
    if name == "indices":
        return sa.IndexCausal(table[:, 0].long().argsort(0)[None], table[0].long().cumsum(0))
    return sa.ElementMask(table) & sa.Causal()


@pytest.mark.parametrize("name", ["dilated-heads", "indices", "elements"])
def test_ten_lengths_of_a_pattern_take_two_graphs(name):
    """Tables that depend on the lengths are built inside of the graph."""
    torch._dynamo.reset()

    def function(q, k, v, table):
        return sa.attention(q, k, v, make_pattern(name, table), 1.5)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for n in range(10):
        _, tensors = problem("top8", 70 + 13 * n, 200 + 31 * n)
        table = torch.rand(70 + 13 * n, 200 + 31 * n, generator=torch.Generator().manual_seed(n)) < 0.3
        assert_same(gradients(compiled, tensors, table), gradients(function, tensors, table))
    assert counter.frame_count <= 2


class Model(torch.nn.Module):
    def __init__(self, rule):
        super().__init__()
        self.rule = rule
        self.learned = torch.nn.ParameterList(problem(rule, 4, 4)[1][3:])

    def forward(self, q, k, v):
        return sa.attention(q, k, v, sa.Dilated(9, (1, 2, 4, 8)), RULES[self.rule].make(*self.learned))


@pytest.mark.parametrize("rule", ["sink", "elastic", "top5-entmax1.5"])
def test_export(rule):
    tensors, model = problem(rule, 40, 40)[1][:3], Model(rule)
    length = torch.export.Dim("length", min=4, max=4096)
    program = torch.export.export(model, tuple(tensors), dynamic_shapes=({2: length},) * 3)
    longer = problem(rule, 77, 77)[1][:3]
    torch.testing.assert_close(program.module()(*longer), model(*longer))


def test_several_python_threads():
    """Different patterns and normalizers at once, tables from the shared cache among them."""

    def bound(name, rule):
        case, tensors = problem(rule, 90, 90, name)
        pattern = case.full_pattern("cpu")
        return lambda q, k, v, *p: sa.attention(q, k, v, pattern, case.normalizer_of(p)), tensors

    rules = ("sink", "elastic", "top8", "sink", "top8", 1.5, "elastic")
    work = [bound(name, rule) for name, rule in zip(FAMILIES, rules, strict=True)]
    want = [gradients(*one) for one in work]
    got, failures = {}, []

    def run_all(worker):
        try:
            for n in range(len(work)):
                index = (worker + n) % len(work)
                got[worker, index] = gradients(*work[index])
        except Exception as error:
            failures.append(error)

    run_in_threads(run_all, 5)
    assert not failures and len(got) == 5 * len(work)
    for (_, index), answer in got.items():
        assert_same(answer, want[index])


@pytest.mark.parametrize("name", FAMILIES)
def test_vmap_over_patterns_with_tensors(name):
    """Outputs and gradients of mapped calls are those of the calls one by one."""
    case = Case(name, PATTERNS[name], 1.5, torch.float32, Shape(2, 4, 2, 45, 70, 16))
    pattern = case.pattern(case, "cpu")
    stacks = [torch.stack([case.inputs("cpu", seed)[n] for seed in range(3)]) for n in range(3)]

    def loss(q, k, v):
        return sa.attention(q, k, v, pattern, 1.5).square().sum()

    def call(q, k, v):
        return sa.attention(q, k, v, pattern, 1.5), *torch.func.grad(loss, argnums=(0, 1, 2))(q, k, v)

    want = [call(*(stack[n] for stack in stacks)) for n in range(3)]
    assert_same(torch.func.vmap(call)(*stacks), [torch.stack(parts) for parts in zip(*want, strict=True)])


@pytest.mark.parametrize(
    "pattern, calls",
    [
        (sa.Streaming(4, 16), 1),
        (sa.BlockMask(torch.ones(1, 1, 3, 5, dtype=torch.bool), 16) & sa.Streaming(4, 16), 1),
        (sa.ElementMask(torch.ones(45, 70, dtype=torch.bool)) & sa.Causal(), 3),
    ],
    ids=["no tensors", "tensors by batch", "other tensors"],
)
def test_vmap_joins_the_batch_where_tensors_allow(pattern, calls):
    q, k = torch.randn(3, 2, 4, 45, 16), torch.randn(3, 2, 2, 70, 16)
    with torch.profiler.profile() as profile:
        torch.func.vmap(lambda q, k: sa.attention(q, k, k, pattern))(q, k)
    seen = [event.count for event in profile.key_averages() if event.key == "splash::attention_forward"]
    assert sum(seen) - 1 == calls  # and the one that is mapped
