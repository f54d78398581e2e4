"""Retention: policies, rules, decisions, plans.  Pure."""
