"""Composition root: the command line, the environment, the local runner. Only this package knows all the others."""
