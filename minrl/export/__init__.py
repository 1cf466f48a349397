"""Export of agents to ONNX."""
