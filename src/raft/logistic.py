"""Logistic regression of few rows: numbers in, the probability of yes out."""

from typing import NamedTuple

import numpy as np

Floats = np.ndarray

_ROUNDS = 50


class Logistic(NamedTuple):
    """What was fitted: the mean and the standard deviation of each column, its weight once standardised, the bias."""

    centre: Floats
    spread: Floats
    weights: Floats
    bias: float

    def nats(self, columns: Floats) -> Floats:
        """Return the log-odds of yes for each row of `columns`, shape (rows, columns): shape (rows,)."""
        return np.asarray((columns - self.centre) / self.spread @ self.weights + self.bias)

    def probabilities(self, columns: Floats) -> Floats:
        """Return how likely yes is for each row of `columns`, shape (rows, columns): shape (rows,)."""
        return sigmoid(self.nats(columns))


def fit(columns: Floats, yes: Floats, *, ridge: float = 1.0) -> Logistic:
    """Return a logistic regression on standardised columns, each weight's square times half the ridge added.

    Args:
        columns: shape (rows, columns).
        yes: shape (rows,), booleans, both of them.
        ridge: strength of the penalty, 1/C of other packages; the bias is free of it.

    Raises:
        ValueError: all rows are yes, or none is.

    References:
        Newton's method for logistic regression; Hastie, Tibshirani and Friedman: The Elements of Statistical
        Learning, 2009, section 4.4. Of more columns than rows the rows' own space is enough (section 18.3.5).
    """
    if yes.all() or not yes.any():
        raise ValueError("rows of one sort alone teach nothing")
    centre, spread = columns.mean(axis=0), columns.std(axis=0)
    spread = np.where(spread > 1e-5, spread, 1.0)  # one that is always the same tells nothing
    standard = (columns - centre) / spread
    basis = np.linalg.qr(standard.T)[0] if len(columns) < columns.shape[1] else np.eye(columns.shape[1])
    known = np.column_stack([standard @ basis, np.ones(len(columns))])
    penalty = np.diag([ridge] * basis.shape[1] + [0.0])
    weights = np.zeros(known.shape[1])
    for _ in range(_ROUNDS):
        likely = sigmoid(known @ weights)
        slope = known.T @ (likely - yes) + penalty @ weights
        curve = (known * (likely * (1 - likely))[:, None]).T @ known + penalty
        step = np.linalg.solve(curve, slope)
        weights = weights - step
        if np.abs(step).max() < 1e-9:
            break
    return Logistic(centre, spread, basis @ weights[:-1], float(weights[-1]))


def sigmoid(values: Floats) -> Floats:
    """Return 1 / (1 + exp(-value)) of each value."""
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -50, 50))))
