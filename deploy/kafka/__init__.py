"""The embedded Apache Kafka: a Java runtime and the jars from package registries, one KRaft node on loopback."""
