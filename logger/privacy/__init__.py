"""What may be logged of a body: rules (`rules.py`) for JSON (`pointers.py`) and tensors (`tensors.py`), and encryption.

It runs in the shipper's process, before anything touches disk or network: `logger/record.py` →
`logger/privacy/tap.py` → `logger/privacy/cleaner.py` → `logger/tap.py`.
"""
