"""The public contract: what clients send, what the daemon answers, and what a connector yields."""
