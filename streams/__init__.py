"""Kafka and Faust: topics, publisher, boundary, relay, local broker, agents."""
