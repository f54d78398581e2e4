"""Webhooks: events of the journals, sent to configured URLs by the leading worker."""
