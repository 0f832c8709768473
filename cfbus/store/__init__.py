"""What is kept: listing, journal, segments, manifest; ledger and registry."""
