"""Detectors over the observation stream, their alarm budget and the life cycle of their alerts."""
