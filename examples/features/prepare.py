"""Writes three drivers' features to trips.parquet: what `feast materialize` brings to the online store."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq

at = [datetime(2026, 1, 1, tzinfo=UTC)] * 3
pq.write_table(
    pa.table({"driver_id": [1001, 1002, 1003], "acceptance": [0.5, 0.9, 0.7], "daily": [10.0, 20.0, 30.0], "at": at}),
    "trips.parquet",
)
