"""BlockMask from sparse rows and from flex_attention, and blocks chosen by content."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import flex_attention as flex

from splash_attention.patterns import And, BlockMask, Causal, Extent, top_k_blocks

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@given(st.integers(0, 40), st.integers(0, 40), st.sampled_from((0.0, 0.1, 0.5, 1.0)), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_sparse_rows_come_back(rows, columns, density, seed):
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density
    crow = torch.cat([torch.zeros(1, dtype=torch.long), mask.sum(1).cumsum(0)]).int()
    pattern = BlockMask.from_csr(crow, mask.nonzero()[:, 1].int(), (rows, columns), (32, 64))
    assert pattern.block == (32, 64) and torch.equal(pattern.mask, mask)


def test_sparse_rows_of_every_head_and_batch():
    crow = torch.tensor([[[0, 1, 3], [0, 3, 3]]]).expand(2, 2, 3)
    col = torch.tensor([[[2, 0, 1], [1, 2, 0]], [[0, 1, 2], [0, 1, 2]]])
    mask = BlockMask.from_csr(crow, col, (2, 3), 64).mask
    expected = [[["..x", "xx."], ["xxx", "..."]], [["x..", ".xx"], ["xxx", "..."]]]
    assert [[["".join(".x"[int(k)] for k in row) for row in h] for h in b] for b in mask] == expected


@pytest.mark.filterwarnings("ignore:Sparse BSR tensor support")
def test_sparse_rows_of_torch():
    mask = torch.rand(7, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    scores = mask.repeat_interleave(16, 0).repeat_interleave(32, 1).float().to_sparse_bsr((16, 32))
    pattern = BlockMask.from_csr(scores.crow_indices(), scores.col_indices(), mask.shape, (16, 32))
    assert torch.equal(pattern.to_dense(112, 160)[0, 0], scores.to_dense().bool())


def test_full_blocks_of_flex_attention():
    def keeps(b, h, i, j):
        return (i // 64 - j // 32 + h) % 3 != b

    block_mask = flex.create_block_mask(keeps, 2, 3, 256, 320, device="cpu", BLOCK_SIZE=(64, 32))
    pattern = BlockMask.from_flex(block_mask)
    assert pattern.block == (64, 32) and pattern.mask.shape == (2, 3, 4, 10)
    expected = flex.create_mask(keeps, 2, 3, 256, 320, device="cpu")
    assert torch.equal(pattern.to_dense(256, 320, heads=3, batch=2), expected)


def test_listed_blocks_without_a_mask_function_are_full():
    counts = torch.tensor([[[1, 0, 2]]])
    lists = torch.tensor([[[[1, 0], [0, 1], [1, 0]]]])
    pattern = BlockMask.from_flex(flex.BlockMask.from_kv_blocks(counts, lists, BLOCK_SIZE=16))
    assert pattern.mask.tolist() == [[[[False, True], [False, False], [True, True]]]]
    both = flex.BlockMask.from_kv_blocks(
        counts * 0, lists, counts, lists, BLOCK_SIZE=16, mask_mod=lambda b, h, i, j: i > j
    )
    assert torch.equal(BlockMask.from_flex(both).mask, pattern.mask)


DOCUMENTS = torch.arange(300) // 70
PREFIX = torch.tensor([30, 100])


@pytest.mark.parametrize("sizes", [(256, 256), (200, 200), (100, 300), (300, 100)])
@pytest.mark.parametrize("block", [64, 128, (32, 64), (24, 40)])
@pytest.mark.parametrize(
    "keeps",
    [
        lambda b, h, i, j: j <= i,
        lambda b, h, i, j: (j <= i) & (i - j < 90),
        lambda b, h, i, j: (DOCUMENTS[i] == DOCUMENTS[j]) & (j <= i),
        lambda b, h, i, j: (j <= i) | (j < PREFIX[b]),
        lambda b, h, i, j: (i + j + h) % 3 == 0,
    ],
    ids=["causal", "window", "documents", "prefix", "heads"],
)
def test_partial_blocks_of_flex_attention(sizes, block, keeps):
    block_mask = flex.create_block_mask(keeps, 2, 3, *sizes, device="cpu", BLOCK_SIZE=block)
    pattern = BlockMask.from_flex(block_mask)
    expected = flex.create_mask(keeps, 2, 3, *sizes, device="cpu")
    assert torch.equal(pattern.to_dense(*sizes, heads=3, batch=2).expand_as(expected), expected)


def test_causal_masks_of_flex_attention_are_named():
    def causal(b, h, i, j):
        return j <= i

    block_mask = flex.create_block_mask(causal, None, None, 4096, 4096, device="cpu", BLOCK_SIZE=128)
    pattern = BlockMask.from_flex(block_mask)
    assert isinstance(pattern, And) and pattern.terms[1] == Causal() and pattern.terms[0].mask.shape == (1, 1, 32, 32)
    # A block that the lists call full is full, whatever the function says of it.
    lists = block_mask.kv_num_blocks, block_mask.kv_indices
    full = block_mask.full_kv_num_blocks.clone(), block_mask.full_kv_indices.clone()
    whole = flex.BlockMask.from_kv_blocks(*lists, *full, BLOCK_SIZE=128, mask_mod=causal)
    whole.full_kv_num_blocks[..., 0] = 1
    whole.full_kv_indices[..., 0, 0] = 5
    expected = causal(0, 0, torch.arange(4096)[:, None], torch.arange(4096))
    expected[:128, 640:768] = True
    assert torch.equal(BlockMask.from_flex(whole).to_dense(4096, 4096)[0, 0], expected)


def test_what_is_no_mask_of_flex_attention():
    with pytest.raises(TypeError, match="block_mask: expected a BlockMask of flex_attention, got Tensor"):
        BlockMask.from_flex(torch.ones(2, 2))


def chosen_by_hand(q, k, block, top, share_group, q_start, k_start):
    """(B, Hq, block rows, block columns), one query block after the other."""
    (batch, heads, Nq, _), (kv_heads, Nk), (bm, bn) = q.shape, k.shape[1:3], block
    group = heads // kv_heads
    rows, columns = -(-Nq // bm), -(-Nk // bn)
    mask = torch.zeros(batch, heads, rows, columns, dtype=torch.bool)
    for b in range(batch):
        for h in range(heads):
            members = range(h // group * group, h // group * group + group) if share_group else [h]
            for row in range(rows):
                places = [(i + q_start - k_start) // bn for i in range(row * bm, min(Nq, row * bm + bm))]
                own = [c for c in range(columns) if min(places) <= c <= max(places)]
                score = {
                    c: sum(
                        q[b, m, row * bm : row * bm + bm].mean(0) @ k[b, h // group, c * bn : c * bn + bn].mean(0)
                        for m in members
                    ).item()
                    for c in range(min(columns, max(0, min(places))))
                }
                best = sorted(score, key=lambda c: (-score[c], c))
                mask[b, h, row, own + best[: max(0, top - len(own))]] = True
    return mask


@pytest.mark.parametrize("share_group", [False, True])
@pytest.mark.parametrize(
    "Nq,Nk,block,top,q_start,k_start",
    [
        (400, 400, 32, 3, None, 0),
        (410, 410, (32, 32), 1, None, 0),
        (300, 300, (64, 16), 6, None, 0),
        (300, 300, (16, 64), 2, None, 0),
        (100, 330, 32, 4, None, 0),
        (64, 333, 32, 3, None, 5),
        (90, 333, 16, 50, 200, 7),
        (100, 50, 16, 2, None, 0),
        (7, 90, 16, 2, None, 0),
    ],
)
def test_blocks_are_those_of_a_search_by_hand(Nq, Nk, block, top, q_start, k_start, share_group):
    generator = torch.Generator().manual_seed(Nq)
    q = torch.randint(-4, 5, (2, 4, Nq, 8), generator=generator).double()
    k = torch.randint(-4, 5, (2, 2, Nk, 8), generator=generator).double()
    pattern = top_k_blocks(q, k, block, top, share_group, q_start=q_start, k_start=k_start)
    assert isinstance(pattern, And) and pattern.terms[1] == Causal()
    start = k_start + Nk - Nq if q_start is None else q_start
    pair = block if isinstance(block, tuple) else (block, block)
    expected = chosen_by_hand(q, k, pair, top, share_group, start, k_start)
    assert pattern.terms[0].block == pair and torch.equal(pattern.terms[0].mask, expected)
    alone = top_k_blocks(q, k, block, top, share_group, causal=False, q_start=q_start, k_start=k_start)
    assert isinstance(alone, BlockMask) and torch.equal(alone.mask, expected)


def test_equal_scores_go_to_the_earlier_block():
    q = torch.ones(1, 2, 320, 4)
    mask = top_k_blocks(q, q, 32, 4, causal=False).mask
    for row in range(10):
        assert set(mask[0, 0, row].nonzero().flatten().tolist()) == {row, *range(min(3, row))}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_the_own_block_stays_whatever_the_scores_are(value):
    q, k = torch.randn(1, 1, 128, 8), torch.randn(1, 1, 128, 8)
    k[0, 0, :40] = value
    mask = top_k_blocks(q, k, 16, 2, causal=False).mask[0, 0]
    assert mask.diagonal().all() and not mask.triu(1).any() and (mask.sum(-1) == torch.tensor([1] + [2] * 7)).all()


def test_a_group_shares_its_list():
    q, k = torch.randn(2, 6, 256, 16), torch.randn(2, 2, 256, 16)
    mask = top_k_blocks(q, k, 16, 4, share_group=True, causal=False).mask.unflatten(1, (2, 3))
    assert torch.equal(mask[:, :, 0], mask[:, :, 1]) and torch.equal(mask[:, :, 0], mask[:, :, 2])
    assert not torch.equal(mask[:, 0], mask[:, 1])


def test_no_gradient_flows_through_the_choice():
    q = torch.randn(1, 1, 64, 8, requires_grad=True)
    pattern = top_k_blocks(q, q, 16, 2)
    assert not pattern.terms[0].mask.requires_grad
    assert pattern.encode(Extent(1, 1, 64, 64, CPU)).pattern == "block_mask&causal"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_halves_are_pooled_in_float32(dtype):
    q, k = torch.randn(1, 2, 512, 32).to(dtype), torch.randn(1, 2, 512, 32).to(dtype)
    mask = top_k_blocks(q, k, 32, 3).terms[0].mask
    assert torch.equal(mask, top_k_blocks(q.float(), k.float(), 32, 3).terms[0].mask)
    assert top_k_blocks(100 * torch.ones_like(q), k, 512, 1).terms[0].mask.all()  # the sum of a block is beyond float16


Q, K = torch.zeros(1, 4, 64, 8), torch.zeros(1, 2, 64, 8)
OFFSETS = torch.tensor([0, 1])


@pytest.mark.parametrize(
    "make,error,text",
    [
        (lambda: top_k_blocks(Q, K, 24, 2), ValueError, "block: expected a multiple of 16"),
        (lambda: top_k_blocks(Q, K, 16.0, 2), TypeError, "block: expected an int or a pair of ints"),
        (lambda: top_k_blocks(Q, K, (16, 16, 16), 2), ValueError, "block: expected a multiple of 16 or a pair"),
        (lambda: top_k_blocks(Q, K, 16, 0), ValueError, "top: expected at least 1, got 0"),
        (lambda: top_k_blocks(Q, K, 16, 2.5), TypeError, "top: expected an int, got float"),
        (lambda: top_k_blocks(Q, K, 16, 2, 1), TypeError, "share_group: expected True or False"),
        (lambda: top_k_blocks(Q, K, 16, 2, causal=None), TypeError, "causal: expected True or False"),
        (lambda: top_k_blocks(Q[0], K, 16, 2), ValueError, "q: expected 4 dimensions"),
        (lambda: top_k_blocks(Q, [1], 16, 2), TypeError, "k: expected a tensor, got list"),
        (lambda: top_k_blocks(Q.int(), K, 16, 2), TypeError, "q: expected a floating dtype, got torch.int32"),
        (
            lambda: top_k_blocks(Q, K.half(), 16, 2),
            TypeError,
            "q, k: expected one dtype, got torch.float32 and torch.float16",
        ),
        (lambda: top_k_blocks(Q, K[..., :4], 16, 2), ValueError, "k: expected .* got \\(1, 2, 64, 4\\)"),
        (lambda: top_k_blocks(Q[:, :3], K, 16, 2), ValueError, "k: expected .* heads that divides"),
        (lambda: top_k_blocks(Q, K, 16, 2, q_start=1.0), TypeError, "q_start: expected an int, got float"),
        (lambda: top_k_blocks(Q, K, 16, 2, k_start=2**30), ValueError, "k_start: positions must lie"),
        (lambda: BlockMask.from_csr(OFFSETS, OFFSETS[:1], 3, 16), TypeError, r"shape: expected \(block rows"),
        (lambda: BlockMask.from_csr(OFFSETS, OFFSETS[:1], (1, -3), 16), ValueError, "shape: expected at least 0"),
        (lambda: BlockMask.from_csr(OFFSETS, OFFSETS[:1], (1, 3, 1), 16), ValueError, r"shape: expected \(block rows"),
        (lambda: BlockMask.from_csr(OFFSETS, OFFSETS[:1], (2, 3), 16), ValueError, "crow: expected 3 offsets"),
        (lambda: BlockMask.from_csr(OFFSETS, OFFSETS[1:] + 2, (1, 3), 16), ValueError, "col: expected columns"),
        (lambda: BlockMask.from_csr(OFFSETS, OFFSETS[:1], (1, 3), 8), ValueError, "block: expected a multiple of 16"),
    ],
    ids=lambda value: None,
)  # fmt: skip
def test_errors_name_the_argument(make, error, text):
    with pytest.raises(error, match=text):
        make()
