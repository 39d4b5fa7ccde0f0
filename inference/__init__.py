"""The predictor: protocols, runtimes, server. Its codecs serve the logger, the detectors and the explainers as well."""
