"""A sentence encoder of a few kilobytes with random weights, and texts that it can learn."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from flywheel.contracts.stores import LabelledSample

TOPICS = {
    "weather": ["rain", "sun", "cloud", "storm", "wind", "snow"],
    "money": ["price", "cost", "bank", "loan", "cash", "coin"],
    "food": ["bread", "cheese", "apple", "soup", "rice", "cake"],
}
_FILLER = ["the", "a", "of", "my", "this", "some", "near", "about"]


def make_encoder(
    folder: Path, pooling: str = "mean", *, vocabulary: int = 0, positions: int = 64
) -> Path:
    """Write a BERT of two layers with its tokenizer in the layout of sentence-transformers.

    ``vocabulary`` is how many tokens it has embeddings of, if more than its tokenizer's;
    ``positions`` how many of a text it reads.
    """
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel

    torch.manual_seed(7)
    folder.mkdir(parents=True, exist_ok=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [
        c for letter in "abcdefghijklmnopqrstuvwxyz0123456789" for c in (letter, f"##{letter}")
    ]
    words = [*special, *letters, *_FILLER[2:], *(w for topic in TOPICS.values() for w in topic)]
    known = {word: index for index, word in enumerate(dict.fromkeys(words))}
    BertWordPieceTokenizer(vocab=known).save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": positions,
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            config
            | {
                "pad_token": "[PAD]",
                "unk_token": "[UNK]",
                "cls_token": "[CLS]",
                "sep_token": "[SEP]",
                "mask_token": "[MASK]",
            }
        )
    )
    BertModel(
        BertConfig(
            vocab_size=max(vocabulary, len(known)),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=positions,
        )
    ).save_pretrained(folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "pool", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "pool").mkdir(exist_ok=True)
    (folder / "pool/config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": 32,
                "pooling_mode_cls_token": pooling == "cls",
                "pooling_mode_mean_tokens": pooling == "mean",
            }
        )
    )
    return folder


def labelled(
    count: int, *, holdout: int = 0, seed: int = 0, labels: Sequence[str] = tuple(TOPICS)
) -> list[LabelledSample]:
    """Texts of a topic's words among filler; the first ``holdout`` of them held out."""
    chance = random.Random(seed)
    samples = []
    for index in range(count):
        label = labels[index % len(labels)]
        words = chance.choices(TOPICS[label], k=3) + chance.choices(_FILLER, k=chance.randint(1, 6))
        chance.shuffle(words)
        samples.append(
            LabelledSample(
                sample_id=f"s{seed}-{index:04}",
                content=f"{' '.join(words)} {index}",
                label=label,
                source="expert",
                annotators=("ann",),
                split="holdout" if index < holdout else "train",
                inclusion_probability=1.0,
                audit=False,
                settled_at=datetime(2026, 1, 1, tzinfo=UTC),
                event_id=f"e{index:06}",
            )
        )
    return samples
