"""The BERT classifier that pools its tokens itself; made in vLLM's processes alone."""

from __future__ import annotations

from functools import cache
from typing import Any

from flywheel.contracts.model_folder import Pooling
from flywheel.contracts.pooling import pooled, unit_length

CLASS = "PooledBertForSequenceClassification"


def __getattr__(name: str) -> Any:
    """vLLM asks this module for the class by name; importing it needs no vLLM."""
    if name != CLASS:
        raise AttributeError(name)
    return _make_class()


@cache
def _make_class() -> type:
    import torch
    from torch import nn
    from vllm.model_executor.layers.pooler import DispatchPooler
    from vllm.model_executor.layers.pooler.seqwise.methods import MeanPool
    from vllm.model_executor.models.bert import BertForSequenceClassification, BertModel
    from vllm.model_executor.models.interfaces_base import default_pooling_type
    from vllm.model_executor.models.utils import maybe_prefix

    class Pool(MeanPool):  # type: ignore[misc]
        """Pools as our release says: vLLM knows the mean, the first token and the last."""

        def __init__(self, config: Any) -> None:
            super().__init__()
            self.kind: Pooling = getattr(config, "flywheel_pooling", "mean")
            self.normalise = getattr(config, "flywheel_normalise", False)

        def forward(self, hidden_states: Any, pooling_metadata: Any) -> Any:
            if self.kind == "mean":
                vectors = super().forward(hidden_states, pooling_metadata)
            else:
                lengths = pooling_metadata.get_pooling_cursor().prompt_lens_cpu.tolist()
                by_text = hidden_states.float().split(lengths) if lengths else ()
                vectors = [pooled(states[None], self.kind) for states in by_text]
                empty = hidden_states.new_empty((0, hidden_states.shape[-1]), dtype=torch.float32)
                vectors = torch.cat([empty, *vectors])
            return unit_length(vectors) if self.normalise else vectors

    @default_pooling_type(seq_pooling_type="MEAN")
    class PooledBertForSequenceClassification(BertForSequenceClassification):  # type: ignore[misc]
        """vLLM's class but for its pooler: no dense layer on the first token."""

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            nn.Module.__init__(self)
            model = vllm_config.model_config
            self.num_labels = model.hf_config.num_labels
            self.bert = BertModel(
                vllm_config=vllm_config,
                prefix=maybe_prefix(prefix, "bert"),
                embedding_class=self.embedding_class,
            )
            self.classifier = nn.Linear(
                model.hf_config.hidden_size, self.num_labels, dtype=model.head_dtype
            )
            self.pooler = DispatchPooler.for_seq_cls(
                model.pooler_config, pooling=Pool(model.hf_config), classifier=self.classifier
            )

    return PooledBertForSequenceClassification
