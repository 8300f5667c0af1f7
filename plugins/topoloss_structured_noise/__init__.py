"""Adaptive structured noise: multiply activations by noise that has their own covariance."""

from topoloss_structured_noise.attaching import NoiseAttachment, structured_noise
from topoloss_structured_noise.layer import StructuredNoise, correlated

__all__ = ["NoiseAttachment", "StructuredNoise", "correlated", "structured_noise"]
