"""Event ↔ headers and bytes, for Kafka and HTTP, in every content mode that the CloudEvents 1.0.2 bindings define.

Pure. `kafka.py` and `http.py` hold the protocol bindings, `json.py` the event format, `attributes.py` the rules that
they share. Where the cloudevents SDK departs from the specification, these follow the specification.
"""

from streams.bindings.http import from_http, to_http, to_http_batch, to_http_structured
from streams.bindings.json import decode_event, encode_event
from streams.bindings.kafka import from_kafka, to_kafka, to_kafka_structured

__all__ = [
    "decode_event",
    "encode_event",
    "from_http",
    "from_kafka",
    "to_http",
    "to_http_batch",
    "to_http_structured",
    "to_kafka",
    "to_kafka_structured",
]
