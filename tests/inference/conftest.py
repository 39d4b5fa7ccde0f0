"""Lets these tests import LightGBM on a machine without libgomp, as the runtime does for itself."""

from inference import openmp

openmp.provide()
