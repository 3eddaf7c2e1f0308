"""Scoring of predictions: metrics, accuracy and drift of a service day, the promotion gate.

It reads predictions and labels and needs no training library. Prediction itself belongs to `ml.inference`.
"""
