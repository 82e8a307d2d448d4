"""`bulkhead keys`: what a tenant's keys are and rest on, and their rotation."""
