"""A key's partition is the same for every client: two writers of one sample meet in one log."""

from __future__ import annotations

from aiokafka.partitioner import DefaultPartitioner as AiokafkaPartitioner
from hypothesis import given
from hypothesis import strategies as st
from kafka.partitioner.default import murmur2

from streams.partitions import partitions_of


@given(st.lists(st.binary(max_size=70), max_size=20), st.integers(1, 60))
def test_a_key_has_the_partition_that_the_clients_give_it(keys: list[bytes], count: int) -> None:
    every = list(range(count))
    assert partitions_of(keys, count) == [AiokafkaPartitioner()(key, every, every) for key in keys]
    assert partitions_of(keys, count) == [(murmur2(key) & 0x7FFFFFFF) % count for key in keys]


def test_what_has_no_key_goes_anywhere() -> None:
    assert set(partitions_of([None] * 400, 3)) == {0, 1, 2}
