"""Batching: V1 and V2 calls that fit together become one call of the model, and its answer is split again.

`front` takes calls → `v1`, `v2` read them → `gathering` decides who goes together → `calls` reaches the model. What
ties them together is `logger/batcher.py`.
"""
