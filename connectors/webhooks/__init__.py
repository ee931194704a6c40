"""The sender of webhooks: addresses that others choose, and so the one place that must not be led astray."""
