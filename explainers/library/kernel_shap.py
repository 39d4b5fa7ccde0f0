"""Kernel SHAP: Shapley values of one prediction, against a background, from predictions alone.

Exact when every coalition fits the budget, by the Shapley formula itself; else by paired sampling of coalitions and
least squares under the constraint that the values add up. Sources: Shapley 1953; Lundberg and Lee 2017, "A Unified
Approach to Interpreting Model Predictions", theorem 2; Covert and Lee 2021, "Improving KernelSHAP", sections 3.1 and
3.2 for the sampling distribution, the pairing and the standard errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from explainers.base import Array, Background, Budget, Explainer, Explanation, OutOfTime, Predict, groups_of
from explainers.errors import InvalidRequest

_ROUNDS: Final = 8
"""Parts in which the samples are drawn, so that a deadline leaves an answer, and their spread gives standard errors."""
_MOST_EXACT: Final = 16


@dataclass(slots=True)
class _Game:
    """The cooperative game: a coalition's worth is the mean prediction with the other features from the background."""

    instance: Array
    background: Background
    features: list[int]
    predict: Predict
    rows: int = 0

    def worth(self, masks: Array) -> Array:
        """Give the worth of coalitions: masks (n, players) of bool → (n, outputs), in one call of the predictor."""
        size = len(self.background.rows)
        table = np.tile(self.background.rows, (len(masks), 1))
        known = np.repeat(masks, size, axis=0)
        for column, feature in enumerate(self.features):
            table[known[:, column], feature] = self.instance[feature]
        self.rows += len(table)
        scores = self.predict(table)
        worth: Array = np.einsum("nko,k->no", scores.reshape(len(masks), size, -1), self.background.weights)
        return worth


class KernelShap(Explainer):
    """Attribute a prediction to the features by their Shapley values."""

    name: ClassVar[str] = "kernel-shap"

    def explain(
        self, instance: Array, background: Background, predict: Predict, budget: Budget, generator: np.random.Generator
    ) -> Explanation:
        """Explain one instance; see `explainers.base.Explainer`."""
        if instance.shape != background.rows.shape[1:]:
            raise InvalidRequest("instances", f"expected {background.rows.shape[1]} features, got {len(instance)}")
        game = _Game(instance, background, list(groups_of(instance, background)), predict)
        players = len(game.features)
        both = game.worth(np.array([[False] * players, [True] * players]))
        base, prediction = both[0], both[1]
        affordable = (budget.max_rows - game.rows) // len(background.rows)
        if players <= 1:
            found, errors, method, partial = np.tile(prediction - base, (players, 1)), None, "exact", False
        elif players <= _MOST_EXACT and 2**players - 2 <= affordable:
            found, errors, method, partial = _exact(game, base, prediction), None, "exact", False
        else:
            found, errors, partial = _sampled(game, base, prediction, affordable, budget, generator)
            method = "sampled"
        return _explanation(game, found, errors, base, prediction, method, partial=partial)


def _exact(game: _Game, base: Array, prediction: Array) -> Array:
    """Weigh every marginal contribution as Shapley's formula does."""
    players = len(game.features)
    codes = np.arange(2**players)
    masks = (codes[:, None] >> np.arange(players)) & 1 == 1
    worth = np.empty((len(codes), len(base)))
    worth[0], worth[-1] = base, prediction
    worth[1:-1] = game.worth(masks[1:-1])
    sizes = masks.sum(axis=1)
    weights = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)])
    values = np.empty((players, len(base)))
    for player in range(players):
        without = codes[~masks[:, player]]
        gain = worth[without | (1 << player)] - worth[without]
        values[player] = weights[sizes[without]] @ gain
    return values


def _sampled(
    game: _Game, base: Array, prediction: Array, affordable: int, budget: Budget, generator: np.random.Generator
) -> tuple[Array, Array, bool]:
    """Estimate from sampled coalitions, each with its complement; stop at the deadline with what there is."""
    players = len(game.features)
    # More than this adds little: the error already is far below what a person reads off.
    pairs = min(affordable // 2, 1024 + 128 * players)
    if pairs < players:
        raise InvalidRequest(
            "parameters.max_rows",
            f"expected at least {2 * players * len(game.background.rows)} rows for {players} features",
        )
    seen: list[tuple[Array, Array]] = []
    estimates: list[Array] = []
    partial = False
    for size in np.full(_ROUNDS, pairs // _ROUNDS) + (np.arange(_ROUNDS) < pairs % _ROUNDS):
        if size == 0:
            continue
        if budget.expired() and seen:
            partial = True
            break
        masks = _draw(players, int(size), generator)
        try:
            seen.append((masks, game.worth(masks) - base))
        except OutOfTime:
            if not seen:
                raise
            partial = True
            break
        estimates.append(_solve([seen[-1]], prediction - base))
    spread = np.std(estimates, axis=0, ddof=1) / math.sqrt(len(estimates)) if len(estimates) > 1 else None
    values = _solve(seen, prediction - base)
    return values, np.full_like(values, np.nan) if spread is None else spread, partial


def _draw(players: int, pairs: int, generator: np.random.Generator) -> Array:
    """Draw coalitions by the Shapley kernel's sizes, each followed by its complement."""
    sizes = np.arange(1, players)
    weights = 1 / (sizes * (players - sizes))
    chosen = generator.choice(sizes, pairs, p=weights / weights.sum())
    ranks = generator.random((pairs, players)).argsort(axis=1)
    masks = ranks < chosen[:, None]
    return np.concatenate([masks, ~masks])


def _solve(seen: list[tuple[Array, Array]], total: Array) -> Array:
    """Give the least-squares values that add up to `total`: (players, outputs).

    The coalitions were drawn by the kernel, so the regression itself has no weights.
    """
    masks = np.concatenate([part for part, _ in seen]).astype(float)
    worth = np.concatenate([part for _, part in seen])
    players = masks.shape[1]
    gram = masks.T @ masks / len(masks) + 1e-9 * np.eye(players)
    cross = masks.T @ worth / len(masks)
    inverse = np.linalg.inv(gram)
    free = inverse @ cross
    ones = inverse.sum(axis=1)
    correction: Array = free - np.outer(ones, (free.sum(axis=0) - total) / ones.sum())
    return correction


def _explanation(
    game: _Game,
    found: Array,
    errors: Array | None,
    base: Array,
    prediction: Array,
    method: str,
    *,
    partial: bool,
) -> Explanation:
    shape = (len(base), len(game.instance))
    values, spread = np.zeros(shape), np.zeros(shape)
    values[:, game.features] = found.T
    if errors is not None:
        spread[:, game.features] = errors.T
    return Explanation(
        names=game.background.names, values=values, base=base, prediction=prediction, errors=np.nan_to_num(spread),
        method=method, partial=partial, rows=game.rows,
    )  # fmt: skip
