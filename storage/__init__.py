"""Tables, repositories, migrations and the feature store."""
