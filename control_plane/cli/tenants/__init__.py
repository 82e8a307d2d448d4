"""`bulkhead signing`: signs and verifies by keys of a tenant's own."""
