"""Bradley–Terry strengths of items from comparisons."""

from diffdpo.ranking.fit import fit_bradley_terry
from diffdpo.ranking.module import BradleyTerry
from diffdpo.ranking.result import Estimate, Ranking

__all__ = ["BradleyTerry", "Estimate", "Ranking", "fit_bradley_terry"]
