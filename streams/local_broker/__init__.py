"""The local broker: Apache Kafka itself, fetched, verified, formatted and run."""

from streams.local_broker.broker import BrokerStatus, LocalBroker

__all__ = ["BrokerStatus", "LocalBroker"]
