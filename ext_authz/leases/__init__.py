"""Decisions that hold for more than one request.

`docs/adr/0026` argues why what is admitted by them is what a Check for each request would have admitted.
"""
