"""The BERT classifier that pools the mean of its tokens; made in vLLM's processes alone."""

from __future__ import annotations

from functools import cache
from typing import Any

CLASS = "MeanBertForSequenceClassification"


def __getattr__(name: str) -> Any:
    """vLLM asks this module for the class by name; importing it needs no vLLM."""
    if name != CLASS:
        raise AttributeError(name)
    return _make_class()


@cache
def _make_class() -> type:
    from torch import nn
    from vllm.model_executor.layers.pooler import DispatchPooler
    from vllm.model_executor.layers.pooler.seqwise.methods import MeanPool
    from vllm.model_executor.models.bert import BertForSequenceClassification, BertModel
    from vllm.model_executor.models.interfaces_base import default_pooling_type
    from vllm.model_executor.models.utils import maybe_prefix

    @default_pooling_type(seq_pooling_type="MEAN")
    class MeanBertForSequenceClassification(BertForSequenceClassification):  # type: ignore[misc]
        """vLLM's class but for its pooler: no dense layer on the first token, the mean of all."""

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
                model.pooler_config, pooling=MeanPool(), classifier=self.classifier
            )

    return MeanBertForSequenceClassification
