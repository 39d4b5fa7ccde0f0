"""Ways out to a broker: confluent-kafka (the default), kafka-python, and memory. All keep the contract `Publisher`."""
