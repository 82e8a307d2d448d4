"""`bulkhead isolation`: whether tenants are kept apart, and how anybody can check what is said of it."""
