"""The commands: what the command line does, one module each."""
