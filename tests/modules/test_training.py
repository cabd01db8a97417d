"""What training and deployment do with modules: checkpointing, data parallelism, autocast, compile, export, func."""

import copy
import os
import tempfile
from datetime import timedelta

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from splash_attention.longnet import longnet_attention
from splash_attention.modules import FlashAttention, LazyAttention, SplashAttention

pytestmark = pytest.mark.usefixtures("one_thread")

WIDTH, HEADS = 16, 2


class Heads(nn.Module):
    """Projections around a module that takes q, k and v."""

    def __init__(self, attend, **options):
        super().__init__()
        self.attend = attend
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, **options)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        return self.attend(q, k, v).transpose(1, 2).flatten(2)


class Dilated(nn.Module):
    def forward(self, q, k, v):
        return longnet_attention(q, k, v, ((4, 1), (12, 2)))


MODULES = {
    "lazy": lambda **options: LazyAttention(WIDTH, HEADS, 6, **options),
    "splash": lambda **options: Heads(SplashAttention(WIDTH // HEADS, k_keep=4), **options),
    "flash": lambda **options: Heads(FlashAttention(), **options),
    "longnet": lambda **options: Heads(Dilated(), **options),
}
EVERY = pytest.mark.parametrize("name", MODULES)


def model(name, seed=0, **options):
    """Two layers with residuals; learned parameters lie away from their starts, where weights are cut to 0."""
    torch.manual_seed(seed)
    layers = [MODULES[name](**options) for _ in range(2)]
    for layer in layers:
        for parameter in layer.parameters():
            if parameter.dim() == 1 or parameter.shape[0] == HEADS:
                nn.init.normal_(parameter, std=0.3)
    return Residual(layers)


class Residual(nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x, use_reentrant=None):
        for layer in self.layers:
            x = x + (layer(x) if use_reentrant is None else checkpoint(layer, x, use_reentrant=use_reentrant))
        return x


def draw(*shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def gradients(module, x, **options):
    """[output, gradient of x, gradients of the parameters]."""
    x = x.detach().requires_grad_()
    out = module(x, **options)
    inputs = [x, *module.parameters()]
    return [out.detach(), *torch.autograd.grad(out, inputs, draw(*out.shape, seed=2).to(out.dtype))]


def assert_equal(got, want, rtol=0.0):
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@EVERY
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["saved tensors hooks", "reentrant"])
def test_activation_checkpointing(name, use_reentrant):
    """The second forward repeats the first, and its gradients are the same sums, perhaps in another order."""
    module, x = model(name), draw(2, 30, WIDTH)
    want = [t.clone() for t in gradients(module, x)]
    x = x.requires_grad_()
    out = module(x, use_reentrant=use_reentrant)
    module.zero_grad()
    out.backward(draw(*out.shape, seed=2))
    assert torch.equal(out, want[0])
    assert_equal([x.grad, *(parameter.grad for parameter in module.parameters())], want[1:], 1e-5)


def test_checkpointing_saves_memory():
    """A checkpointed layer keeps its input alone."""
    module, x = model("lazy"), draw(1, 100, WIDTH)

    def saved(**options):
        total = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: total.append(t.numel()) or t, lambda t: t):
            module(x.clone().requires_grad_(), **options)
        return sum(total)

    assert saved(use_reentrant=False) < saved() / 3


def train(rank, world, folder):
    """One process of a data parallel step, which leaves its gradients in `folder`."""
    torch.distributed.init_process_group(
        "gloo", f"file://{folder}/meeting", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    parallel = nn.parallel.DistributedDataParallel(model("lazy", seed=rank), gradient_as_bucket_view=True)
    batch = draw(4, 20, WIDTH).chunk(world)[rank]
    parallel(batch).square().mean().backward()
    torch.save({n: p.grad for n, p in parallel.module.named_parameters()}, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    # Torch's process group may wait for itself for ever when it is taken down (~ProcessGroupGloo under the GIL).
    os._exit(0)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="Torch has no distributed package")
def test_data_parallel():
    """Two processes, half of the batch each: their gradients are those of one process with all of it."""
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("spawn")
        processes = [context.Process(target=train, args=(rank, 2, folder), daemon=True) for rank in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout=180)
            assert process.exitcode == 0
        first, second = (torch.load(os.path.join(folder, f"{rank}.pt")) for rank in range(2))
    single = model("lazy", seed=0)
    single(draw(4, 20, WIDTH)).square().mean().backward()
    for name, parameter in single.named_parameters():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], parameter.grad, msg=lambda text, name=name: f"{name}: {text}")


@EVERY
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(name, dtype):
    module, x = model(name), draw(2, 30, WIDTH)
    want = gradients(module, x)
    with torch.autocast("cpu", dtype):
        inner = module.layers[0](x)
        got = gradients(module, x)
    assert inner.dtype is dtype
    # Rounded scores may choose another key among nearly equal ones, which moves single numbers far.
    bound = {torch.bfloat16: 0.1, torch.float16: 0.03}[dtype]
    for a, b in zip(got, want, strict=True):
        assert a.dtype is torch.float32
        assert (a - b).norm() <= bound * b.norm()


def test_learned_numbers_are_read_in_float32():
    """The first row's only weight is 1 + tau, which is 0 for a tau that was rounded to bfloat16."""
    torch.manual_seed(0)
    x = draw(1, 30, WIDTH)
    wide, narrow = LazyAttention(WIDTH, HEADS, 6), LazyAttention(WIDTH, HEADS, 6, dtype=torch.bfloat16)
    for module in (wide, narrow):
        nn.init.constant_(module.tau, -1 + 2**-10)
        assert (module.tau.bfloat16() == -1).all()
    with torch.autocast("cpu", torch.bfloat16):
        outs = wide(x), narrow(x)
    for out in (*outs, narrow(x.bfloat16())):
        assert out.dtype is torch.bfloat16 and (out[:, 0] != 0).all()


@EVERY
def test_training_in_bfloat16(name):
    """Every parameter learns, tau by steps that bfloat16 would round away."""
    module = model(name, dtype=torch.bfloat16)
    before = copy.deepcopy(module.state_dict())
    x, target = draw(4, 30, WIDTH, dtype=torch.bfloat16), draw(4, 30, WIDTH, dtype=torch.bfloat16, seed=3)
    optimizer = torch.optim.SGD(module.parameters(), lr=1.0)
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = (module(x) - target).float().square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for key, value in module.state_dict().items():
        assert not torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", ["lazy", "splash", "flash"])
def test_compile(name):
    torch._dynamo.reset()
    module, x = model(name), draw(2, 30, WIDTH)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x_compiled = x.clone().requires_grad_()
    out = compiled(x_compiled)
    grads = torch.autograd.grad(out, [x_compiled, *module.parameters()], draw(*out.shape, seed=2))
    assert_equal([out.detach(), *grads], gradients(module, x), 1e-5)


def test_compile_of_changing_lengths():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    module = LazyAttention(WIDTH, HEADS, 6)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend=counter)
    for N in (30, 31, 64, 5, 100, 47, 12, 90, 77, 21):
        x = draw(2, N, WIDTH, seed=N)
        torch.testing.assert_close(compiled(x), module(x))
    assert counter.frame_count <= 2


@EVERY
def test_export(name):
    module, x = model(name).eval(), draw(2, 30, WIDTH)
    program = torch.export.export(module, (x,))
    with tempfile.TemporaryDirectory() as folder:
        torch.export.save(program, f"{folder}/model.pt2")
        loaded = torch.export.load(f"{folder}/model.pt2").module()
    other = draw(2, 30, WIDTH, seed=5)
    torch.testing.assert_close(loaded(other), module(other))


def test_export_with_a_free_length():
    module, x = model("lazy").eval(), draw(2, 30, WIDTH)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length", min=2, max=4096)}
    exported = torch.export.export(module, (x,), dynamic_shapes=(dims,)).module()
    for shape in ((3, 30, WIDTH), (2, 77, WIDTH)):
        other = draw(*shape, seed=shape[1])
        torch.testing.assert_close(exported(other), module(other))


@EVERY
def test_functional_gradients(name):
    module, x = model(name), draw(2, 30, WIDTH)
    parameters = dict(module.named_parameters())

    def loss(parameters, x):
        return (torch.func.functional_call(module, parameters, (x,)) * draw(2, 30, WIDTH, seed=2)).sum()

    got_parameters, got_x = torch.func.grad(loss, (0, 1))(parameters, x)
    assert_equal([got_x, *got_parameters.values()], gradients(module, x)[1:], 1e-5)


@EVERY
def test_gradients_for_each_sample(name):
    """vmap over the batch: the gradients of the parameters for one sample at a time."""
    module, x = model(name), draw(3, 20, WIDTH)
    parameters = {key: value.detach() for key, value in module.named_parameters()}
    grad = draw(1, 20, WIDTH, seed=2)

    def loss(parameters, sample):
        return (torch.func.functional_call(module, parameters, (sample[None],)) * grad).sum()

    mapped = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for n in range(3):
        single = torch.func.grad(loss)(parameters, x[n])
        for key, value in single.items():
            torch.testing.assert_close(
                mapped[key][n], value, rtol=1e-4, atol=1e-5, msg=lambda t, key=key: f"{key}: {t}"
            )


@EVERY
def test_ensembles(name):
    """vmap over the parameters of several modules."""
    modules = [model(name, seed) for seed in range(3)]
    parameters, buffers = torch.func.stack_module_state(modules)
    base, x = copy.deepcopy(modules[0]).to("meta"), draw(2, 20, WIDTH)

    def call(parameters, buffers):
        return torch.func.functional_call(base, (parameters, buffers), (x,))

    outs = torch.func.vmap(call)(parameters, buffers)
    for out, module in zip(outs, modules, strict=True):
        torch.testing.assert_close(out, module(x), rtol=1e-5, atol=1e-5)


@EVERY
def test_deterministic_algorithms(name):
    module, x = model(name), draw(2, 40, WIDTH)
    torch.use_deterministic_algorithms(True)
    try:
        first = gradients(module, x)
        for _ in range(2):
            assert_equal(gradients(module, x), first)
    finally:
        torch.use_deterministic_algorithms(False)


def test_inference_mode():
    module, x = model("lazy"), draw(2, 30, WIDTH)
    with torch.inference_mode():
        out = module(x)
    assert torch.equal(out, module(x))


def test_frozen_parameters():
    """Gradients of what is not frozen are the same, the rest gets none."""
    module, x = model("lazy"), draw(2, 30, WIDTH)
    want = dict(zip(dict(module.named_parameters()), gradients(module, x)[2:], strict=True))
    for frozen in ("tau", "attention_biases", "q_proj.weight"):
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(frozen not in name)
            parameter.grad = None
        out = module(x)
        out.backward(draw(*out.shape, seed=2))
        for name, parameter in module.named_parameters():
            if frozen in name:
                assert parameter.grad is None
            else:
                torch.testing.assert_close(parameter.grad, want[name])
