"""gRPC through the logger: HTTP/2 with prior knowledge on both sides, and V2 messages read for the events.

`preface` → `front` (the client's side) → `call` → `back` (the model's side), on `inference/http2/`; the shipper's
process reads what was captured with `transcript`.
"""
