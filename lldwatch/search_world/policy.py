"""The tiny policy: a two-layer causal transformer of about 51,600 parameters, fp32.

Why it exists: small enough that 80 steps of GRPO take seconds on one CPU thread, large enough to read a document. The
embedding of the *previous* token is added to the input of each position (token shift): a value then knows the relation
in front of it, so that reading needs one attention step instead of two. Without it a base of this size does not learn
to read within seconds, and reinforcement learning has nothing to improve. Rejected: a recurrent network (forgets the
question over long tool feedback) and a library model (start-up and per-call overhead larger than the work itself).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu

Cache = list[tuple[Tensor, Tensor]]
"""Per layer the keys and values so far, each (B, heads, T, head size)."""


class Layer(nn.Module):
    """One pre-norm transformer layer."""

    def __init__(self, width: int, heads: int) -> None:
        """Makes a layer for activations (B, T, width)."""
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Activations (B, T, width) of new positions, and keys and values with those positions added."""
        rows, length, width = x.shape
        qkv = self.qkv(self.norm_attention(x)).view(rows, length, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if past is not None:
            key, value = torch.cat([past[0], key], dim=2), torch.cat([past[1], value], dim=2)
        # Written out: at this size torch's fused attention is a fifth slower on a CPU, backward most of all.
        scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
        if past is None:
            scores = scores + torch.full((length, length), -torch.inf).triu(1)
        mixed = scores.softmax(-1) @ value
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(relu(self.up(self.norm_mlp(x)))), (key, value)


class Policy(nn.Module):
    """The tool-using policy."""

    def __init__(
        self, vocabulary: int, max_tokens: int, seed: int, width: int = 48, heads: int = 4, layers: int = 2
    ) -> None:
        """Makes a policy with weights drawn from `seed` alone (the global random state is neither read nor changed)."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # torch draws default weights, ours replace them below
            self.token = nn.Embedding(vocabulary, width)
            self.previous = nn.Embedding(vocabulary, width)
            self.position = nn.Embedding(max_tokens, width)
            self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, vocabulary)
        generator = torch.Generator().manual_seed(seed)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5, generator=generator)

    def forward(self, tokens: Tensor, cache: Cache | None = None, before: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Scores what comes next.

        Args:
            tokens: (B, T) int64, the new positions; one position if a cache is given.
            cache: keys and values of the positions before them; None = the sequence starts here.
            before: (B,) int64, the token in front of the first new position; needed with a cache.

        Returns:
            Logits (B, T, vocabulary) of the following token, and the cache with the new positions added.
        """
        start = 0 if cache is None else cache[0][0].shape[2]
        shifted = pad(tokens[:, :-1], (1, 0)) if before is None else torch.cat([before[:, None], tokens[:, :-1]], 1)
        x = self.token(tokens) + self.previous(shifted) + self.position.weight[start : start + tokens.shape[1]]
        new_cache: Cache = []
        for index, layer in enumerate(self.layers):
            x, kept = layer(x, None if cache is None else cache[index])
            new_cache.append(kept)
        return self.head(self.norm(x)), new_cache

    def log_probs(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability of each given token after those before it, and the entropy of that choice.

        Args:
            tokens: (B, T) int64.

        Returns:
            Log-probabilities and entropies, both (B, T) float32 in nats; 0 at position 0, which nothing predicts.
        """
        logits, _ = self(tokens[:, :-1])
        scores = torch.log_softmax(logits, dim=-1)
        chosen = scores.gather(-1, tokens[:, 1:, None]).squeeze(-1)
        entropy = -(scores.exp() * scores).sum(-1)
        return pad(chosen, (1, 0)), pad(entropy, (1, 0))
