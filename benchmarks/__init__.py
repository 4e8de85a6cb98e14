"""Every performance claim, reproducible: `silverray bench NAME`."""
