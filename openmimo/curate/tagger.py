"""A small tagger with several heads (MiMo 2.1): domain, and three scores. Trained, not a set of rules.

An encoder over hashed word unigrams and bigrams (a bag of embeddings, one hidden layer) with one softmax head for the
domain and one regression head per score. It reads text alone, tags thousands of documents a second on a CPU, and is
trained on documents whose labels are known: by a person, a larger model, or where they come from (`curate.tag`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import xxhash
from torch import Tensor, nn
from torch.nn import functional as F

SCORES = ("quality", "knowledge_density", "reasoning_depth")
"""The quality dimensions of MiMo 2.1, each 0 to 1."""
WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class TaggerConfig:
    num_buckets: int = 1 << 15
    """Hash buckets of words and word pairs."""
    width: int = 32
    hidden: int = 64
    max_words: int = 400
    """Words read from a document's head."""
    epochs: int = 4
    batch: int = 64
    learning_rate: float = 5e-3


@dataclass(frozen=True)
class Label:
    """What is known of one training document."""

    domain: str
    scores: tuple[float, float, float]
    """In the order of SCORES."""


@dataclass(frozen=True)
class Tags:
    domain: str
    confidence: float
    """Probability of the domain."""
    scores: dict[str, float]


class Tagger:
    """A fitted tagger; equal ones pickle to equal bytes."""

    def __init__(self, model: nn.Module, domains: tuple[str, ...], config: TaggerConfig) -> None:
        self._model, self.domains, self.config = model, domains, config

    def __getstate__(self) -> dict[str, Any]:
        weights = {name: tensor.numpy() for name, tensor in self._model.state_dict().items()}
        return {"weights": weights, "domains": self.domains, "config": self.config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.domains, self.config = state["domains"], state["config"]
        self._model = _Encoder(self.config, len(self.domains), torch.Generator())
        self._model.load_state_dict({name: torch.from_numpy(array) for name, array in state["weights"].items()})

    def tag(self, texts: Sequence[str]) -> list[Tags]:
        tags = []
        with torch.inference_mode():
            for start in range(0, len(texts), 512):
                logits, scores = self._model(*_features(texts[start : start + 512], self.config))
                confidence, best = logits.softmax(-1).max(-1)
                for row in range(len(best)):
                    values = {name: round(float(scores[row, n]), 4) for n, name in enumerate(SCORES)}
                    tags.append(Tags(self.domains[int(best[row])], round(float(confidence[row]), 4), values))
        return tags


def fit(texts: Sequence[str], labels: Sequence[Label], *, seed: int, config: TaggerConfig | None = None) -> Tagger:
    """Train a tagger.

    Raises:
        ValueError: without documents, or when texts and labels differ in number.
    """
    if not texts or len(texts) != len(labels):
        raise ValueError(f"a tagger needs as many labels as texts, and at least one; got {len(texts)}, {len(labels)}")
    config = config or TaggerConfig()
    domains = tuple(sorted({label.domain for label in labels}))
    generator = torch.Generator().manual_seed(seed)
    model = _Encoder(config, len(domains), generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate)
    targets = torch.tensor([domains.index(label.domain) for label in labels])
    scores = torch.tensor([label.scores for label in labels])
    for _ in range(config.epochs):
        for rows in torch.randperm(len(texts), generator=generator).split(config.batch):
            logits, guessed = model(*_features([texts[i] for i in rows.tolist()], config))
            loss = F.cross_entropy(logits, targets[rows]) + F.mse_loss(guessed, scores[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return Tagger(model, domains, config)


class _Encoder(nn.Module):
    def __init__(self, config: TaggerConfig, num_domains: int, generator: torch.Generator) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(config.num_buckets, config.width, mode="mean")
        self.hidden = nn.Linear(config.width, config.hidden)
        self.domain = nn.Linear(config.hidden, num_domains)
        self.scores = nn.Linear(config.hidden, len(SCORES))
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.normal_(0.0, 0.1, generator=generator)

    def forward(self, ids: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.gelu(self.hidden(self.bag(ids, offsets)))
        return self.domain(hidden), self.scores(hidden).sigmoid()


def _features(texts: Sequence[str], config: TaggerConfig) -> tuple[Tensor, Tensor]:
    """Hashed words and word pairs of every text, flat, with offsets."""
    ids: list[int] = []
    offsets = []
    for text in texts:
        offsets.append(len(ids))
        words = WORD.findall(text[: config.max_words * 12].lower())[: config.max_words]
        pairs = (f"{a} {b}" for a, b in pairwise(words))
        ids += [xxhash.xxh32_intdigest(gram.encode()) % config.num_buckets for gram in (*words, *pairs)] or [0]
    return torch.tensor(ids), torch.tensor(offsets)
