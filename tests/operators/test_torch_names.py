"""Torch's private names: used by one module alone, each there with the behaviour that is relied upon."""

import ast
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import splash_attention
from splash_attention import _torch

PACKAGE = Path(splash_attention.__file__).parent
TRIED = set()
ROOFS = {"torch", "_C", "_VF", "forward_ad", "_functorch", "operator"}  # what has private names of Torch's


def tried(*names):
    """Marks a test as one of these names of _torch."""
    TRIED.update(names)
    return lambda test: test


def private_names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "torch":
            yield from (part for part in node.module.split(".") if part.startswith("_"))
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("torch._"))
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in ROOFS:
                yield node.attr


def test_one_module_uses_private_names():
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        if name.split("/")[0] in ("bench", "demo", "_torch.py"):
            continue
        if used := sorted(set(private_names(ast.parse(path.read_text())))):
            found[name] = used
    assert not found


def test_every_name_is_tried():
    own = {name for name, value in vars(_torch).items() if not name.startswith("_")}
    assert own - {"annotations", "torch", "Tensor", "Callable", "forward_ad"} == TRIED


@tried("call_below_autograd", "below_autograd", "in_function_mode")
def test_calls_go_below_autograd():
    x = torch.ones(3, requires_grad=True)
    assert not _torch.call_below_autograd(torch.ops.aten.mul.Tensor, x, x).requires_grad
    with _torch.below_autograd():
        assert not (x * x).requires_grad
    assert (x * x).requires_grad and not _torch.in_function_mode()
    seen = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    with Mode():
        assert _torch.in_function_mode()
        _torch.call_below_autograd(torch.ops.aten.mul.Tensor, x, x)
    assert torch.ops.aten.mul.Tensor in seen


@tried("argument_names")
def test_argument_names():
    assert _torch.argument_names(torch.ops.aten.mul.Tensor) == ["self", "other"]


@tried("after_autograd_keyset", "without_keys", "DispatchKey", "DispatchKeySet", "dispatch_keys")
def test_key_sets():
    x = torch.ones(3, requires_grad=True)
    keys = _torch.dispatch_keys(x)
    assert keys.has(_torch.DispatchKey.AutogradCPU) and keys.has(_torch.DispatchKey.CPU)
    below = keys & _torch.after_autograd_keyset
    assert not below.has(_torch.DispatchKey.AutogradCPU) and below.has(_torch.DispatchKey.CPU)
    kernel = below & _torch.DispatchKeySet(_torch.DispatchKey.CPU)
    assert not torch.ops.aten.mul.Tensor.redispatch(kernel, x, x).requires_grad
    with torch.autocast("cpu", torch.bfloat16):
        with _torch.without_keys(_torch.DispatchKeySet(_torch.DispatchKey.AutocastCPU)):
            assert torch.mm(x[None], x[:, None]).dtype is torch.float32
        assert torch.mm(x[None], x[:, None]).dtype is torch.bfloat16


@tried("BATCHED", "add_batch_dim", "remove_batch_dim")
def test_batched_tensors_of_autograd():
    x = torch.arange(6.0).view(2, 3)
    mapped = _torch.add_batch_dim(x, 0, 1)
    assert mapped.shape == (3,) and _torch.dispatch_keys(mapped).has(_torch.BATCHED)
    assert not _torch.dispatch_keys(x).has(_torch.BATCHED)
    assert torch.equal(_torch.remove_batch_dim(mapped, 1, 2, 0), x)
    assert _torch.remove_batch_dim(mapped, 2, 5, 0).shape[0] == 5
    seen = []

    class Watch(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            seen.append(_torch.dispatch_keys(grad).has(_torch.BATCHED))
            return grad

    leaf = torch.ones(2, requires_grad=True)
    torch.autograd.grad(Watch.apply(leaf), leaf, torch.eye(2), is_grads_batched=True)
    assert seen == [True]


@tried("in_transform", "is_gradtrackingtensor", "get_unwrapped", "is_functorch_wrapped_tensor")
def test_transforms_show():
    x, inside = torch.ones(3), {}

    def function(name):
        def of(t):
            inside[name] = (
                _torch.in_transform(), _torch.is_functorch_wrapped_tensor(t), _torch.is_gradtrackingtensor(t),
            )  # fmt: skip
            if name == "grad":
                assert _torch.get_unwrapped(t) is x
            return t.sum()

        return of

    torch.func.grad(function("grad"))(x)
    torch.func.vmap(function("vmap"))(x[None])
    assert inside == {"grad": (True, True, True), "vmap": (True, True, False)}
    assert not (_torch.in_transform() or _torch.is_functorch_wrapped_tensor(x) or _torch.is_gradtrackingtensor(x))


@tried("in_autocast")
def test_autocast_shows():
    assert not _torch.in_autocast()
    for device in ("cpu", "cuda"):
        with torch.autocast(device, torch.bfloat16) if device == "cpu" or torch.cuda.is_available() else _no_cuda():
            assert _torch.in_autocast()


class _no_cuda:
    """Autocast of CUDA, switched on where there is none, as that of another device than the call's."""

    def __enter__(self):
        torch.set_autocast_enabled("cuda", True)

    def __exit__(self, *_):
        torch.set_autocast_enabled("cuda", False)


@tried(
    "count_dispatch_modes", "count_pre_dispatch_modes", "dispatch_mode", "pre_dispatch_mode", "FAKE", "PROXY",
    "FUNCTIONAL", "FakeTensor", "FunctionalTensor", "is_functional_tensor",
)  # fmt: skip
def test_modes_show():
    class Plain(TorchDispatchMode):
        def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
            return operator(*args, **(kwargs or {}))

    def modes():
        keys = (_torch.FAKE, _torch.PROXY, _torch.FUNCTIONAL)
        return tuple(_torch.dispatch_mode(key) is not None for key in keys)

    assert _torch.count_dispatch_modes() == _torch.count_pre_dispatch_modes() == 0
    with Plain():
        assert _torch.count_dispatch_modes() == 1 and modes() == (False, False, False)
    with FakeTensorMode() as mode:
        assert _torch.count_dispatch_modes() == 1 and modes() == (True, False, False)
        assert isinstance(mode.from_tensor(torch.ones(2)), _torch.FakeTensor)
    seen = []

    def look(x):
        seen.append((modes(), isinstance(x, _torch.FunctionalTensor), _torch.is_functional_tensor(x)))
        return x + 1

    make_fx(look, tracing_mode="fake")(torch.ones(2))
    torch.func.functionalize(look)(torch.ones(2))
    from torch._subclasses.functional_tensor import dispatch_functionalize

    dispatch_functionalize(look)(torch.ones(2))
    (proxy, *_), (_, _, in_cpp), ((_, _, functional), in_python, _) = seen
    assert proxy[1] and in_cpp and functional and in_python

    found = []

    def before(x):
        found.append((_torch.count_pre_dispatch_modes(), _torch.pre_dispatch_mode(_torch.PROXY) is not None))
        return x + 1

    make_fx(before, pre_dispatch=True)(torch.ones(2))
    assert found == [(1, True)] and _torch.pre_dispatch_mode(_torch.FUNCTIONAL) is None


@tried("tracing_state")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_tracing_shows():
    seen = []

    def look(x):
        seen.append(_torch.tracing_state() is not None)
        return x + 1

    look(torch.ones(1))
    torch.jit.trace(look, torch.ones(1), check_trace=False)
    assert seen == [False, True]


@tried("any_requires_grad")
def test_any_requires_grad():
    x = torch.ones(1)
    assert not _torch.any_requires_grad(x, 3, None, "a", [x], 0.5)
    assert _torch.any_requires_grad("a", x, x.clone().requires_grad_())
    assert _torch.any_requires_grad("a", [x.clone().requires_grad_()])


@tried("forward_grad_enabled", "set_forward_grad", "in_dual_level", "primal")
def test_forward_mode():
    assert _torch.forward_grad_enabled() and not _torch.in_dual_level()
    with _torch.set_forward_grad(False):
        assert not _torch.forward_grad_enabled()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(torch.ones(2), torch.ones(2))
        assert _torch.in_dual_level()
        assert torch.autograd.forward_ad.unpack_dual(_torch.primal(dual)).tangent is None


@tried("plain_apply", "enable_single_level_autograd_function")
def test_functions_apply_below_the_search_for_transforms():
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return 2 * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            pass

        @staticmethod
        def backward(ctx, grad):
            return 2 * grad

    x = torch.ones(2, requires_grad=True)
    with _torch.enable_single_level_autograd_function():
        out = _torch.plain_apply(Double)(x)
    assert torch.equal(*torch.autograd.grad(out, x, torch.ones(2)), torch.full((2,), 2.0))


@tried("current_stream")
@pytest.mark.gpu
def test_current_stream():
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        assert _torch.current_stream(stream.device.index) == stream.cuda_stream


@tried("parse_to")
def test_parse_to():
    x = torch.ones(1, dtype=torch.float16)
    assert _torch.parse_to("cpu", torch.float64, True) == (torch.device("cpu"), torch.float64, True, None)
    assert _torch.parse_to(x)[:2] == (x.device, x.dtype)


@tried("assert_async")
def test_assert_async():
    _torch.assert_async(torch.tensor(True), "right")
    with pytest.raises(RuntimeError, match="wrong"):
        _torch.assert_async(torch.tensor(False), "wrong")


@tried("constant_in_graphs")
def test_constants_in_graphs():
    calls = []

    @_torch.constant_in_graphs
    def counted():
        calls.append(1)
        return len(calls)

    torch._dynamo.reset()
    graph = torch.compile(lambda x: x + counted(), backend="eager", fullgraph=True)
    first, before = graph(torch.zeros(1)), len(calls)
    assert torch.equal(graph(torch.zeros(1)), first) and len(calls) == before > 0


@tried("tree_flatten", "tree_unflatten", "tree_map", "DynamicOutputShapeException")
def test_trees():
    tree = ("a", [1, None], (2,))
    leaves, spec = _torch.tree_flatten(tree)
    assert leaves == ["a", 1, None, 2] and _torch.tree_unflatten(leaves, spec) == tree
    assert _torch.tree_map(lambda leaf: leaf, tree) == tree
    with FakeTensorMode(), pytest.raises(_torch.DynamicOutputShapeException):
        torch.ones(3).nonzero()
