"""What runs beside the commands: admission, lifecycle and locks, in Lambda or on one machine."""
