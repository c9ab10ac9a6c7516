"""Fine-tune image classifiers with part of the network frozen, and prove that it stayed frozen."""
