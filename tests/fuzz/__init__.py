"""Bad input by the million: one table of targets, one oracle, and the ways to feed them."""
