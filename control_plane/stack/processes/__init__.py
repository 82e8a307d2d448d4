"""How programs of others are run: where they are installed, as which user, and never longer than we live.

Owns nothing of what a program is told. Start reading at `children.py`.
"""
