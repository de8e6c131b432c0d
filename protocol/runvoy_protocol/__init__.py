"""What travels between runvoy's parts: messages, signatures, states, object keys and error codes.

Nothing here does I/O, reads a clock or draws randomness, and nothing here imports another part of runvoy.
"""
