"""A plot of what confidences are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from diffdpo.report.plots import as_png, figure

Points = Sequence[tuple[float, float, int]]  # mean confidence, share that is right, number


def reliability(curves: Mapping[str, Points]) -> bytes:
    """A PNG with a curve for each name; where it lies on the diagonal, 70 % means 70 %.

    The area of a point is its share of the pairs.
    """
    page, ((axis,),) = figure(1, 1, 5.5, 4.5)
    axis.plot([0.5, 1], [0.5, 1], color="#bbb", linewidth=1)
    for name, points in curves.items():
        confidence, right, counts = zip(*points, strict=True)
        (line,) = axis.plot(confidence, right, linewidth=1, label=name)
        sizes = [400 * count / sum(counts) for count in counts]
        axis.scatter(confidence, right, s=sizes, color=line.get_color(), alpha=0.5)
    axis.set(xlabel="confidence of the reward", ylabel="share that is right", xlim=(0.49, 1.01))
    axis.legend(frameon=False)
    return as_png(page)
