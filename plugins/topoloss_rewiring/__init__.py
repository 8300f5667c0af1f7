"""Sparse training that moves connections, between epochs, to the most similar neurons."""

from topoloss_rewiring.attaching import Rewiring, rewire
from topoloss_rewiring.choosing import moved

__all__ = ["Rewiring", "moved", "rewire"]
