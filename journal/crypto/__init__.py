"""Encryption: key files, data keys, the record of a store's keys."""
