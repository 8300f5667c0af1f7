"""Find out which neurons copy which, and make a smaller model without the copies."""

from topoloss.pruning.copies import Group, Redundancy, redundancy
from topoloss.pruning.removal import prune

__all__ = ["Group", "Redundancy", "prune", "redundancy"]
