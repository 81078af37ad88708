"""Put a heatmap into words, from the numbers that are drawn."""

from torch import Tensor

_ROWS = ("top", "middle", "bottom")
_COLUMNS = ("left", "centre", "right")


def describe(pixels: Tensor, name: str = "heatmap") -> str:
    """Say where a map is strong and how much of it is positive.

    Args:
        pixels: Relevance per pixel, shape (H, W), any unit.
        name: What the map shows.

    Returns:
        One sentence, without its full stop, on the balance of signs and on the ninth of the
        picture that holds the largest share of the absolute relevance.
    """
    strength = pixels.detach().abs().double()
    total = strength.sum().item()
    if total == 0:
        return f"{name}: zero everywhere"
    positive = strength[pixels > 0].sum().item() / total
    place, share = _strongest_ninth(strength)
    return f"{name}: {positive:.0%} positive, strongest at the {place} ({share:.0%} of the total)"


def _strongest_ninth(strength: Tensor) -> tuple[str, float]:
    """The name and the share of the strongest cell of a three by three division."""
    shares = {
        f"{row} {column}": cell.sum().item()
        for row, band in zip(_ROWS, strength.tensor_split(3, dim=0), strict=True)
        for column, cell in zip(_COLUMNS, band.tensor_split(3, dim=1), strict=True)
    }
    place = max(shares, key=lambda key: shares[key])
    return place, shares[place] / strength.sum().item()
