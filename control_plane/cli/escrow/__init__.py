"""`bulkhead keys escrow`: an escrow of a tenant's keys, and what recipients do at machines of their own."""
