"""What of one tenant's was about to reach another, and was held back.

Owns the events and the table `csm_system.breaches`. Does not own the looking out: markers are `canary.py`'s, rows are
watched in `postgres/watch.py`, answers in `serving/interceptors/outgoing.py`. Start reading at `recorder.py`.
"""
