"""Who may send what: hosts, origins, tokens, the size and shape of bodies."""
