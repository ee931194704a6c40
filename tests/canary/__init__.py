"""Words that stand nowhere else go through every door, and are looked for everywhere else: make test."""
