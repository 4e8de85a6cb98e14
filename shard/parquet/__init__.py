"""Tables as users bring them: Parquet files, alone or in folders. All commands read them here."""
