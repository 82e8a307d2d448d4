"""The embedded stack: everything that a cell needs, on one machine, in one directory, under one supervisor.

Owns: starting, watching and stopping PostgreSQL, Valkey, the control plane and the certificate service; the internal
authority; the files that say where everything is. Does not own what the processes do once they run.
Start reading at `supervisor.py`; `layout.py` is the directory.
"""
