"""Train networks with regularisers chosen by name, and compare them on real data."""
