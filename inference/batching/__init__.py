"""Brings calls to models: who waits, who goes first, what is joined into one prediction, who gets which rows back."""
