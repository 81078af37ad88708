"""The ledger as a page of the book shows it."""

from collections.abc import Mapping, Sequence

from xaiutils.reproduce._claims._verdict import Finding, Judged

_FOLDED_FROM = 9
"""As many measurements are folded away."""
_NO_BEST_CHANCE = (
    "What is against it speaks against this reconstruction, which did not have its best chance, "
    "and refutes nothing."
)
_SAID = {"for": "for it", "against": "against it", "open": "open"}


def as_markdown(papers: Mapping[str, Sequence[Judged]], ours: Sequence[Judged] = ()) -> str:
    """A part for each paper, with a list of verdicts and an entry for each claim; then our own."""
    parts = [_part(f"The claims of {paper}", claims) for paper, claims in papers.items()]
    if ours:
        parts.append(_part("Our own: ablations", [row for row in ours if row.verdict]))
        parts.append(_theorems([row for row in ours if not row.verdict]))
    return "\n".join(parts)


def reason(row: Judged) -> str:
    """How many comparisons say what, and the caveat of the claim."""
    if row.verdict == "not testable here":
        return " ".join(text for text in (row.claim.remark, _uncorrected(row.findings)) if text)
    kind = _counts([f for f in row.findings if f.effect.of_kind])
    other = _counts([f for f in row.findings if not f.effect.of_kind])
    counted = [kind, f"On networks of another kind: {other[0].lower()}{other[1:]}" if other else ""]
    against = any(found.says == "against" for found in row.findings)
    held_back = _NO_BEST_CHANCE if against and not row.claim.best_chance else ""
    caveats = (held_back, row.claim.remark)
    return " ".join(text for text in (*counted, *caveats) if text)


def _counts(findings: Sequence[Finding]) -> str:
    """For example: Of 3 comparisons, 2 are for it, 0 against it, and 1 open."""
    says: list[str] = [finding.says for finding in findings if finding.says]
    if not says:
        return ""
    if len(says) == 1:
        return f"The only comparison is {_SAID[says[0]]}."
    favour, against, undecided = (says.count(word) for word in _SAID)
    return (
        f"Of {len(says)} comparisons, {favour} {'is' if favour == 1 else 'are'} for it, {against} "
        f"against it, and {undecided} open."
    )


def _uncorrected(findings: Sequence[Finding]) -> str:
    """Where the intervals lie of what is shown without being a test of the claim."""
    if len(findings) < _FOLDED_FROM:
        return ""
    above = sum(finding.effect.low > 0 for finding in findings)
    below = sum(finding.effect.high < 0 for finding in findings)
    return f"Of {len(findings)} intervals, not corrected, {above} lie above zero and {below} below."


def _part(title: str, claims: Sequence[Judged]) -> str:
    """The verdicts at a glance, how many comparisons were corrected together, and the entries."""
    family = sum(bool(finding.says) for row in claims for finding in row.findings)
    lines = "\n".join(f"| {row.claim.statement} | {row.verdict} |" for row in claims)
    entries = "\n".join(_entry(row) for row in claims)
    return (
        f"## {title}\n\n| claim | verdict here |\n|---|---|\n{lines}\n\n"
        f"{family} comparisons were made, and corrected together.\n\n{entries}"
    )


def _entry(row: Judged) -> str:
    claim = row.claim
    source = f"{{cite:p}}`{claim.paper}`, " if claim.paper else ""
    subject = f", on {claim.subject}" if claim.subject else ""
    there = f"There\n: {claim.there}\n\n" if claim.there else ""
    return (
        f"### {claim.statement}\n\n{source}{claim.where}. "
        f"**Verdict here{subject}: {row.verdict}.** {reason(row)}\n\n"
        f"{there}Here\n: {claim.here}\n\n{_measured(row.findings)}"
    )


def _measured(findings: Sequence[Finding]) -> str:
    """A list, networks of the paper's kind first; a long one folded away."""
    if not findings:
        return "Measured\n: nothing\n"
    lines = [_line(f) for f in sorted(findings, key=lambda found: not found.effect.of_kind)]
    if len(lines) < _FOLDED_FROM:
        return "Measured\n: - " + "\n  - ".join(lines) + "\n"
    items = "\n".join(f"- {line}" for line in lines)
    return f":::{{dropdown}} Measured: {len(lines)} comparisons\n{items}\n:::\n"


def _line(finding: Finding) -> str:
    if finding.p_holm is None:
        return str(finding.effect)
    other = "" if finding.effect.of_kind else ", of another kind"
    p_value = "< 0.001" if finding.p_holm < 0.001 else f"{finding.p_holm:.3f}"
    return f"{finding.says}{other}: {finding.effect}, p {p_value}"


def _theorems(claims: Sequence[Judged]) -> str:
    rows = "\n".join(
        f"| {row.claim.statement} | {row.claim.where} | {row.claim.here} | "
        f"{'; '.join(_line(finding) for finding in row.findings)} |"
        for row in claims
    )
    head = "| theorem | where | how it was checked | measured |\n|---|---|---|---|"
    return f"## Our own: theorems\n\n{head}\n{rows}\n"
