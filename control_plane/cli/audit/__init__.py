"""`bulkhead audit`: what was done to a tenant, by whom, and how anybody can check that it is all."""
