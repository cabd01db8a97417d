"""torch.ops.splash.*: what Torch asks of an operator (opcheck, compile, export, autocast, threads, CUDA graphs)."""

import ast
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from cases import PATTERNS, Case, Shape, on_devices
from layouts import LAYOUTS, sliced, transposed
from operators import BACKWARD, FORWARD, backward_arguments, forward_arguments
from torch._dynamo.testing import CompileCounterWithBackend

import splash_attention as sa
from splash_attention.ops import Problem

SHAPE = Shape(2, 4, 2, 45, 70, 16)
GPU_SHAPE = Shape(2, 4, 2, 80, 150, 64)


def run_in_threads(work, count):
    """work(0) to work(count - 1), each in a Python thread of its own."""
    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def cases():
    """Every pattern with every normalizer and dtype, then lengths, positions and layouts."""
    for name in ("full", "causal", "symmetric20", "blocks64", "blocks64&causal"):
        for alpha in (1, 1.5, 1.25):
            for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
                gpu = dtype in (torch.float16, torch.bfloat16) and alpha != 1.25
                yield Case(name, PATTERNS[name], alpha, dtype, GPU_SHAPE if gpu else SHAPE)
    for alpha in (1, 1.5):
        base = Case("causal", PATTERNS["causal"], alpha, torch.bfloat16, Shape(2, 2, 1, 70, 70, 64))
        yield Case(**{**vars(base), "lengths": (33, 70)})
        yield Case(**{**vars(base), "shape": Shape(2, 2, 1, 3, 70, 64), "kv_lengths": (33, 70)})
        yield Case(**{**vars(base), "q_start": 40, "k_start": -7})
        yield Case(**{**vars(base), "layout": "bnhd"})
        yield Case(**{**vars(base), "layout": "sliced"})
        yield Case(**{**vars(base), "layout": "expanded"})


CASES = list(cases())


def requiring_grad(arguments):
    return {name: a.detach().requires_grad_() if name in ("q", "k", "v") else a for name, a in arguments.items()}


@pytest.mark.parametrize("case, device", on_devices(CASES))
def test_opcheck_forward(case, device):
    arguments = forward_arguments(case, device)
    backward = device == "cpu" or case.trains_on_gpu
    torch.library.opcheck(FORWARD, (), requiring_grad(arguments) if backward else arguments)


@pytest.mark.parametrize("case, device", on_devices(CASES, backward=True))
def test_opcheck_backward(case, device):
    torch.library.opcheck(BACKWARD, (), backward_arguments(case, device))


def test_schemas():
    problem = (
        "str pattern, int[]? pattern_ints, Tensor[] pattern_tensors, str normalizer, float[] normalizer_floats, "
        "Tensor[] normalizer_parameters, Tensor? lengths, Tensor? kv_lengths, Tensor? cu_seqlens_q, "
        "Tensor? cu_seqlens_k, SymInt max_seqlen_q, SymInt max_seqlen_k, SymInt q_start, SymInt k_start, float scale, "
        "bool deterministic"
    )
    assert str(FORWARD._schema) == (
        f"splash::attention_forward(Tensor q, Tensor k, Tensor v, {problem}) "
        "-> (Tensor out, Tensor statistic, Tensor saved)"
    )
    assert str(BACKWARD._schema) == (
        "splash::attention_backward(Tensor grad_out, Tensor? grad_statistic, Tensor q, Tensor k, Tensor v, Tensor out, "
        f"Tensor statistic, Tensor saved, {problem}) -> (Tensor, Tensor, Tensor, Tensor[])"
    )


def test_problems_have_the_arguments_of_the_schemas():
    for operator in (FORWARD, BACKWARD):
        names = [argument.name for argument in operator._schema.arguments]
        assert names[-len(Problem._fields) :] == list(Problem._fields)


def test_problems_are_made_by_name():
    """An order that is written down at each call would be one more spelling of it."""
    made = 0
    for path in Path(sa.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if (getattr(called, "attr", None) or getattr(called, "id", None)) == "make_problem":
                assert not node.args, path
                made += 1
    assert made == 2


def draw(shape, dtype=torch.float32, device="cpu", seed=0):
    """q, k, v of a shape."""
    return Case("full", PATTERNS["full"], 1, dtype, shape).inputs(device, seed)[:3]


def gradients(function, tensors, *constants):
    """The output of function(*tensors, *constants) and the gradients of the tensors."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    out = function(*tensors, *constants)
    return out, *torch.autograd.grad(out.float().square().sum(), tensors)


def assert_same(got, want):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("alpha", (1, 1.5))
@pytest.mark.parametrize("name", ("full", "causal", "window37", "blocks64", "blocks64&causal"))
def test_compile_without_graph_break(name, alpha):
    """Masks that become metadata inside the graph included."""
    torch._dynamo.reset()
    shape = Shape(2, 4, 2, 130, 130, 16)
    mask = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.6

    def function(q, k, v, mask):
        pattern = sa.BlockMask(mask, 64) if "blocks64" in name else PATTERNS[name](None, None)
        pattern = pattern & sa.Causal() if name == "blocks64&causal" else pattern
        out, statistic = sa.attention(q * 2, k, v, pattern, alpha, return_statistic=True)
        return out + statistic.masked_fill(statistic.isinf(), 0)[..., None]

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    tensors = draw(shape)
    assert_same(gradients(compiled, tensors, mask), gradients(function, tensors, mask))
    assert counter.frame_count == 1


@pytest.mark.parametrize("alpha", (1, 1.5))
def test_compile_with_inductor(alpha, device):
    torch._dynamo.reset()
    tensors = draw(Shape(2, 4, 2, 130, 130, 64), torch.bfloat16, device)

    def function(q, k, v):
        return sa.attention(q.relu(), k, v, sa.SlidingWindow.causal(20), alpha) * 2

    compiled = torch.compile(function, fullgraph=True)
    if device == "cpu" or alpha == 1:
        assert_same(gradients(compiled, tensors), gradients(function, tensors))
    else:
        torch.testing.assert_close(compiled(*tensors), function(*tensors))


@pytest.mark.parametrize("alpha", (1, 1.5))
@pytest.mark.parametrize("name", ("causal", "blocks64"))
def test_ten_lengths_take_two_graphs(name, alpha, device):
    torch._dynamo.reset()
    dtype = torch.float32 if device == "cpu" else torch.bfloat16

    def function(q, k, v, mask, q_start):
        pattern = sa.Causal() if name == "causal" else sa.BlockMask(mask, 64)
        return sa.attention(q, k, v, pattern, alpha, q_start=q_start)

    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for n in range(10):
        queries, keys = 70 + 13 * n, 200 + 31 * n
        tensors = draw(Shape(1, 6, 3, queries, keys, 64), dtype, device)
        mask = torch.ones(-(-queries // 64), -(-keys // 64), dtype=torch.bool, device=device)
        mask[:, 0] = False
        if device == "cpu" or alpha == 1:
            assert_same(gradients(compiled, tensors, mask, 5 + 3 * n), gradients(function, tensors, mask, 5 + 3 * n))
        else:
            torch.testing.assert_close(compiled(*tensors, mask, 5 + 3 * n), function(*tensors, mask, 5 + 3 * n))
    assert counter.frame_count <= 2


def test_default_position_stays_symbolic():
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")

    def function(q, k, v):
        return sa.attention(q, k, v, "causal")

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend=counter)
    for n in range(10):
        tensors = draw(Shape(1, 2, 2, 7 + n, 20 + 3 * n, 8))
        torch.testing.assert_close(compiled(*tensors), function(*tensors))
    assert counter.frame_count <= 2


class WindowModel(torch.nn.Module):
    def forward(self, q, k, v):
        return sa.attention(q, k, v, sa.SlidingWindow.causal(9), 1.5)


class BlockModel(torch.nn.Module):
    def forward(self, q, k, v, mask, lengths):
        return sa.attention(q, k, v, sa.BlockMask(mask, 64) & sa.Causal(), 1.5, lengths=lengths)


def test_export():
    tensors = draw(Shape(1, 2, 1, 40, 40, 16))
    length = torch.export.Dim("length", min=4, max=4096)
    program = torch.export.export(WindowModel(), tuple(tensors), dynamic_shapes=({2: length},) * 3)
    longer = draw(Shape(1, 2, 1, 77, 77, 16))
    torch.testing.assert_close(program.module()(*longer), WindowModel()(*longer))


def test_aot_inductor(tmp_path):
    """Every kind of argument goes through the compiled package: str, int[], float[], Tensor[], Tensor?, SymInt."""
    lengths = torch.tensor([99, 200], dtype=torch.int32)

    def arguments(n):
        mask = torch.ones(-(-n // 64), -(-n // 64), dtype=torch.bool)
        return *draw(Shape(2, 6, 3, n, n, 16)), mask, lengths

    auto = torch.export.Dim.AUTO
    shapes = *({2: auto},) * 3, {0: auto, 1: auto}, None
    program = torch.export.export(BlockModel(), arguments(200), dynamic_shapes=shapes)
    package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
    compiled = torch._inductor.aoti_load_package(package)
    for n in (200, 300):
        torch.testing.assert_close(compiled(*arguments(n)), BlockModel()(*arguments(n)))


@pytest.mark.parametrize("alpha", (1, 1.5))
@pytest.mark.parametrize("lower", (torch.bfloat16, torch.float16))
def test_autocast(lower, alpha, device):
    """Inputs of several dtypes are cast, gradients come back in theirs, the statistic stays float32."""
    q, k, v = draw(Shape(1, 4, 2, 70, 70, 64), device=device)
    k = k.to(torch.bfloat16)
    want, want_statistic = sa.attention(q.to(lower), k.to(lower), v.to(lower), "causal", alpha, return_statistic=True)
    with torch.autocast(device, lower):
        got, statistic = sa.attention(q, k, v, "causal", alpha, return_statistic=True)
    assert got.dtype == lower
    assert statistic.dtype == torch.float32
    assert torch.equal(got, want)
    assert torch.equal(statistic, want_statistic)
    if device == "cpu" or alpha == 1:
        tensors = [t.requires_grad_() for t in (q, k, v)]
        with torch.autocast(device, lower):
            out = sa.attention(*tensors, "causal", alpha)
        grads = torch.autograd.grad(out.float().sum(), tensors)
        assert [g.dtype for g in grads] == [t.dtype for t in tensors]
        assert all(g.isfinite().all() for g in grads)


def test_autocast_leaves_float64():
    q, k, v = draw(Shape(1, 2, 1, 20, 20, 8), torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        assert sa.attention(q, k, v).dtype == torch.float64


def problems():
    """Eight problems of different kinds, as functions of nothing that return outputs and gradients."""
    for seed, (name, alpha) in enumerate((n, a) for n in ("full", "window37", "causal", "blocks64") for a in (1, 1.5)):
        case = Case(name, PATTERNS[name], alpha, torch.float32, Shape(2, 4, 2, 150, 150, 32))
        pattern = case.pattern(case, "cpu")
        tensors = case.inputs("cpu", seed)[:3]
        yield lambda t=tensors, p=pattern, a=alpha: gradients(lambda q, k, v: sa.attention(q, k, v, p, a), t)


def test_thread_counts_agree():
    before = torch.get_num_threads()
    answers = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            answers.append([problem() for problem in problems()])
    finally:
        torch.set_num_threads(before)
    for answer in answers[1:]:
        for got, want in zip(answer, answers[0], strict=True):
            assert_same(got, want)


def test_several_python_threads():
    work = list(problems())
    want = [problem() for problem in work]
    got, failures = {}, []

    def run(worker):
        try:
            for n in range(len(work)):
                index = (worker + n) % len(work)
                got[worker, index] = work[index]()
        except Exception as error:
            failures.append(error)

    run_in_threads(run, 6)
    assert not failures
    for (_, index), answer in got.items():
        assert_same(answer, want[index])


@pytest.mark.parametrize("name", LAYOUTS)
def test_results_lie_in_memory_as_torch_would_lay_them(name):
    t = LAYOUTS[name](torch.randn(2, 4, 6, 16))
    out = sa.attention(t, t, t)
    assert torch._prims_common.check_significant_strides(out, torch.empty_like(t))[0]
    torch.testing.assert_close(out, torch.nn.functional.scaled_dot_product_attention(t, t, t))


def test_gradients_of_any_strides():
    """Autograd hands over expanded and transposed gradients as they are."""
    case = Case("causal", PATTERNS["causal"], 1.5, torch.float32, Shape(2, 4, 2, 40, 40, 16))
    arguments = backward_arguments(case, "cpu")
    grads = {"grad_out": torch.ones(()).expand(2, 4, 40, 16), "grad_statistic": torch.ones(()).expand(2, 4, 40)}
    want = BACKWARD(**{**arguments, **{name: grad.contiguous() for name, grad in grads.items()}})
    assert_same(BACKWARD(**{**arguments, **grads}), want)
    for layout in (sliced, transposed, lambda t: t.transpose(2, 3).contiguous().transpose(2, 3)):
        assert_same(BACKWARD(**{**arguments, **grads, "grad_out": layout(grads["grad_out"].contiguous())}), want)


@pytest.mark.parametrize("shape", [(0, 2, 2, 5, 5, 8), (1, 2, 2, 0, 5, 8), (1, 2, 2, 5, 0, 8), (0, 2, 1, 0, 0, 8)])
@pytest.mark.parametrize("alpha", (1, 1.5))
def test_empty_tensors(shape, alpha):
    shape = Shape(*shape)
    q, k, v = (t.requires_grad_() for t in draw(shape))
    out, statistic = sa.attention(q, k, v, "full", alpha, return_statistic=True)
    assert out.shape == q.shape
    assert not out.any()
    if shape.keys == 0:
        assert (statistic == (-torch.inf if alpha == 1 else torch.inf)).all()
    grads = torch.autograd.grad(out.sum() + 0 * statistic.nan_to_num(0, 0, 0).sum(), (q, k, v))
    assert not any(g.any() for g in grads)


def test_import_and_cpu_calls_initialise_no_cuda():
    program = (
        "import torch, splash_attention as sa; q = torch.randn(1, 1, 4, 8); sa.attention(q, q, q); "
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


GPU_SMALL = Shape(1, 4, 2, 300, 300, 64)
PLAIN = ("full", [], [], "softmax", [], [], None, None, None, None, 0, 0, 0, 0, 1.0, False)  # after q, k and v


@pytest.mark.gpu
@pytest.mark.parametrize("alpha", (1, 1.5))
@pytest.mark.parametrize("name", ("full", "causal", "window37", "blocks64", "blocks64&causal"))
def test_cuda_graph(name, alpha):
    case = Case(name, PATTERNS[name], alpha, torch.bfloat16, GPU_SMALL)
    prepared = sa.prepare(case.pattern(case, "cuda"), *case.inputs("cuda")[:2], backward=False)
    static = case.inputs("cuda")[:3]
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        sa.attention(*static, prepared, alpha)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, statistic = sa.attention(*static, prepared, alpha, return_statistic=True)
    for seed in (1, 2):
        fresh = case.inputs("cuda", seed)[:3]
        for target, source in zip(static, fresh, strict=True):
            target.copy_(source)
        graph.replay()
        assert_same((out, statistic), sa.attention(*fresh, prepared, alpha, return_statistic=True))


@pytest.mark.gpu
def test_current_stream():
    """Work on a side stream waits for what that stream still does, and for nothing else."""
    q, k, v = draw(GPU_SMALL, torch.bfloat16, "cuda")
    want = sa.attention(q, k, v, "causal")
    late = torch.zeros_like(q)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)
        late.copy_(q)
        out = sa.attention(late, k, v, "causal")
        assert not side.query()
    side.synchronize()
    assert torch.equal(out, want)


@pytest.mark.gpu
def test_device_guard():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    tensors = draw(GPU_SMALL, torch.bfloat16, "cuda:0")
    moved = [t.to("cuda:1") for t in tensors]
    want = sa.attention(*tensors, "causal", 1.5)
    assert torch.cuda.current_device() == 0
    out = sa.attention(*moved, "causal", 1.5)
    assert out.device.index == 1
    assert torch.cuda.current_device() == 0
    assert torch.equal(out.to("cuda:0"), want)
    with pytest.raises(RuntimeError, match=r"^splash\.ValueError: k is on cuda:1; expected cuda:0"):
        FORWARD(tensors[0], moved[1], moved[2], *PLAIN)


@pytest.mark.gpu
def test_mixed_devices():
    q, k, v = draw(GPU_SMALL, torch.bfloat16, "cuda")
    with pytest.raises(RuntimeError, match=r"^splash\.ValueError: k is on cpu; expected cuda:0"):
        FORWARD(q, k.cpu(), v, *PLAIN)
    with pytest.raises(RuntimeError, match=r"^splash\.ValueError: v is on cuda:0; expected cpu"):
        FORWARD(q.cpu(), k.cpu(), v, *PLAIN)


@pytest.mark.gpu
def test_unaligned_inputs_are_named():
    q, k, v = draw(GPU_SMALL, torch.bfloat16, "cuda")
    shifted = torch.empty(k.numel() + 1, dtype=k.dtype, device="cuda")[1:].view_as(k).copy_(k)
    rows = torch.empty(*k.shape[:3], k.shape[3] + 1, dtype=k.dtype, device="cuda")[..., :-1].copy_(k)
    for bad, remedy in ((shifted, "clone"), (rows, "contiguous")):
        with pytest.raises(ValueError, match=rf"\bk\b.*k\.{remedy}\(\)"):
            sa.attention(q, bad, v)
    torch.testing.assert_close(sa.attention(q, shifted.clone(), v), sa.attention(q, k, v))
    torch.testing.assert_close(sa.attention(q, rows.contiguous(), v), sa.attention(q, k, v))


@pytest.mark.gpu
def test_missing_kernels_say_so():
    with pytest.raises(sa.NoKernelError, match="float32"):
        sa.attention(*draw(GPU_SMALL, torch.float32, "cuda"))
    tensors = [t.requires_grad_() for t in draw(GPU_SMALL, torch.bfloat16, "cuda")]
    with pytest.raises(sa.NoKernelError, match="backward"):
        sa.attention(*tensors, "causal", 1.5).sum().backward()


@pytest.mark.gpu
def test_threads_on_streams():
    """Every thread has a stream of its own and sees its own results."""
    case = Case("causal", PATTERNS["causal"], 1.5, torch.bfloat16, GPU_SMALL)
    inputs = [case.inputs("cuda", seed)[:3] for seed in range(4)]
    want = [sa.attention(*tensors, "causal", 1.5) for tensors in inputs]
    torch.cuda.synchronize()
    wrong = []

    def run(worker):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(20):
                out = sa.attention(*inputs[worker], "causal", 1.5)
                if not torch.equal(out, want[worker]):
                    wrong.append(worker)

    run_in_threads(run, 4)
    assert not wrong
