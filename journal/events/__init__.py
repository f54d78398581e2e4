"""Event types, the encoding of their lines, and upcasts from older schemas."""
