"""The control plane: owns tenant state and keys. Does not know Envoy."""
