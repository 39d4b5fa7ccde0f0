"""Where events can go besides Kafka: each a `Publisher` (`streams/stage.py`), so that one courier serves them all."""
