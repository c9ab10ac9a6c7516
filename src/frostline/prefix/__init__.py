"""The frozen layers as inference: a network split at the frost line, and its features, stored."""
