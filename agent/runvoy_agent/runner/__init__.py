"""The program beside the command: it runs it, ships its output and enforces its deadline. Standard library only.

It runs from a plain path (`python -I -S .../runner RUN_DIR`) or from a zipapp with the same package names, and imports
nothing of runvoy beyond this package. Start-up is on every run's way: modules that only the end needs (zlib, hmac) are
imported after the command was started (but for a playbook's, whose first lines have to be read in their order), and typing,
subprocess, selectors and shutil not at all before that. Masking is imported only where there are secrets.
"""
