"""Random patterns, alone and in conjunctions, for problems of any size."""

import random

import torch

import splash_attention as sa


class DrawnPatterns:
    """Random patterns for B batches, Nq queries and Nk keys; numbers are small in one half of them."""

    def __init__(self, seed, batch, heads, Nq, Nk, device="cpu"):
        self.random, self.generator = random.Random(seed), torch.Generator().manual_seed(seed)
        self.batch, self.heads, self.Nq, self.Nk, self.device = batch, heads, Nq, Nk, device

    def number(self, low, high):
        return self.random.randrange(low, high * self.random.choice((1, 8)))

    def flag(self):
        return self.random.random() < 0.5

    def sizes(self):
        """Batches and heads of a tensor."""
        return self.random.choice((1, self.batch)), self.random.choice((1, self.heads))

    def mask(self, *shape):
        return (torch.rand(*shape, generator=self.generator) < self.random.choice((0.01, 0.3, 0.95))).to(self.device)

    def position(self):
        """A pattern of positions."""
        number, flag = self.number, self.flag
        stride = number(1, 12)
        tokens = tuple(self.random.randrange(200) for _ in range(self.random.randrange(5)))
        return self.random.choice(
            [
                lambda: sa.SlidingWindow(number(0, 20), number(0, 20)),
                lambda: sa.Streaming(number(0, 20), number(1, 20)),
                lambda: sa.BlockDiagonal(number(1, 20), flag()),
                lambda: sa.Dilated(number(1, 9), number(1, 7), flag()),
                lambda: sa.Dilated(number(1, 9), tuple(number(1, 7) for _ in range(self.heads)), flag()),
                lambda: sa.Strided(number(1, 9), number(1, 9)),
                lambda: sa.Fixed(stride, self.random.randrange(stride + 1)),
                lambda: sa.Longformer(number(0, 9), number(0, 9), number(1, 4), flag()),
                lambda: sa.Longformer(number(0, 9), tokens, number(1, 4), flag()),
                self.big_bird,
            ]
        )()

    def big_bird(self):
        first, last, count = (self.random.randrange(3) for _ in range(3))
        window, seed = self.random.choice((1, 3, 5)), self.random.getrandbits(64)
        return sa.BigBird(self.number(2, 16), window, first, last, count, seed, self.flag(), self.flag())

    def placed(self):
        """A pattern of rows and columns."""
        return self.random.choice((self.blocks, self.elements, self.sparse_rows, self.indices))()

    def blocks(self):
        rows, columns = block = self.random.choice(((16, 16), (48, 32), (64, 128), (64, 64)))
        return sa.BlockMask(self.mask(*self.sizes(), -(-self.Nq // rows), -(-self.Nk // columns)), block)

    def elements(self):
        mask = self.mask(*self.sizes(), self.random.choice((1, self.Nq)), self.random.choice((1, self.Nk)))
        mask[..., : self.Nq // 2, self.Nk // 2 :] = self.flag()
        return sa.ElementMask(mask)

    def sparse_rows(self):
        mask = self.mask(self.Nq, self.Nk)
        crow = torch.nn.functional.pad(mask.sum(1).cumsum(0), (1, 0))
        return sa.ElementMask.from_csr(crow, mask.nonzero()[:, 1], self.Nq, self.Nk)

    def indices(self):
        q_idx, k_idx = (
            torch.randint(-50, 50, (*self.sizes(), length), generator=self.generator).to(self.device)
            for length in (self.Nq, self.Nk)
        )
        return sa.IndexCausal(q_idx, k_idx.sort().values if self.flag() else k_idx)

    def conjunction(self, packed=False):
        pattern = self.position()
        for _ in range(self.random.choice((0, 0, 1, 2))):
            pattern = pattern & (self.position() if packed or self.flag() else self.placed())
        return pattern if packed or self.flag() else self.placed() & pattern
