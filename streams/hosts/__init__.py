"""Hosts that run any stage: `native` (confluent-kafka, the default), `faust`, and `memory` for replay and tests.

What they share, the checkpoint rule, is in `runner.py`; one contract suite runs against all three.
"""
