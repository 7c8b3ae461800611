"""How alike two representations of the same speech are."""
