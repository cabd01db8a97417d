"""The operators of patterns' metadata: what torch.compile and torch.export take where Python makes it by hand."""

import pytest
import torch
from mask_inputs import blocks, draw, sparse

import splash_attention as sa
from splash_attention.patterns import Extent

pytestmark = pytest.mark.usefixtures("one_thread")


def draw_qkv(n):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, 4, n, 16, generator=generator) for _ in range(3)]


def bird(like, *sizes, lengths=None, kv_lengths=None, ends=None, totals=(0, 0)):
    """Arguments of big_bird_bits: queries, keys, q_start, k_start."""
    fields = 16, 3, 1, 1, 2, -1, True, False, -1
    return like, *fields, 2, 4, *sizes, lengths, kv_lengths, ends, ends, *totals, True


def metadata_calls():
    q, _, _ = draw_qkv(130)
    crow, col = sparse(130)
    held, ends = (torch.tensor(numbers, dtype=torch.int32) for numbers in ([70, 130], [0, 31, 130]))
    ops = torch.ops.splash
    yield ops.chosen_blocks, (q, q[:, :2], None, None, 64, 64, 2, False, 0, 0)
    yield ops.chosen_blocks, (q, q[:, :2], held[:1], None, 32, 64, 2, True, 0, 0)
    yield ops.mask_of_csr, (crow, col, 130, 130)
    for transpose in (True, False):
        yield ops.mask_bits, (draw(2, 1, 130, 70), 130, 70, transpose)
        yield ops.mask_bits, (draw(1, 70), 130, 70, transpose)
        yield ops.mask_tiles, (draw(130, 70), 130, 70, transpose)
        yield ops.mask_tiles, (draw(2, 1, 1, 70), 130, 70, transpose)
        yield ops.csr_tiles, (crow, col, 130, 130, transpose)
    yield ops.index_ranges, (torch.arange(130), torch.arange(3, 133), 130, 130)
    yield ops.index_ranges, (torch.arange(8).view(2, 1, 4), torch.arange(12, dtype=torch.int16).view(1, 3, 4), 4, 4)
    yield ops.big_bird_bits, bird(q, 130, 130, 0, 0)
    yield ops.big_bird_bits, bird(q, 130, 130, 0, 0, lengths=held)
    yield ops.big_bird_bits, bird(q, 3, 130, 0, 0, kv_lengths=held)
    yield ops.big_bird_bits, bird(q, 99, 99, 0, 0, ends=ends, totals=(130, 130))
    segments = [16, 2, 32, 4]
    qkv = [t.requires_grad_() for t in draw_qkv(45)]
    yield ops.longnet, (*qkv, None, segments, True, 0.25, False)


@pytest.mark.parametrize("operator, arguments", [*metadata_calls()], ids=lambda value: str(value)[:30])
def test_opcheck(operator, arguments):
    torch.library.opcheck(operator.default, arguments)


def same_tables(pattern, extent):
    """The library makes what Python makes, bit for bit, tiles of an element mask but for their numbers."""
    made, want = list(pattern.tensors_in_graphs(extent)), pattern.tensors(extent)
    assert all(tensor.dtype is torch.int32 and tensor.is_contiguous() for tensor in made)
    if pattern.name == "element_mask":
        *made, words = made
        *want, exact = want
        partial = want[2] >= 0
        assert torch.equal(made[2] >= 0, partial)
        assert torch.equal(words[made[2][partial].long()], exact[want[2][partial].long()])
        made[2], want[2] = (torch.where(partial, 0, index) for index in (made[2], want[2]))
    assert len(made) == len(want)
    for ours, theirs in zip(made, want, strict=True):
        if ours.numel() or theirs.numel():
            assert ours.shape == theirs.shape and torch.equal(ours, theirs)


def extents(device, packed=True):
    place = torch.device(device)
    held, ends = (torch.tensor(numbers, dtype=torch.int32, device=device) for numbers in ([70, 130], [0, 31, 131]))
    for backward in (True, False):
        yield Extent(2, 4, 130, 130, place, backward=backward)
        yield Extent(2, 4, 30, 130, place, 17, backward=backward)
        yield Extent(2, 4, 30, 130, place, 5, backward=backward, q_start=200)
        yield Extent(2, 4, 130, 30, place, backward=backward)
        yield Extent(2, 4, 130, 130, place, backward=backward, lengths=held)
        yield Extent(2, 4, 3, 130, place, backward=backward, kv_lengths=held)
        yield Extent(2, 4, 0, 0, place, backward=backward)
        if packed:
            sizes = {"cu_seqlens_q": ends, "cu_seqlens_k": ends, "rows": 131, "columns": 131}
            yield Extent(2, 4, 100, 100, place, backward=backward, **sizes)
            yield Extent(2, 4, 100, 90, place, 40, backward=backward, **sizes)


BIRDS = [
    sa.BigBird(16), sa.BigBird(16, per_head=True, seed=2**64 - 1), sa.BigBird(16, causal=True, random=5),
    sa.BigBird(32, window=1, first=0, last=0, random=9), sa.BigBird(5, first=3, last=2, random=0, per_head=True),
    sa.BigBird(16, length=5000, random=2), sa.BigBird(7, causal=True, length=100),
]  # fmt: skip


@pytest.mark.parametrize("pattern", BIRDS, ids=str)
def test_the_library_draws_as_python_does(pattern, device):
    for extent in extents(device, packed=pattern.length is None):
        same_tables(pattern, extent)


def test_the_library_packs_as_python_does(device):
    place = torch.device(device)
    for backward in (True, False):
        for rows, columns in ((130, 130), (3, 200), (64, 64), (1, 1), (0, 5), (5, 0)):
            extent = Extent(2, 4, rows, columns, place, backward=backward)
            for lead in ((), (1, 4), (2, 1)):
                for sizes in ((rows, columns), (1, columns), (rows, 1), (1, 1)):
                    same_tables(sa.ElementMask(draw(*lead, *sizes).to(device)), extent)
                    same_tables(sa.ElementMask(torch.ones(*lead, *sizes, dtype=torch.bool, device=device)), extent)
                    same_tables(sa.BlockMask(draw(*lead, *map(blocks, sizes)).to(device), 64), extent)
            for dtype in (torch.int32, torch.int64, torch.uint8):
                for q_lead, k_lead in (((), ()), ((2, 1), (1, 4)), ((2, 4), ())):
                    q_idx, k_idx = (
                        torch.randint(0, 99, (*lead, size)).to(dtype)
                        for lead, size in ((q_lead, rows), (k_lead, columns))
                    )
                    same_tables(sa.IndexCausal(q_idx, k_idx), extent)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.6, 1.0])
def test_the_library_reads_sparse_rows_as_python_does(density, device):
    generator = torch.Generator().manual_seed(2)
    for rows, columns in ((130, 130), (3, 200), (64, 64), (1, 1), (0, 5), (5, 0)):
        mask = torch.rand(rows, columns, generator=generator) < density
        mask = mask.to(device)
        crow = torch.cat([mask.new_zeros(1, dtype=torch.long), mask.sum(1).cumsum(0)])
        col = mask.nonzero()[:, 1]
        extent = Extent(2, 4, rows, columns, torch.device(device))
        same_tables(sa.ElementMask.from_csr(crow, col, rows, columns), extent)
        assert torch.equal(torch.ops.splash.mask_of_csr(crow.int(), col, rows, columns), mask)
    falling, outside = (torch.tensor(numbers, device=device) for numbers in ([-2, 2, 1, 9], [0, -1, 7, 3]))
    kept = torch.ops.splash.mask_of_csr(falling, outside, 3, 4)
    assert kept.tolist() == [[True, False, False, False], [False] * 4, [False, False, False, True]]
    by_row, _, index, words = torch.ops.splash.csr_tiles(falling, outside, 3, 4, True)
    assert by_row.tolist() == [[[[1]]]] and words[index[0, 0, 0, 0]].flatten()[:6].tolist() == [1, 0, 0, 0, 8, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("share_group", [True, False])
def test_the_library_chooses_as_python_does(dtype, share_group, device):
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([70, 130], device=device)
    for queries, block, places in ((130, (16, 32), {}), (20, (16, 16), {"q_start": 50}), (3, (16, 16), {})):
        q = torch.randn(2, 4, queries, 8, generator=generator).to(device, dtype)
        k = torch.randn(2, 2, 130, 8, generator=generator).to(device, dtype)
        for padding in (
            {},
            {"lengths": lengths} if queries == 130 else {},
            {"kv_lengths": lengths} if not places else {},
        ):
            want = sa.top_k_blocks(q, k, block, 3, share_group, causal=False, **places, **padding).mask
            own = padding.get("lengths"), padding.get("kv_lengths")
            got = torch.ops.splash.chosen_blocks(
                q, k, *own, *block, 3, share_group, places.get("q_start", 130 - queries), 0
            )
            assert torch.equal(got, want)


def test_what_the_operators_of_metadata_refuse():
    ops = torch.ops.splash
    mask, (crow, col) = draw(8, 8), sparse(8)
    wrong = [
        (lambda: ops.mask_bits(mask.int(), 8, 8, True), "TypeError: mask must be bool"),
        (lambda: ops.mask_bits(mask, 9, 8, True), "mask has 8 rows; expected 9 or 1"),
        (lambda: ops.mask_tiles(mask, 8, -1, True), "columns is -1"),
        (lambda: ops.csr_tiles(crow, col, 9, 8, True), "crow must have"),
        (lambda: ops.mask_of_csr(crow, col[None], 8, 8), "col must have crow's leading dimensions"),
        (lambda: ops.index_ranges(mask, mask, 8, 8), "TypeError: q_idx must have an integer dtype"),
        (lambda: ops.index_ranges(crow, crow, 8, 9), "q_idx has 9 entries; expected 8 or 1"),
        (lambda: ops.chosen_blocks(torch.ones(1, 2, 8, 4), torch.ones(1, 3, 8, 4), None, None, 16, 16, 1, False, 0, 0),
         "a number of heads that divides"),
        (lambda: ops.big_bird_bits(*bird(mask, 8, 8, 0, 0)[:1], 0, *bird(mask, 8, 8, 0, 0)[2:]), "block is 0"),
        (lambda: ops.longnet(*[torch.ones(1, 2, 8, 4)] * 3, None, [4], True, 1.0, False), "must be pairs"),
    ]  # fmt: skip
    for call, text in wrong:
        with pytest.raises(RuntimeError, match=text):
            call()
