"""What callers show: a tenant's access tokens, its first administrator's enrolment, and the platform's own tokens.

Owns issuing, revoking and verifying them, and what a tenant knows of its users. Does not own keys, which are in
`keys`, nor what a caller may do, which is in `serving`. Start reading at `model.py`, then `verifier.py`.
"""
