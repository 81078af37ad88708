"""The verdict on a claim: a function of intervals alone.

Every comparison has two one-sided p-values, for and against what is claimed, from Student's t with
the standard error that its interval implies. A claim of order is tested against zero. A claim of
equality within a margin is tested twice (two one-sided tests, Schuirmann 1987): that the difference
is above minus the margin, and below the margin. Twice the smaller of the two p-values goes into
Holm's correction, over all comparisons of the claims that are handed over together. A comparison of
order whose interval includes zero stays open, whatever its p-value: a skewed interval can reach
zero although its mean lies many standard errors away. What speaks against a claim decides only if
the method had its best chance here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from xaiutils import evaluation
from xaiutils.reproduce._claims._row import Claim, Effect

Verdict = Literal["supported", "contradicted", "mixed", "inconclusive", "not testable here", ""]
Says = Literal["for", "against", "open", ""]
_LEVEL = 0.05
_HALF_WIDTH = float(stats.norm.ppf(0.975))  # of a 95 % interval, in standard errors


@dataclass(frozen=True)
class Finding:
    """An effect and what it says on its claim.

    Attributes:
        effect: The effect.
        says: "for" or "against" the claim, or "open"; empty where no claim is tested by it.
        p_holm: Two-sided, corrected; None where no claim is tested.
    """

    effect: Effect
    says: Says = ""
    p_holm: float | None = None


@dataclass(frozen=True)
class Judged:
    """A claim and what became of it.

    Attributes:
        claim: The claim.
        findings: Its effects, with what each says.
        verdict: "supported" or "contradicted" if all comparisons on networks of the paper's kind
            are for it or against it, "mixed" if some are for and some against, "inconclusive"
            otherwise, "not testable here" if there is no such comparison; empty for a theorem. What
            is against it counts as open if the method did not have its best chance.
    """

    claim: Claim
    findings: tuple[Finding, ...]
    verdict: Verdict


def judge(claims: Sequence[Claim]) -> list[Judged]:
    """Judge claims together: Holm's correction is made over all their comparisons."""
    tested = [e for claim in claims if _is_tested(claim) for e in claim.effects]
    adjusted = iter(evaluation.holm([two_sided(effect) for effect in tested]))
    judged = []
    for claim in claims:
        if _is_tested(claim):
            findings = tuple(_finding(effect, next(adjusted)) for effect in claim.effects)
            deciding = [_counted(claim, found) for found in findings if found.effect.of_kind]
            judged.append(Judged(claim, findings, verdict(deciding)))
        else:
            findings = tuple(Finding(effect) for effect in claim.effects)
            judged.append(
                Judged(claim, findings, "" if claim.kind == "theorem" else "not testable here")
            )
    return judged


def _counted(claim: Claim, found: Finding) -> Says:
    """What a comparison contributes to the verdict."""
    return "open" if found.says == "against" and not claim.best_chance else found.says


def verdict(says: Sequence[Says]) -> Verdict:
    """What the comparisons on networks of the paper's kind say together."""
    if not says:
        return "not testable here"
    if set(says) == {"for"}:
        return "supported"
    if set(says) == {"against"}:
        return "contradicted"
    return "mixed" if {"for", "against"} <= set(says) else "inconclusive"


def one_sided(effect: Effect) -> tuple[float, float]:
    """P-values for the claim and against it, each of the hypothesis that it contradicts."""
    if effect.margin is None:
        return _above(effect, effect.mean), _above(effect, -effect.mean)
    equal = max(
        _above(effect, effect.mean + effect.margin), _above(effect, effect.margin - effect.mean)
    )
    return equal, _above(effect, abs(effect.mean) - effect.margin)


def two_sided(effect: Effect) -> float:
    """Twice the smaller of the two, at most 1."""
    return min(1.0, 2 * min(one_sided(effect)))


def _is_tested(claim: Claim) -> bool:
    return claim.kind in ("order", "equivalence")


def _finding(effect: Effect, p_holm: float) -> Finding:
    favour, against = one_sided(effect)
    undecided = p_holm >= _LEVEL or (effect.margin is None and effect.low <= 0 <= effect.high)
    says: Says = "open" if undecided else "for" if favour < against else "against"
    return Finding(effect, says, p_holm)


def _above(effect: Effect, distance: float) -> float:
    """P-value of a mean that lies `distance` above what it is compared with."""
    error = (effect.high - effect.low) / (2 * _HALF_WIDTH)
    if error == 0:  # all resamples agree
        return 0.5 if distance == 0 else float(distance < 0)
    return float(stats.t.sf(distance / error, effect.images - 1))
