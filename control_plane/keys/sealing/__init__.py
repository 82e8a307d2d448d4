"""How objects are sealed: in segments, under a key that is given. Knows no vault and no database."""
