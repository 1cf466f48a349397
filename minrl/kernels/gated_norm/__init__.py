"""What follows the matrix state of an mLSTM: normaliser, norm of each head, skip connection and output gate."""
