"""What is sealed to people, and what both they and the platform must know for that.

Owns the suite and the envelope of HPKE, and the words of a recovery's ceremony. Below `keys`, and apart from it, since
people open and seal at machines of their own, by the command line. Start reading at `hpke.py`.
"""
