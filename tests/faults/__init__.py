"""The fault suite: one seed fixes the load, the faults and the clock; an auditor then looks for what was lost."""

REGRESSIONS: tuple[int, ...] = ()
"""Seeds that failed once. They run first, in every campaign and in `make test`."""
