"""Background work of a store: settings, schedules, tasks, change notification.

Importing this package imports no other module.
"""
