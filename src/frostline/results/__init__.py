"""What came of a run, as pictures: its curves, its mistakes, its calibration, and what the network saw."""
