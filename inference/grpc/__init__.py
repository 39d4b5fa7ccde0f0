"""The gRPC transport: the Open Inference Protocol's service, with reflection and health, thin above the data plane.

Served on `inference/http2/`, without a gRPC library: `server` → `listener` → `connection` → `call` → a method.
"""
