"""The enforcement agent beside each Envoy: its rooms are built with the edge."""
