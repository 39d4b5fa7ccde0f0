"""Features from an online store, for transformers: entities in, one column per feature out, row for row.

Feast is asked through its own feature server: as a library it needs another NumPy than the rest of a predictor does.
`Lookup` is a transformer that needs no code: it puts features in the place of the entities that callers send.
docs/transformers.md shows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import numpy as np
import orjson
from numpy.typing import NDArray

from inference.errors import PredictionFailed, PredictorUnavailable
from inference.runtime import Arrays
from inference.upstream.http import Broken, Connections, NotReached
from inference.upstream.settings import UpstreamSettings

_OK: Final = 200
_PORTS: Final = {"http": 80, "https": 443}
_JSON: Final = {"content-type": "application/json"}


class FeatureStore(Protocol):
    """Looks features up. Thread-safe."""

    def columns(self, entities: Arrays, features: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Give one value per row of each feature; NaN, or an empty text, where there is none.

        Args:
            entities: join key → one value per row.
            features: `view:feature`; the columns carry the second part.

        Raises:
            PredictorUnavailable: the store cannot be reached, or does not answer in time.
            PredictionFailed: it does not have these features or entities.
        """
        ...

    def close(self) -> None:
        """Let go of connections."""
        ...


class FeastServer:
    """Feast's own feature server (`feast serve`), over HTTP."""

    def __init__(self, url: str, timeout_s: float = 1.0) -> None:
        """Begin; connects with the first look."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise ValueError(f"store: expected http://HOST[:PORT], got {url!r}")
        settings = UpstreamSettings(
            host=parts.hostname, port=parts.port or _PORTS[parts.scheme], tls=parts.scheme == "https"
        )
        self._url, self._timeout_s = url, timeout_s
        self._connections = Connections(settings)

    def columns(self, entities: Arrays, features: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Look features up; see `FeatureStore`."""
        asked = {"features": list(features), "entities": {name: rows.tolist() for name, rows in entities.items()}}
        try:
            answer = self._connections.request(
                "POST", "/get-online-features", orjson.dumps(asked), _JSON, self._timeout_s
            )
        except TimeoutError as exc:
            raise PredictorUnavailable(
                f"the feature store at {self._url} gave no answer within {self._timeout_s:g} s"
            ) from exc
        except (NotReached, Broken) as exc:
            raise PredictorUnavailable(f"the feature store at {self._url} cannot be asked: {exc}") from exc
        if answer.status != _OK:
            text = answer.body[:500].decode("utf-8", "replace")
            raise PredictionFailed(f"the feature store at {self._url} answered {answer.status}: {text}")
        try:
            told = orjson.loads(answer.body)
            results = zip(told["metadata"]["feature_names"], told["results"], strict=True)
            return _columns({name: result["values"] for name, result in results}, features, _count(entities))
        except (ValueError, LookupError, TypeError) as exc:
            # Not the caller's mistake, which a ValueError would be taken for.
            raise PredictionFailed(f"the feature store at {self._url} gave no features: {exc}") from exc

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()


class Lookup:
    """A transformer: callers send entities, by name, and whatever else the model takes; the model gets features."""

    thread_safe = True

    def __init__(
        self,
        store: str,
        entities: Sequence[str],
        features: Sequence[str],
        *,
        keep: bool = False,
        refuse_missing: bool = False,
        timeout_s: float = 1.0,
    ) -> None:
        """Take what the settings say.

        Args:
            store: address of a Feast feature server.
            entities: the join keys, which are inputs of these names.
            features: `view:feature`, in the order in which the model gets them.
            keep: whether the model gets the entities, too.
            refuse_missing: whether a row without a feature is the caller's mistake, instead of NaN.
            timeout_s: for the store's answer.
        """
        self._store: FeatureStore = FeastServer(store, timeout_s)
        self._entities, self._features = tuple(entities), tuple(features)
        self._keep, self._refuse = keep, refuse_missing

    def preprocess(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Put the features in the entities' place."""
        missing = [name for name in self._entities if name not in inputs]
        if missing:
            raise ValueError(f"missing {missing}; expected the entities {list(self._entities)} by name")
        entities = {name: _entity(name, inputs[name]) for name in self._entities}
        counts = {name: len(rows) for name, rows in entities.items()}
        if len(set(counts.values())) > 1:
            raise ValueError(f"expected as many rows of each entity, got {counts}")
        found = self._store.columns(entities, self._features)
        if self._refuse:
            self._check(found)
        kept = {name: rows for name, rows in inputs.items() if self._keep or name not in self._entities}
        return kept | found

    def unload(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _check(self, found: Arrays) -> None:
        for name, rows in found.items():
            gaps = rows == "" if rows.dtype == object else np.isnan(rows)
            if gaps.any():
                raise ValueError(f"row {int(np.argmax(gaps))}: the store has no {name!r} for it")


def _entity(name: str, rows: NDArray[Any]) -> NDArray[Any]:
    if rows.size != len(rows):
        raise ValueError(f"{name}: expected one value per row, got shape {list(rows.shape)}")
    return rows.reshape(len(rows))


def _count(entities: Arrays) -> int:
    return len(next(iter(entities.values())))


def _columns(found: Mapping[str, Sequence[Any]], features: Sequence[str], rows: int) -> dict[str, NDArray[Any]]:
    columns = {}
    for feature in features:
        name = feature.rpartition(":")[2]
        if name not in found:
            raise PredictionFailed(f"the feature store gave no {name!r}; it gave {list(found)}")
        if len(found[name]) != rows:
            raise PredictionFailed(f"the feature store gave {len(found[name])} values of {name!r} for {rows} rows")
        columns[name] = _column(found[name])
    return columns


def _column(values: Sequence[Any]) -> NDArray[Any]:
    if any(isinstance(value, str) for value in values):
        texts = np.empty(len(values), object)
        texts[:] = ["" if value is None else str(value) for value in values]
        return texts
    return np.array([np.nan if value is None else value for value in values], np.float64)
