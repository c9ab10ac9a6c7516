"""From images on disk to batches: sources, decoding, augmentation, order, and the datamodule that joins them."""
