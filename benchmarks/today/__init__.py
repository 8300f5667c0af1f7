"""The comparison in the protocol of today: chosen on some splits, confirmed on others."""
