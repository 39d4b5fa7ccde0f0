"""Predictions over Kafka: requests from one topic, answers to another, with order, ids and batches (`stage.py`).

`envelopes.py` and `heads.py` read what records say, `requests.py` their bodies; `batches.py` joins what can be joined,
`sheets.py` and `answers.py` write; all pure. `plane.py` is the way to the models. Any host of `streams/hosts/` runs the
stage.
"""
