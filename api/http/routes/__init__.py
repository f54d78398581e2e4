"""The endpoints, one module per thing that they are about."""
