"""The comparison in the protocol "today": choices on some splits, confirmed on others."""
