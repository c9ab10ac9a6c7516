"""Files that are written atomically, and names as they are stored and shown."""
