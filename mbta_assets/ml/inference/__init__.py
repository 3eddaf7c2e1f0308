"""Predict with stored models: NumPy and ONNX Runtime only."""
