"""Two features of a driver, as Feast's own definitions say them."""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Float64

driver = Entity(name="driver", join_keys=["driver_id"], value_type=ValueType.INT64)

trips = FeatureView(
    name="trips",
    entities=[driver],
    ttl=timedelta(days=3650),
    schema=[Field(name="acceptance", dtype=Float64), Field(name="daily", dtype=Float64)],
    source=FileSource(path="trips.parquet", timestamp_field="at"),
)
