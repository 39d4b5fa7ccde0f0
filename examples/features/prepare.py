"""Writes three drivers' features to trips.parquet, for the store, and a model that wants them to model/."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost

FEATURES = {"acceptance": [0.5, 0.9, 0.7], "daily": [10.0, 20.0, 30.0]}
TIPS = [1.0, 4.0, 2.0]

at = [datetime(2026, 1, 1, tzinfo=UTC)] * len(TIPS)
pq.write_table(pa.table({"driver_id": [1001, 1002, 1003], **FEATURES, "at": at}), "trips.parquet")

rows = xgboost.DMatrix(np.column_stack(list(FEATURES.values())), np.array(TIPS), feature_names=list(FEATURES))
booster = xgboost.train({"max_depth": 2, "min_child_weight": 0, "eta": 1.0}, rows, num_boost_round=20)
model = Path("model")
model.mkdir(exist_ok=True)
booster.save_model(model / "model.json")
shutil.copy("sidelight.json", model)
