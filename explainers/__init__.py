"""Explainers, their callback client and their server."""
