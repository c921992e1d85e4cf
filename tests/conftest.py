"""Fixtures that every folder of tests shares."""

pytest_plugins = ["kafka_fixture"]
