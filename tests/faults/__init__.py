"""The fault suite: one seed fixes the load, the faults and the clock; an auditor then looks for what was lost."""
