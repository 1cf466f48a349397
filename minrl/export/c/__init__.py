"""Export of a trained agent as one C99 file: translation of its ONNX graph for a batch of one."""
