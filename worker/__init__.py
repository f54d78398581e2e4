"""What happens without being asked: settings, scheduled retention, noticing changes.

Importing this package imports nothing else; each module brings its own world.
"""
