"""Predictions over Kafka: requests from one topic, answers to another, with order, ids and batches (`stage.py`).

`requests.py` reads records, `batches.py` joins what can be joined, `answers.py` writes; all pure. `plane.py` is the way
to the models. Any host of `streams/hosts/` runs the stage.
"""
