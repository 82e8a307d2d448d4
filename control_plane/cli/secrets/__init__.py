"""`bulkhead secrets`: a tenant's own values. None is ever an argument: they come from files, and go to private ones."""
