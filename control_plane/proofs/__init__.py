"""What is signed so that others can check it without us. Pure; also for the command line.

Owns the bytes that a signature is over, and how an audit log is linked and signed. Does not own who signs: keys are
`keys`', logs are `audit`'s.
"""
