"""Read calls: lists, states, histories, plans, verification."""
