"""`bulkhead encryption`."""
