"""What comes out of a store for other programs: tables, sidecars, tars."""
