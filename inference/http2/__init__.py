"""HTTP/2 as gRPC needs it, for the logger's proxy and the predictor's server: asyncio's transports, `h2`'s rules.

`framing` and `sending` (frames) → `link` (one connection of either side) → `guest` (one that a client opened, with the
limits of what it may do); `flow` carries content, `fields` are heads, `status` is gRPC's.
"""
