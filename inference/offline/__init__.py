"""Predictions for whole files: read in pieces, resumed after a crash, written as one (`run.py`).

`inputs.py` reads tables in units, `columns.py` decides which columns the model gets and what comes out, `parts.py`
keeps what is done and puts it together.
"""
