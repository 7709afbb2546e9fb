"""Bradley–Terry strengths of items from comparisons."""

from typing import TYPE_CHECKING, Any

from diffdpo.ranking.fit import fit_bradley_terry
from diffdpo.ranking.result import ParameterEstimate, Ranking

if TYPE_CHECKING:
    from diffdpo.ranking.module import BradleyTerry

__all__ = ["BradleyTerry", "ParameterEstimate", "Ranking", "fit_bradley_terry"]


def __getattr__(name: str) -> Any:
    # The module needs torch, which takes longer to import than most fits take.
    if name == "BradleyTerry":
        from diffdpo.ranking.module import BradleyTerry

        return BradleyTerry
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
