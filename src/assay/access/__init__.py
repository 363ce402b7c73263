"""What an active probe may do to a system, and the reference models it may ask for."""
