"""What is decided. Pure: no socket, file, clock, thread, randomness or logger in here."""
