"""How each kind of key is rotated: the plans of `RotateKey`. Start reading at `rotation.py`."""
