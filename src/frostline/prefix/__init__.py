"""The frost line's fast path: a network cut in two where training begins, and what leaves the frozen part, kept."""
