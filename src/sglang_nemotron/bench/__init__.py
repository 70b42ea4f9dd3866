"""How fast and how right a server answers: what to ask, what times mean, how replies are scored. Knows HTTP alone."""
