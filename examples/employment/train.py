"""Train the example's model on US census data of 2015, and write what the service and its monitor need.

The data are the American Community Survey rows for Massachusetts that the `nannyml` wheel carries (277,677 people, 2015
to 2018). Written beside this file: `model/` for the predictor and `reference.parquet`, rows of 2015 that the model
never saw in training, with the model's own scores, for the detectors and the explainer.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import xgboost

HERE = Path(__file__).resolve().parent
FEATURES = (
    "AGEP", "SCHL", "MAR", "RELP", "DIS", "ESP", "CIT", "MIG", "MIL", "ANC", "NATIVITY", "DEAR", "DEYE", "DREM", "SEX",
    "RAC1P",
)  # fmt: skip


def census(part: str) -> pd.DataFrame:
    """Read one part (`reference` is 2015, `analysis` 2016 to 2018) with every feature as a number."""
    spec = importlib.util.find_spec("nannyml")
    if spec is None or spec.origin is None:
        raise SystemExit("the example's data lie in the nannyml wheel: pip install 'sidelight[demo]'")
    frame = pd.read_parquet(Path(spec.origin).parent / "datasets" / "data" / f"employment_MA_{part}.pq")
    return frame.astype(dict.fromkeys(FEATURES, "float64"))


def train(seed: int = 0) -> None:
    """Fit on a random half of 2015; keep the other half as the reference."""
    frame = census("reference")
    fit = np.random.default_rng(seed).random(len(frame)) < 0.5  # noqa: PLR2004 - half
    model = xgboost.XGBClassifier(n_estimators=60, max_depth=5, learning_rate=0.2, n_jobs=1, random_state=seed)
    model.fit(frame.loc[fit, list(FEATURES)].to_numpy(), frame.loc[fit, "employed"].to_numpy())
    (HERE / "model").mkdir(exist_ok=True)
    model.save_model(HERE / "model" / "model.json")
    held_out = frame.loc[~fit, list(FEATURES)].reset_index(drop=True)
    held_out["score"] = model.predict_proba(held_out.to_numpy())[:, 1]
    held_out.to_parquet(HERE / "reference.parquet")
    print(f"trained on {int(fit.sum()):,} people of 2015; {len(held_out):,} others are the reference", flush=True)


if __name__ == "__main__":
    train()
