"""The questions: one module for each wall. A probe tries what must not work, and sees that it does not.

Whatever a probe does leaves nothing behind in the tenant's data. Start reading at `probe.py`.
"""
