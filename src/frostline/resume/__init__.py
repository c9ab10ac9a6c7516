"""Exact resume: the weights come out bit-identical, however often and wherever a fit was interrupted."""

from frostline.resume.callback import ExactResume, TimeLimit
from frostline.resume.changed_optimizer import ChangedOptimizer

__all__ = ["ChangedOptimizer", "ExactResume", "TimeLimit"]
