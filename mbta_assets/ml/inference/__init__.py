"""Prediction with stored models, on NumPy and ONNX Runtime only.

Training, tuning and model export belong to `ml.training`, scoring of predictions to `ml.evaluation`.
"""
