"""Measures how far recomputed arrays are from golden ones, and decides how far they may be.

The float64 run of the published code is the truth, and our float64 must agree with it to 1e-9.
RULES has the tolerances of float32, with the reason if one is more than 1e-5. If our float32
exceeds its tolerance and the published code's own float32 is off as well, twice the latter's error
is allowed, up to ten times the tolerance, and the row says so.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.parity.golden import Arrays, below
from experiments.results import Row

RELATIVE = "relative (float64: absolute)"
"""The error relative to the largest entry; in float64 also at most 1e-9 absolute."""

STORED_IN_FLOAT32 = 1e-7
"""The float64 tolerance of arrays that the file stores rounded to float32 (2^-24 of the
largest)."""

GRADIENT_FLOOR = 1e-4
"""The error of a gradient is relative to its own norm, or to this share of the norm of the whole
gradient if that is larger: rounding in a backward pass scales with what flows through it."""

UNDERFLOW = 1e-30
"""Arrays below this are zero in float32 and are compared absolutely."""

FOURIER_EPS = 1e-4
"""The float32 tolerance of eps_hat with Fourier features, whose angles reach 3000 rad."""

PEER_LIMIT = 10.0
"""The largest multiple of the usual tolerance up to which the published float32's own error can
excuse ours."""


@dataclass(frozen=True)
class Rule:
    """A rule for the arrays whose name matches: the kind of error, the row that they share, and the
    tolerances."""

    pattern: str
    row: str
    kind: str
    float64: float
    float32: float
    reason: str = ""


ROUNDED = 2.0**-24 / 1e-5
"""Added to the scale of log-probabilities, in nats per dimension: those near zero come from sums
near one, which float32 rounds at 2^-24."""

PLAIN_EPS = 3e-5
EMBEDDED = "the time embedding's angles of up to 1000 rad"
ANGLES = "angles of up to 1000 rad, and six roundings of up to 6e-5 rad"
FEATURES = "angles of up to 3000 rad: 2.4e-4 is one float32 step"
ON_THE_EDGE = "a z_0 on the edge between two codes rounds to either; never by two codes"
STEPS = "gamma_t - gamma_s of a short step: 2^-22 |gamma| / (gamma_t - gamma_s) more"
PEER = "twice the published float32's own error, which is above the usual tolerance"
NEAR_ONE = "2^-24 nats per dimension more: probabilities near one are rounded there"
RULES = (
    Rule(r"t|(d?gamma|var)_.*|gamma|f|z_t|lrs", r"\g<0>", RELATIVE, 1e-9, 1e-5),
    Rule(r"step\d+/gamma_[st]", "step*/gamma", RELATIVE, 1e-9, 1e-5),
    Rule(r"loss_recon", r"\g<0>", "relative, each", 1e-9, 1e-5, NEAR_ONE),
    Rule(r"loss_.*|bpd_.*", r"\g<0>", "relative, each", 1e-9, 1e-5),
    Rule(r"temb", "temb", "absolute", 1e-9, 3e-4, ANGLES),
    Rule(r"eps_hat", "eps_hat", "absolute", 1e-9, PLAIN_EPS, EMBEDDED),
    Rule(r"step\d+/eps_hat", "step*/eps_hat", "absolute", 1e-9, PLAIN_EPS, EMBEDDED),
    Rule(r"step\d+/z_s", "step*/z_s", "absolute", 1e-9, 1e-5,
         "1e-5 of the largest, and eps_hat's tolerance times its factor in z_s"),
    Rule(r"grad/gamma/.*", "grad/gamma/*", "gradient", 1e-9, 2e-4),
    Rule(r"grad/score_model/.*", "grad/score_model/*", "gradient", 1e-9, 2e-4),
    Rule(r"grad/.*", "grad/*", "gradient", 1e-9, 2e-4),
    Rule(r"gradsum_.*", r"\g<0>", "gradient sums", 1e-9, 2e-4),
    Rule(r"inter/Base2FourierFeatures_0", r"\g<0>", "absolute", 1e-9, 5e-4, FEATURES),
    Rule(r"inter/.*", "inter/*", "relative", 1e-9, 1e-4, "as eps_hat and temb"),
    Rule(r"gen/(x)", r"\g<0>", "differing codes", 0.0, 0.005, ON_THE_EDGE),
    Rule(r"v\d+_g\d+/(argmax)", r"\1", "differing codes", 0.0, 0.005, ON_THE_EDGE),
    Rule(r"v\d+_g\d+/(logp_of_x|logprob_per_image)", r"\1", "relative", 1e-9, 1e-5, NEAR_ONE),
    Rule(r"v\d+_g\d+/(dlogp_.*)", r"\1", "relative", 1e-9, 2e-4),
    Rule(r"(p|ema)\d+/.*", r"\1*", "relative", 1e-9, 1e-5),
)  # fmt: skip


@dataclass(frozen=True)
class Comparison:
    """The comparison of one array: its errors in float64 and float32, the error of the published
    float32, and the tolerances."""

    name: str
    rule: Rule
    float64: float
    float32: float
    to_out32: float | None
    peer: float | None
    tolerance64: float
    tolerance32: float
    reason: str

    @property
    def strain(self) -> tuple[float, float]:
        """The errors divided by their tolerances; NaN counts as infinite."""
        pairs = ((self.float64, self.tolerance64), (self.float32, self.tolerance32))
        shares = [e / t if t else (0.0 if e == 0 else np.inf) for e, t in pairs]
        in64, in32 = (np.inf if np.isnan(share) else share for share in shares)
        return in64, in32


def compare(arrays: Arrays, in64: Arrays, in32: Arrays) -> list[Comparison]:
    """Compares every output in the file. An output that is not recomputed has NaN errors."""
    want, peer = below(arrays, "out64"), below(arrays, "out32")
    nowhere = np.array(np.nan)
    names = sorted(want.keys() | peer.keys())
    return [
        compare_one(
            name, arrays, want.get(name, nowhere), in64.get(name, nowhere),
            in32.get(name, nowhere), peer.get(name),
        )
        for name in names
    ]  # fmt: skip


def compare_one(
    name: str,
    arrays: Arrays,
    want: np.ndarray,
    got64: np.ndarray,
    got32: np.ndarray,
    peer: np.ndarray | None,
) -> Comparison:
    """Compares one array by its rule."""
    rule = next((r for r in RULES if re.fullmatch(r.pattern, name)), None)
    if rule is None:
        rule = Rule(re.escape(name), name, "unknown", 0.0, 0.0, "no rule knows this array")
        return Comparison(name, rule, np.nan, np.nan, None, None, 0.0, 0.0, rule.reason)
    tolerance64, tolerance32 = rule.float64, rule.float32
    if want.dtype == np.float32:
        tolerance64 = STORED_IN_FLOAT32
    reason = rule.reason
    fourier = json.loads(str(arrays["config_json"])).get("with_fourier_features", False)
    eps_hat = FOURIER_EPS if fourier else PLAIN_EPS
    if rule.kind == RELATIVE:
        tolerance64 /= max(1.0, np.abs(want).max())
    if name.endswith("eps_hat") and fourier:
        tolerance32, reason = eps_hat, FEATURES
    steps = cancellation(arrays)
    if rule.kind.startswith("gradient") or name in ("loss_diff", "bpd_terms", "bpd_total"):
        tolerance32 += steps
        reason = STEPS if steps else reason
    if rule.row == "step*/z_s":
        tolerance32 = tolerance32 * np.abs(want).max() + eps_hat * eps_factor(arrays, name)

    def error(got: np.ndarray, truth: np.ndarray) -> float:
        return distance(name, rule.kind, got, truth, arrays)

    in_float32, peers = error(got32, want), None
    if peer is not None:
        peers = error(peer, want)
        if in_float32 > tolerance32 and peers > tolerance32:
            tolerance32, reason = min(2 * peers, PEER_LIMIT * tolerance32), PEER
    to_out32 = None if peer is None else error(got32, peer)
    return Comparison(
        name,
        rule,
        error(got64, want),
        in_float32,
        to_out32,
        peers,
        tolerance64,
        tolerance32,
        reason,
    )


def distance(name: str, kind: str, got: np.ndarray, want: np.ndarray, arrays: Arrays) -> float:
    """The error of the given kind; NaN if the sizes differ."""
    if got.size != want.size:
        return np.nan
    want = np.asarray(want, np.float64)
    difference = np.abs(np.asarray(got, np.float64).reshape(want.shape) - want)
    if kind == "absolute":
        return float(difference.max())
    if kind == "differing codes":
        return np.inf if difference.max() > 1 else float((difference > 0).mean())
    if kind == "gradient":
        scale = max(np.linalg.norm(want), GRADIENT_FLOOR * whole_gradient(arrays))
        return float(np.linalg.norm(difference) / scale)
    if kind == "gradient sums":
        whole = whole_gradient(arrays)
        norms = below(arrays, "out64").get("gradsum_l2", whole)
        return float(np.max(difference / np.maximum(norms, GRADIENT_FLOOR * whole)))
    scale = np.abs(want) if kind == "relative, each" else np.abs(want).max()
    return float(np.max(difference / np.maximum(scale + rounded(name, want, arrays), UNDERFLOW)))


def rounded(name: str, want: np.ndarray, arrays: Arrays) -> np.ndarray | float:
    """The number added to the scale of log-probabilities, for all dimensions of the sum."""
    quantity = name.split("/")[-1]
    if quantity == "bpd_terms":  # The first one is the reconstruction, bits/dim.
        return np.array([ROUNDED / np.log(2), 0.0, 0.0])
    if quantity in ("loss_recon", "logprob_per_image"):
        data = arrays["images" if quantity == "loss_recon" else name.split("/")[0] + "/x"]
        return ROUNDED * data[0].size
    return ROUNDED if quantity == "logp_of_x" else 0.0


def whole_gradient(arrays: Arrays) -> float:
    """The norm of the gradient with respect to all parameters."""
    norms = below(arrays, "out64").get("gradsum_l2")
    if norms is None:
        norms = [np.linalg.norm(g) for g in below(arrays, "out64/grad").values()] or [1.0]
    return float(np.linalg.norm(norms))


def cancellation(arrays: Arrays) -> float:
    """The relative error of the weight T expm1(gamma_t - gamma_s) in float32: four roundings, each
    of half a step of gamma. It is 0 in continuous time."""
    truth = below(arrays, "out64")
    if not {"gamma_s", "gamma_t"} <= truth.keys():
        return 0.0
    gamma_t, gamma_s = truth["gamma_t"], truth["gamma_s"]
    return float(2.0**-22 * np.max(np.maximum(abs(gamma_t), abs(gamma_s)) / (gamma_t - gamma_s)))


def eps_factor(arrays: Arrays, name: str) -> float:
    """The factor by which a change of eps_hat changes z_s, (alpha_s / alpha_t) sigma_t c."""
    step = below(arrays, "out64/" + name.split("/")[0])
    if not {"gamma_s", "gamma_t"} <= step.keys():
        return 1.0
    omega_s, omega_t = (float(np.ravel(step[f"gamma_{time}"])[0]) for time in "st")
    alpha_ratio = np.exp(0.5 * (np.logaddexp(0, omega_t) - np.logaddexp(0, omega_s)))
    return float(alpha_ratio / np.sqrt(1 + np.exp(-omega_t)) * -np.expm1(omega_s - omega_t))


def rows(stem: str, comparisons: list[Comparison]) -> list[Row]:
    """One row for each quantity, with the worst of its arrays relative to their tolerances."""
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        match = re.fullmatch(comparison.rule.pattern, comparison.name)
        row = match.expand(comparison.rule.row) if match else comparison.name
        stored = comparison.tolerance64 == STORED_IN_FLOAT32
        groups.setdefault(row + (" (stored in float32)" if stored else ""), []).append(comparison)
    return [row_of(stem, quantity, group) for quantity, group in groups.items()]


def row_of(stem: str, quantity: str, group: list[Comparison]) -> Row:
    """The row of one quantity."""
    worst64 = max(group, key=lambda c: c.strain[0])
    worst32 = max(group, key=lambda c: c.strain[1])
    to_out32 = [c.to_out32 for c in group if c.to_out32 is not None]
    peers = [c.peer for c in group if c.peer is not None]
    row: dict[str, Any] = {
        "name": f"{stem}/{quantity}",
        "file": stem,
        "quantity": quantity,
        "arrays": len(group),
        "error": group[0].rule.kind,
        "error_float64": worst64.float64,
        "tolerance_float64": worst64.tolerance64,
        "error_float32": worst32.float32,
        "error_float32_to_out32": max(to_out32, default=None),
        "peer_float32_error": max(peers, default=None),
        "tolerance_float32": worst32.tolerance32,
        "worst_array": worst32.name,
        "reason": worst32.reason,
        "ok": worst64.strain[0] <= 1 and worst32.strain[1] <= 1,
    }
    return row
