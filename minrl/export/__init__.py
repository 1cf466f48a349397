"""Export of agents as ONNX."""
