"""A trained classifier for other programs: its file, how images are prepared for it, and its model card."""
