"""Output of an mLSTM after its matrix state: normaliser, norm of each head, skip connection and output gate."""
