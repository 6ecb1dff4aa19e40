"""Results of tests come in; words for people go out."""

from signlang.studies.statistics import Comparison


def verdict(a: str, b: str, comparison: Comparison, p: float, level: float = 0.05) -> str:
    """A comparison in words.

    Args:
        a: Name of the first setting.
        b: Name of the second.
        comparison: Of a - b. If b is better, the figures are printed as b - a.
        p: The p value that decides, adjusted if there were several comparisons.
        level: The difference is significant if p is at most this.

    >>> print(verdict("A", "B", Comparison(-0.0012, -0.005, 0.0026, 0.2), p=0.46))
    no significant difference between A and B (-0.0012, 95 % interval -0.0050 to +0.0026, p = 0.46)
    >>> print(verdict("A", "B", Comparison(-0.02, -0.03, -0.01, 2e-5), p=1e-4))
    B is better than A (+0.0200, 95 % interval +0.0100 to +0.0300, p < 0.001)
    """
    difference, low, high = comparison.difference, comparison.low, comparison.high
    words = f"no significant difference between {a} and {b}"
    if p <= level and difference > 0:
        words = f"{a} is better than {b}"
    elif p <= level and difference < 0:
        words = f"{b} is better than {a}"
        difference, low, high = -difference, -high, -low
    interval = f"{comparison.confidence * 100:g} % interval {low:+z.4f} to {high:+z.4f}"
    return f"{words} ({difference:+z.4f}, {interval}, {p_text(p)})"


def p_text(p: float) -> str:
    """Write a p value.

    >>> p_text(0.0462), p_text(0.6), p_text(1e-9)
    ('p = 0.046', 'p = 0.60', 'p < 0.001')
    """
    if p < 0.001:
        return "p < 0.001"
    return f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def p_cell(p: float | None) -> str:
    """Write a p value for a table.

    >>> p_cell(None), p_cell(0.0004), p_cell(0.21)
    ('-', '< 0.001', '0.210')
    """
    if p is None:
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
