"""The inference protocols' codecs, pure: V1 (`v1.py`), V2 with its binary tensors (`v2.py`), and tensors."""
