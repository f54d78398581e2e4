"""The event types, their lines, and the upcasts of older schemas."""
