"""Diagnosis of whole stores and repair of damaged jobs."""
