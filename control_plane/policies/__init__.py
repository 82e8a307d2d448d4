"""What edges enforce: who follows it is sent each change, says how far it is, and reports what it decided."""
